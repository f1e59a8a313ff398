"""Every comparator on one trained network, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import get_args

import torch
from torch import Tensor, nn

from gencoh_lib import _holdout_bounds, _norm_bounds, _pac_bayes
from gencoh_lib._bound import Bound, check_delta, positive
from gencoh_lib._capacity_bounds import finite_class, growth_function, log_relu_patterns, vc_order
from gencoh_lib._dataset import Dataset
from gencoh_lib._spectral_bounds import spectral_margin, spectral_margin_order
from gencoh_lib._spectral_pac_bayes import pac_bayes_spectral, pac_bayes_spectral_order
from gencoh_lib._weights import check_alive, margins, sizes, weights_of_mlp

_QUANTILE = 0.2


@dataclass(frozen=True)
class Comparison:
    """Bounds on the error of one network, side by side.

    Attributes
    ----------
    bounds : mapping of str to Bound
        By name; ``comparison["hold-out, binomial"]`` is the same as looking it up here.
    margin, margin_loss : float
        The margin that the margin bounds use, and the fraction of the training sample below it.
    training_error : float
        Fraction of the training sample that is classified wrongly.
    examples, held_out : int
        Sizes of the two samples; 0 held-out examples if there are none.
    delta : float
        Each bound on its own fails with at most this probability.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib import bounds, data, models
    >>> net = models.mlp([2, 2], bias=False, seed=0)
    >>> train = data.Dataset("two", torch.eye(2), torch.tensor([0, 1]), 2, source="here")
    >>> round(bounds.compare(net, train)["Golowich-Rakhlin-Shamir, order"].value, 2)
    1.35
    """

    bounds: Mapping[str, Bound]
    margin: float
    margin_loss: float
    training_error: float
    examples: int
    held_out: int
    delta: float

    def __getitem__(self, name: str) -> Bound:
        """Return the bound of this name."""
        if name not in self.bounds:
            raise KeyError(f"no bound {name!r}; there are {', '.join(map(repr, self.bounds))}")
        return self.bounds[name]

    @property
    def ranked(self) -> tuple[str, ...]:
        """Names by value, smallest first; those of an order only come last."""
        return tuple(
            sorted(self.bounds, key=lambda name: (self[name].order_only, self[name].value))
        )

    def __repr__(self) -> str:
        seen = f"; {self.held_out} held out" if self.held_out else ""
        lines = [
            f"error of one network: {self.training_error:.4f} of {self.examples} training "
            f"examples{seen}",
            f"margin {self.margin:.4g}, with {self.margin_loss:.4f} of the training examples below",
            "",
            f"{'':<44}{'value':>12}  kind",
        ]
        for name in self.ranked:
            bound = self[name]
            kind = "order only" if bound.order_only else "vacuous" if bound.vacuous else "bound"
            lines.append(f"{name:<44}{bound.shown:>12}  {kind}")
        lines += [
            "",
            f"Each bound on its own fails with probability at most {self.delta:g}, but not all at",
            "once. 'Order only' has its constants set to one and bounds nothing.",
        ]
        return "\n".join(lines)


def compare(
    model: nn.Module,
    train: Dataset,
    *,
    holdout: Dataset | None = None,
    margin: float | None = None,
    radius: float | None = None,
    delta: float = 0.05,
    prior: nn.Module | None = None,
    others: Mapping[str, Bound] | None = None,
    seed: int = 0,
) -> Comparison:
    r"""Evaluate every comparator on one trained network.

    Parameters
    ----------
    model : torch.nn.Module
        A chain of Linear layers without biases with a ReLU between; only read.
    train : Dataset
        The training sample, with at least two classes and two examples.
    holdout : Dataset, optional
        Examples that had no part in training or choosing the model, for the hold-out bounds.
    margin : float, optional
        :math:`\gamma > 0` of the margin bounds, which hold for all margins at once; by default
        the 20 % quantile of the positive margins of the training sample.
    radius : float, optional
        B: no input of the distribution is longer; by default the length of the longest training
        input, which is then an assumption about the others.
    delta : float
        Probability that a bound may fail, for each on its own.
    prior : torch.nn.Module, optional
        Network of the same shape that does not depend on `train`: centre of the prior of the
        noisy network, and reference of the spectral order. Zero by default.
    others : mapping of str to Bound, optional
        Further bounds for the table, by name.
    seed : int
        Seed of the noisy network.

    Returns
    -------
    Comparison
        With all the bounds by name; prints itself as a table.

    Raises
    ------
    TypeError
        If the model is not a module, the data not a ``Dataset``, or something in `others` is not
        a :class:`Bound`.
    ValueError
        If the model is not such a chain (the message names the layer), a layer is all zero, the
        data does not fit it, a training input is longer than the radius, no training example has
        a positive margin, or a number is out of range.

    Notes
    -----
    The finite class is that of all networks of this architecture with weights of this precision.
    Which examples were held out, and the prior, must not depend on `train`: nothing here can
    check it.

    Examples
    --------
    >>> import torch
    >>> from gencoh_lib import data, models
    >>> net = models.mlp([2, 2], bias=False, seed=0)
    >>> train = data.Dataset("two", torch.eye(2), torch.tensor([0, 1]), 2, source="here")
    >>> table = compare(net, train, holdout=train)
    >>> round(table["hold-out, binomial"].value, 3)  # no error of two: 1 - delta^(1/2)
    0.776
    """
    check_delta(delta)
    weights = weights_of_mlp(model)
    check_alive(weights)
    reference = None if prior is None else _prior_weights(prior, weights)
    found = _margins("train", weights, train)
    radius = _radius(train, radius)
    error = float((found <= 0).double().mean())
    if margin is None:
        if not bool((found > 0).any()):
            raise ValueError("no training example has a positive margin: give one, or train")
        margin = float(found[found > 0].quantile(_QUANTILE))
    margin = positive("margin", margin)
    loss = float((found < margin).double().mean())
    m = len(train)
    bits = torch.finfo(next(model.parameters()).dtype).bits
    bounds = _by_capacity(error, sizes(weights), bits, m, delta)
    bounds |= _by_margins(loss, weights, reference, train, radius, margin, delta)
    levels = _pac_bayes.noise_levels(weights, reference, train, delta=delta, seed=seed)
    for form in get_args(_pac_bayes.PacBayesForm):
        bounds[f"PAC-Bayes, {form}, noisy network"] = _pac_bayes.best_level(levels, form)
    if holdout is not None:
        held = float((_margins("holdout", weights, holdout) <= 0).double().mean())
        for way in get_args(_holdout_bounds.HoldoutForm):
            bounds[f"hold-out, {way}"] = _holdout_bounds.holdout(
                held, examples=len(holdout), delta=delta, form=way
            )
    return Comparison(
        bounds=MappingProxyType(bounds | _checked(others, bounds)),
        margin=margin,
        margin_loss=loss,
        training_error=error,
        examples=m,
        held_out=0 if holdout is None else len(holdout),
        delta=delta,
    )


def _by_capacity(
    error: float, widths: list[int], bits: int, m: int, delta: float
) -> dict[str, Bound]:
    depth = len(widths) - 1
    count = sum(a * b for a, b in pairwise(widths))
    dimension = count * depth * math.log(count) + count * depth**2
    return {
        f"finite class of {bits}-bit weights": finite_class(
            error, log_size=bits * count * math.log(2), examples=m, delta=delta
        ),
        "growth function": growth_function(
            error, log_patterns=log_relu_patterns(widths, m), examples=m, delta=delta
        ),
        "VC dimension, order": vc_order(dimension=dimension, examples=m, delta=delta),
    }


def _by_margins(
    loss: float,
    weights: list[Tensor],
    reference: list[Tensor] | None,
    train: Dataset,
    radius: float,
    margin: float,
    delta: float,
) -> dict[str, Bound]:
    m = len(train)
    data_norm = float(train.x.detach().to("cpu", torch.float64).norm())
    bounds = {
        "Golowich-Rakhlin-Shamir, order": _norm_bounds.golowich_order(
            weights, radius=radius, margin=margin, examples=m
        ),
        "Bartlett-Foster-Telgarsky, order": spectral_margin_order(
            weights, data_norm=data_norm, margin=margin, examples=m, references=reference
        ),
        "Neyshabur-Bhojanapalli-Srebro, order": pac_bayes_spectral_order(
            weights, radius=radius, margin=margin, examples=m, delta=delta
        ),
        "Bartlett-Foster-Telgarsky, derived constants": spectral_margin(
            loss, weights, data_norm=data_norm, margin=margin, examples=m, delta=delta
        ),
        "Neyshabur-Bhojanapalli-Srebro": pac_bayes_spectral(
            loss, weights, radius=radius, margin=margin, examples=m, delta=delta
        ),
    }
    for form in get_args(_norm_bounds.Peeling):
        name = "Berner et al., Theorem 2.1" if form == "survey" else form
        bounds[name] = _norm_bounds.norm_margin(
            loss, weights, radius=radius, margin=margin, examples=m, delta=delta, form=form
        )
    return bounds


def _margins(name: str, weights: list[Tensor], data: Dataset) -> Tensor:
    """Margins on data that fits the network."""
    if not isinstance(data, Dataset):
        raise TypeError(f"{name} must be a Dataset, got {type(data).__name__}")
    inputs, outputs = weights[0].shape[1], len(weights[-1])
    if data.x.shape[1] != inputs:
        raise ValueError(f"{name} has {data.x.shape[1]} inputs, but the model takes {inputs}")
    if data.classes < 2 or outputs < data.classes:
        raise ValueError(
            f"{name} must have between 2 classes and the {outputs} outputs of the model, got "
            f"{data.classes}"
        )
    return margins(weights, data)


def _radius(train: Dataset, radius: float | None) -> float:
    longest = float(train.x.detach().to("cpu", torch.float64).norm(dim=1).max())
    if radius is None:
        return positive("the length of the longest training input", longest)
    if positive("radius", radius) < longest * (1 - 1e-6):  # unit length in float32 is not exact
        raise ValueError(
            f"radius = {radius:g} does not hold: a training input has length {longest:g}"
        )
    return max(radius, longest)


def _prior_weights(prior: nn.Module, weights: list[Tensor]) -> list[Tensor]:
    found = weights_of_mlp(prior)
    if sizes(found) != sizes(weights):
        raise ValueError(
            f"prior must have the widths of the model, {sizes(weights)}; got {sizes(found)}"
        )
    return found


def _checked(others: Mapping[str, Bound] | None, bounds: Mapping[str, Bound]) -> dict[str, Bound]:
    """Return the bounds that were handed in, if they are bounds with names of their own."""
    for name, bound in (others or {}).items():
        if not isinstance(bound, Bound):
            raise TypeError(f"others[{name!r}] must be a Bound, got {type(bound).__name__}")
        if name in bounds:
            raise ValueError(f"others[{name!r}] has the name of a comparator; choose another")
    return dict(others or {})
