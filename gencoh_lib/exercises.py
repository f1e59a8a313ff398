"""The self-checks of the exercises, by the label that the exercise has on its page.

A page says ``exercises.check("ex-by-hand", answer)`` and nothing about what is expected, so that
reading the cell does not give the answer away. What is expected lives here, with the slips that
are worth recognising; how answers of any kind are compared lives in :mod:`gencoh_lib.checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

import torch
from torch import Tensor

from gencoh_lib import (
    _exercises_gap,
    _exercises_learning,
    _exercises_sparsity,
    _exercises_stagnation,
    _exercises_suppressing,
    checks,
)
from gencoh_lib._answers import read
from gencoh_lib.checks import Verdict
from gencoh_lib.coherence import from_gradients, of_examples

__all__ = ["check"]


def check(label: str, answer: object) -> Verdict:
    """Check the answer to an exercise.

    Parameters
    ----------
    label : str
        Label of the exercise, as its page prints it.
    answer : object
        A number, an array or a function, as the exercise asks; anything else gets a message too.

    Returns
    -------
    Verdict
        Whether the answer is right, and if not, what to look at.

    Raises
    ------
    ValueError
        If there is no exercise of that label.

    Examples
    --------
    >>> check("ex-three-gradients", 2).passed
    True
    """
    if not isinstance(label, str) or label not in _EXERCISES:
        guess = get_close_matches(str(label), _EXERCISES, n=1)
        hint = f"; did you mean {guess[0]!r}?" if guess else ""
        raise ValueError(f"there is no exercise {label!r}{hint}")
    return _EXERCISES[label](answer)


def _three_gradients(answer: object) -> Verdict:
    return checks.number(
        answer,
        2.0,
        examples=3,
        name="m-coherence",
        mistakes={
            "That adds lengths, not vectors: directions matter.": (3 + 4 + 5) ** 2 / 50,
            "That is alpha; m-coherence is m times as large.": 2 / 3,
            "That is the squared length of the sum; divide by the sum of squared lengths.": 100.0,
            "That is Q, the denominator.": 50.0,
            "That is what three equal gradients would give.": 3.0,
            "That is what orthogonal gradients would give; the third one helps both others.": 1.0,
        },
    )


def _samples() -> list[tuple[Tensor]]:
    """Samples of several sizes: one without a pattern, orthogonal, cancelling, agreeing."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(7, 3, generator=generator, dtype=torch.float64) + 0.5,),
        (2 * torch.eye(4, dtype=torch.float64),),
        (torch.eye(4, dtype=torch.float64) - 0.25,),
        (torch.ones(3, 2, dtype=torch.float64),),
    ]


def _corrected(answer: object) -> Verdict:
    def agreement(gradients: Tensor) -> Tensor:
        return gradients.sum(0).square().sum()

    def energy(gradients: Tensor) -> Tensor:
        return gradients.square().sum()

    return checks.function(
        answer,
        lambda g: from_gradients(g).alpha_corrected,
        _samples(),
        name="alpha_corrected",
        mistakes={
            "That is m-coherence, which counts the diagonal: take each example's help to itself "
            "away, and divide by the number of others.": lambda g: agreement(g) / energy(g),
            "That is alpha: the diagonal is still in it.": (
                lambda g: agreement(g) / energy(g) / len(g)
            ),
            "The diagonal is gone; now divide by the number of others, m - 1.": (
                lambda g: (agreement(g) - energy(g)) / energy(g)
            ),
            "Divide by the number of others, m - 1, not by m.": (
                lambda g: (agreement(g) - energy(g)) / energy(g) / len(g)
            ),
            "One row is one example: sum over axis 0.": (
                lambda g: from_gradients(g.T).alpha_corrected
            ),
        },
    )


def _batch(answer: object) -> Verdict:
    return checks.number(
        answer,
        of_examples(0.4, 32),
        tolerance=1e-4,
        name="coherence of single examples",
        mistakes={
            "That uses the number of batches; k is the number of examples in one batch.": (
                of_examples(0.4, 50)
            ),
            "Coherence is not proportional to the batch size; its odds are.": 0.4 / 32,
            "That is the odds; turn them back into a coherence.": (2 / 3) / 32,
            "That goes the wrong way: single examples agree less than batches.": (
                32 * 0.4 / (1 + 31 * 0.4)
            ),
        },
    )


def _construct(answer: object) -> Verdict:
    # With target 1/2 the m-coherence 2 of equal gradients would read as a reciprocal.
    cases = [(2, 0.3), (5, 1.0), (5, 0.0), (5, 3.7), (8, 8.0)]
    if not callable(answer):
        return checks.function(answer, lambda m, target: target, cases, name="gradients")

    def rows(m: int, target: float) -> Tensor | None:
        result = answer(m, target)
        if result is None or result is ...:
            return None
        given = read(result)
        if isinstance(given, str):
            raise TypeError(f"it should return a tensor [m, p], but what it returns is {given}")
        if given.ndim != 2 or len(given) != m:
            shape = list(given.shape)
            raise ValueError(f"it should return a tensor [m, p] with {m} rows, not shape {shape}")
        return torch.from_numpy(given)

    def lengths(m: int, target: float) -> Tensor | None:
        return None if (given := rows(m, target)) is None else given.norm(dim=1)

    def reached(m: int, target: float) -> float | None:
        return None if (given := rows(m, target)) is None else from_gradients(given).m_coherence

    long_enough = checks.function(
        lengths, lambda m, target: torch.ones(m), cases, name="lengths of gradients"
    )
    if not long_enough:
        return long_enough
    # Without the sample size: m-coherence off by a factor of m is no sum in place of a mean here.
    return checks.function(
        reached, lambda m, target: target, cases, name="m-coherence of gradients"
    )


def _uniform_logits(answer: object) -> Verdict:
    return checks.number(
        answer,
        0.0,
        name="m-coherence of the last biases",
        mistakes={
            "Orthogonal gradients give that; here they cancel: add one of each class.": (1.0),
            "That is the squared length of one gradient, not what they add up to.": (0.9),
        },
    )


_EXERCISES: Mapping[str, Callable[[object], Verdict]] = MappingProxyType(
    {
        "ex-three-gradients": _three_gradients,
        "ex-corrected": _corrected,
        "ex-batch": _batch,
        "ex-construct": _construct,
        "ex-uniform-logits": _uniform_logits,
        **_exercises_learning.EXERCISES,
        **_exercises_suppressing.EXERCISES,
        **_exercises_gap.EXERCISES,
        **_exercises_sparsity.EXERCISES,
        **_exercises_stagnation.EXERCISES,
    }
)
