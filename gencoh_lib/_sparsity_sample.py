"""The empirical terms of the bounds on one sample, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gencoh_lib._sparse_hyperparameters import Hyperparameters, check_levels
from gencoh_lib._sparse_neighbourhood import in_class
from gencoh_lib._sparse_network import inputs_of
from gencoh_lib._sparsity_network import NORMS, Depths, Network, Norm
from gencoh_lib._sparsity_prior import Part, Prior, chain_of
from gencoh_lib._whole import whole, wholes

_ROUNDING = 1e-6  # of inputs that were scaled to unit norm in float32


@dataclass(frozen=True, eq=False)
class Sample:
    """A network, with the prior, at the examples that its bound is evaluated on; checked."""

    network: Network
    depths: Depths
    margins: NDArray[np.float64]
    longest: float

    def check_input_norm(self, input_norm: float) -> None:
        """Raise a ValueError if an input is longer than was said."""
        if not 0 < input_norm < math.inf:
            raise ValueError(f"input_norm must be positive and finite, got {input_norm}")
        if self.longest > input_norm * (1 + _ROUNDING):
            raise ValueError(
                f"the longest input has the 2-norm {self.longest:.6g}, above input_norm = "
                f"{input_norm:g}; scale every input to that norm (without biases no prediction "
                "changes), or give a bound that was known before the sample"
            )


def sample_of(
    model: nn.Module | Sequence[Tensor], x: Tensor | Part, y: Tensor | None, prior: Prior | None
) -> Sample:
    """Check a network, a sample and a prior against each other, and evaluate the network."""
    weights = chain_of(model)
    if prior is not None:
        prior.check_fits([tuple(w.shape) for w in weights])
    network = Network(weights, prior)
    given = x
    if isinstance(x, Part):
        if y is not None:
            raise TypeError("y must be left out where x is a Part, which has classes of its own")
        y = x.y
        x = x.x
    rows = inputs_of(weights, x)
    classes = network.shapes[-1][0]
    if classes < 2:
        raise ValueError("the network has one output; a margin needs two classes at least")
    if len(rows) < 2:
        raise ValueError("x must hold two examples at least, got 1")
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (len(rows),):
        what = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"y must be an int64 tensor [{len(rows)}] of classes, got {what}")
    if not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ValueError(
            f"y spans {int(y.min())} ... {int(y.max())}, but the network has classes "
            f"0 ... {classes - 1}"
        )
    network.prior.check_unseen(given)
    depths = Depths(weights, rows)
    longest = float(torch.linalg.vector_norm(rows, dim=1).max())
    return Sample(network, depths, margins_of(depths.outputs, y.cpu().numpy()), longest)


def margins_of(outputs: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """[m] output of the class of each example minus the largest other one."""
    rows = np.arange(len(y))
    own = outputs[rows, y]
    others = outputs.copy()
    others[rows, y] = -np.inf
    found: NDArray[np.float64] = own - others.max(axis=1)
    return found


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything that the bounds need, at one choice of hyper-parameters."""

    network: Network
    hyper: Hyperparameters
    threshold: float
    margin_loss: float
    joint_loss: float
    failing: tuple[float, ...]
    failing_3: tuple[float, ...]
    examples: int
    delta: float
    union_cost: float
    own_scale: bool

    def divergences(self, std: Sequence[float]) -> tuple[float, ...]:
        """KL of each layer."""
        return tuple(
            self.network.distance(k, self.hyper, own_scale=self.own_scale) / (2 * sigma**2)
            for k, sigma in enumerate(std)
        )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What must hold for the bound to hold."""
        if self.own_scale:
            fixed = "levels and perturbations"
            scaled = (
                "network and prior are each divided by their own row norms (hyper is in the "
                "network's scale)"
            )
        else:
            fixed, scaled = "all of hyper", "the network is in the class of hyper: checked"
        price = f", or chosen among as many as the union cost {self.union_cost:.3g} pays for"
        prior = self.network.prior
        trained = f"; it has seen {prior.seen} others" if prior.seen else ""
        return (
            f"{self.examples} independent examples",
            f"{fixed} fixed before the sample{price}",
            scaled,
            f"the prior ({prior.kind}) does not depend on the sample{trained}",
            f"every input has a 2-norm of at most {self.hyper.input_norm:g}",
            "a margin of 0 is not counted as an error",
        )


def measure(
    sample: Sample,
    hyper: Hyperparameters,
    *,
    delta: float,
    union_cost: float,
    own_scale: bool,
) -> Measured:
    """Evaluate the empirical terms at these hyper-parameters."""
    scales, growth = hyper.output_scales, hyper.growth
    threshold = 4 * scales[-1] * growth[-1]
    low_margin = sample.margins < threshold
    fails = np.zeros((2, len(low_margin)), dtype=bool)
    shares: tuple[list[float], list[float]] = ([], [])
    for k, level in enumerate(hyper.levels):
        radius = sample.depths.radius(k, level, hyper.row_norms[k] * scales[k])
        for which, factor in enumerate((1, 3)):
            fails[which] |= radius < factor * growth[k]
            shares[which].append(float(fails[which].mean()))
    return Measured(
        network=sample.network,
        hyper=hyper,
        threshold=threshold,
        margin_loss=float(low_margin.mean()),
        joint_loss=float((low_margin | fails[1]).mean()),
        failing=tuple(shares[0]),
        failing_3=tuple(shares[1]),
        examples=len(low_margin),
        delta=delta,
        union_cost=union_cost,
        own_scale=own_scale,
    )


def measured(
    model: nn.Module | Sequence[Tensor],
    x: Tensor | Part,
    y: Tensor | None,
    prior: Prior | None,
    hyper: Hyperparameters | None,
    levels: Sequence[int] | None,
    perturbations: Sequence[float] | float | None,
    input_norm: float,
    norm: Norm,
    babel_points: int,
    delta: float,
    union_cost: float,
) -> Measured:
    """Check the arguments of a bound and evaluate its empirical terms."""
    check_delta(delta)
    if not 0 <= union_cost < math.inf:
        raise ValueError(f"union_cost must be log T >= 0, got {union_cost}")
    if (hyper is None) == (levels is None) or (levels is None) != (perturbations is None):
        raise TypeError("give either hyper, or levels and perturbations")
    sample = sample_of(model, x, y, prior)
    network = sample.network
    own_scale = hyper is None
    if hyper is None:
        assert levels is not None
        assert perturbations is not None
        points = check_points(babel_points)
        check_norm(norm)
        chosen = of_all_layers(perturbations, len(network.weights))
        chosen_levels = wholes("levels", levels)
        check_levels(chosen_levels, network.shapes)
        hyper = network.hyper(chosen_levels, chosen, input_norm, norm, points)
        union_cost += network.hidden * math.log(points)
    else:
        hyper.check_shapes(network.shapes)
        if not in_class(network.weights, hyper):
            raise ValueError(
                "the network is not in the class of hyper: a norm of a layer is larger than its "
                "bound; give levels and perturbations in place of hyper, which scales the layers"
            )
    if not min(hyper.perturbations) > 0:
        raise ValueError(
            f"perturbations must be positive, got {hyper.perturbations}: without noise in a layer "
            "the divergence from the prior is infinite"
        )
    sample.check_input_norm(hyper.input_norm)
    return measure(sample, hyper, delta=delta, union_cost=union_cost, own_scale=own_scale)


def of_all_layers(perturbations: Sequence[float] | float, layers: int) -> tuple[float, ...]:
    """Return a perturbation for each layer."""
    if isinstance(perturbations, int | float):
        return (float(perturbations),) * layers
    found = tuple(float(value) for value in perturbations)
    if len(found) != layers:
        raise ValueError(
            f"perturbations must be one number, or one for each of {layers} layers; "
            f"got {len(found)}"
        )
    return found


def check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, got {delta}")


def check_points(points: int) -> int:
    points = whole("babel_points", points)
    if points < 1:
        raise ValueError(f"babel_points must be at least 1, got {points}")
    return points


def check_norm(norm: Norm) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}")
