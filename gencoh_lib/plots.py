"""Figures in one style, each with a description for readers who cannot see it.

:func:`figure` is the only way chapters make a figure. It does without ``pyplot``: no global state,
no figure shown twice. The returned figure is shown by ending a cell with it, as an opaque white
card that reads the same in light and in dark pages. Series differ in colour, line style *and*
marker, so that colour is never the only sign; :data:`COLOURS` keep 3:1 contrast on white and stay
apart for colour-blind readers.
"""

from __future__ import annotations

import base64
import html
import io
import re
from typing import Any, Literal, overload

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from gencoh_lib import _style, front_end
from gencoh_lib._style import CourseAxes, series_styles, styled

__all__ = [
    "COLOURS", "CourseFigure", "check_alt", "figure", "image_html", "png", "series_style", "spread",
]  # fmt: skip

#: Colours of the series, in their order (blue, vermilion, green, wine, charcoal, grey).
COLOURS = _style.COLOURS

_PIXELS_PER_INCH = 100  # CSS pixels on the page; the PNG holds more, for dense screens


def check_alt(text: object, *, name: str = "alt") -> str:
    """Text that can stand in for a picture, or an error that says what such a text is for.

    Parameters
    ----------
    text
        Description to check.
    name
        What the message calls it.

    Returns
    -------
    str
        The text, without white space around it.

    Raises
    ------
    TypeError
        If it is no text.
    ValueError
        If it is empty, shorter than 20 characters, or the name of a file.

    Examples
    --------
    >>> len(check_alt(" Test error falls as the width grows. "))
    36
    """
    purpose = (
        "It stands in for the picture where the picture cannot be seen: say what is drawn and "
        "what it shows, e.g. 'Line chart: training loss falls to 0 within 200 steps for all seeds.'"
    )
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a text, not {type(text).__name__}. {purpose}")
    text = text.strip()
    if re.fullmatch(r"\S*[/\\]\S*|\S*\.\w{2,4}", text):
        raise ValueError(f"{name} {text!r} is the name of a file. {purpose}")
    if len(text) < 20:
        raise ValueError(f"{name} {text!r} is too short to describe a picture. {purpose}")
    return text


class CourseFigure(Figure):
    """A matplotlib figure that carries its description; made by :func:`figure`.

    Attributes
    ----------
    alt : str
        The description; change it with :meth:`describe`.
    """

    alt: str

    def describe(self, text: str) -> None:
        """Set the description again, where it holds numbers that are known after drawing.

        Parameters
        ----------
        text
            The new alt text.

        Raises
        ------
        TypeError, ValueError
            As :func:`check_alt`.

        Examples
        --------
        >>> fig, ax = figure(alt="Line chart of the training loss.")
        >>> fig.describe("Line chart: the training loss falls to 0.01.")
        >>> fig.alt[-5:]
        '0.01.'
        """
        self.alt = check_alt(text)

    def legend(self, *args: Any, **kwargs: Any) -> Legend:
        """As :meth:`matplotlib.figure.Figure.legend`, in the course's style."""
        with styled():
            return super().legend(*args, **kwargs)

    def suptitle(self, t: str, **kwargs: Any) -> Text:
        """As :meth:`matplotlib.figure.Figure.suptitle`, in the course's style."""
        with styled():
            return super().suptitle(t, **kwargs)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        if front_end.current() == "text":
            return {"text/plain": self.alt}
        picture = png(self)
        return {
            "text/html": image_html(self, picture, self.alt),
            "image/png": base64.b64encode(picture).decode(),
            "text/plain": self.alt,
        }


# matplotlib gives every subclass a ``set`` of its own, whose text only its own pages can show.
del CourseFigure.set


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


def png(fig: Figure, *, dpi: float | None = None) -> bytes:
    """PNG of any matplotlib figure: opaque, small, and the same bytes each time.

    The colours are reduced to a palette of 64 or 256, which makes line charts four times smaller,
    unless the picture would visibly change (a root mean square error above 4 of 255).

    Parameters
    ----------
    fig
        Figure to draw; it comes back as it was.
    dpi
        Pixels an inch; by default the figure's own.

    Returns
    -------
    bytes
        The PNG file, without date or software version.

    Examples
    --------
    >>> fig, ax = figure(alt="Empty axes, to show how a picture is made.")
    >>> png(fig)[1:4], png(fig) == png(fig)
    (b'PNG', True)
    """
    buffer = io.BytesIO()
    # Ticks are made while drawing, so the style must hold then too.
    with styled() if isinstance(fig, CourseFigure) else rc_context({"savefig.bbox": None}):
        fig.savefig(buffer, format="png", dpi=dpi or "figure", pil_kwargs={"compress_level": 1})
    drawn = Image.open(buffer).convert("RGBA")
    picture = Image.new("RGB", drawn.size, "white")
    picture.paste(drawn, mask=drawn.getchannel("A"))
    buffer = io.BytesIO()
    _palettised(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _palettised(picture: Image.Image) -> Image.Image:
    wanted = np.asarray(picture, dtype=np.float32)
    for colours in (64, 256):
        reduced = picture.quantize(
            colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
        error = np.asarray(reduced.convert("RGB"), dtype=np.float32) - wanted
        if np.sqrt(np.mean(error**2)) <= 4:
            return reduced
    return picture


def image_html(fig: Figure, picture: bytes, alt: str) -> str:
    """HTML element of a drawn figure: the PNG inside the page, its size and its description.

    Parameters
    ----------
    fig
        Figure that was drawn; its inches say how large it is shown, at most as wide as the column.
    picture
        The PNG (:func:`png`).
    alt
        Description, not escaped.

    Returns
    -------
    str
        An ``<img>`` with the class ``course-figure``.

    Examples
    --------
    >>> fig, ax = figure(alt="Empty axes, to show the element of a picture.")
    >>> image_html(fig, b"", 'Curves "a" & "b".')[:61]
    '<img class="course-figure" alt="Curves &quot;a&quot; &amp; &q'
    """
    width, height = (round(float(inches) * _PIXELS_PER_INCH) for inches in fig.get_size_inches())
    return (
        f'<img class="course-figure" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        'style="max-width: 100%; height: auto" decoding="sync" '
        f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
    )
