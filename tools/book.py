"""Where the parts of the book lie, read from the files that say so.

The repository's address stands in ``_config.yml`` and the list of pages in ``_toc.yml``; everything
else that needs one of them asks here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "BUILD",
    "EXECUTION_ENVIRONMENT",
    "HTML",
    "NOTEBOOKS_BRANCH",
    "ROOT",
    "config",
    "has_cells",
    "html_page",
    "pages",
    "source",
    "tracked_files",
]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
HTML = BUILD / "html"
#: The branch on which the deploy workflow publishes the tree with the generated notebooks.
NOTEBOOKS_BRANCH = "notebooks"
#: Cells of the book run with these: self-contained sliders, digits that do not depend on threads.
EXECUTION_ENVIRONMENT = {"GENCOH_FRONT_END": "static", "OMP_NUM_THREADS": "1"}


def config(root: Path = ROOT) -> dict[str, Any]:
    """Return the contents of ``_config.yml``."""
    loaded: dict[str, Any] = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return loaded


def pages(root: Path = ROOT) -> tuple[str, ...]:
    """Return the names of all pages in reading order, without suffix, from ``_toc.yml``."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return (toc["root"], *_files(toc))


def _files(entry: object) -> Iterator[str]:
    if isinstance(entry, dict):
        if "file" in entry:
            yield str(entry["file"])
        for value in entry.values():
            yield from _files(value)
    elif isinstance(entry, list):
        for item in entry:
            yield from _files(item)


def source(page: str, root: Path = ROOT) -> Path:
    """Return the Markdown source of a page."""
    return root / f"{page}.md"


def html_page(page: str, html: Path = HTML) -> Path:
    """Return the built file of a page."""
    return html / f"{page}.html"


def has_cells(page: str, root: Path = ROOT) -> bool:
    """Say whether a page is a notebook with code to run."""
    return "```{code-cell}" in source(page, root).read_text(encoding="utf-8")


def tracked_files(root: Path = ROOT) -> list[Path]:
    """Return the files of the project that git knows or would take, not what was built."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [root / name for name in listed.splitlines() if (root / name).is_file()]
