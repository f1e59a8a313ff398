"""A figure that carries its description, and what readers get of it: a PNG, and an HTML element.

:mod:`gencoh_lib.plots` is the door to what is here.
"""

from __future__ import annotations

import base64
import html
import io
import re
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from PIL import Image

from gencoh_lib import front_end
from gencoh_lib._style import styled

__all__ = ["CourseFigure", "check_alt", "image_html", "png"]

_PIXELS_PER_INCH = 100  # CSS pixels on the page; the PNG holds more, for dense screens
_FILE_NAME = re.compile(
    r"\S*[/\\]\S*|\S*\.\w{2,4}|.*\.(png|jpe?g|svg|gif|webp|pdf)", re.DOTALL | re.IGNORECASE
)


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
        If it is empty, shorter than 20 characters or three different words, or names a file.

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
    if _FILE_NAME.fullmatch(text):
        raise ValueError(f"{name} {text!r} is the name of a file. {purpose}")
    if len(text) < 20 or len(set(text.lower().split())) < 3:
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
        >>> from gencoh_lib import plots
        >>> fig, ax = plots.figure(alt="Line chart of the training loss.")
        >>> fig.describe("Line chart: the training loss falls to 0.01.")
        >>> fig.alt[-5:]
        '0.01.'
        """
        self.alt = check_alt(text)

    def legend(self, *args: Any, **kwargs: Any) -> Legend:
        """As :meth:`matplotlib.figure.Figure.legend`, in the course's style.

        Examples
        --------
        >>> from gencoh_lib import plots
        >>> fig, ax = plots.figure(alt="Line chart of the training loss.")
        >>> line, = ax.plot([1, 0], label="train")
        >>> fig.legend().get_texts()[0].get_fontsize()
        11.0
        """
        with styled():
            return super().legend(*args, **kwargs)

    def suptitle(self, t: str, **kwargs: Any) -> Text:
        """As :meth:`matplotlib.figure.Figure.suptitle`, in the course's style.

        Examples
        --------
        >>> from gencoh_lib import plots
        >>> fig, ax = plots.figure(alt="Line chart of the training loss.")
        >>> fig.suptitle("Real labels").get_fontsize()
        13.0
        """
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

    Raises
    ------
    TypeError
        If ``fig`` is no matplotlib Figure.

    Examples
    --------
    >>> from gencoh_lib import plots
    >>> fig, ax = plots.figure(alt="Empty axes, to show how a picture is made.")
    >>> png(fig)[1:4], png(fig) == png(fig)
    (b'PNG', True)
    """
    if not isinstance(fig, Figure):
        raise TypeError(
            f"fig is of type {type(fig).__name__}: give the matplotlib Figure, not its axes."
        )
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

    Raises
    ------
    TypeError, ValueError
        If ``alt`` describes nothing (:func:`check_alt`).

    Examples
    --------
    >>> from gencoh_lib import plots
    >>> fig, ax = plots.figure(alt="Empty axes, to show the element of a picture.")
    >>> image_html(fig, b"", 'The curves "a" & "b" fall.')[:65]
    '<img class="course-figure" alt="The curves &quot;a&quot; &amp; &q'
    """
    alt = check_alt(alt)
    width, height = (round(float(inches) * _PIXELS_PER_INCH) for inches in fig.get_size_inches())
    return (
        f'<img class="course-figure" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        'style="max-width: 100%; height: auto" decoding="sync" '
        f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
    )
