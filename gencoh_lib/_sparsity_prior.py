"""Priors that remember what they have seen, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from gencoh_lib._dataset import Dataset, listing
from gencoh_lib._sparse_network import check_chain, weight_matrices
from gencoh_lib._whole import whole

_SCALE_FREE = 8  # columns from which on a direction to three digits tells examples apart


class SeenByPriorError(ValueError):
    """The prior has seen an example on which a bound was to be evaluated."""


@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """Some examples of a data set, with their positions in it.

    Attributes
    ----------
    x, y : Tensor
        [n, ...] inputs and [n] classes.
    positions : Tensor
        [n] places in the data set that was split.
    total : int
        Number of examples of the data set that was split.
    origin : str
        Digest of that data set.

    Examples
    --------
    >>> import torch
    >>> parts = split_for_prior((torch.eye(4), torch.arange(4)), 1, seed=0)
    >>> sorted([*parts.prior.positions.tolist(), *parts.bound.positions.tolist()])
    [0, 1, 2, 3]
    """

    x: Tensor
    y: Tensor
    positions: Tensor
    total: int
    origin: str

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.x)

    def take(self, indices: Sequence[int] | Tensor) -> Part:
        """Return some of the examples, which keep their positions in the data set."""
        index = torch.as_tensor(indices)
        return replace(self, x=self.x[index], y=self.y[index], positions=self.positions[index])

    def __repr__(self) -> str:
        """Return one line."""
        return f"{len(self)} of {self.total} examples"


Examples = Part | Dataset | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class PriorSplit:
    """A data set in two parts: one for the prior, the other for the bound.

    Attributes
    ----------
    prior, bound : Part
        What the prior may be trained on, and what the bound is evaluated on.

    Examples
    --------
    >>> import torch
    >>> split_for_prior((torch.eye(4), torch.arange(4)), 1, seed=0)
    PriorSplit(prior=1 of 4 examples, bound=3 of 4 examples)
    """

    prior: Part
    bound: Part


def split_for_prior(
    data: Dataset | tuple[Tensor, Tensor], examples: int, *, seed: int
) -> PriorSplit:
    """Draw the examples that the prior may see; the rest is for the bound.

    Parameters
    ----------
    data : Dataset or pair of Tensor
        Inputs [m, ...] and classes [m].
    examples : int
        How many the prior may see, from 1 to m - 1.
    seed : int
        Seed of the draw.

    Returns
    -------
    PriorSplit
        Drawn without a look at classes, so that either part is an independent sample.

    Raises
    ------
    TypeError, ValueError
        If `examples` or `seed` is no whole number, or `examples` leaves nothing for a part.

    Examples
    --------
    >>> from gencoh_lib import data
    >>> len(split_for_prior(data.load("digits"), 297, seed=0).bound)
    1500
    """
    x, y = pair_of(data)
    size, m = whole("examples", examples), len(x)
    if not 1 <= size < m:
        raise ValueError(
            f"examples must be from 1 to {m - 1}, so that prior and bound get one of {m} at "
            f"least; got {size}"
        )
    order = torch.randperm(m, generator=torch.Generator().manual_seed(whole("seed", seed)))
    everything = Part(x, y, torch.arange(m), m, _digest(x, y))
    return PriorSplit(everything.take(order[:size]), everything.take(order[size:]))


@dataclass(frozen=True, eq=False, repr=False)
class Prior:
    """Weights around which the prior is centred, with a record of what they have seen.

    Attributes
    ----------
    weights : tuple of Tensor
        K + 1 float64 weights, [d_k, d_{k-1}].
    kind : str
        ``"zero"``, ``"fixed"`` before any data, or ``"trained"``.
    seen : int
        Number of examples that the weights depend on.

    Examples
    --------
    >>> import torch
    >>> Prior.zero([torch.ones(3, 2), torch.ones(2, 3)])
    prior
      centre      zero
      parameters  12
      has seen    0 examples
    """

    weights: tuple[Tensor, ...]
    kind: str
    seen: int = 0
    _prints: frozenset[bytes] = frozenset()
    _origin: str = ""
    _positions: frozenset[int] = frozenset()

    @classmethod
    def zero(cls, model: nn.Module | Sequence[Tensor]) -> Prior:
        """Return the prior centred at zero, for networks of the shape of `model`.

        Parameters
        ----------
        model : torch.nn.Module or sequence of Tensor
            A network or its K + 1 weights.

        Returns
        -------
        Prior

        Examples
        --------
        >>> import torch
        >>> float(Prior.zero([torch.ones(3, 2)]).weights[0].sum())
        0.0
        """
        return cls(tuple(map(torch.zeros_like, chain_of(model))), "zero")

    @classmethod
    def fixed(cls, model: nn.Module | Sequence[Tensor]) -> Prior:
        """Return the prior centred at weights that no data has touched, such as the initial ones.

        Parameters
        ----------
        model : torch.nn.Module or sequence of Tensor
            A network or its K + 1 weights; copied.

        Returns
        -------
        Prior

        Examples
        --------
        >>> import torch
        >>> Prior.fixed([torch.ones(3, 2)]).seen
        0
        """
        return cls(tuple(w.clone() for w in chain_of(model)), "fixed")

    @classmethod
    def trained_on(cls, model: nn.Module | Sequence[Tensor], data: Examples) -> Prior:
        """Return the prior centred at weights that were trained on `data`.

        Parameters
        ----------
        model : torch.nn.Module or sequence of Tensor
            A network or its K + 1 weights; copied.
        data : Part, Dataset or pair of Tensor
            Everything that the weights depend on. A :class:`Part` of a split is recognised by
            positions, anything else by its inputs: as directions to three digits from eight
            numbers an example on, so that other units hide nothing, and as float32 below.

        Returns
        -------
        Prior
            A bound that is evaluated on an example of `data` raises :class:`SeenByPriorError`.

        Raises
        ------
        TypeError, ValueError
            If the model is not covered, or `data` is neither.

        Examples
        --------
        >>> import torch
        >>> x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
        >>> Prior.trained_on([torch.ones(2, 4)], (x[:2], y[:2])).seen
        2
        """
        x, _ = pair_of(data)
        prior = cls(
            tuple(w.clone() for w in chain_of(model)), "trained", len(x), frozenset(_prints(x))
        )
        if isinstance(data, Part):
            positions = frozenset(data.positions.tolist())
            return replace(prior, _origin=data.origin, _positions=positions)
        return prior

    def check_unseen(self, data: Part | Tensor) -> None:
        """Raise an error if the prior has seen any of these examples.

        Parameters
        ----------
        data : Part or Tensor
            What a bound is to be evaluated on; a tensor holds inputs [m, ...].

        Raises
        ------
        SeenByPriorError
            With how many it has seen, the first of them, and the remedy.

        Examples
        --------
        >>> import torch
        >>> Prior.zero([torch.ones(3, 2)]).check_unseen(torch.ones(1, 2))
        """
        if not self.seen:
            return
        if isinstance(data, Part) and data.origin == self._origin:
            met = [int(place) in self._positions for place in data.positions]
            remedy = "pass the part of the split that is for the bound"
        else:
            x = data.x if isinstance(data, Part) else data
            met = [found in self._prints for found in _prints(x)]
            remedy = (
                "make both parts with split_for_prior (which goes by position, so that equal "
                "inputs may be drawn twice) and pass the part that is for the bound"
            )
        if any(met):
            raise SeenByPriorError(
                f"the prior has seen {sum(met)} of the {len(met)} examples that the bound is to "
                f"be evaluated on, the first is example {met.index(True)}: its errors on them "
                f"say nothing about new ones, and the bound would not hold; {remedy}"
            )

    def check_fits(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise a ValueError if a network has other shapes than the prior."""
        own = [tuple(w.shape) for w in self.weights]
        if own != list(shapes):
            raise ValueError(f"the prior has weights of shapes {own}, the network {list(shapes)}")

    def __repr__(self) -> str:
        """Return a small table."""
        return listing(
            "prior",
            {
                "centre": self.kind,
                "parameters": f"{sum(w.numel() for w in self.weights)}",
                "has seen": f"{self.seen} examples",
            },
        )


def chain_of(model: nn.Module | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return float64 weights of a module or of a sequence of weights."""
    return weight_matrices(model) if isinstance(model, nn.Module) else check_chain(model)


def pair_of(data: Examples) -> tuple[Tensor, Tensor]:
    """Return inputs and classes, as many of each."""
    if isinstance(data, Part | Dataset):
        return data.x, data.y
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise TypeError("data must be a Part, a Dataset or a pair (inputs, classes)")
    x, y = data
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or len(x) != len(y) or not len(x):
        raise TypeError("data must hold tensors: inputs [m, ...] and classes [m], m >= 1")
    return x, y


def _digest(x: Tensor, y: Tensor) -> str:
    """Digest of a data set, by value."""
    state = hashlib.blake2b(digest_size=16)
    for values in (x, y):
        array = np.ascontiguousarray(values.detach().cpu().to(torch.float64).numpy())
        state.update(repr(array.shape).encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _prints(x: Tensor) -> list[bytes]:
    """Fingerprint of each input, see :meth:`Prior.trained_on`."""
    rows = x.detach().to("cpu", torch.float64).flatten(1).numpy() + 0.0  # no -0.0
    if rows.shape[1] >= _SCALE_FREE:
        largest = np.abs(rows).max(1, keepdims=True)
        largest[largest == 0] = 1
        # the offset keeps fractions of small numbers away from where rounding decides
        kept = np.floor(rows / largest * 1000 + 0.237).astype(np.int16)
    else:
        kept = rows.astype(np.float32)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in kept]
