"""The exercises of "What is learning?", behind :mod:`gencoh_lib.exercises`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from gencoh_lib import checks
from gencoh_lib.checks import Verdict


def _noise_floor(answer: object) -> Verdict:
    return checks.number(
        answer,
        0.18,
        name="Bayes risk",
        mistakes={
            "A label that is replaced comes out the same one time in ten.": 0.2,
            "That is the chance that a replaced label differs; how many are replaced?": 0.9,
            "That is how often the best function is right.": 0.82,
            "That is the chance that a label is replaced by itself.": 0.02,
        },
    )


def _bayes_interval(answer: object) -> Verdict:
    return checks.number(
        answer,
        1 / 3,
        tolerance=1e-3,
        name="Bayes risk",
        mistakes={
            "That is the mean label difference, 1 - E|r|; an error counts half of it.": 2 / 3,
            "That is the Bayes risk for r(x) = x; here r(x) is its square.": 0.25,
            "That is a sixth: E|r|/2. The formula has 1 - |r|.": 1 / 6,
        },
    )


def _problems() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs' probabilities, regression function and a classifier: simple, mixed, with zeros."""
    generator = torch.Generator().manual_seed(1)
    raw = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    signs = torch.tensor([1.0, 1, -1, 1, -1, -1], dtype=torch.float64)
    pair = torch.tensor([0.25, 0.75], dtype=torch.float64)
    return [
        (pair, torch.tensor([0.5, -0.5]).double(), torch.tensor([1.0, 1.0]).double()),
        (raw[0] / raw[0].sum(), 2 * raw[1] - 1, signs),
        (raw[2] / raw[2].sum(), torch.tensor([0, 1, -1, 0.5, 0, -0.5]).double(), signs),
    ]


def _excess(answer: object) -> Verdict:
    def right(probability: Tensor, r: Tensor, classifier: Tensor) -> Tensor:
        return (probability * r.abs() * (r * classifier < 0)).sum()

    return checks.function(
        answer,
        right,
        _problems(),
        name="excess",
        mistakes={
            "Half of it is missing: the wrong answer errs (1 + |r|)/2 of the time, the right one "
            "(1 - |r|)/2, and the difference is |r|.": lambda p, r, f: right(p, r, f) / 2,
            "That is the mass of the inputs on the wrong side; weigh each with |r|.": (
                lambda p, r, f: (p * (r * f < 0)).sum()
            ),
            "That is the whole risk; take the Bayes risk away.": (
                lambda p, r, f: (p * (1 - r * f) / 2).sum()
            ),
            "Weigh each input with its probability, not all alike.": (
                lambda p, r, f: right(torch.ones_like(p) / len(p), r, f)
            ),
            "That squares r: it is the excess of the regression problem.": (
                lambda p, r, f: (p * (f - r) ** 2).sum()
            ),
        },
    )


def _lunch_risk(answer: object) -> Verdict:
    return checks.number(
        answer,
        0.5 * (7 / 8) ** 4,
        tolerance=1e-3,
        name="smallest expected risk",
        mistakes={
            "That is the error at an input not seen; a new input may have been seen.": 0.5,
            "That is the chance of a new input not seen; half of the guesses there are right.": (
                (7 / 8) ** 4
            ),
            "That holds for four different inputs; drawn independently, some come twice.": 0.25,
        },
    )


def _biases(answer: object) -> Verdict:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def case(widths: list[int], activation: Callable[[Tensor], Tensor]) -> tuple[object, ...]:
        pairs = list(itertools.pairwise(widths))
        weights, biases = [draw(b, a) for a, b in pairs], [draw(b) for _, b in pairs]
        return weights, biases, activation, draw(widths[0], 5)

    cases = [
        case([2, 1], torch.relu),
        case([2, 3, 1], torch.relu),
        case([2, 3, 1], torch.tanh),
        case([3, 4, 4, 2], torch.sigmoid),
    ]

    def forward(
        matrices: Sequence[Tensor],
        biases: Sequence[Tensor],
        activation: Callable[[Tensor], Tensor],
        x: Tensor,
    ) -> Tensor:
        for layer, (w, b) in enumerate(zip(matrices, biases, strict=True)):
            x = w @ x + b[:, None]
            x = activation(x) if layer < len(biases) - 1 else x
        return x

    def without(
        absorb: Callable[..., object],
        weights: list[Tensor],
        biases: list[Tensor],
        activation: Callable[[Tensor], Tensor],
        x: Tensor,
    ) -> Tensor | None:
        given = absorb(weights, biases, activation)
        if given is None or given is ...:
            return None
        matrices = [torch.as_tensor(one, dtype=torch.float64) for one in given]  # type: ignore[attr-defined]
        if len(matrices) != len(weights):
            raise ValueError(f"it should return {len(weights)} matrices, not {len(matrices)}")
        columns = len(x) + 1
        for number, matrix in enumerate(matrices, 1):
            if matrix.ndim != 2 or matrix.shape[1] != columns:
                before = (
                    f"matrix {number - 1} gives {columns} numbers, so it does not hand the 1 on"
                    if number > 1
                    else f"it meets {columns} numbers, those of x and a 1"
                )
                raise ValueError(f"matrix {number} has shape {list(matrix.shape)}, and {before}")
            columns = len(matrix)
        zeros = [torch.zeros(len(one), dtype=torch.float64) for one in matrices]
        return forward(matrices, zeros, activation, torch.cat([x, torch.ones(1, x.shape[1])]))

    def printed(
        weights: list[Tensor], biases: list[Tensor], _: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        matrices = [torch.cat([w, b[:, None]], dim=1) for w, b in zip(weights, biases, strict=True)]
        for layer, matrix in enumerate(matrices[:-1]):
            carry = torch.zeros(1, matrix.shape[1], dtype=torch.float64)
            carry[0, -1] = 1
            matrices[layer] = torch.cat([matrix, carry])
        return matrices

    if not callable(answer):
        return checks.function(answer, forward, cases, name="absorb")
    return checks.function(
        lambda *case: without(answer, *case),
        forward,
        cases,
        name="the network of absorb's matrices",
        mistakes={
            "That is the recipe as printed: behind the first layer the 1 has become the activation "
            "at 1, and multiplies every later bias.": lambda *case: without(printed, *case)
        },
    )


EXERCISES: Mapping[str, Callable[[object], Verdict]] = MappingProxyType(
    {
        "ex-noise-floor": _noise_floor,
        "ex-bayes-interval": _bayes_interval,
        "ex-excess": _excess,
        "ex-lunch-risk": _lunch_risk,
        "ex-biases": _biases,
    }
)
