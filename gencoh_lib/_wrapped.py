"""An optimizer around another optimizer, behind :mod:`gencoh_lib.aggregation`.

It *is* a ``torch.optim.Optimizer``, so that schedulers and hooks take it, but parameter groups and
state are always those of the wrapped one: whoever changes a learning rate or loads a checkpoint on
either side, both see it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer, SparseAdam

__all__ = ["Wrapped"]

_SHARED = ("param_groups", "state", "defaults")
_KEY = "aggregation"  # of the part of a checkpoint that the wrapped optimizer does not know
_NEVER = (
    (LBFGS, "builds its step from the differences of many past gradients: wrap SGD"),
    (
        SparseAdam,
        "takes sparse gradients only, and an average of several gradients is dense: wrap Adam "
        "with betas=(0.0, 0.999)",
    ),
)


class Wrapped(Optimizer):
    """What all aggregating optimizers have in common."""

    def __init__(self, optimizer: Optimizer) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{name} wraps a torch.optim optimizer, got {type(optimizer).__name__}; write "
                f"{name}(torch.optim.SGD(model.parameters(), lr=0.1))"
            )
        if isinstance(optimizer, Wrapped):
            raise TypeError(
                f"{name} cannot wrap {type(optimizer).__name__}, which aggregates already: wrap "
                "the optimizer inside it"
            )
        _refuse_memory(optimizer, name)
        super().__init__([dict(group) for group in optimizer.param_groups], optimizer.defaults)
        for attribute in _SHARED:  # from here on __getattr__ finds the wrapped one's
            delattr(self, attribute)
        self.optimizer = optimizer
        for label, parameter in self._labelled():
            _refuse_complex(label, parameter)

    def __getattr__(self, name: str) -> Any:
        if name in _SHARED and "optimizer" in self.__dict__:
            return getattr(self.__dict__["optimizer"], name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        # without hooks, as in PyTorch, and without the step that a scheduler has put in place
        left_out = ("_optimizer_", "_zero_grad_profile_name", "step")
        return {k: v for k, v in self.__dict__.items() if not k.startswith(left_out)}

    def __repr__(self) -> str:
        return f"{type(self).__name__} around {self.optimizer!r}"

    def _labelled(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, in the order of ``state_dict``, with a name for messages."""
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names")
            for position, parameter in enumerate(group["params"]):
                plain = f"parameter {position} of group {number}"
                yield names[position] if names else plain, parameter

    def _evaluated(self, closure: Callable[[], Any] | None) -> Any:
        """Begin a step: refuse momentum that has come in since, and call the closure once."""
        _refuse_memory(self.optimizer, type(self).__name__)
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; what has been collected so far is dropped, and collecting starts anew."""
        if "optimizer" not in self.__dict__:  # called by Optimizer.__init__
            super().add_param_group(param_group)
            return
        groups = self.optimizer.param_groups
        self.optimizer.add_param_group(param_group)
        try:
            _refuse_memory(self.optimizer, type(self).__name__)
            for parameter in groups[-1]["params"]:
                _refuse_complex(f"a parameter of group {len(groups) - 1}", parameter)
        except (TypeError, ValueError):
            groups.pop()
            raise
        self._start_anew()

    def state_dict(self) -> dict[str, Any]:
        """State of the wrapped optimizer, and what has been collected."""
        own = {"kind": type(self).__name__, **self._own_state()}
        return {**self.optimizer.state_dict(), _KEY: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned.

        Raises
        ------
        ValueError
            If it is the state of an optimizer of another kind or of other parameters; nothing is
            changed then.
        """
        own, name = state_dict.get(_KEY), type(self).__name__
        if own is None:
            raise ValueError(
                f"this is the state of a plain optimizer, without that of {name}: load it into "
                f"the wrapped one, .optimizer.load_state_dict(...), and {name} starts anew"
            )
        if own["kind"] != name:
            raise ValueError(f"this is the state of {own['kind']}, it cannot be loaded into {name}")
        _refuse_memory_in(state_dict["param_groups"], type(self.optimizer).__name__, name)
        take_up = self._read_own_state(own)
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != _KEY})
        take_up()

    @abstractmethod
    def _start_anew(self) -> None:
        """Forget what has been collected."""

    @abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """Return what has been collected, without references to parameters."""

    @abstractmethod
    def _read_own_state(self, own: Mapping[str, Any]) -> Callable[[], None]:
        """Check what :meth:`_own_state` returned; return the function that takes it up."""


def _refuse_memory(optimizer: Optimizer, name: str) -> None:
    """Refuse optimizers that go on stepping along gradients of the past, or cannot be fed."""
    inside = type(optimizer).__name__
    for kind, reason in _NEVER:
        if isinstance(optimizer, kind):
            raise ValueError(f"{name} cannot wrap {inside}, which {reason}")
    _refuse_memory_in(optimizer.param_groups, inside, name)


def _refuse_memory_in(groups: list[dict[str, Any]], inside: str, name: str) -> None:
    for number, group in enumerate(groups):
        for key in ("momentum", "beta1", "betas"):  # None, as some optimizers have it, is none
            given: Any = group.get(key)
            several = isinstance(given, list | tuple)
            first = given[0] if several else given
            if first is not None and float(first) != 0:
                remedy = f"{key}={(0.0, *given[1:]) if several else 0}"
                raise ValueError(
                    f"{inside} has {key}={given} in group {number}: momentum is a running "
                    "mean, so what few examples ask for is carried on for many steps and added "
                    f"up after all, and {name} is unstable with it. Build {inside} with {remedy}"
                )


def _refuse_complex(label: str, parameter: Tensor) -> None:
    if parameter.is_complex():
        raise TypeError(f"{label} is complex, and complex numbers have no order")
