"""A Chromium is found where it can be, installed where it cannot, or missed in one line."""

import pytest

from tools import chromium


@pytest.fixture
def bare(monkeypatch):
    """A machine without any Chromium."""
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(chromium.shutil, "which", lambda name: None)
    monkeypatch.setattr(chromium, "MAC", "")
    monkeypatch.setattr(chromium, "_playwrights_own", lambda: None)


def program(folder):
    path = folder / "chromium"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_variable_comes_first(bare, monkeypatch, tmp_path):
    monkeypatch.setenv("CHROMIUM", str(program(tmp_path)))
    assert chromium.find() == tmp_path / "chromium"


def test_a_variable_that_names_nothing_is_an_error(bare, monkeypatch):
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(chromium.ChromiumMissing, match="CHROMIUM=/nowhere/chromium is no program"):
        chromium.find()


def test_one_on_the_path_is_found(bare, monkeypatch, tmp_path):
    found = program(tmp_path)
    monkeypatch.setattr(chromium.shutil, "which", lambda name: str(found))
    assert chromium.find() == found


def test_an_installed_one_is_used_and_no_further_way_is_tried(bare, monkeypatch, tmp_path):
    tried = []

    def install(command):
        tried.append(command)
        monkeypatch.setattr(chromium, "_playwrights_own", lambda: str(program(tmp_path)))
        return 0

    assert chromium.find_or_install(install) == tmp_path / "chromium"
    assert len(tried) == 1


def test_where_nothing_helps_one_line_says_how(bare):
    with pytest.raises(chromium.ChromiumMissing) as missing:
        chromium.find_or_install(lambda command: 1)
    assert "\n" not in str(missing.value)
    assert "apt install chromium" in str(missing.value)
