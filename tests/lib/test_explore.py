"""Sliders: one call, three front ends, and every frame described.

Whether the page moves is seen in a browser (tests/book); here, that everything it needs is in the
HTML, that equal calls give equal bytes, and that each thing that can be wrong is named.
"""

import base64
import gc
import json
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from gencoh_lib import explore, plots

STRENGTHS = [0, 0.5, 2]


def draw(strength, examples=4):
    fig, ax = plots.figure(alt=f"Bars of height {strength} for {examples} examples.", width=2)
    ax.bar(range(examples), [strength] * examples)
    return fig


def described(strength, examples=4):
    return f"Strength {strength} & {examples} examples, <said> by alt."


def read_out(strength, examples=4):
    return f"At {strength} with {examples}: <b>{strength * examples:g}</b>"


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "static")


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "live")


@pytest.fixture
def text(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "text")


def soup(shown):
    return BeautifulSoup(shown._repr_mimebundle_()["text/html"], "html.parser")


def frames(page):
    return json.loads(page.find("script", type="application/json").string)


# Static page


def test_every_slider_is_a_labelled_native_control(static):
    page = soup(explore.sliders(draw, strength=STRENGTHS, examples=[2, 4]))
    labels = page.find_all("label")
    assert [label.find(class_="gencoh-name").text for label in labels] == ["strength", "examples"]
    ranges = [label.find("input", type="range") for label in labels]
    assert [(r["min"], r["max"], r["value"]) for r in ranges] == [("0", "2", "0"), ("0", "1", "0")]
    assert [r["aria-valuetext"] for r in ranges] == ["0", "2"]
    assert page.find("button", type="button", class_="gencoh-play")


def test_page_holds_all_frames_in_the_order_the_script_counts_them(static):
    shown = explore.sliders(
        draw, alt=described, read_out=read_out, strength=STRENGTHS, examples=[2, 4]
    )
    data = frames(soup(shown))
    assert data["values"] == [["0", "0.5", "2"], ["2", "4"]]
    wanted = [(s, e) for s in STRENGTHS for e in (2, 4)]
    assert [alt for _, alt, _ in data["frames"]] == [described(*point) for point in wanted]
    assert [said for _, _, said in data["frames"]] == [read_out(*point) for point in wanted]
    pictures = [base64.b64decode(png) for png, _, _ in data["frames"]]
    assert all(png.startswith(b"\x89PNG") for png in pictures)
    assert len(set(pictures)) == 6


def test_without_javascript_there_are_the_first_frame_and_an_open_table(static):
    page = soup(explore.sliders(draw, alt=described, read_out=read_out, strength=STRENGTHS))
    assert page.img["alt"] == described(0)
    assert page.find(class_="gencoh-controls").has_attr("hidden")
    assert page.details.has_attr("open")
    rows = [[cell.text for cell in row.find_all("td")] for row in page.find_all("tr")][1:]
    assert rows == [[f"{s:g}", read_out(s)] for s in STRENGTHS]
    assert [th["scope"] for th in page.find_all("th")] == ["col", "col"]


def test_start_chooses_the_frame_that_is_shown_first(static):
    shown = explore.sliders(
        draw, strength=STRENGTHS, examples=[2, 4], start={"strength": 2, "examples": 4}
    )
    page = soup(shown)
    assert page.img["alt"] == "Bars of height 2 for 4 examples."
    assert [r["value"] for r in page.find_all("input")] == ["2", "1"]
    png = shown._repr_mimebundle_()["image/png"]
    assert png in page.img["src"]


def test_changes_are_announced_and_the_group_has_a_name(static):
    page = soup(explore.sliders(draw, title="Toy <1>", strength=STRENGTHS))
    assert page.find(class_="gencoh-readout")["role"] == "status"
    assert page.find(role="group")["aria-label"] == "Toy <1>"
    assert page.find(class_="gencoh-title").text == "Toy <1>"


def test_read_out_is_the_alt_text_unless_given(static):
    assert (
        soup(explore.sliders(draw, strength=STRENGTHS)).find(class_="gencoh-readout").text
        == draw(0).alt
    )


def test_data_cannot_end_its_script(static):
    def evil(strength):
        return f"</script><script>alert({strength})</script> <!-- and more"

    html = explore.sliders(draw, alt=evil, strength=[1, 2])._repr_mimebundle_()["text/html"]
    assert len(BeautifulSoup(html, "html.parser").find_all("script")) == 2
    assert frames(BeautifulSoup(html, "html.parser"))["frames"][1][1] == evil(2)


def test_terminals_and_print_have_their_forms_too(static):
    bundle = explore.sliders(draw, strength=STRENGTHS)._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert len(bundle["text/plain"].splitlines()) == 4


def test_same_call_gives_the_same_bytes_in_another_process(static):
    code = (
        "from gencoh_lib import explore, plots\n"
        "def draw(n):\n"
        "    fig, ax = plots.figure(alt=f'Line chart that ends at {n}, no more.', width=2)\n"
        "    ax.plot([0, n])\n"
        "    return fig\n"
        "print(explore.sliders(draw, n=[1, 2])._repr_mimebundle_()['text/html'])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_two_blocks_on_a_page_have_two_marks(static):
    one = soup(explore.sliders(draw, strength=[1, 2])).find(class_="gencoh")["data-block"]
    two = soup(explore.sliders(draw, strength=[1, 3])).find(class_="gencoh")["data-block"]
    assert one != two


def test_frames_leave_nothing_behind(static):
    drawn = []

    def remembered(strength):
        fig = draw(strength)
        drawn.append(weakref.ref(fig))
        return fig

    explore.sliders(remembered, strength=range(20))
    gc.collect()
    assert [fig() for fig in drawn] == [None] * 20


def test_figures_of_pyplot_are_closed(static, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    from matplotlib import pyplot

    def with_pyplot(power):
        fig, ax = pyplot.subplots(figsize=(2, 2))
        ax.plot([0, 1], [0, power])
        return fig

    explore.sliders(with_pyplot, alt=lambda power: f"A line that rises to {power}.", power=[1, 2])
    assert pyplot.get_fignums() == []


def test_draw_may_update_one_figure(static):
    fig, ax = plots.figure(alt="One line, which each frame moves.", width=2)
    (line,) = ax.plot([0, 1], [0, 0])
    ax.set_ylim(0, 3)

    def move(height):
        line.set_ydata([0, height])
        return fig

    pictures = [png for png, _, _ in frames(soup(explore.sliders(move, height=[1, 2])))["frames"]]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    "values",
    [np.array([0, 2]), torch.tensor([0, 2]), range(0, 3, 2), (0, 2), list(np.arange(0, 3, 2)),
     [np.float32(0), np.float32(2)], list(torch.tensor([0, 2])), [0, np.array(2)]],
)  # fmt: skip
def test_values_may_come_from_anywhere_and_arrive_as_plain_numbers(static, values):
    shown = explore.sliders(draw, strength=values, start={"strength": values[1]})
    assert shown.parameters == {"strength": (0, 2)}
    assert shown.first.values == {"strength": 2}
    plain = [*shown.parameters["strength"], shown.first.values["strength"]]
    assert {type(value) for value in plain} <= {int, float}


def test_values_may_be_words(static):
    def labels(kind):
        return Figure(figsize=(1, 1))

    page = soup(
        explore.sliders(labels, alt=lambda kind: f"Losses on {kind} labels.", kind=["real", "none"])
    )
    assert frames(page)["values"] == [["real", "none"]]


# Text


def test_terminal_gets_the_table_without_drawing_anything(text):
    def never(**_):
        raise AssertionError("drawn")

    shown = explore.sliders(
        never, alt=described, read_out=read_out, title="Toy", strength=STRENGTHS, examples=[2, 4]
    )
    assert shown._repr_mimebundle_() == {"text/plain": repr(shown)}
    lines = repr(shown).splitlines()
    assert lines[0] == "Toy"
    assert lines[1].split() == ["strength", "examples", "what", "the", "figure", "shows"]
    assert lines[4] == "0.5       2         At 0.5 with 2: <b>1</b>"
    assert len(lines) == 8


# Live


def test_live_draws_one_frame_and_then_the_one_asked_for(live):
    asked = []

    def counting(strength, examples):
        asked.append((strength, examples))
        return draw(strength, examples)

    shown = explore.sliders(
        counting, alt=described, read_out=read_out, strength=STRENGTHS, examples=[2, 4]
    )
    assert asked == [(0, 2)]
    before = shown.picture.value
    shown.selectors["strength"].value = 2
    assert asked == [(0, 2), (2, 2)]
    assert shown.picture.value != before
    image = BeautifulSoup(shown.picture.value, "html.parser").img
    assert image["alt"] == described(2, 2)
    message = BeautifulSoup(shown.message.value, "html.parser").p
    assert (message["role"], message.text) == ("status", read_out(2, 2))


def test_live_shows_an_error_in_the_place_of_the_figure_and_recovers(live):
    def fails_at_two(strength):
        if strength == 2:
            raise RuntimeError("no <solution> here")
        return draw(strength)

    shown = explore.sliders(fails_at_two, strength=STRENGTHS)
    shown.selectors["strength"].value = 2
    alert = BeautifulSoup(shown.message.value, "html.parser").find(role="alert")
    assert "(strength=2) raised RuntimeError: no <solution> here" in alert.text
    assert shown.picture.value == ""
    shown.selectors["strength"].value = 0.5
    assert "Bars of height 0.5" in shown.picture.value
    assert 'role="status"' in shown.message.value


def test_live_starts_where_it_is_told_and_is_shown_as_a_widget(live):
    shown = explore.sliders(draw, title="Toy", strength=STRENGTHS, start={"strength": 0.5})
    assert shown.selectors["strength"].value == 0.5
    assert "application/vnd.jupyter.widget-view+json" in shown._repr_mimebundle_()
    assert repr(shown) == "Toy: sliders for strength"


# Errors: the same under each front end, so that a notebook that runs also builds


@pytest.fixture(params=["static", "live", "text"])
def anywhere(request, monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", request.param)


def test_too_many_frames_are_counted_and_the_remedy_said(anywhere):
    with pytest.raises(ValueError, match=r"7 \(a\) x 7 \(b\) make 49 frames.*at most 48.*lines"):
        explore.sliders(lambda a, b: None, a=range(7), b=range(7))


def test_no_parameter(anywhere):
    with pytest.raises(ValueError, match="no parameter: give at least one"):
        explore.sliders(draw)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (3, TypeError, "strength is 3: give the list"),
        ("real", TypeError, "strength is 'real': give the list"),
        ([[1], [2]], TypeError, r"strength holds \[1\]"),
        ([None, 1], TypeError, "strength holds None"),
        ([1], ValueError, "strength has 1 value"),
        ([], ValueError, "strength has 0 value"),
        ([1, 2, 1], ValueError, "two values that read 1"),
        ([0.1, 0.1 + 1e-12], ValueError, "two values that read 0.1"),
    ],
)
def test_values_of_a_parameter(anywhere, values, error, message):
    with pytest.raises(error, match=message):
        explore.sliders(draw, strength=values)


@pytest.mark.parametrize(
    ("start", "message"),
    [({"width": 1}, "'width', which is no parameter: they are strength"),
     ({"strength": 9}, r"strength=9, which is not among its values \[0, 0.5, 2\]")],
)  # fmt: skip
def test_start_must_be_on_the_grid(anywhere, start, message):
    with pytest.raises(ValueError, match=message):
        explore.sliders(draw, strength=STRENGTHS, start=start)


@pytest.mark.parametrize(
    ("name", "given"), [("draw", None), ("alt", "Bars for every strength."), ("read_out", 3)]
)
def test_functions_must_be_functions(anywhere, name, given):
    functions = {"draw": draw, name: given}
    with pytest.raises(TypeError, match=rf"{name} is .*e.g. {name}=lambda strength: ..."):
        explore.sliders(functions.pop("draw"), **functions, strength=STRENGTHS)


@pytest.mark.parametrize("name", ["alt", "read_out", "title", "start"])
@pytest.mark.parametrize("others", [{}, {"strength": STRENGTHS}])
def test_parameter_with_a_name_of_the_call_is_named(anywhere, name, others):
    with pytest.raises(TypeError, match=rf"^{name} is \[1, 2\]: give .* rename it"):
        explore.sliders(lambda **_: draw(1), **{name: [1, 2]}, **others)


@pytest.mark.parametrize("wrong", [lambda strength: None, lambda strength: (draw(strength), 1)])
def test_draw_must_return_the_figure(static, wrong):
    with pytest.raises(TypeError, match=r"draw\(strength=0\) returned .*Figure.*alone"):
        explore.sliders(wrong, alt=described, strength=STRENGTHS)


def test_every_frame_must_be_described(anywhere):
    with pytest.raises(ValueError, match=r"alt\(strength=0\) '' is too short"):
        explore.sliders(lambda strength: Figure(figsize=(1, 1)), strength=STRENGTHS)


def test_read_out_must_say_something(static):
    with pytest.raises(ValueError, match=r"read_out\(strength=0\) is ' '"):
        explore.sliders(draw, read_out=lambda strength: " ", strength=STRENGTHS)


def test_error_in_draw_says_at_which_values(static):
    with pytest.raises(ZeroDivisionError) as caught:
        explore.sliders(lambda strength: 1 / strength, alt=described, strength=[1, 0][::-1])
    assert caught.value.__notes__ == ["This was the frame of explore.sliders at (strength=0)."]
