"""One frame of a figure with sliders: computed, described and read out.

:mod:`gencoh_lib.explore` is the door to what is here.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from gencoh_lib import plots

__all__ = ["Drawing", "Frame", "Value", "call", "label", "words"]

_FRAME_DPI = 120  # frames come by the dozen, so they are a little coarser than single figures

Value = str | int | float


@dataclass(frozen=True)
class Frame:
    """One frame: the values that it shows, and how it is seen, described and read out.

    Attributes
    ----------
    values
        Value of each parameter.
    picture
        HTML of the drawing; empty where none was wanted.
    png
        The drawing as a PNG; empty where none was wanted.
    alt
        Description of the drawing.
    read_out
        What the frame says, in a sentence.

    Examples
    --------
    >>> Frame({"power": 2}, "", b"", "Line chart of the square of x.", "At 0.5 it is 0.25.")
    Frame(values={'power': 2}, alt='Line chart of the square of x.', read_out='At 0.5 it is 0.25.')
    """

    values: Mapping[str, Value]
    picture: str = field(repr=False)
    png: bytes = field(repr=False)
    alt: str
    read_out: str


@dataclass(frozen=True)
class Drawing:
    """What the reader may ask for: a function, its parameters, and how to say what it drew."""

    draw: Callable[..., Figure]
    alt: Callable[..., str] | None
    read_out: Callable[..., str] | None
    title: str | None
    parameters: Mapping[str, tuple[Value, ...]]
    start: Mapping[str, Value]

    def grid(self) -> list[dict[str, Value]]:
        """Values of every frame; the last parameter runs fastest."""
        return [
            dict(zip(self.parameters, values, strict=True))
            for values in itertools.product(*self.parameters.values())
        ]

    def frame(self, values: Mapping[str, Value], *, picture: bool = True) -> Frame:
        """Compute one frame; an error says at which values it arose."""
        try:
            return self._frame(values, picture=picture)
        except Exception as error:
            error.add_note(f"This was the frame of explore.sliders at {call(values)}.")
            raise

    def _frame(self, values: Mapping[str, Value], *, picture: bool) -> Frame:
        fig = self._figure(values) if picture or self.alt is None else None
        alt = plots.check_alt(
            self.alt(**values) if self.alt is not None else getattr(fig, "alt", ""),
            name=f"alt{call(values)}",
        )
        said = alt if self.read_out is None else self.read_out(**values)
        if not isinstance(said, str) or not said.strip():
            raise ValueError(f"read_out{call(values)} is {said!r}: it must return a short text.")
        if fig is None or not picture:
            return Frame(values, "", b"", alt, said)
        png = plots.png(fig, dpi=_FRAME_DPI)
        return Frame(values, plots.image_html(fig, png, alt), png, alt, said)

    def _figure(self, values: Mapping[str, Value]) -> Figure:
        fig = self.draw(**values)
        if not isinstance(fig, Figure):
            raise TypeError(
                f"draw{call(values)} returned {type(fig).__name__}: it must return the matplotlib "
                "Figure it drew (and that alone, without its axes)."
            )
        # A figure of pyplot would stay in its registry, and be shown a second time by notebooks.
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(fig)
        return fig


def label(value: Value) -> str:
    """A value as readers see it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def words(name: str) -> str:
    """The name of a parameter as readers see it."""
    return name.replace("_", " ")


def call(values: Mapping[str, Value]) -> str:
    """Arguments as they would be written in a call."""
    return f"({', '.join(f'{name}={value!r}' for name, value in values.items())})"
