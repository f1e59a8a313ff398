"""Figures: described, in one style, the same bytes each time.

Whether colours can be told apart is not a matter of taste: contrast is WCAG's ratio, and colour
blindness is simulated with the matrices of Machado, Oliveira and Fernandes (2009).
"""

import base64
import gc
import io
import itertools
import subprocess
import sys
import weakref

import matplotlib as mpl
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from PIL import Image

from gencoh_lib import plots

ALT = "Line chart: the loss falls from 1 to 0."


def line_chart(alt=ALT):
    fig, ax = plots.figure(alt=alt)
    ax.plot(np.linspace(0, 1, 50), np.linspace(1, 0, 50), label="loss")
    ax.legend()
    return fig


# Alt text


@pytest.mark.parametrize(
    ("alt", "error", "reason"),
    [
        (None, TypeError, "must be a text, not NoneType"),
        ("", ValueError, "too short"),
        ("   a loss curve     ", ValueError, "too short"),
        ("figures/gradient-coherence.png", ValueError, "name of a file"),
        ("gradient_coherence_by_layer.svg", ValueError, "name of a file"),
        ("my pictures/loss curve final.png", ValueError, "name of a file"),
        ("The loss curve of\nthe last run.JPEG", ValueError, "name of a file"),
        ("x" * 40, ValueError, "too short"),
        ("loss loss Loss loss loss loss", ValueError, "too short"),
    ],
)
def test_figure_wants_a_description_and_says_what_for(alt, error, reason):
    with pytest.raises(error, match=rf"alt .*{reason}.* It stands in for the picture"):
        plots.figure(alt=alt)


def test_figure_cannot_be_made_without_alt():
    with pytest.raises(TypeError, match="alt"):
        plots.figure()


def test_description_may_be_set_after_drawing_but_not_emptied(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "static")
    fig = line_chart()
    fig.describe("Line chart: the loss falls from 1 to 0.02 in 600 steps.")
    assert "0.02" in fig._repr_mimebundle_()["text/html"]
    with pytest.raises(ValueError, match="too short"):
        fig.describe("")
    assert "0.02" in fig.alt


def test_alt_text_survives_html(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "static")
    alt = """Chart of "a < b" & 'c' > d, <b>bold</b>"""
    image = BeautifulSoup(line_chart(alt)._repr_mimebundle_()["text/html"], "html.parser").img
    assert image["alt"] == alt
    assert image["class"] == ["course-figure"]


# What is shown


@pytest.mark.parametrize("front_end", ["static", "live"])
def test_bundle_has_html_for_pages_png_for_print_and_words_for_terminals(monkeypatch, front_end):
    monkeypatch.setenv("GENCOH_FRONT_END", front_end)
    bundle = line_chart()._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    image = BeautifulSoup(bundle["text/html"], "html.parser").img
    assert image["src"] == "data:image/png;base64," + bundle["image/png"]
    assert (image["width"], image["height"]) == ("600", "360")
    assert bundle["text/plain"] == ALT


def test_terminal_gets_the_description_alone(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "text")
    assert line_chart()._repr_mimebundle_() == {"text/plain": ALT}


def test_png_is_the_same_each_time_and_has_no_metadata():
    once, again = plots.png(line_chart()), plots.png(line_chart())
    assert once == again
    assert Image.open(io.BytesIO(once)).info == {}


def test_line_chart_is_palettised_and_small():
    picture = plots.png(line_chart())
    assert Image.open(io.BytesIO(picture)).mode == "P"
    assert len(picture) < 16_000


def test_picture_of_many_colours_keeps_them():
    fig = Figure(figsize=(2, 2))
    fig.figimage(np.random.default_rng(0).random((200, 200, 3)))
    assert Image.open(io.BytesIO(plots.png(fig))).mode == "RGB"


def test_card_is_white_also_where_the_figure_is_transparent():
    fig = Figure(facecolor="none")
    picture = Image.open(io.BytesIO(plots.png(fig))).convert("RGBA")
    assert picture.getpixel((0, 0)) == (255, 255, 255, 255)


def test_drawing_leaves_the_figure_as_it_was():
    fig = line_chart()
    before = (fig.canvas, fig.dpi, tuple(fig.get_size_inches()))
    small, large = plots.png(fig, dpi=50), plots.png(fig, dpi=100)
    assert before == (fig.canvas, fig.dpi, tuple(fig.get_size_inches()))
    assert Image.open(io.BytesIO(large)).width == 2 * Image.open(io.BytesIO(small)).width


def test_reader_s_settings_change_no_picture():
    usual = plots.png(line_chart())
    with mpl.rc_context({"savefig.bbox": "tight", "font.size": 30, "lines.linewidth": 9}):
        assert plots.png(line_chart()) == usual


# No global state


def test_matplotlib_s_settings_stay_as_they_were():
    before = dict(mpl.rcParams)
    plots.png(line_chart())
    assert dict(mpl.rcParams) == before


def test_pyplot_is_not_even_imported():
    code = (
        "import sys; from gencoh_lib import plots;"
        "fig, ax = plots.figure(alt='Empty axes, drawn in a process of their own.');"
        "fig._repr_mimebundle_(); print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_figures_do_not_pile_up():
    figures = [weakref.ref(line_chart()) for _ in range(3)]
    gc.collect()
    assert [figure() for figure in figures] == [None] * 3


# Shape of the figure


def test_axes_come_as_from_subplots():
    assert not isinstance(plots.figure(alt=ALT)[1], np.ndarray)
    assert plots.figure(2, alt=ALT)[1].shape == (2,)
    assert plots.figure(2, 3, alt=ALT)[1].shape == (3, 2)


def test_size_may_be_given():
    fig, _ = plots.figure(alt=ALT, width=5, height=2)
    assert tuple(fig.get_size_inches()) == (5, 2)


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"rows": 1.5}, {"width": 0}, {"height": -1}])
def test_impossible_sizes_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"^{name} is"):
        plots.figure(alt=ALT, **wrong)


def test_axes_may_be_shared():
    _, axes = plots.figure(2, alt=ALT, sharey=True)
    axes[0].set_ylim(0, 7)
    assert axes[1].get_ylim() == (0, 7)


# Style


def test_words_added_after_the_figure_have_its_style():
    fig, ax = plots.figure(alt=ALT)
    ax.plot([0, 1], label="a")
    assert ax.text(0, 0, "here").get_fontsize() == 12
    assert ax.annotate("there", (0, 0)).get_fontsize() == 12
    assert ax.legend().get_texts()[0].get_fontsize() == 11
    assert fig.suptitle("all").get_fontsize() == 13
    assert fig.legend().get_texts()[0].get_fontsize() == 11


def test_nothing_is_ruled_over_pictures():
    _, ax = plots.figure(alt=ALT)
    ax.imshow(np.eye(3))
    assert not any(line.get_visible() for line in ax.get_xgridlines())


def test_long_lines_have_few_markers_and_short_ones_have_all():
    _, ax = plots.figure(alt=ALT)
    (long,) = ax.plot(np.arange(500))
    (short,) = ax.plot(np.arange(5))
    assert long.get_markevery() is not None
    assert short.get_markevery() is None


def test_other_kinds_of_charts_take_the_colours():
    fig, ax = plots.figure(alt=ALT)
    ax.bar([0, 1], [1, 2])
    ax.fill([0, 1, 1], [0, 0, 1])
    ax.errorbar([0, 1], [1, 2], [0.1, 0.1])
    ax.hist([1, 2, 2])
    ax.stackplot([0, 1], [[1, 2]])
    ax.scatter([0, 1], [1, 2])
    assert plots.png(fig)


def test_each_series_has_a_colour_a_line_and_a_marker_of_its_own():
    styles = [plots.series_style(k) for k in range(len(plots.COLOURS))]
    for sign in ("color", "linestyle", "marker"):
        assert len({str(style[sign]) for style in styles}) == len(plots.COLOURS)
    assert plots.series_style(len(plots.COLOURS)) == styles[0]


def test_series_are_counted_from_zero():
    with pytest.raises(ValueError, match="series is -1"):
        plots.series_style(-1)


def linear(colour):
    c = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


VISION = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


def least_difference(colours, vision):
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in colours]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("colour", plots.COLOURS)
def test_colours_have_contrast_of_three_on_white(colour):
    luminance = np.array([0.2126, 0.7152, 0.0722]) @ linear(colour)
    assert 1.05 / (luminance + 0.05) >= 3


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision):
    assert least_difference(plots.COLOURS, vision) > 15


def test_matplotlib_s_own_colours_would_fail():
    usual = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"]
    assert min(least_difference(usual, vision) for vision in VISION) < 15


# The axis of training steps


def test_step_axis_begins_at_step_zero_and_is_logarithmic_from_one_on():
    _, ax = plots.figure(alt=ALT)
    ax.plot([0, 1, 10, 100], [4, 3, 2, 1])
    plots.step_axis(ax, np.int64(100))
    assert ax.get_xlabel() == "step"
    assert ax.get_xlim() == (0, 100)
    at = ax.transData.transform([[step, 0] for step in (0, 1, 10, 100)])[:, 0]
    assert np.isfinite(at).all()
    assert np.diff(at)[1] == pytest.approx(np.diff(at)[2])
    assert ax.get_xticks()[0] == 0


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "600", None, float("nan")])
def test_step_axis_wants_a_number_of_steps_and_else_leaves_the_axis_alone(steps):
    _, ax = plots.figure(alt=ALT)
    with pytest.raises(ValueError, match=r"^steps is .*: give the number of training steps"):
        plots.step_axis(ax, steps)
    assert ax.get_xscale() == "linear"


# Spread


def test_spread_draws_the_median_and_the_range():
    _, ax = plots.figure(alt=ALT)
    runs = np.array([[3.0, 1.0, 5.0], [4.0, 1.0, 2.0], [9.0, 2.0, 2.0]])
    line = plots.spread(ax, [0, 1, 2], runs, label="loss")
    assert line.get_ydata().tolist() == [4, 1, 2]
    assert line.get_label() == "loss"
    corners = ax.collections[0].get_paths()[0].vertices
    for x in range(3):
        band = corners[corners[:, 0] == x, 1]
        assert (band.min(), band.max()) == (runs[:, x].min(), runs[:, x].max())


def test_spread_takes_the_next_style_or_the_one_it_is_given():
    _, ax = plots.figure(alt=ALT)
    runs = np.ones((2, 3))
    lines = [plots.spread(ax, range(3), runs, label="a", series=k) for k in (None, None, 4)]
    assert [line.get_color() for line in lines] == [plots.COLOURS[k] for k in (0, 1, 4)]
    assert lines[2].get_marker() == plots.series_style(4)["marker"]


@pytest.mark.parametrize("runs", [np.ones(3), np.ones((3, 2)), np.ones((0, 3)), np.ones((1, 1, 3))])
def test_spread_wants_one_row_a_seed(runs):
    _, ax = plots.figure(alt=ALT)
    with pytest.raises(ValueError, match=r"runs has shape .* runs must be \[seeds, points\]"):
        plots.spread(ax, range(3), runs, label="loss")
    assert not ax.lines


def test_axes_in_place_of_the_figure_are_named():
    _, ax = plots.figure(alt=ALT)
    with pytest.raises(TypeError, match="fig is of type CourseAxes: give the matplotlib Figure"):
        plots.png(ax)


def test_no_picture_gets_into_a_page_without_a_description():
    with pytest.raises(ValueError, match="too short"):
        plots.image_html(line_chart(), b"bytes", "")


def test_public_names_are_those_of_this_module():
    for thing in (plots.CourseFigure, plots.check_alt, plots.png, plots.image_html):
        assert thing.__module__ == "gencoh_lib.plots"


def test_data_uri_holds_the_png():
    fig = line_chart()
    uri = BeautifulSoup(plots.image_html(fig, b"bytes", ALT), "html.parser").img["src"]
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == b"bytes"
