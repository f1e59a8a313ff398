"""The branch that Binder and Colab open.

A reader presses a button and gets the tree of one commit, with a notebook beside every page that
has cells; the notebook installs the library of that same commit. Whoever publishes keeps their
working tree as it was. All of it runs on a small repository made here.
"""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

from tools import book
from tools.publish_notebooks import install_cell, is_notebook, notebook, notebooks, publish

URL = "https://example.org/owner/course"

CHAPTER = """\
---
jupytext: {formats: md:myst, text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# A chapter

```{prf:theorem} Range
:label: thm-range
:class: exact
It lies in $[0, 1]$.
```

```{code-cell} ipython3
:tags: [hide-input]
answer = 6 * 7
```

By {prf:ref}`thm-range`, as {cite:t}`key2022` has it.

```{code-cell} ipython3
answer
```
"""

TREE = {
    "_config.yml": f"repository:\n  url: {URL}\nbibtex_bibfiles: [references.bib]\n",
    "_toc.yml": "root: intro\nchapters:\n- file: chapters/one\n- file: bibliography\n",
    "intro.md": CHAPTER.replace("A chapter", "The start"),
    "bibliography.md": "# Bibliography\n",
    "chapters/one.md": CHAPTER,
    "chapters/not-in-the-book.md": CHAPTER,
    "references.bib": "@article{key2022,\n author = {Doe, Jane},\n year = {2022}\n}\n",
    ".gitignore": "*.ipynb\n",
}


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=repository, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "course"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    for name, text in TREE.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def test_the_branch_holds_the_whole_tree_and_a_notebook_for_each_page_with_cells(repository):
    made = publish(repository)

    assert git(repository, "rev-parse", book.NOTEBOOKS_BRANCH) == made
    names = set(git(repository, "ls-tree", "-r", "--name-only", made).split("\n"))
    assert names == {*TREE, "intro.ipynb", "chapters/one.ipynb"}
    assert git(repository, "diff", "--stat", "--diff-filter=MD", "main", made) == ""
    assert git(repository, "rev-parse", f"{made}^") == git(repository, "rev-parse", "main")


def test_the_notebook_installs_the_commit_it_was_made_from_out_of_the_configured_repository(
    repository,
):
    first = git(repository, "rev-parse", "HEAD")
    (repository / "intro.md").write_text("# No cells any more\n", encoding="utf-8")
    git(repository, "commit", "--quiet", "--all", "--message", "second")

    made = publish(repository, first)

    text = git(repository, "show", f"{made}:intro.ipynb")
    assert f"git+{URL}@{first}" in text, "the page, the address and the commit are of the first one"


def test_publishing_leaves_the_working_tree_and_the_index_alone(repository):
    (repository / "intro.md").write_text("# Unsaved work\n", encoding="utf-8")
    (repository / "new.md").write_text("# New\n", encoding="utf-8")
    git(repository, "add", "new.md")
    before = git(repository, "status", "--porcelain=v2", "--branch")
    files = sorted(path for path in repository.rglob("*") if ".git" not in path.parts)

    publish(repository)

    assert git(repository, "status", "--porcelain=v2", "--branch") == before
    assert sorted(p for p in repository.rglob("*") if ".git" not in p.parts) == files
    assert "Unsaved" not in git(repository, "show", f"{book.NOTEBOOKS_BRANCH}:intro.md")


def test_publishing_twice_gives_the_same_commit(repository):
    assert publish(repository) == publish(repository)


def test_the_branch_is_replaced_not_extended(repository):
    publish(repository)
    (repository / "chapters/one.md").write_text("# No cells\n", encoding="utf-8")
    git(repository, "commit", "--quiet", "--all", "--message", "second")

    made = publish(repository)

    assert "chapters/one.ipynb" not in git(repository, "ls-tree", "-r", "--name-only", made)
    assert git(repository, "rev-parse", f"{made}^") == git(repository, "rev-parse", "main")


def test_a_checked_out_branch_is_not_replaced(repository):
    publish(repository)
    git(repository, "switch", "--quiet", book.NOTEBOOKS_BRANCH)
    with pytest.raises(ValueError, match=r"'notebooks' is checked out.*switch"):
        publish(repository)


def test_a_commit_that_does_not_exist_is_an_error(repository):
    with pytest.raises(subprocess.CalledProcessError):
        publish(repository, "no-such-commit")


def test_a_notebook_is_valid_has_no_outputs_and_keeps_the_cells_in_order():
    made = nbformat.reads(notebook(CHAPTER, "first = 1"), as_version=4)
    nbformat.validate(made)
    assert [cell.cell_type for cell in made.cells] == [
        "markdown", "code", "code", "markdown", "code",
    ]  # fmt: skip
    assert [c.source for c in made.cells if c.cell_type == "code"] == [
        "first = 1", "answer = 6 * 7", "answer",
    ]  # fmt: skip
    assert all(c.outputs == [] and c.execution_count is None for c in made.cells[1:3])


def test_what_is_folded_on_the_page_is_folded_in_the_notebook():
    made = json.loads(notebook(CHAPTER, ""))
    folded = [cell["source"] for cell in made["cells"] if "jupyter" in cell["metadata"]]
    assert folded == ["answer = 6 * 7"]


def test_a_notebook_says_in_words_what_only_the_page_can_show():
    made = json.loads(notebook(CHAPTER, "", {"key2022": "Doe (2022)"}))
    text = "\n".join(cell["source"] for cell in made["cells"] if cell["cell_type"] == "markdown")
    assert "> **Theorem (Range)**\n>\n> It lies in $[0, 1]$." in text
    assert "By Theorem (Range), as Doe (2022) has it." in text
    assert "{" not in text


def test_the_same_chapter_gives_the_same_bytes():
    assert notebook(CHAPTER, "x") == notebook(CHAPTER, "x")


@pytest.mark.parametrize("on_colab", [True, False])
def test_the_first_cell_installs_on_colab_and_nowhere_else(on_colab, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append((command, check)))
    if on_colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(install_cell(URL, "abc123"), {})
    if on_colab:
        [(command, check)] = calls
        assert command[:4] == [sys.executable, "-m", "pip", "install"]
        assert command[-1] == f"gencoh_lib @ git+{URL}@abc123"
        assert check, "a failed installation must not pass in silence"
    else:
        assert not calls


def test_pages_without_a_kernel_are_no_notebooks():
    assert is_notebook(CHAPTER)
    assert not is_notebook("# Title\n\nA rule:\n\n---\nkernelspec: no front matter\n---\n")
    assert not is_notebook("---\ntitle: only this\n---\n# Title\n")


def test_every_chapter_of_the_book_makes_a_valid_notebook_without_leftover_markup():
    made = notebooks(book.ROOT, "abc123")
    assert "chapters/foundations/set-up.ipynb" in made
    for name, text in made.items():
        parsed = nbformat.reads(text, as_version=4)
        nbformat.validate(parsed)
        prose = "\n".join(cell.source for cell in parsed.cells if cell.cell_type == "markdown")
        prose = re.sub(r"`[^`]*`", "", re.sub(r"(?s)```.*?```", "", prose))
        left = re.findall(r":::|^:\w+:.*|\{[a-z][\w:]*\}`", prose, flags=re.MULTILINE)
        assert not left, f"{name}: {left[:3]}"
