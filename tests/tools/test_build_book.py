"""What a page depends on is noticed, and what failed once fails again.

jupyter-cache keeps an output although the library that made it changed; Sphinx reports a warning
once and then passes. Both are undone by keys.
"""

import pytest

from tools import book, build_book


@pytest.fixture
def project(tmp_path):
    for name in ("gencoh_lib/a.py", "gencoh_lib/datasets/d.npz", "requirements.txt", "_config.yml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
    for name in ("_toc.yml", "_static/a.css", "tools/sphinx_course.py", "chapter.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
    return tmp_path


def outputs(project):
    made = [project / "_build" / name for name in (".jupyter_cache", "html", ".doctrees")]
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
    return made


def settle(project):
    build_book.prepare(project)
    (project / "_build" / "site.key").write_text(build_book.site_key(project))
    return outputs(project)


def test_nothing_is_removed_where_nothing_changed(project):
    made = settle(project)
    build_book.prepare(project)
    assert all(folder.exists() for folder in made)


@pytest.mark.parametrize(
    "name", ["gencoh_lib/a.py", "gencoh_lib/datasets/d.npz", "requirements.txt"]
)
def test_a_change_in_library_or_pins_voids_outputs_and_pages(project, name):
    made = settle(project)
    (project / name).write_text("two")
    build_book.prepare(project)
    assert not any(folder.exists() for folder in made)


@pytest.mark.parametrize(
    "name", ["_config.yml", "_toc.yml", "_static/a.css", "tools/sphinx_course.py"]
)
def test_a_change_in_the_settings_voids_pages_but_keeps_outputs(project, name):
    cache, *pages = settle(project)
    (project / name).write_text("two")
    build_book.prepare(project)
    assert cache.exists()
    assert not any(folder.exists() for folder in pages)


def test_another_python_voids_outputs(project):
    assert build_book.execution_key(project, "3.11") != build_book.execution_key(project, "3.12")


def test_compiled_files_change_no_key(project):
    before = build_book.site_key(project)
    (project / "gencoh_lib" / "__pycache__").mkdir()
    (project / "gencoh_lib" / "__pycache__" / "a.pyc").write_text("compiled")
    assert build_book.site_key(project) == before


def test_after_a_failure_pages_are_read_again(project, monkeypatch):
    # A second run would pass otherwise: Sphinx repeats no warning of a page it does not read.
    monkeypatch.setattr(build_book, "_jupyter_book", lambda *_: 1)
    _, *pages = settle(project)
    assert build_book.build(project) == 1
    build_book.prepare(project)
    assert not any(folder.exists() for folder in pages)


def test_a_failed_build_fails_the_command_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(build_book, "build", lambda root: 2)
    assert build_book.main() == 2
    assert "not built cleanly" in capsys.readouterr().err


def test_a_good_build_says_where_the_book_is_and_how_to_serve_it(monkeypatch, capsys):
    monkeypatch.setattr(build_book, "build", lambda root: 0)
    assert build_book.main() == 0
    said = capsys.readouterr().out
    assert str(book.HTML / "index.html") in said
    assert "make serve" in said
