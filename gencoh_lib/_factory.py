"""What the factory of the command gives: a model, batches, and the loss of each example.

Whatever a user's own code does wrong comes back as a ``ValueError`` of one line that says what was
being done; its cause is chained to it.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from gencoh_lib import _distributed, front_end
from gencoh_lib._evaluation import checked, outputs_of
from gencoh_lib.training import cross_entropy

_RETURNS = "must return (model, loader) or (model, loader, loss)"
_END = object()


@dataclass(frozen=True)
class Subject:
    """What the factory made: a model on its device, batches, and the loss of each example."""

    model: nn.Module
    loader: Iterable[Any]
    loss: Callable[[Any, Tensor], Tensor]
    device: torch.device

    def losses(self, batch: object) -> Tensor:
        """[b] losses of one batch."""
        x, y = (_moved(part, self.device) for part in _pair(batch))
        outputs = outputs_of(self.model, x) if isinstance(x, Tensor) else self.model(x)
        found = self.loss(outputs, y)
        return checked(found, len(y)) if isinstance(found, Tensor) else found


def made(name: str, device: torch.device) -> Subject:
    """Import and call a factory, ``"package.module:function"``, and look at what it returns."""
    factory = _found(name)
    with doing(f"calling {name}"):
        given = factory()
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        got = f"{len(given)} values" if isinstance(given, tuple) else type(given).__name__
        raise ValueError(f"{name} {_RETURNS}, got {got}")
    model, loader, loss = given if len(given) == 3 else (*given, cross_entropy)
    for what, part, right, wanted in (
        ("model", model, isinstance(model, nn.Module), "a torch.nn.Module"),
        ("loader", loader, isinstance(loader, Iterable), "an iterable of batches (x, y)"),
        ("loss", loss, callable(loss), "a function of outputs and targets"),
    ):
        if not right:
            got = type(part).__name__
            raise ValueError(f"{name} {_RETURNS}; its {what} is of type {got}, not {wanted}")
    return Subject(_distributed.unwrapped(model), loader, loss, device)


def _found(name: str) -> Callable[[], object]:
    path, _, attribute = name.partition(":")
    if not path or not attribute or "/" in path or path.startswith(".") or path.endswith(".py"):
        raise ValueError(f"FACTORY is {name!r}; write package.module:function, without .py")
    try:
        with doing(f"importing {path}"):
            module = importlib.import_module(path)
    except ValueError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is None or not f"{path}.".startswith(f"{missing}."):
            raise  # the factory's own module fails
        raise ValueError(
            f"there is no module {missing!r} to import from {os.getcwd()}: run the command where "
            f"`import {path}` works, or add its folder to PYTHONPATH"
        ) from None
    try:
        factory = attrgetter(attribute)(module)
    except AttributeError:
        raise ValueError(f"module {path!r} has no {attribute!r}") from None
    if not callable(factory):
        raise ValueError(f"{name} is of type {type(factory).__name__}, not a function")
    found: Callable[[], object] = factory
    return found


def load(model: nn.Module, file: Path, key: str | None) -> None:
    """Load a state_dict, with names as they are or as DistributedDataParallel writes them."""
    with doing(f"--checkpoint {file}"):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                "the file is no checkpoint, or holds more than tensors, which could run code as it "
                "is read: torch.save(model.state_dict(), ...) writes one that is safe"
            ) from error
        if key is not None:
            if not isinstance(state, Mapping) or key not in state:
                held = ", ".join(map(str, state)) if isinstance(state, Mapping) else "no entries"
                raise ValueError(f"there is no entry {key!r}; the file holds {held}")
            state = state[key]
        own = model.state_dict()
        if not isinstance(state, Mapping):
            raise ValueError(f"a state_dict is needed, got one of type {type(state).__name__}")
        state = dict(state)
        if not any(name.startswith("module.") for name in own):
            consume_prefix_in_state_dict_if_present(state, "module.")
        for problem, names in (
            ("lacks", [n for n in own if n not in state]),
            ("has, and the model has not,", [n for n in state if n not in own]),
            ("has in another shape", [n for n in own if _shape(own[n]) != _shape(state.get(n))]),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                hint = "" if key else "; --checkpoint-key names the entry that holds the state_dict"
                raise ValueError(f"it {problem} {', '.join(names[:3])}{more}{hint}")
        model.load_state_dict(state)


def _shape(value: object) -> object:
    return value.shape if isinstance(value, Tensor) else None


class Batches:
    """The first batches of a loader with their places, under a progress bar, and their digest."""

    def __init__(self, loader: Iterable[Any], limit: int | None, description: str | None) -> None:
        self._loader, self._limit, self._description = loader, limit, description
        self._digest = hashlib.sha256()
        self.seen = 0

    def __iter__(self) -> Iterator[tuple[int, object]]:
        source = itertools.islice(self._loader, self._limit) if self._limit else self._loader
        if self._description is not None:
            source = front_end.progress(
                source, total=self._expected(), description=self._description
            )
        with doing("the loader"):
            batches = iter(source)
        while True:
            with doing(f"batch {self.seen + 1}"):
                batch = next(batches, _END)
                if batch is _END:
                    return
                x, y = _pair(batch)
            # a glance at the inputs is enough to see another order or another augmentation
            glance = (x[:1], x[-1:]) if isinstance(x, Tensor) and x.dim() else ()
            for part in (y, *glance):
                self._digest.update(_distributed.digest(part).encode())
            self.seen += 1
            yield self.seen - 1, batch

    def facts(self) -> dict[str, object]:
        """What must be the same on every rank."""
        return {"what the loader gives": (self.seen, self._digest.hexdigest())}

    def _expected(self) -> int | None:
        try:
            length = len(self._loader)  # type: ignore[arg-type]
        except TypeError:  # no length, as an IterableDataset has none
            return self._limit
        return min(length, self._limit or length)


def _pair(batch: object) -> tuple[Any, Tensor]:
    """Refuse a batch that is not inputs and targets."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(f"the loader must give pairs (x, y), got {got}")
    x, y = batch
    if not isinstance(y, Tensor) or not y.dim():
        got = "a single number" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"the targets y must be a tensor with one row an example, got {got}")
    if not len(y):
        raise ValueError("the batch has no examples: leave it out of the loader")
    return x, y


def _moved(value: Any, device: torch.device) -> Any:
    """Move what knows how to move, alone or in a list, tuple or mapping."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_moved(part, device) for part in value])
    return value


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what was being done when an error came up, in a line."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a user's script may exit as it is imported
        raise ValueError(f"{what}: {in_a_line(error)}") from error


def in_a_line(error: Exception | SystemExit) -> str:
    """An error in a line; the rest of long ones is in the traceback."""
    if isinstance(error, SystemExit):
        return f"the code ended the program, sys.exit({error.code!r})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = "; ".join([first, *getattr(error, "__notes__", ())])
    if isinstance(error, ValueError | RuntimeError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
