"""What a reader moves: all frames in one block of HTML, or widgets that compute one at a time.

:mod:`gencoh_lib.explore` is the door to what is here.
"""

from __future__ import annotations

import base64
import html
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gencoh_lib import front_end
from gencoh_lib._frames import Frame, Value, call, label, words

__all__ = ["LiveSliders", "Sliders"]


@dataclass(frozen=True, repr=False)
class Sliders:
    """All frames of a figure with sliders; show it by ending a cell with it.

    Attributes
    ----------
    parameters
        Values of each parameter, in the order of the sliders.
    frames
        One frame for each combination; the last parameter runs fastest.
    first
        The frame that is shown first.
    title
        Heading of the block.

    Examples
    --------
    >>> frames = [
    ...     Frame({"power": n}, "", b"", f"Line chart of x to the power {n}.", f"Degree {n}.")
    ...     for n in (1, 2)
    ... ]
    >>> Sliders({"power": (1, 2)}, tuple(frames), frames[0])
    power  what the figure shows
    1      Degree 1.
    2      Degree 2.
    """

    parameters: Mapping[str, tuple[Value, ...]]
    frames: tuple[Frame, ...]
    first: Frame
    title: str | None = None

    def __repr__(self) -> str:
        rows = [[label(value) for value in frame.values.values()] for frame in self.frames]
        head = [words(name) for name in self.parameters]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        indent = " " * sum(width + 2 for width in widths)
        lines = [self.title] if self.title else []
        texts = ["what the figure shows", *(frame.read_out for frame in self.frames)]
        for cells, said in zip([head, *rows], texts, strict=True):
            padded = zip(cells, widths, strict=True)
            start = "".join(f"{cell:<{width + 2}}" for cell, width in padded)
            lines.append(textwrap.fill(said, 100, initial_indent=start, subsequent_indent=indent))
        return "\n".join(lines)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        if not self.first.png:
            return {"text/plain": repr(self)}
        return {
            "text/html": front_end.html_block("sliders", self._body()),
            "image/png": base64.b64encode(self.first.png).decode(),
            "text/plain": repr(self),
        }

    def _body(self) -> str:
        title = html.escape(self.title or "Interactive figure")
        heading = f'<p class="gencoh-title">{title}</p>' if self.title else ""
        controls = "\n".join(self._slider(name, values) for name, values in self.parameters.items())
        # Only JavaScript can move the sliders, so only JavaScript shows them, and folds the table.
        return f"""<div role="group" aria-label="{title}">
{heading}
<div class="gencoh-picture">{self.first.picture}</div>
<div class="gencoh-controls" hidden>
{controls}
<button type="button" class="gencoh-play"><span aria-hidden="true"></span> <span></span></button>
</div>
<p class="gencoh-readout" role="status">{html.escape(self.first.read_out)}</p>
<details open>
<summary>All values as a table</summary>
{self._table()}
</details>
<script type="application/json">{self._data()}</script>
</div>"""

    def _slider(self, name: str, values: tuple[Value, ...]) -> str:
        now = self.first.values[name]
        return (
            f'<label><span class="gencoh-name">{html.escape(words(name))}</span> '
            f'<input type="range" min="0" max="{len(values) - 1}" step="1" '
            f'value="{values.index(now)}" aria-valuetext="{html.escape(label(now))}" '
            'autocomplete="off"> '
            f'<span class="gencoh-value" aria-hidden="true">{html.escape(label(now))}</span>'
            "</label>"
        )

    def _table(self) -> str:
        head = [*map(words, self.parameters), "What the figure shows"]
        rows = ([*map(label, f.values.values()), f.read_out] for f in self.frames)
        return (
            "<table>\n<thead>"
            + _row(head, "th", ' scope="col"')
            + "</thead>\n<tbody>\n"
            + "\n".join(_row(row, "td") for row in rows)
            + "\n</tbody>\n</table>"
        )

    def _data(self) -> str:
        data = {
            "name": words(next(iter(self.parameters))),
            "values": [[label(value) for value in values] for values in self.parameters.values()],
            "frames": [
                [base64.b64encode(frame.png).decode(), frame.alt, frame.read_out]
                for frame in self.frames
            ],
        }
        # Within <script> only "<" can end the data.
        return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


class LiveSliders:
    """Widgets of a live notebook, which compute the frame that the reader asks for.

    An error while drawing is shown in the place of the figure: a widget would only log it.

    Attributes
    ----------
    selectors : dict
        The slider (``ipywidgets.SelectionSlider``) of each parameter.
    picture, message
        ``ipywidgets.HTML`` with the drawing, and with the read-out or the error.

    Examples
    --------
    >>> def frame(values):
    ...     said = f"Degree {values['power']}."
    ...     return Frame(values, "", b"", "Line chart of a power of x.", said)
    >>> shown = LiveSliders(frame, {"power": (1, 2)}, {"power": 1})
    >>> shown.selectors["power"].value = 2
    >>> shown.message.value
    '<p role="status">Degree 2.</p>'
    """

    def __init__(
        self,
        frame: Callable[[Mapping[str, Value]], Frame],
        parameters: Mapping[str, tuple[Value, ...]],
        start: Mapping[str, Value],
        title: str | None = None,
    ) -> None:
        from ipywidgets import HTML, Layout, SelectionSlider, VBox

        self._frame = frame
        self._title = title
        self.picture = HTML()
        self.message = HTML()
        self.selectors: dict[str, Any] = {
            name: SelectionSlider(
                options=[(label(value), value) for value in values],
                value=start[name],
                description=words(name),
                continuous_update=False,  # a frame may take a second: not one for each pixel
                style={"description_width": "initial"},
                layout=Layout(width="min(100%, 30rem)"),
            )
            for name, values in parameters.items()
        }
        for selector in self.selectors.values():
            selector.observe(self._refresh, names="value")
        heading = [HTML(f"<b>{html.escape(title)}</b>")] if title else []
        self._box = VBox([*heading, self.picture, *self.selectors.values(), self.message])
        self._show(frame(start))

    def __repr__(self) -> str:
        names = ", ".join(map(words, self.selectors))
        return f"{self._title or 'Interactive figure'}: sliders for {names}"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self._box._repr_mimebundle_(**options)

    def _refresh(self, _: object) -> None:
        values = {name: selector.value for name, selector in self.selectors.items()}
        try:
            self._show(self._frame(values))
        except Exception as error:
            self.picture.value = ""
            self.message.value = (
                '<p role="alert"><b>No figure here.</b> Drawing it at '
                f"{html.escape(call(values))} raised {type(error).__name__}: "
                f"{html.escape(str(error))}</p>"
            )

    def _show(self, frame: Frame) -> None:
        self.picture.value = frame.picture
        self.message.value = f'<p role="status">{html.escape(frame.read_out)}</p>'


def _row(cells: Iterable[str], tag: str, attributes: str = "") -> str:
    inner = "".join(f"<{tag}{attributes}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"
