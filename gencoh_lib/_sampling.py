"""Draws from a data set, behind :mod:`gencoh_lib.data`: disjoint parts, and label noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencoh_lib._dataset import Dataset, listing
from gencoh_lib._whole import whole, wholes


def split(
    dataset: Dataset, sizes: Sequence[int], *, seed: int, stratified: bool = True
) -> tuple[Dataset, ...]:
    """Draw disjoint parts of a data set, each in random order.

    Parameters
    ----------
    dataset : Dataset
        What to draw from.
    sizes : sequence of int
        Number of examples of each part; together at most m.
    seed : int
        Seed of the draw: the same seed gives the same parts.
    stratified : bool
        Whether each part has the classes in the proportions of the whole: of a class with m_c
        examples a part of size n gets n m_c / m, rounded up or down.

    Returns
    -------
    tuple of Dataset
        One data set for each of `sizes`.

    Raises
    ------
    TypeError
        If `sizes` are not whole numbers (they count examples, a share is ``round(0.8 * m)``), or
        `seed` is not one.
    ValueError
        If a size is not positive, the sizes exceed the data set, or `stratified` is asked of
        real targets.

    Examples
    --------
    >>> from gencoh_lib.data import load, split
    >>> train, test = split(load("digits"), [500, 1000], seed=0)
    >>> train.class_counts.tolist()
    [50, 51, 49, 51, 50, 51, 50, 49, 49, 50]
    """
    sizes, m = wholes("sizes", sizes), len(dataset)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must be one or more positive numbers, got {sizes}")
    if sum(sizes) > m:
        raise ValueError(
            f"sizes {sizes} add up to {sum(sizes)}, but data set {dataset.name!r} has only {m} "
            "examples and the parts must not overlap"
        )
    if stratified and not dataset.classes:
        raise ValueError(
            f"data set {dataset.name!r} has real targets, which cannot be stratified; pass "
            "stratified=False"
        )
    generator = torch.Generator().manual_seed(whole("seed", seed))
    order = torch.randperm(m, generator=generator)
    stops = np.cumsum(sizes).tolist()
    if stratified:
        order = _dealt(order, dataset.y, [*sizes, m - sum(sizes)], generator)
    parts = [order[stop - size : stop] for size, stop in zip(sizes, stops, strict=True)]
    return tuple(
        dataset.take(part, name=f"{dataset.name}, part {number}")
        for number, part in enumerate(parts, start=1)
    )


@dataclass(frozen=True, eq=False, repr=False)
class Corrupted:
    """A data set some of whose labels were replaced, with a record of which.

    Attributes
    ----------
    dataset : Dataset
        The examples with their new labels.
    changed : Tensor
        Which labels differ from the original ones, shape [m], boolean.
    pool : Tensor
        Which examples were drawn for corruption, shape [m], boolean; some keep their label by
        luck.
    fraction : float
        Share of examples in the pool that was asked for.
    kind : str
        ``"uniform"`` or ``"permuted"``.

    Examples
    --------
    >>> from gencoh_lib.data import corrupt_labels, load
    >>> print(corrupt_labels(load("digits"), 0.5, kind="permuted", seed=0))
    Corrupted digits, 50% permuted labels
      examples     1797
      in the pool  898 (50.0%), labels permuted
      changed      802 (44.6%)
    """

    dataset: Dataset
    changed: Tensor
    pool: Tensor
    fraction: float
    kind: Literal["uniform", "permuted"]

    def __repr__(self) -> str:
        """Return a small table."""
        m, pool, changed = len(self.dataset), int(self.pool.sum()), int(self.changed.sum())
        return listing(
            f"Corrupted {self.dataset.name}",
            {
                "examples": f"{m}",
                "in the pool": f"{pool} ({pool / m:.1%}), labels {self.kind}",
                "changed": f"{changed} ({changed / m:.1%})",
            },
        )


def corrupt_labels(
    dataset: Dataset,
    fraction: float,
    *,
    kind: Literal["uniform", "permuted"] = "uniform",
    seed: int,
) -> Corrupted:
    """Replace the labels of a random share of the examples.

    A pool of ``round(fraction * m)`` examples is drawn.  Its labels are replaced by uniform draws
    from all classes (``"uniform"``), or shuffled among themselves (``"permuted"``), which keeps
    the number of examples of each class.  Either way a label may come out as it was: with ten
    balanced classes a tenth of the pool does, on average.  The noise of Chatterjee (2020) is the
    permuted one, with a pool that each example enters independently.

    Parameters
    ----------
    dataset : Dataset
        What to corrupt; it is left as it is.
    fraction : float
        Share of the examples in the pool, between 0 and 1.
    kind : str
        How the labels in the pool are replaced.
    seed : int
        Seed of the pool and the labels.  For one seed a smaller pool lies within a larger one.

    Returns
    -------
    Corrupted
        The new data set, and which labels changed.

    Raises
    ------
    TypeError
        If `seed` is not a whole number.
    ValueError
        If `fraction` is not between 0 and 1, `kind` is unknown or the targets are not classes.

    Examples
    --------
    >>> from gencoh_lib.data import corrupt_labels, load
    >>> half = corrupt_labels(load("digits"), 0.5, kind="permuted", seed=0)
    >>> int(half.pool.sum()), bool((half.changed <= half.pool).all())
    (898, True)
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    if kind not in ("uniform", "permuted"):
        raise ValueError(f"kind must be 'uniform' or 'permuted', got {kind!r}")
    if not dataset.classes:
        raise ValueError(f"data set {dataset.name!r} has real targets, no labels to corrupt")
    generator = torch.Generator().manual_seed(whole("seed", seed))
    m = len(dataset)
    chosen = torch.randperm(m, generator=generator)[: round(fraction * m)]
    y = dataset.y.clone()
    if kind == "uniform":
        y[chosen] = torch.randint(dataset.classes, (len(chosen),), generator=generator)
    else:
        y[chosen] = dataset.y[chosen[torch.randperm(len(chosen), generator=generator)]]
    pool = torch.zeros(m, dtype=torch.bool)
    pool[chosen] = True
    name = f"{dataset.name}, {100 * fraction:g}% {kind} labels"
    return Corrupted(replace(dataset, name=name, y=y), y != dataset.y, pool, fraction, kind)


def _dealt(order: Tensor, y: Tensor, sizes: Sequence[int], generator: torch.Generator) -> Tensor:
    """Deal shuffled positions to parts of these sizes, class by class, and shuffle each part."""
    counts = torch.bincount(y)
    shares = torch.from_numpy(_apportion(sizes, counts.tolist()))
    hands: list[list[Tensor]] = [[] for _ in sizes]
    for c in range(len(counts)):
        members = order[y[order] == c]
        for hand, cards in zip(hands, members.split(shares[:, c].tolist()), strict=True):
            hand.append(cards)
    parts = [torch.cat(hand) for hand in hands]
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in parts])


def _apportion(sizes: Sequence[int], counts: Sequence[int]) -> NDArray[np.int64]:
    """Round sizes[k] * counts[c] / m up or down so that the rows and columns still add up.

    Rounding up is a matching between parts that lack examples and classes that have some left.
    It always exists, because the exact shares are a fractional one; larger remainders go first,
    and whoever comes too late asks an earlier part to make do with another class.
    """
    shares, rest = np.divmod(np.outer(sizes, counts), sum(counts))
    left = np.asarray(counts) - shares.sum(axis=0)
    up = np.zeros(shares.shape, dtype=bool)

    def place(part: int, asked: set[int]) -> bool:
        for c in np.argsort(-rest[part], kind="stable").tolist():
            if rest[part, c] == 0 or up[part, c] or c in asked:
                continue
            asked.add(c)
            if left[c] > 0:
                left[c] -= 1
            else:
                for other in np.flatnonzero(up[:, c]).tolist():
                    if place(other, asked):
                        up[other, c] = False
                        break
                else:
                    continue
            up[part, c] = True
            return True
        return False

    for part, lacking in enumerate(np.asarray(sizes) - shares.sum(axis=1)):
        for _ in range(int(lacking)):
            place(part, set())
    return np.asarray(shares + up, dtype=np.int64)
