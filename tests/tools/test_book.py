"""The table of contents and the sources agree: a page that is not listed would silently vanish."""

from tools import book


def test_every_listed_page_has_a_source_and_every_source_is_listed():
    folders = ("chapters", "api")
    sources = [path for name in folders for path in (book.ROOT / name).rglob("*.md")]
    written = {path.relative_to(book.ROOT).with_suffix("").as_posix() for path in sources}
    listed = {page for page in book.pages() if page.startswith(folders)}
    assert listed == written
    assert all(book.source(page).exists() for page in book.pages())


def test_pages_come_in_reading_order(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: a\nparts:\n"
        "  - caption: P\n    chapters:\n      - file: b\n        sections:\n          - file: c\n"
        "      - file: d\n"
    )
    assert book.pages(tmp_path) == ("a", "b", "c", "d")


def test_a_page_with_code_cells_is_told_from_one_without(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\n```{code-cell} ipython3\n1\n```\n")
    (tmp_path / "b.md").write_text("# B\n\n```python\n1\n```\n")
    assert book.has_cells("a", tmp_path)
    assert not book.has_cells("b", tmp_path)


def test_built_files_are_none_of_the_project():
    names = {path.relative_to(book.ROOT).parts[0] for path in book.tracked_files()}
    assert {"Makefile", "tools"} <= names
    assert not names & {"_build", ".venv"}
