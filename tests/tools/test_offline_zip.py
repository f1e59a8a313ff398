"""The zip holds the site below one folder, is the same for the same site, and needs a site."""

import zipfile

import pytest

from tools.offline_zip import pack


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "html"
    (folder / "chapters").mkdir(parents=True)
    (folder / "index.html").write_text("start")
    (folder / "chapters" / "a.html").write_text("chapter")
    (folder / ".buildinfo").write_text("for Sphinx")
    return folder


def test_everything_a_reader_needs_lies_below_one_folder(site, tmp_path):
    assert pack(site, tmp_path / "book.zip") == 2
    with zipfile.ZipFile(tmp_path / "book.zip") as archive:
        assert archive.namelist() == ["book/chapters/a.html", "book/index.html"]


def test_the_same_site_gives_the_same_bytes(site, tmp_path):
    pack(site, tmp_path / "book.zip")
    first = (tmp_path / "book.zip").read_bytes()
    (site / "index.html").touch()
    pack(site, tmp_path / "book.zip")
    assert (tmp_path / "book.zip").read_bytes() == first


def test_without_a_built_book_there_is_no_zip_but_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="run make book first"):
        pack(tmp_path, tmp_path / "book.zip")
    assert list(tmp_path.iterdir()) == []
