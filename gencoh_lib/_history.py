"""What a training run returns, behind :mod:`gencoh_lib.training`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import matplotlib.figure  # written out below, which is how the API reference finds it

_ROWS = 12  # of the printed table
_COLUMNS = 3  # of the printed table, for each probe


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """What the probes returned during a training run.

    Printed, it is a table of the first few numbers of every probe; :meth:`series` reaches all of
    them.

    Attributes
    ----------
    steps : tuple of int
        Steps at which the probes ran: the number of updates made before.
    records : mapping of str to tuple
        For each probe what it returned, one entry for each of `steps`.
    description : str
        What the run is called.

    Raises
    ------
    ValueError
        If there are no steps, or a probe has not one entry for each of them.

    Examples
    --------
    >>> from gencoh_lib.training import History
    >>> print(History((0, 10), {"norm": (3.0, 5.0)}))
    History of training, 10 steps
      step  norm
         0     3
        10     5
    """

    steps: tuple[int, ...]
    records: Mapping[str, tuple[object, ...]]
    description: str = "training"

    def __post_init__(self) -> None:
        """Refuse what has no first and last row."""
        if not self.steps:
            raise ValueError("a history needs one step at least, got none")
        for name, values in self.records.items():
            if len(values) != len(self.steps):
                raise ValueError(
                    f"probe {name!r} has {len(values)} entries for {len(self.steps)} steps"
                )

    def series(self, path: str) -> NDArray[np.generic]:
        """Return one number of one probe over training.

        Parameters
        ----------
        path : str
            The probe's name, then attributes, keys or positions in what it returned, with dots
            between: ``"test.accuracy"``, ``"coherence.by_layer.layer1.alpha"``.

        Returns
        -------
        numpy.ndarray
            One entry for each of ``steps``, shape [steps]; [steps, ...] if the path leads to
            arrays.

        Raises
        ------
        KeyError
            If the path leads nowhere; the message lists where it could have gone.
        TypeError
            If it leads to something that is not a number or an array.

        Examples
        --------
        >>> from gencoh_lib.training import History
        >>> History((0, 10), {"norm": ({"layer1": 3.0}, {"layer1": 5.0})}).series("norm.layer1")
        array([3., 5.])
        """
        values = [_follow(row, path, "the history") for row in self._rows()]
        try:
            return np.stack([_as_array(value) for value in values])
        except (TypeError, ValueError) as error:
            inside = _names(values[0])
            hint = f"; it holds {', '.join(inside)}" if inside else ""
            kinds = " or ".join(dict.fromkeys(type(value).__name__ for value in values))
            raise TypeError(
                f"{path!r} leads to {kinds}, which is neither a number nor an array of the same "
                f"shape at every step{hint}"
            ) from error

    def plot(
        self,
        *paths: str,
        alt: str | None = None,
        xscale: Literal["linear", "log"] = "linear",
    ) -> matplotlib.figure.Figure:
        """Draw series over training; those with the same last name share a panel.

        Parameters
        ----------
        *paths : str
            What to draw, as for :meth:`series`; the columns of the printed table by default.
        alt : str, optional
            Description for readers who cannot see the figure; by default the first and the last
            value of every series.
        xscale : str
            Scale of the steps; ``"log"`` keeps step 0, at the left end.

        Returns
        -------
        matplotlib.figure.Figure
            Shown when it is the last expression of a cell.

        Raises
        ------
        KeyError, TypeError
            As :meth:`series`.
        ValueError
            If a series holds arrays instead of numbers, there is nothing to draw, or `xscale` is
            neither of the two.

        Examples
        --------
        >>> from gencoh_lib.training import History
        >>> figure = History((0, 10), {"norm": (3.0, 5.0)}).plot("norm")
        >>> figure.axes[0].lines[0].get_ydata()
        array([3., 5.])
        """
        from gencoh_lib import plots  # here: training without figures need not load matplotlib

        if xscale not in ("linear", "log"):
            raise ValueError(f"xscale must be 'linear' or 'log', got {xscale!r}")
        drawn = {path: self.series(path) for path in paths or self._columns()}
        if not drawn:
            raise ValueError("the probes of this history returned no numbers to draw")
        for path, values in drawn.items():
            if values.ndim != 1:
                raise ValueError(f"{path!r} holds arrays of shape {values.shape[1:]}, not numbers")
        panels: dict[str, list[str]] = {}
        for path in drawn:
            panels.setdefault(path.rsplit(".", 1)[-1], []).append(path)
        # Two panels fit side by side on a phone; more are easier to read in one column.
        count = len(panels)
        figure, axes = plots.figure(
            columns=count if count <= 2 else 1,
            rows=1 if count <= 2 else count,
            alt=self._told(drawn) if alt is None else alt,
        )
        for ax, (name, members) in zip(np.ravel(axes), panels.items(), strict=True):
            for path in members:
                ax.plot(self.steps, drawn[path], label=path.removesuffix(f".{name}"))
            if xscale == "log":
                ax.set_xscale("symlog", linthresh=1)
            ax.set(xlabel="step", ylabel=name)
            if members != [name]:
                ax.legend()
        return figure

    def __repr__(self) -> str:
        """Return a table of at most twelve of the steps."""
        columns = self._columns()
        table = [["step", *columns]]
        table += [
            [str(self.steps[i]), *(f"{values[i]:.4g}" for values in columns.values())]
            for i in self._shown()
        ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        title = f"History of {self.description}, {self.steps[-1]} steps"
        if len(self.steps) > _ROWS:
            title += f" ({_ROWS} of {len(self.steps)} rows)"
        lines = ["  ".join(map(str.rjust, row, widths)) for row in table]
        return "\n".join([title, *(f"  {line}" for line in lines)])

    def _rows(self) -> Iterator[dict[str, object]]:
        for i in range(len(self.steps)):
            yield {name: values[i] for name, values in self.records.items()}

    def _columns(self) -> dict[str, NDArray[np.generic]]:
        """Return the first few series of every probe that have a number at every step."""
        columns: dict[str, NDArray[np.generic]] = {}
        for name, values in self.records.items():
            kept: dict[str, NDArray[np.generic]] = {}
            for inside in _numbers(values[0]):
                path = f"{name}.{inside}" if inside else name
                try:
                    series = self.series(path)
                except (KeyError, TypeError):
                    continue  # missing, or no number, at a later step
                if not np.isnan(series.astype(float)).all():
                    kept[path] = series
            columns |= dict(islice(kept.items(), _COLUMNS))
        return columns

    def _shown(self) -> list[int]:
        last = len(self.steps) - 1
        return sorted({round(i) for i in np.linspace(0, last, min(_ROWS, last + 1))})

    def _told(self, drawn: Mapping[str, NDArray[np.generic]]) -> str:
        ends = (f"{path} goes from {v[0]:.3g} to {v[-1]:.3g}" for path, v in drawn.items())
        return (
            f"Line plot of {self.description} from step {self.steps[0]} to step "
            f"{self.steps[-1]}: {'; '.join(ends)}."
        )


def _follow(value: object, path: str, where: str) -> object:
    """Go down a dotted path through keys, attributes and positions."""
    if not path:
        return value
    head, _, rest = path.partition(".")
    if isinstance(value, Mapping):
        # Keys may hold dots themselves ("layer1.weight"): the longest that fits wins.
        # They need not be strings: a path names them as they print.
        parts, keys = path.split("."), {str(key): key for key in value}
        for stop in range(len(parts), 0, -1):
            key = ".".join(parts[:stop])
            if key in keys:
                return _follow(value[keys[key]], ".".join(parts[stop:]), f"{where}, {key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if head.isdecimal() and int(head) < len(value):
            return _follow(value[int(head)], rest, f"{where}, {head}")
    elif head and not head.startswith("_") and hasattr(value, head):
        return _follow(getattr(value, head), rest, f"{where}, {head}")
    names = _names(value)
    guess = get_close_matches(head, names, n=1)
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    raise KeyError(
        f"there is no {head!r} in {where}; it holds {', '.join(names) or 'nothing by name'}.{hint}"
    )


def _names(value: object) -> list[str]:
    """Return where a path could go on from here."""
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(i) for i in range(len(value))]
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    return []


def _numbers(value: object) -> list[str]:
    """Return the names of the numbers in one result; of a data class those that are measured.

    Integers in a data class are left out of the table: they count examples or steps.
    """
    if _is_number(value):
        return [""]
    if isinstance(value, Mapping):
        return [str(key) for key, entry in value.items() if _is_number(entry)]
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return [name for name, entry in named.items() if isinstance(entry, float)]
    return []


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _as_array(value: object) -> NDArray[np.generic]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_floating_point() and value.itemsize < 4:
            value = value.float()  # NumPy has no bfloat16
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{type(value).__name__} is not a number")
    return array
