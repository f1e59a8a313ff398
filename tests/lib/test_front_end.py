"""The front end is what the environment says, and nothing else.

A wrong value must not fall back to anything: a book built with a misspelt front end would show
dead widgets. Blocks of HTML carry their style and script with them, under an id that depends on
the content alone.
"""

import re

import pytest

from gencoh_lib import front_end


@pytest.mark.parametrize("value", ["static", "live", "text"])
def test_environment_names_the_front_end(monkeypatch, value):
    monkeypatch.setenv("GENCOH_FRONT_END", value)
    assert front_end.current() == value


def test_without_the_variable_it_is_live(monkeypatch):
    monkeypatch.delenv("GENCOH_FRONT_END", raising=False)
    assert front_end.current() == "live"


@pytest.mark.parametrize("value", ["", "Static", "html"])
def test_unknown_front_end_is_an_error_that_lists_them(monkeypatch, value):
    monkeypatch.setenv("GENCOH_FRONT_END", value)
    with pytest.raises(ValueError, match=r"GENCOH_FRONT_END is .*'static'.*'live'.*'text'"):
        front_end.current()


@pytest.mark.parametrize("value", ["live", "text"])
def test_progress_shows_a_bar_on_standard_error(monkeypatch, capsys, value):
    monkeypatch.setenv("GENCOH_FRONT_END", value)
    assert list(front_end.progress(iter("abc"), total=3, description="reading")) == list("abc")
    shown = capsys.readouterr()
    assert "reading" in shown.err
    assert "/3" in shown.err
    assert shown.out == ""


def test_progress_is_silent_on_the_static_page(monkeypatch, capsys):
    monkeypatch.setenv("GENCOH_FRONT_END", "static")
    assert list(front_end.progress(range(3), description="reading")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_block_holds_its_style_and_its_script_finds_it():
    block = front_end.html_block("quiz", "<p>body</p>")
    (name,) = set(re.findall(r'(?<=data-block=")gencoh-[0-9a-f]{12}', block))
    assert "<style>" in block
    assert f"""querySelectorAll('[data-block="{name}"]')""" in block.split("<script>")[1]
    assert "BLOCK" not in block


@pytest.mark.parametrize("kind", ["sliders", "quiz", "verdict"])
def test_no_id_is_on_a_page_twice_where_a_block_is(kind):
    assert not re.search(r"\sid=", front_end.html_block(kind, "<p>body</p>").split("<script>")[0])


def test_block_without_assets_is_an_error():
    with pytest.raises(ValueError, match="kind is 'slider', which has no assets"):
        front_end.html_block("slider", "")


def test_block_is_the_same_for_the_same_content_only():
    def name(body):
        return re.search(r'data-block="(\S+)"', front_end.html_block("quiz", body)).group(1)

    assert name("one") == name("one")
    assert name("one") != name("two")


@pytest.mark.parametrize("kind", ["sliders", "quiz", "verdict"])
def test_blocks_fetch_nothing(kind):
    assert not re.search(r"https?://|@import|url\(|fetch\(", front_end.html_block(kind, ""))
