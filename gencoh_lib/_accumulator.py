"""Coherence over a stream of batches, on one process or on several.

The public name is :class:`gencoh_lib.coherence.Accumulator`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from gencoh_lib import _distributed, _graph, _moments, per_example
from gencoh_lib._coherence import Coherence, check_confidence, summarise
from gencoh_lib._vectors import wide


class Accumulator:
    """Coherence over a stream of batches, in the memory of a few gradients.

    Feed the losses of each batch to :meth:`update` and ask for :meth:`result`. For the jackknife
    interval, which needs the sum of *all* gradients first, go through the same batches once more
    with :meth:`revisit`. Several processes make one sample with :meth:`all_reduce`.

    Parameters
    ----------
    model : Module
        Its parameters must stay as they are until the last batch. In ``DistributedDataParallel``
        it is the model inside that is measured, under its own names.
    confidence : float
        Nominal coverage of the jackknife interval.

    Raises
    ------
    TypeError, ValueError
        If ``model`` is no module, or has no parameters or only frozen ones.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> accumulator = Accumulator(model)
    >>> for row in torch.eye(2).split(1):
    ...     accumulator.update(model(row).squeeze(1))
    >>> accumulator.result().m_coherence
    1.0
    """

    def __init__(self, model: nn.Module, *, confidence: float = 0.95) -> None:
        check_confidence(confidence)
        if isinstance(model, nn.Module):
            model = _distributed.unwrapped(model)
        self._parameters, self._frozen = _graph.trainable(model)
        self._modules = list(model.named_modules())
        self._confidence = confidence
        # a copy, since in-place counters do not see fused optimizers or .data
        self._point = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._routes = dict.fromkeys(self._parameters, "unused")
        self._losses: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        self._squares: dict[str, list[Tensor]] = {name: [] for name in self._parameters}
        self._inner: list[Tensor] = []
        self._reduced = 0  # sweeps that hold the batches of all ranks
        self._reducing = False

    def update(self, losses: Tensor, *, retain_graph: bool = True) -> None:
        """Add one batch's [b] losses; raises as :func:`measure`, and then adds nothing."""
        if self._inner or self._reduced:
            after = "revisit()" if self._inner else "all_reduce()"
            raise ValueError(f"update() after {after}: all batches must be added first")
        self._check(losses)
        found = _moments.moments(losses, self._parameters, retain_graph=retain_graph)
        for name, total in found.sums.items():
            self._sums[name] = self._sums.get(name, 0) + total.to(found.squares[name].dtype)
            self._squares[name].append(found.squares[name])
            if found.routes[name] != "unused":
                self._routes[name] = found.routes[name]
        self._losses.append(losses.detach().clone())

    def revisit(self, losses: Tensor) -> None:
        """Go through the batches again, in the same order, for the jackknife interval."""
        if not self._losses:
            raise ValueError("revisit() before update(): add all batches first")
        self._check(losses)
        self._check_same(losses)
        length = torch.stack([total.square().sum() for total in self._sums.values()]).sum().sqrt()
        direction = {name: total / length for name, total in self._sums.items()}
        if not bool(length > 0):
            self._inner.append(torch.zeros_like(losses.detach(), dtype=length.dtype))
            return
        inner = per_example.directional_derivatives(losses, self._parameters, direction)
        self._inner.append(inner.detach().to(length.dtype) * length)

    def result(self) -> Coherence:
        """Return the coherence of everything added so far."""
        if self._reducing:
            raise ValueError(
                "all_reduce() is not complete: write `with accumulator.all_reduce():`, go through "
                "the batches inside, and ask for the result after the block"
            )
        if not self._sums:
            raise ValueError("no batch has been added yet: call update(losses) first")
        if self._reduced == 1 and self._inner:
            raise ValueError("only the first sweep was in all_reduce(): put the second in as well")
        if self._inner and not self._reduced:
            self._check_complete()
        return summarise(
            self._sums,
            {name: torch.cat(chunks) for name, chunks in self._squares.items()},
            torch.cat(self._inner) if self._inner else None,
            self._confidence,
            layers={name: _layer(name) for name in self._parameters},
            frozen=self._frozen,
            routes=self._routes,
        )

    def add_mean_gradient(self) -> None:
        """Add the gradient of the mean of all losses to each ``.grad``."""
        examples = sum(map(len, next(iter(self._squares.values()))))
        _moments.add_mean_gradient(self._parameters, self._sums, self._routes, examples)

    def all_reduce(
        self, group: torch.distributed.ProcessGroup | None = None
    ) -> AbstractContextManager[None]:
        """Make one sample of the batches of all ranks, when a sweep in a ``with`` block ends.

        Every rank writes each sweep as a block and adds its own batches inside, as many as it
        has, or none. What then follows on any rank, :meth:`result` above all, is that of the
        whole sample, as one process would have it up to rounding, with examples in the order of
        the ranks.

        Parameters
        ----------
        group : ProcessGroup, optional
            The processes of ``torch.distributed`` that take part; all of them by default.

        Raises
        ------
        RuntimeError
            If ``torch.distributed`` is not initialised, or the block raised on another rank: it
            then raises on every rank, so that none is left waiting.
        ValueError
            On every rank, if parameters or buffers differ between ranks, no rank has a batch, a
            second sweep is incomplete, or the two sweeps are not in a block each.

        Notes
        -----
        What is exchanged in the first sweep is the sum of the gradients and the squared norms, in
        the second one number an example; before that a digest of the model. Errors are exchanged
        at the end of the block, so raise them inside it, not between blocks. Compute the losses
        from the model inside ``DistributedDataParallel``, ``ddp.module(x)``: the wrapper's own
        forward pass may wait for the other ranks batch by batch, which hangs where one has fewer.

        Examples
        --------
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = nn.Linear(2, 1, bias=False)
        >>> accumulator = Accumulator(model)
        >>> with accumulator.all_reduce():
        ...     accumulator.update(model(torch.eye(2)).squeeze(1))
        >>> accumulator.result().m_coherence
        1.0
        >>> dist.destroy_process_group()
        """
        self._reducing = True  # until the block has ended well: a call without `with` does nothing
        return self._all_reduced(group)

    @contextmanager
    def _all_reduced(self, group: torch.distributed.ProcessGroup | None) -> Iterator[None]:
        ranks = _distributed.Ranks(group, next(iter(self._parameters.values())))
        with ranks.agreeing(self._ready):
            yield
        if self._reduced:
            self._inner = [ranks.side_by_side(self._joined(self._inner)[None])[0]]
        else:
            self._reduce(ranks)
        self._reduced += 1
        self._reducing = False

    def _ready(self) -> dict[str, str]:
        """Raise where this rank's sweep cannot join the others; return what must be equal."""
        if self._reduced == 2:
            raise ValueError("both sweeps are over: start a new Accumulator")
        if self._reduced:
            self._check_complete()
        elif self._inner:
            raise ValueError("revisit() in the block of the first sweep: it needs one of its own")
        self._check_point()
        sweep = "second" if self._reduced else "first"
        return {"the sweep that ends": sweep, **_distributed.fingerprint(self._modules[0][1])}

    def _reduce(self, ranks: _distributed.Ranks) -> None:
        """Replace what this rank has summed in the first sweep by what all ranks have."""
        rows = torch.stack([self._joined(chunks) for chunks in self._squares.values()])
        rows = ranks.side_by_side(rows)
        if not rows.shape[1]:
            raise ValueError(
                "no batch has been added on any rank: call update(losses) in the block"
            )
        zeros = {n: p.new_zeros(p.shape, dtype=wide(p)) for n, p in self._parameters.items()}
        self._sums = ranks.totals(zeros | self._sums)
        self._squares = {name: [row] for name, row in zip(self._parameters, rows, strict=True)}
        for routes in ranks.share(self._routes):
            self._routes |= {name: taken for name, taken in routes.items() if taken != "unused"}

    def _joined(self, chunks: list[Tensor]) -> Tensor:
        like = next(iter(self._parameters.values()))
        return torch.cat([like.new_zeros(0, dtype=wide(like)), *chunks])

    def _check_complete(self) -> None:
        if len(self._inner) < len(self._losses):
            raise ValueError("the second sweep is not complete: revisit() the remaining batches")

    def _check_point(self) -> None:
        if not all(torch.equal(p.detach(), self._point[n]) for n, p in self._parameters.items()):
            raise ValueError(
                "the model's parameters changed between batches: coherence is a function of one "
                "point in parameter space. Start a new Accumulator after each optimiser step"
            )

    def _check(self, losses: Tensor) -> None:
        self._check_point()
        _graph.check_losses(losses)
        _graph.refuse_what_hides(losses, self._parameters, self._modules)

    def _check_same(self, losses: Tensor) -> None:
        visit = len(self._inner)
        if visit >= len(self._losses) or len(losses) != len(self._losses[visit]):
            left = (
                f"{len(self._losses[visit])} examples" if visit < len(self._losses) else "no more"
            )
            problem = f"got {len(losses)} examples, expected {left}"
        elif not torch.allclose(losses.detach(), self._losses[visit], rtol=1e-3, atol=1e-5):
            problem = "got other losses than the first sweep"
        else:
            return
        raise ValueError(
            f"revisit() number {visit + 1} {problem}: the second sweep must go through the batches "
            "of the first, in the same order and without dropout"
        )


def _layer(name: str) -> str:
    """Name of the layer that owns a parameter; a parametrized weight belongs to its layer."""
    return (
        name.partition(".parametrizations.")[0]
        if ".parametrizations." in name
        else (name.rpartition(".")[0] or "model")
    )


# the class bears its public name, so doctest would pass by the examples of its methods
__test__ = {"Accumulator.all_reduce": Accumulator.all_reduce}
