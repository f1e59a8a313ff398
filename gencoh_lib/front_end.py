"""The three front ends of the course, and what they share.

The same call serves a reader of the **static** page (no kernel: every frame is on the page), a
student in a **live** notebook (one frame is computed when it is asked for) and a terminal
(**text**). Which one it is, the environment variable ``GENCOH_FRONT_END`` says and nothing else:
a running kernel is no evidence, for the static page is made by one too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Literal, TypeVar, cast, get_args

from tqdm import tqdm

__all__ = ["FrontEnd", "current", "html_block", "progress"]

FrontEnd = Literal["static", "live", "text"]

_VARIABLE = "GENCOH_FRONT_END"
_T = TypeVar("_T")


def current() -> FrontEnd:
    """Front end that results are shown in: ``"static"``, ``"live"`` or ``"text"``.

    Returns
    -------
    str
        The value of the environment variable ``GENCOH_FRONT_END``; ``"live"`` where it is not set.

    Raises
    ------
    ValueError
        If the variable holds anything else.

    Examples
    --------
    >>> from unittest.mock import patch
    >>> with patch.dict("os.environ", GENCOH_FRONT_END="text"):
    ...     current()
    'text'
    """
    value = os.environ.get(_VARIABLE, "live")
    if value not in get_args(FrontEnd):
        raise ValueError(
            f"{_VARIABLE} is {value!r}, which is no front end. Set it to 'static' (a page without "
            "a kernel), 'live' (a notebook) or 'text' (a terminal), or unset it for 'live'."
        )
    return cast(FrontEnd, value)


def progress(iterable: Iterable[_T], *, total: int | None = None, description: str) -> Iterable[_T]:
    """The same items, with a progress bar on standard error while they are gone through.

    On the static page there is no bar: it would be printed into the page.

    Parameters
    ----------
    iterable
        What to go through.
    total
        Number of items, where ``iterable`` does not know its length.
    description
        What is being done, in a word or two; shown in front of the bar.

    Returns
    -------
    Iterable
        The items of ``iterable``, unchanged and in order.

    Raises
    ------
    ValueError
        If ``GENCOH_FRONT_END`` names no front end.

    Examples
    --------
    >>> sum(progress(range(4), description="adding"))
    6
    """
    if current() == "static":
        return iterable
    # leave=False: a finished bar says nothing that the result below it does not.
    return cast(Iterable[_T], tqdm(iterable, total=total, desc=description, leave=False))


@cache
def _asset(name: str) -> str:
    file = resources.files("gencoh_lib") / "assets" / name
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def html_block(kind: str, body: str) -> str:
    """One self-contained piece of HTML: markup with its style and script, and nothing fetched.

    The style is ``assets/block.css`` with ``assets/<kind>.css``, the script ``assets/<kind>.js``
    where there is one. The mark ``data-block`` is a hash of the content: equal calls give equal
    bytes, and the script finds its block by it, also in notebooks that run scripts away from their
    place. (An id would do, but the same cell may be on a page twice.)

    Parameters
    ----------
    kind
        Name of the assets, and of the CSS class ``gencoh-<kind>``.
    body
        Markup inside the block, already escaped.

    Returns
    -------
    str
        HTML of the block.

    Raises
    ------
    ValueError
        If there is no ``assets/<kind>.css``.

    Examples
    --------
    >>> html_block("verdict", "<p>Right.</p>")[:49]
    '<div class="gencoh gencoh-verdict" data-block="ge'
    """
    if not _asset(f"{kind}.css"):
        raise ValueError(
            f"kind is {kind!r}, which has no assets: it is 'quiz', 'sliders' or 'verdict'."
        )
    style = _asset("block.css") + "\n" + _asset(f"{kind}.css")
    script = _asset(f"{kind}.js")
    content = "\0".join((kind, style, body, script)).encode()
    name = f"gencoh-{hashlib.sha256(content).hexdigest()[:12]}"
    opening = f'<div class="gencoh gencoh-{kind}" data-block="{name}">'
    html = f"{opening}\n<style>{style}</style>\n{body}\n</div>"
    if script:
        html += f"\n<script>{script.replace('BLOCK', name)}</script>"
    return html
