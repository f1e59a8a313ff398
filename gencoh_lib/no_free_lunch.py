"""The error of an algorithm at inputs it has not seen, averaged over all targets and samples.

There are :math:`2^N` ways to label N points, so for a few points every target and every sample can
be gone through and nothing is drawn. With all targets equally likely the average is 1/2 for every
algorithm; give the targets other weights, and algorithms differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gencoh_lib._whole import whole

__all__ = ["Learner", "labelings", "off_sample_error"]

Array: TypeAlias = NDArray[np.float64]

#: From inputs and labels seen, and new inputs, to a label -1 or +1 for each of the new ones.
Learner: TypeAlias = Callable[[Array, Array, Array], ArrayLike]

_MOST_POINTS = 14


def labelings(points: int) -> Array:
    """All targets on so many points.

    Parameters
    ----------
    points : int
        N, from 1 to 14.

    Returns
    -------
    numpy.ndarray
        [2 ** N, N] of -1 and 1, one target a row.

    Raises
    ------
    TypeError
        If ``points`` is no whole number.
    ValueError
        If it is not from 1 to 14: the list would not fit.

    Examples
    --------
    >>> labelings(2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    if not 1 <= whole("points", points) <= _MOST_POINTS:
        raise ValueError(f"points must be from 1 to {_MOST_POINTS} to list all targets: {points}")
    bits = np.arange(2**points)[:, None] >> np.arange(points)[::-1]
    return np.where(bits & 1, 1.0, -1.0)


def off_sample_error(
    learner: Learner, inputs: ArrayLike, seen: int, *, weights: ArrayLike | None = None
) -> float:
    r"""Error of an algorithm on the inputs it has not seen, averaged over all targets and samples.

    Nothing is drawn: every set of ``seen`` inputs and every target is gone through.

    Parameters
    ----------
    learner : callable
        ``learner(inputs_seen, labels_seen, inputs_new)`` returns a label -1 or 1 for each new
        input; it should draw nothing, or from a fixed seed.
    inputs : array_like
        [N] or [N, d] different inputs, at most 14.
    seen : int
        How many of them the algorithm is shown with their labels, from 1 to N - 1.
    weights : array_like, optional
        [2 ** N] probability of each target, in the order of :func:`labelings`; by default all are
        equally likely.

    Returns
    -------
    float
        Probability of an error at a new input. With equal weights it is 1/2 whatever the learner
        does: the no-free-lunch theorem.

    Raises
    ------
    TypeError
        If ``seen`` is no whole number.
    ValueError
        If ``seen`` or the number of inputs is out of range, the weights are no probabilities, or
        the learner returns anything but one label -1 or 1 for each new input.

    Examples
    --------
    >>> def always_one(inputs, labels, new): return np.ones(len(new))
    >>> off_sample_error(always_one, range(4), seen=2)
    0.5
    """
    points = np.asarray(inputs, dtype=np.float64)
    targets = labelings(len(points))
    chance = np.full(len(targets), 1 / len(targets)) if weights is None else np.asarray(weights)
    if chance.shape != (len(targets),) or not (
        (chance >= 0).all() and math.isclose(chance.sum(), 1, rel_tol=1e-9)
    ):
        raise ValueError(
            f"weights must be {len(targets)} probabilities with sum 1, one a target, "
            f"got shape {list(chance.shape)} and sum {chance.sum():g}"
        )
    if not 1 <= whole("seen", seen) < len(points):
        raise ValueError(f"seen must be from 1 to {len(points) - 1}, got {seen}")
    samples = list(combinations(range(len(points)), seen))
    shown = labelings(seen)
    total = 0.0
    for sample in samples:
        known = list(sample)
        new = [i for i in range(len(points)) if i not in sample]
        for labels in shown:
            said = np.asarray(learner(points[known], labels.copy(), points[new]), dtype=np.float64)
            if said.shape != (len(new),) or not (np.abs(said) == 1).all():
                raise ValueError(
                    f"the learner must return {len(new)} labels -1 or 1, one for each new input, "
                    f"got {said!r}"
                )
            fits = (targets[:, known] == labels).all(axis=1)
            total += float(chance[fits] @ (targets[fits][:, new] != said).mean(axis=1))
    return total / len(samples)
