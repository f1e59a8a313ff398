"""Steps along an average of three gradients, behind :mod:`gencoh_lib.aggregation`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, optim

from gencoh_lib._wrapped import Wrapped

__all__ = ["OfThree"]

# These add weight decay to the gradient, so that it belongs before the median. AdamW, Muon and
# Adafactor shrink the weights beside the gradient step, and there it is left to them.
_DECAY_IN_GRADIENT = (
    optim.SGD, optim.ASGD, optim.Adam, optim.Adamax, optim.NAdam, optim.RAdam, optim.Adagrad,
    optim.Adadelta, optim.RMSprop,
)  # fmt: skip


class OfThree(Wrapped):
    """Steps along an average of three gradients; subclasses say of which, and which average."""

    rolling: ClassVar[bool]

    def __init__(self, optimizer: optim.Optimizer) -> None:
        super().__init__(optimizer)
        self._collected: list[dict[Tensor, Tensor]] = []

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take in the gradients in ``.grad``, and update the parameters once there are three.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and its gradients; called once.

        Returns
        -------
        float or Tensor, optional
            What the closure returned.

        Raises
        ------
        ValueError
            If a gradient holds NaN, or a scheduler has given the wrapped optimizer momentum;
            nothing is changed then.
        """
        loss = self._evaluated(closure)
        three = [*self._collected, self._gradients()]
        if len(three) == 3:
            with self._in_place(three):
                self.optimizer.step()
            three = three[1:] if self.rolling else []
        self._collected = three
        return loss

    def _start_anew(self) -> None:
        """Forget the gradients collected so far."""
        self._collected = []

    @staticmethod
    def _average(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """Put one gradient in the place of three."""
        raise NotImplementedError

    @torch.no_grad()
    def _gradients(self) -> dict[Tensor, Tensor]:
        """Copy the gradients, with the weight decay that belongs to them."""
        labels = {parameter: label for label, parameter in self._labelled()}
        found = {}
        for group in self.param_groups:
            decay = _decay_in_gradient(self.optimizer, group)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.detach().to_dense()
                if bool(gradient.isnan().any()):
                    raise ValueError(
                        f"the gradient of {labels[parameter]}, shape {tuple(parameter.shape)}, "
                        "holds NaN, which no median leaves out: look where it comes from, or "
                        "skip this step"
                    )
                found[parameter] = gradient + decay * parameter if decay else gradient.clone()
        return found

    @contextmanager
    def _in_place(self, three: list[dict[Tensor, Tensor]]) -> Iterator[None]:
        """Put the average into ``.grad`` while the wrapped optimizer steps, without its decay."""
        before = [(parameter, parameter.grad) for _, parameter in self._labelled()]
        decays = [
            (group, group["weight_decay"])
            for group in self.param_groups
            if _decay_in_gradient(self.optimizer, group)
        ]
        try:
            for parameter, _ in before:
                found = [gradients.get(parameter) for gradients in three]
                missing = torch.zeros_like(parameter)  # a parameter not used has gradient zero
                parameter.grad = (
                    None
                    if all(gradient is None for gradient in found)
                    else self._average(*(missing if g is None else g for g in found))
                )
            for group, _ in decays:
                group["weight_decay"] = 0
            yield
        finally:
            for group, decay in decays:
                group["weight_decay"] = decay
            for parameter, gradient in before:
                parameter.grad = gradient

    def _own_state(self) -> dict[str, Any]:
        """Return the gradients collected, by the position of their parameter."""
        positions = {parameter: i for i, (_, parameter) in enumerate(self._labelled())}
        return {
            "collected": [
                {positions[parameter]: gradient.clone() for parameter, gradient in one.items()}
                for one in self._collected
            ]
        }

    def _read_own_state(self, own: Mapping[str, Any]) -> Callable[[], None]:
        """Check that the gradients are of these parameters."""
        parameters = [parameter for _, parameter in self._labelled()]
        collected = []
        for one in own["collected"]:
            for i, gradient in one.items():
                if i >= len(parameters) or gradient.shape != parameters[i].shape:
                    raise ValueError(
                        f"this state has a gradient of shape {tuple(gradient.shape)} for the "
                        f"parameter at position {i}, which this optimizer does not have"
                    )
            collected.append({parameters[i]: g.to(parameters[i]).clone() for i, g in one.items()})

        def take_up() -> None:
            self._collected = collected

        return take_up


def _decay_in_gradient(optimizer: optim.Optimizer, group: Mapping[str, Any]) -> Any:
    """Weight decay that the optimizer would add to the gradients of this group, with its sign."""
    if (
        isinstance(optimizer, optim.AdamW)
        or not isinstance(optimizer, _DECAY_IN_GRADIENT)
        or group.get("decoupled_weight_decay", False)
    ):
        return 0
    decay = group.get("weight_decay", 0)
    return -decay if group.get("maximize", False) else decay  # added after the sign is turned
