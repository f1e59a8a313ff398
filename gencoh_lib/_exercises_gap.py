"""The exercises of "The gap, exactly", behind :mod:`gencoh_lib.exercises`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from gencoh_lib import checks
from gencoh_lib.checks import Verdict


def _active_paths(answer: object) -> Verdict:
    return checks.number(
        answer,
        54.0,
        name="squared norm of z",
        mistakes={
            "The outputs share the path features: do not count them.": 162.0,
            "That takes all units; only the active ones carry anything.": 270.0,
            "That is the number of active paths; each input carries its own square.": 18.0,
            "That sees the gates and not the input: how many paths leave a unit "
            "of the input, and what do they carry?": 6.0,
            "That is the squared norm of x; how many paths does each input start?": 9.0,
            "That is the norm; its square is asked for.": math.sqrt(54),
        },
    )


def _forward(weights: list[Tensor], change: Callable[[Tensor], Tensor]) -> Tensor:
    h = torch.ones(weights[0].shape[1], dtype=torch.float64)
    for w in weights:
        h = change(w) @ h
    return h


def _after_multiplying(weights: list[Tensor]) -> Tensor:
    product = weights[0]
    for w in weights[1:]:
        product = w @ product
    return product.square().sum(1)


def _path_norm(answer: object) -> Verdict:
    generator = torch.Generator().manual_seed(3)

    def draw(*widths: int) -> tuple[list[Tensor]]:
        pairs = zip(widths[1:], widths[:-1], strict=True)
        return ([torch.randn(pair, generator=generator, dtype=torch.float64) for pair in pairs],)

    return checks.function(
        answer,
        lambda weights: _forward(weights, torch.square),
        [draw(3, 2), draw(2, 3, 2), draw(3, 4, 4, 2)],
        name="path_norm",
        mistakes={
            "That is the 1-norm: square the weights, in place of taking absolute values.": (
                lambda weights: _forward(weights, torch.abs)
            ),
            "That adds up the path weights without squares, so that they cancel.": (
                lambda weights: _forward(weights, torch.clone)
            ),
            "That squares the sum over paths; square each weight before adding.": (
                lambda weights: _forward(weights, torch.clone).square()
            ),
            "That is the norm; the squared norm is asked for.": (
                lambda weights: _forward(weights, torch.square).sqrt()
            ),
            "That multiplies the matrices first, which adds up the paths with the same ends "
            "before they are squared.": _after_multiplying,
        },
    )


def _spectrum_signs(answer: object) -> Verdict:
    return checks.number(
        answer,
        14.0,
        name="number of positive eigenvalues",
        mistakes={
            "That is the number of negative ones.": 6.0,
            "Drawing an example twice gives it one eigenvalue: count different examples.": 13.0,
            "That is all of them, of both signs.": 20.0,
        },
    )


def _validation_slack(answer: object) -> Verdict:
    def rate(examples: int, candidates: float, delta: float) -> float:
        return math.log(candidates / delta) / examples

    def root(r: float, variance: float) -> float:
        return r / 3 + math.sqrt((r / 3) ** 2 + 2 * variance * r)

    return checks.function(
        answer,
        lambda m, f, d: root(rate(m, f, d), 0.25),
        [(360, 30, 0.05), (10_000, 1e9, 0.1), (5, 2, 0.5)],
        name="slack",
        mistakes={
            "That is the relaxed form; the root of the quadratic equation is smaller.": (
                lambda m, f, d: 2 * rate(m, f, d) / 3 + math.sqrt(rate(m, f, d) / 2)
            ),
            "That takes a variance of 1; a loss between 0 and 1 has at most 1/4.": (
                lambda m, f, d: root(rate(m, f, d), 1.0)
            ),
            "That takes a variance of 0, and nothing is known about the variance.": (
                lambda m, f, d: 2 * rate(m, f, d) / 3
            ),
            "That is Hoeffding's inequality: valid, even smaller, but not this proposition.": (
                lambda m, f, d: math.sqrt(rate(m, f, d) / 2)
            ),
            "The number of candidates is missing: the bound is for all of them at once.": (
                lambda m, f, d: root(rate(m, 1, d), 0.25)
            ),
        },
    )


EXERCISES: Mapping[str, Callable[[object], Verdict]] = MappingProxyType(
    {
        "ex-active-paths": _active_paths,
        "ex-path-norm": _path_norm,
        "ex-spectrum-signs": _spectrum_signs,
        "ex-validation-slack": _validation_slack,
    }
)
