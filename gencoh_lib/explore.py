"""A figure with sliders, on a page without a kernel, in a notebook, and in a terminal.

:func:`sliders` turns a function that draws into something a reader can move. On the static page
every frame is drawn beforehand, over the grid of all parameters, into one block of HTML with native
controls; in a live notebook a frame is computed when it is asked for; a terminal gets the table of
read-outs. :mod:`gencoh_lib.front_end` says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matplotlib.figure import Figure

from gencoh_lib import front_end
from gencoh_lib._frames import Drawing, Frame, Value, label
from gencoh_lib._sliders import LiveSliders, Sliders

__all__ = ["MOST_FRAMES", "Frame", "LiveSliders", "Sliders", "sliders"]

for _class in (Frame, LiveSliders, Sliders):
    _class.__module__ = __name__  # their public name, in tracebacks and in the API reference

#: Greatest number of frames in one block. With about 16 KB each, a page stays below 3 MB.
MOST_FRAMES = 48

_RENAME = "If a parameter has this name, rename it: sliders keeps the name for itself."


def sliders(
    draw: Callable[..., Figure],
    *,
    alt: Callable[..., str] | None = None,
    read_out: Callable[..., str] | None = None,
    title: str | None = None,
    start: Mapping[str, Value] | None = None,
    **parameters: Iterable[Value],
) -> Sliders | LiveSliders:
    """A figure that the reader can move, over a small grid of parameters.

    Under the front end ``static`` all frames are drawn now and shown in one self-contained block
    (native sliders, keyboard, a play button for the first parameter, and without JavaScript the
    first frame and a table); under ``live`` widgets compute one frame at a time; under ``text`` the
    table of read-outs is printed.

    Parameters
    ----------
    draw
        ``draw(**values)`` returns a matplotlib Figure. It may draw a new one or update one that it
        keeps.
    alt
        ``alt(**values)`` describes that frame for readers who cannot see it. It may be left out
        where ``draw`` returns a :class:`~gencoh_lib.plots.CourseFigure`, which has its own.
    read_out
        ``read_out(**values)`` says in a sentence what the frame shows; by default ``alt`` does.
    title
        Heading of the block.
    start
        Value of some parameters in the frame that is shown first; by default the first of each.
    **parameters
        Values of each parameter, two or more: numbers or texts. Underscores in a name are shown as
        spaces.

    Returns
    -------
    Sliders or LiveSliders
        Shown by ending the cell with it.

    Raises
    ------
    TypeError
        If ``draw``, ``alt`` or ``read_out`` cannot be called, ``title`` is no text or ``start`` no
        mapping (a parameter cannot have these names), a parameter is no sequence of values, or
        ``draw`` returns no Figure.
    ValueError
        If there is no parameter, one has fewer than two values or two that read the same, the grid
        has more than 48 frames, ``start`` names what is not there, or a frame has no description.

    Examples
    --------
    >>> from unittest.mock import patch
    >>> from gencoh_lib import plots
    >>> def draw(power):
    ...     fig, ax = plots.figure(alt=f"Line chart of x to the power {power} on [0, 1].")
    ...     ax.plot([0, 0.5, 1], [0, 0.5**power, 1])
    ...     return fig
    >>> def half(power):
    ...     return f"At one half it is {0.5**power:.2f}."
    >>> with patch.dict("os.environ", GENCOH_FRONT_END="text"):
    ...     sliders(draw, read_out=half, power=[1, 2])
    power  what the figure shows
    1      At one half it is 0.50.
    2      At one half it is 0.25.
    """
    for name, function in {"draw": draw, "alt": alt, "read_out": read_out}.items():
        if not callable(function) and (function is not None or name == "draw"):
            raise TypeError(
                f"{name} is {function!r}: give a function of the parameters, e.g. "
                f"{name}=lambda {next(iter(parameters), 'strength')}: ... {_RENAME}"
            )
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title is {title!r}: give a text. {_RENAME}")
    if start is not None and not isinstance(start, Mapping):
        raise TypeError(
            f"start is {start!r}: give the value of each parameter by its name, e.g. "
            f"start={{{next(iter(parameters), 'strength')!r}: ...}}. {_RENAME}"
        )
    values = {name: _values(name, given) for name, given in parameters.items()}
    drawing = Drawing(draw, alt, read_out, title, values, _start(values, start or {}))
    _check_size(values)
    how = front_end.current()
    if how == "live":
        return LiveSliders(drawing.frame, values, drawing.start, title)
    grid = drawing.grid()
    frames = tuple(drawing.frame(point, picture=how == "static") for point in grid)
    return Sliders(values, frames, frames[grid.index(dict(drawing.start))], title)


def _values(name: str, given: Iterable[Value]) -> tuple[Value, ...]:
    """Values of one parameter as plain Python numbers or texts."""
    plain = _plain(given)
    if isinstance(plain, str) or not isinstance(plain, Iterable):
        raise TypeError(f"{name} is {given!r}: give the list of its values, e.g. {name}=[0, 0.5].")
    values = tuple(map(_plain, plain))
    for value in values:
        if not isinstance(value, str | int | float):
            raise TypeError(f"{name} holds {value!r}: its values must be numbers or texts.")
    if len(values) < 2:
        raise ValueError(
            f"{name} has {len(values)} value(s): a slider needs two or more. Fix it inside draw."
        )
    shown = [label(value) for value in values]
    for text in shown:
        if shown.count(text) > 1:
            raise ValueError(f"{name} has two values that read {text}: leave one out.")
    return values


def _plain(thing: Any) -> Any:
    """Python's own number or list in place of one of NumPy or PyTorch."""
    return thing.tolist() if hasattr(thing, "tolist") else thing


def _start(
    parameters: Mapping[str, tuple[Value, ...]], wanted: Mapping[str, Value]
) -> dict[str, Value]:
    wanted = {name: _plain(value) for name, value in wanted.items()}
    for name, value in wanted.items():
        if name not in parameters:
            raise ValueError(
                f"start names {name!r}, which is no parameter: they are {', '.join(parameters)}."
            )
        if value not in parameters[name]:
            raise ValueError(
                f"start has {name}={value!r}, which is not among its values "
                f"{list(parameters[name])}."
            )
    return {name: wanted.get(name, values[0]) for name, values in parameters.items()}


def _check_size(parameters: Mapping[str, tuple[Value, ...]]) -> None:
    if not parameters:
        raise ValueError("There is no parameter: give at least one, e.g. strength=[0, 1, 2].")
    count = math.prod(map(len, parameters.values()))
    if count > MOST_FRAMES:
        product = " x ".join(f"{len(values)} ({name})" for name, values in parameters.items())
        raise ValueError(
            f"{product} make {count} frames, and a block holds at most {MOST_FRAMES}: leave out "
            "values, or draw one of the parameters as several lines within the frame."
        )
