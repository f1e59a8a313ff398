"""Publish the chapters as notebooks, on a branch of their own.

``python -m tools.publish_notebooks`` makes one commit on the branch ``notebooks``: the whole tree
of a commit, plus an ``.ipynb`` beside every page that has cells. Binder and Colab open that branch;
they cannot open MyST Markdown. The sources stay free of generated files, and the working tree is
never touched: the commit is put together in an index of its own.

The new commit is a child of the one it was made from, and it replaces the branch: whoever opens a
notebook gets the library of the same commit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jupytext
import yaml

from tools import book
from tools.plain_markdown import citations, labels, to_plain

__all__ = ["install_cell", "is_notebook", "main", "notebook", "notebooks", "publish"]

#: Tags that fold or remove a cell's source on the page.
_HIDDEN = frozenset({"hide-input", "hide-cell", "remove-input", "remove-cell"})


def is_notebook(markdown: str) -> bool:
    r"""Say whether a page is a notebook: the theme gives launch buttons to the same pages.

    >>> is_notebook("---\nkernelspec: {name: python3}\n---\n# Title")
    True
    >>> is_notebook("# Title")
    False
    """
    parts = markdown.split("---\n", 2)
    return len(parts) == 3 and not parts[0].strip() and "kernelspec" in yaml.safe_load(parts[1])


def install_cell(url: str, commit: str) -> str:
    """Return the first cell: on Colab it installs the library of this very commit.

    >>> print(install_cell("https://example.org/o/r", "abc").splitlines()[-1])
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)
    """
    return "\n".join(
        (
            "# On Colab: install the library of the commit that this notebook was made from.",
            "# Anywhere else this cell does nothing.",
            "import sys",
            "",
            'if "google.colab" in sys.modules:',
            "    import subprocess",
            "",
            f'    source = "gencoh_lib @ git+{url}@{commit}"',
            '    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source],'
            " check=True)",
        )
    )


def notebook(markdown: str, first_cell: str, cited: Mapping[str, str] | None = None) -> str:
    """Return a chapter as the text of an ``.ipynb``, without outputs, the same every time."""
    read, titles = jupytext.reads(markdown, fmt="md:myst"), labels(markdown)
    cells: list[dict[str, Any]] = []
    for cell in read.cells:
        if cell.cell_type == "markdown":
            cells.append(_cell("markdown", to_plain(cell.source, titles, cited)))
        else:
            cells.append(_cell("code", cell.source, cell.metadata.get("tags", ())))
    # The page's title comes first, then what makes the rest run.
    first = next((n for n, cell in enumerate(cells) if cell["cell_type"] == "code"), len(cells))
    cells.insert(first, _cell("code", first_cell))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # drawn at random by every library that makes one
    metadata = {"kernelspec": read.metadata["kernelspec"], "language_info": {"name": "python"}}
    made = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _cell(kind: str, source: str, tags: Iterable[str] = ()) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    if tags:
        cell["metadata"]["tags"] = list(tags)
    if _HIDDEN & {*tags}:
        cell["metadata"]["jupyter"] = {"source_hidden": True}
    return cell


def notebooks(tree: Path, commit: str) -> dict[str, str]:
    """Return path -> text of the notebook of every page of a tree that has cells."""
    config = book.config(tree)
    first_cell = install_cell(config["repository"]["url"], commit)
    cited: dict[str, str] = {}
    for file in config.get("bibtex_bibfiles", ()):
        cited |= citations((tree / file).read_text(encoding="utf-8"))
    made = {}
    for page in book.pages(tree):
        markdown = book.source(page, tree).read_text(encoding="utf-8")
        if is_notebook(markdown):
            made[f"{page}.ipynb"] = notebook(markdown, first_cell, cited)
    return made


def publish(repository: Path, commit: str = "HEAD", *, branch: str = book.NOTEBOOKS_BRANCH) -> str:
    """Commit the tree of ``commit`` and its notebooks to ``branch``; return the new commit.

    Raises
    ------
    ValueError
        If ``branch`` is checked out: replacing it would leave the working tree behind.
    subprocess.CalledProcessError
        If git refuses, e.g. because there is no such commit.
    """
    source = _git(repository, "rev-parse", "--verify", f"{commit}^{{commit}}")
    if _git(repository, "rev-parse", "--symbolic-full-name", "HEAD") == f"refs/heads/{branch}":
        raise ValueError(
            f"branch {branch!r} is checked out, and this would replace it; switch to the branch "
            "with the sources first"
        )
    author, email, date = _git(repository, "show", "-s", "--format=%an%n%ae%n%cI", source).split(
        "\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        env = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        for role in ("AUTHOR", "COMMITTER"):  # from the source: the same commit at every run
            env |= {f"GIT_{role}_NAME": author, f"GIT_{role}_EMAIL": email}
            env |= {f"GIT_{role}_DATE": date}
        _git(repository, "read-tree", source, env=env)
        _git(repository, "checkout-index", "--all", f"--prefix={tree}/", env=env)
        for path, text in notebooks(tree, source).items():
            blob = _git(repository, "hash-object", "-w", "--stdin", text=text)
            entry = f"100644,{blob},{path}"
            _git(repository, "update-index", "--add", "--cacheinfo", entry, env=env)
        message = f"Notebooks of {source}"
        root = _git(repository, "write-tree", env=env)
        made = _git(repository, "commit-tree", root, "-p", source, "-m", message, env=env)
    _git(repository, "update-ref", f"refs/heads/{branch}", made)
    return made


def _git(
    repository: Path, *arguments: str, text: str | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run git and return what it says, or show its error."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=repository,
        input=text,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return done.stdout.rstrip("\n")


def main(arguments: list[str] | None = None) -> None:
    """Publish from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commit", default="HEAD", help="what to publish (default: HEAD)")
    parser.add_argument("--push", metavar="REMOTE", help="replace the branch there, too")
    options = parser.parse_args(arguments)
    made = publish(book.ROOT, options.commit)
    print(f"{book.NOTEBOOKS_BRANCH} is now {made}")
    if options.push:
        target = f"{made}:refs/heads/{book.NOTEBOOKS_BRANCH}"
        _git(book.ROOT, "push", "--force", options.push, target)


if __name__ == "__main__":
    main()
