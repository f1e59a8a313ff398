"""Weight matrices without biases, their norms, and the networks that they make.

Behind the bounds of :mod:`gencoh_lib.bounds` that see a network only through its matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gencoh_lib._dataset import Dataset

_ROWS = 4096  # examples at a time: the units of a wide layer for all of them may not fit


def weights_of_mlp(model: nn.Module) -> list[Tensor]:
    """Copy the weights of a ReLU network without biases to the CPU in float64, input first.

    Raise where the model is anything else, by the name of the layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    weights: list[Tensor] = []
    gated = True  # whether the layer before, if any, ends with a ReLU
    for name, layer in _chain(model, ""):
        called = f"layer {name!r} ({type(layer).__name__})"
        if isinstance(layer, nn.Linear):
            if layer.bias is not None:
                raise ValueError(
                    f"{called} has a bias; these bounds are for networks without, so that a layer "
                    "can be rescaled: build it with bias=False"
                )
            if not gated:
                raise ValueError(
                    f"{called} follows a Linear layer without a ReLU between; make one layer of "
                    "the two by multiplying their weights"
                )
            weights.append(layer.weight.detach().to("cpu", torch.float64))
            gated = False
        elif isinstance(layer, nn.ReLU) and not gated:
            gated = True
        else:
            reason = "has no Linear layer before it" if isinstance(layer, nn.ReLU) else "is neither"
            raise ValueError(
                f"{called} {reason}; allowed are Linear layers without biases with a ReLU between"
            )
    if not weights or gated:
        raise ValueError("the model must end with a Linear layer that gives one output a class")
    return check_weights(weights)


def _chain(model: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Layers in order, with nested Sequentials opened."""
    if not isinstance(model, nn.Sequential):
        return [(prefix or type(model).__name__, model)]
    parts: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        parts += _chain(child, f"{prefix}.{name}" if prefix else name)
    return parts


def check_weights(weights: Sequence[Tensor], name: str = "weights") -> list[Tensor]:
    """Return matrices that fit together, in float64; refuse others and those that are all zero."""
    if isinstance(weights, Tensor) or not len(weights):
        raise ValueError(f"{name} must be a sequence of at least one matrix [outputs, inputs]")
    checked: list[Tensor] = []
    for layer, weight in enumerate(weights, start=1):
        if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
            found = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(
                f"{name} of layer {layer} must be a floating-point matrix [outputs, inputs], got "
                f"{found}"
            )
        if not bool(weight.isfinite().all()):
            raise ValueError(f"{name} of layer {layer} hold NaN or infinity")
        if checked and weight.shape[1] != len(checked[-1]):
            raise ValueError(
                f"{name} of layer {layer} take {weight.shape[1]} inputs, but the layer before has "
                f"{len(checked[-1])} outputs"
            )
        checked.append(weight.detach().to("cpu", torch.float64))
    return checked


def check_alive(weights: Sequence[Tensor]) -> None:
    """Refuse a layer without any weight: the output is 0 and there is no scale to divide by."""
    for layer, weight in enumerate(weights, start=1):
        if not bool(weight.any()):
            raise ValueError(f"weights of layer {layer} are all zero: the network is constant")


def sizes(weights: Sequence[Tensor]) -> list[int]:
    """Widths from the input to the output."""
    return [weights[0].shape[1], *(len(weight) for weight in weights)]


def spectral_norms(weights: Sequence[Tensor]) -> list[float]:
    """Largest singular value of each layer."""
    return [float(torch.linalg.matrix_norm(weight, 2)) for weight in weights]


def frobenius_norms(weights: Sequence[Tensor]) -> list[float]:
    """Root of the sum of all squares of each layer."""
    return [float(torch.linalg.matrix_norm(weight)) for weight in weights]


def row_sum_norms(weights: Sequence[Tensor]) -> list[float]:
    """Sum of the lengths of the rows of each layer: the (2, 1) norm of the transpose."""
    return [float(weight.norm(dim=1).sum()) for weight in weights]


def largest_row_norm(weight: Tensor) -> float:
    """Length of the longest row."""
    return float(weight.norm(dim=1).max())


def margins(weights: Sequence[Tensor], data: Dataset) -> Tensor:
    """[m] how far the output of the right class is above the best of the others."""
    return noisy_margins(weights, data, [0.0] * len(weights), seed=None)


def noisy_margins(
    weights: Sequence[Tensor], data: Dataset, sigmas: Sequence[float], *, seed: int | None
) -> Tensor:
    """[m] margins where each example meets a draw of its own of Gaussian weights.

    The units of a layer with independent entries of standard deviation sigma are, for one input
    h, independent too, with standard deviation sigma * |h|: they can be drawn in place of the
    weights.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    found = []
    for x, y in zip(data.x.split(_ROWS), data.y.split(_ROWS), strict=True):
        h = x.detach().to("cpu", torch.float64)
        for layer, (weight, sigma) in enumerate(zip(weights, sigmas, strict=True)):
            h = h.relu() if layer else h
            units = h @ weight.T
            if generator is not None:
                noise = torch.randn(units.shape, generator=generator, dtype=torch.float64)
                units += sigma * h.norm(dim=1, keepdim=True) * noise
            h = units
        right = y.to("cpu")[:, None]
        others = h.scatter(1, right, -math.inf).amax(1)
        found.append(h.gather(1, right)[:, 0] - others)
    return torch.cat(found)
