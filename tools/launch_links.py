"""Point Binder and Colab at the published notebooks, and leave every other link where it is.

The theme builds launch, edit and source links from one branch and the source's own suffix. Chapters
are Markdown on ``main``; Colab and Binder need the notebook, which lies on a branch of its own.
"""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["LAUNCH_HOSTS", "is_launch", "to_notebook"]

LAUNCH_HOSTS = ("mybinder.org", "colab.research.google.com")


def is_launch(url: str) -> bool:
    """Say whether an address starts a notebook.

    >>> is_launch("https://mybinder.org/v2/gh/o/r/main?urlpath=lab/tree/a.md")
    True
    """
    return urlsplit(url).hostname in LAUNCH_HOSTS


def to_notebook(url: str, branch: str, notebooks_branch: str) -> str:
    """Return a launch address with the branch replaced and ``.md`` turned into ``.ipynb``.

    >>> to_notebook("https://colab.research.google.com/github/o/r/blob/main/a/b.md", "main", "nb")
    'https://colab.research.google.com/github/o/r/blob/nb/a/b.ipynb'
    >>> to_notebook("https://mybinder.org/v2/gh/o/r/main?urlpath=lab/tree/b.md", "main", "nb")
    'https://mybinder.org/v2/gh/o/r/nb?urlpath=lab/tree/b.ipynb'

    Raises
    ------
    ValueError
        If the address is not of the form that the theme writes: a silent miss would publish a
        button that opens nothing.
    """
    old, new = (
        (f"/{branch}?", f"/{notebooks_branch}?")
        if urlsplit(url).query
        else (f"/blob/{branch}/", f"/blob/{notebooks_branch}/")
    )
    if not is_launch(url) or url.count(old) != 1 or not url.endswith(".md"):
        raise ValueError(f"Not a launch link to a Markdown page on branch {branch!r}: {url}")
    return url.replace(old, new).removesuffix(".md") + ".ipynb"
