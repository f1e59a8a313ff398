"""Numbers that the text of a page quotes, handed over by the cell that computed them.

A number typed into prose goes stale in silence. A cell says ``prose.glue(toy_ratio=ratio)``, the
sentence says ``{glue:text}`toy-ratio:.1f```, and the page is built from what was measured. The
message is the one that MyST-NB reads; it is written here so that a chapter runs where MyST-NB is
not installed.
"""

from __future__ import annotations

import IPython
from IPython.display import display

__all__ = ["glue"]

_PREFIX = "application/papermill.record/"


def glue(**values: object) -> None:
    """Hand values to the text of the page, under their names with hyphens for underscores.

    Parameters
    ----------
    **values : float, int, str, or a scalar tensor or array
        What to quote. Nothing is shown under the cell.

    Raises
    ------
    TypeError
        If a value is neither a number nor a string; nothing is handed over then.

    Examples
    --------
    >>> glue(alpha=0.25)  # outside a notebook there is no page to tell
    """
    records = {name.replace("_", "-"): _plain(name, value) for name, value in values.items()}
    if IPython.get_ipython() is None:
        return
    for name, value in records.items():
        scrapbook = {"name": name, "mime_prefix": _PREFIX}
        data = {_PREFIX + "text/plain": repr(value)}
        display(data, raw=True, metadata={"scrapbook": scrapbook})


def _plain(name: str, value: object) -> float | int | str:
    """Return the Python number behind a scalar of any library, so that format codes apply."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    if isinstance(value, int | float | str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}; only numbers and strings can stand in a sentence: "
        "pick the number out of it first"
    )
