"""Run the cells of the built book again and compare what they print (nbval).

nbval passes on a notebook that holds no outputs: it then compares nothing. So the notebooks are
written with the outputs that the build cached, notebooks without real outputs are refused, and the
number of cells that nbval ran is counted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_cache import get_cache

from tools import book

__all__ = ["compare", "lint", "main", "vacuous", "write"]

#: Cells that nbval does not compare.
_UNCOMPARED = {"nbval-ignore-output", "nbval-skip"}


def _code_cells(notebook: Any) -> list[Any]:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def vacuous(notebook: Any) -> list[str]:
    """Report why comparing a notebook's outputs would prove nothing."""
    cells = _code_cells(notebook)
    problems = [
        f"cell {number} was never executed: {cell.source.splitlines()[0]}"
        for number, cell in enumerate(cells, 1)
        if cell.execution_count is None
    ]
    compared = [c for c in cells if not _UNCOMPARED & set(c.metadata.get("tags", ()))]
    texts = [
        output
        for cell in compared
        for output in cell.outputs
        if output.output_type == "stream" or any("image" not in kind for kind in output.data)
    ]
    if not texts:
        problems.append("no cell has an output that would be compared")
    return problems


def write(pages: Iterable[str], root: Path, target: Path) -> list[str]:
    """Write the notebook of every page with the outputs of the last build; return the problems."""
    shutil.rmtree(target, ignore_errors=True)
    cache = get_cache(str(root / "_build" / ".jupyter_cache"))
    problems = []
    for page in pages:
        notebook = jupytext.read(book.source(page, root))
        try:
            _, notebook = cache.merge_match_into_notebook(notebook)
        except KeyError:
            problems.append(f"{page}: the cache holds no run of these cells; build the book first.")
            continue
        problems += [f"{page}: {problem}" for problem in vacuous(notebook)]
        for number, cell in enumerate(notebook.cells):
            cell.setdefault("id", f"cell-{number}")
        notebook.nbformat, notebook.nbformat_minor = 4, 5
        path = target / f"{page}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
    return problems


def compare(target: Path) -> list[str]:
    """Run every notebook below ``target`` under nbval; return the problems."""
    notebooks = sorted(target.rglob("*.ipynb"))
    wanted = sum(len(_code_cells(nbformat.read(path, as_version=4))) for path in notebooks)
    if not wanted:
        return [f"no notebook with cells lies below {target.name}."]
    report = target / "report.xml"
    own_settings = ["-o", "addopts=", "-p", "no:cacheprovider", "--rootdir", str(target)]
    nbval = ["--nbval", "--nbval-current-env", "-q", "--tb=short", f"--junitxml={report}"]
    status = subprocess.run(
        [sys.executable, "-m", "pytest", *own_settings, *nbval, *map(str, notebooks)],
        env={**os.environ, **book.EXECUTION_ENVIRONMENT},
        cwd=target,
    ).returncode
    if not report.exists():
        return [f"nbval did not run (status {status})."]
    suite = ElementTree.parse(report).getroot()[0]
    ran, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    problems = [] if status == 0 else ["cells print something else when they run again."]
    if ran - skipped != wanted:
        problems.append(f"nbval compared {ran - skipped} cells of {wanted}.")
    return problems


def lint(target: Path) -> list[str]:
    """Check the code of every notebook below ``target``; ruff cannot read the Markdown sources."""
    rules = ["--select=E,F,W,NPY", "--ignore=E402"]
    # A longer line is cut off on the page. ruff reads files that git ignores only if named.
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=78", *rules]
    status = subprocess.run([*command, *map(str, sorted(target.rglob("*.ipynb")))]).returncode
    return ["the code of a chapter does not pass ruff."] if status else []


def main() -> int:
    """Write, lint and compare the notebooks of the book."""
    target = book.BUILD / "nbval"
    pages = [page for page in book.pages() if book.has_cells(page)]
    problems = write(pages, book.ROOT, target)
    problems += lint(target)
    problems += compare(target)
    for problem in problems:
        print(f"error: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
