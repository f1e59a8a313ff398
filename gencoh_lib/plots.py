"""Figures in one style, each with a description for readers who cannot see it.

:func:`figure` is the only way chapters make a figure. It does without ``pyplot``: no global state,
no figure shown twice. The returned figure is shown by ending a cell with it, as an opaque white
card that reads the same in light and in dark pages. Series differ in colour, line style *and*
marker, so that colour is never the only sign; :data:`COLOURS` keep 3:1 contrast on white and stay
apart for colour-blind readers.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from gencoh_lib import _style
from gencoh_lib._figure import CourseFigure, check_alt, image_html, png
from gencoh_lib._style import CourseAxes, series_styles, styled

__all__ = [
    "COLOURS", "CourseFigure", "check_alt", "figure", "image_html", "png", "series_style", "spread",
    "step_axis",
]  # fmt: skip

for _public in (CourseFigure, check_alt, image_html, png):
    _public.__module__ = __name__  # their public name, in tracebacks and in the API reference

#: Colours of the series, in their order (blue, vermilion, green, wine, charcoal, grey).
COLOURS = _style.COLOURS


@overload
def figure(
    columns: Literal[1] = 1,
    rows: Literal[1] = 1,
    *,
    alt: str,
    width: float | None = None,
    height: float | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[CourseFigure, Axes]: ...
@overload
def figure(
    columns: int = 1,
    rows: int = 1,
    *,
    alt: str,
    width: float | None = None,
    height: float | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[CourseFigure, NDArray[Any]]: ...
def figure(
    columns: int = 1,
    rows: int = 1,
    *,
    alt: str,
    width: float | None = None,
    height: float | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[CourseFigure, Axes | NDArray[Any]]:
    """New figure in the course's style, and its axes.

    End the cell with the figure to show it. Panels side by side become small on a phone: more than
    two columns are rarely a good idea.

    Parameters
    ----------
    columns, rows
        Number of panels side by side, and of rows of them.
    alt
        What is drawn and what it shows, for readers who cannot see it; 20 characters or more.
    width, height
        Size in inches, an inch being 100 pixels on the page. By default 6 inches wide (7.2 with
        several columns), and as high as looks right.
    sharex, sharey
        Whether the panels share the limits of that axis.

    Returns
    -------
    fig : CourseFigure
        The figure; :meth:`CourseFigure.describe` sets the description again.
    axes : matplotlib.axes.Axes or numpy.ndarray
        One Axes; an array of them, of shape [panels] or [rows, columns], where there are several.

    Raises
    ------
    TypeError, ValueError
        If ``alt`` describes nothing (:func:`check_alt`), or a number or size is not positive.

    Examples
    --------
    >>> fig, (left, right) = figure(columns=2, alt="Two line charts: loss and accuracy by step.")
    >>> line, = right.plot([0, 1], [0.1, 0.9])
    >>> line.get_color()
    '#0072B2'
    """
    alt = check_alt(alt)
    for name, value in {"columns": columns, "rows": rows}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}: give the number of panels, 1 or more.")
    for name, size in {"width": width, "height": height}.items():
        if size is not None and not size > 0:
            raise ValueError(f"{name} is {size!r}: give a positive size in inches.")
    width = width or (6 if columns == 1 else 7.2)
    height = height or rows * (3.6 if columns == 1 else 3.1)
    with styled():
        fig = CourseFigure(figsize=(width, height), layout="constrained")
        fig.alt = alt
        axes = fig.subplots(
            rows, columns, sharex=sharex, sharey=sharey, subplot_kw={"axes_class": CourseAxes}
        )
    return fig, axes


def series_style(series: int) -> dict[str, Any]:
    """Colour, line style and marker of one series, as keywords of ``Axes.plot``.

    Use it to give the same thing the same look in several panels and figures.

    Parameters
    ----------
    series
        Number of the series, from 0; after the last style the first comes again.

    Returns
    -------
    dict
        Keywords for :meth:`matplotlib.axes.Axes.plot`.

    Raises
    ------
    ValueError
        If ``series`` is negative.

    Examples
    --------
    >>> series_style(1)["color"], series_style(1)["marker"]
    ('#D55E00', 's')
    """
    if series < 0:
        raise ValueError(f"series is {series}: series are counted from 0.")
    styles = series_styles()
    return styles[series % len(styles)]


def spread(
    ax: Axes, x: ArrayLike, runs: ArrayLike, *, label: str, series: int | None = None
) -> Line2D:
    """Draw the median over runs as a line, and from least to greatest as a band.

    Parameters
    ----------
    ax
        Axes to draw in.
    x
        Positions, shape [points].
    runs
        One row a run (a seed), shape [seeds, points]. Where a run is NaN, so are line and band.
    label
        Name of the line in the legend.
    series
        Number of the style (:func:`series_style`); by default the next that ``ax`` has not used.

    Returns
    -------
    matplotlib.lines.Line2D
        The median line.

    Raises
    ------
    ValueError
        If ``runs`` is not of shape [seeds, points], with at least one seed.

    Examples
    --------
    >>> fig, ax = figure(alt="Line chart of a loss, median and range of three seeds.")
    >>> line = spread(ax, [0, 1], [[3, 1], [4, 1], [9, 1]], label="loss")
    >>> line.get_ydata().tolist()
    [4.0, 1.0]
    """
    x, runs = np.asarray(x), np.asarray(runs, dtype=np.float64)
    if x.ndim != 1 or runs.ndim != 2 or not len(runs) or runs.shape[1] != len(x):
        raise ValueError(
            f"runs has shape {list(runs.shape)} and x has shape {list(x.shape)}: runs must be "
            "[seeds, points] and x [points]; stack one row a run with numpy.stack."
        )
    style = {} if series is None else series_style(series)
    (line,) = ax.plot(x, np.median(runs, axis=0), label=label, **style)
    ax.fill_between(
        x, runs.min(axis=0), runs.max(axis=0), color=line.get_color(), alpha=0.18, linewidth=0
    )
    return line


def step_axis(ax: Axes, steps: int) -> None:
    """Make the x axis one of training steps: logarithmic, and yet from step 0.

    Training changes fastest at first, and a logarithmic axis would leave out the very start. Here
    it is linear from 0 to 1 and logarithmic from there on.

    Parameters
    ----------
    ax
        Axes to set; draw in it before or after.
    steps
        Number of training steps, where the axis ends; 1 or more.

    Raises
    ------
    ValueError
        If ``steps`` is no whole number, or less than 1.

    Examples
    --------
    >>> fig, ax = figure(alt="Empty axes, from step 0 to step 600.")
    >>> step_axis(ax, 600)
    >>> ax.get_xscale(), ax.get_xlabel(), float(ax.get_xlim()[0]), float(ax.get_xlim()[1])
    ('symlog', 'step', 0.0, 600.0)
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"steps is {steps!r}: give the number of training steps, 1 or more.")
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlim=(0, steps), xlabel="step")
