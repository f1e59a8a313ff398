"""How figures look: colours, sizes, and axes that keep to them.

:mod:`gencoh_lib.plots` is the door to what is here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text

__all__ = ["COLOURS", "CourseAxes", "series_styles", "styled"]

# Blue, vermilion, green, wine, charcoal, grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8E2A60", "#111820", "#7C8794")
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")

_INK, _HAIR = "#1C2733", "#DFE4EA"

_STYLE: Any = {
    "figure.facecolor": "white",
    "figure.dpi": 160,
    "savefig.bbox": None,
    "savefig.transparent": False,
    # Shown 350 pixels wide on a phone, a figure of 6 inches turns 12 points into 10 pixels.
    "font.size": 12,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "axes.titlesize": 12.5,
    "axes.labelsize": 12,
    "figure.titlesize": 13,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "white",
    "legend.handlelength": 2.8,  # long enough to tell the line styles apart
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#5A6675",
    "xtick.color": "#5A6675",
    "ytick.color": "#5A6675",
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _HAIR,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "axes.prop_cycle": cycler(
        color=COLOURS,
        linestyle=_LINES,
        marker=_MARKERS,
    ),
}


def styled() -> AbstractContextManager[None]:
    """Context in which matplotlib makes and draws artists in the course's style."""
    return matplotlib.rc_context(_STYLE)


def series_styles() -> list[dict[str, Any]]:
    """Colour, line style and marker of each series."""
    return list(_STYLE["axes.prop_cycle"])


class CourseAxes(Axes):
    """Axes that keep the course's style for what is added later."""

    def plot(self, *args: Any, **kwargs: Any) -> list[Line2D]:
        with styled():
            lines = super().plot(*args, **kwargs)
        for line in lines:
            if line.get_markevery() is None and np.size(line.get_xdata()) > 12:
                # About seven markers however many points, beginning at a different place each line.
                line.set_markevery((0.03 * (len(self.lines) % len(COLOURS)), 0.15))
        return lines

    def imshow(self, *args: Any, **kwargs: Any) -> AxesImage:
        self.grid(False)  # it would be drawn over the picture
        with styled():
            return super().imshow(*args, **kwargs)

    def legend(self, *args: Any, **kwargs: Any) -> Legend:
        with styled():
            return super().legend(*args, **kwargs)

    def text(self, *args: Any, **kwargs: Any) -> Text:
        with styled():
            return super().text(*args, **kwargs)

    def annotate(self, *args: Any, **kwargs: Any) -> Annotation:
        with styled():
            return super().annotate(*args, **kwargs)
