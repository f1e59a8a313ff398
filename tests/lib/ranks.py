"""What each process of the tests of all_reduce() does: ``ranks.py RANK SIZE FOLDER [DYING]``.

The scenarios run one after the other in one group, so that each also shows that the ones before it,
failures included, left no rank waiting and nothing in the pipes. What each gave, or raised, goes to
a file of the rank. With a fourth argument the last rank dies in the middle of a sweep instead.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gencoh_lib import _command, _distributed, coherence
from tests.lib import factories

M = 24
# examples of each rank, batch by batch
SHARDS = {
    2: {"even": [[6, 6], [6, 6]], "uneven": [[5], [10, 1, 8]], "empty": [[], [11, 13]]},
    3: {"even": [[8], [8], [8]], "uneven": [[1], [9, 4], [3, 7]], "empty": [[10], [], [14]]},
}


class Tied(nn.Module):
    """Batch norm by running statistics, a layer used twice, one that is frozen, one unused."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.norm = nn.BatchNorm1d(64)
            self.inside, self.twice = nn.Linear(64, 6), nn.Linear(6, 6)
            self.out, self.idle = nn.Linear(6, 10), nn.Linear(2, 2)
        self.out.bias.requires_grad_(False)
        self.double().eval()

    def forward(self, x):
        """[m, 64] to [m, 10]."""
        hidden = self.inside(self.norm(x)).tanh()
        return self.out(self.twice(self.twice(hidden).tanh()))


def sample(sizes: list[int], before: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of these sizes, cut from the examples after the first `before` of them."""
    x, y = (part[before : before + sum(sizes)] for part in factories.examples(M))
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def shard(name: str, rank: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one rank."""
    shares = SHARDS[size][name]
    return sample(shares[rank], sum(map(sum, shares[:rank]))) if shares[rank] else []


def losses_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Loss of each example."""
    return F.cross_entropy(model(x), y, reduction="none")


def together(model, batches, *, interval=True, group=None, forward=None) -> coherence.Accumulator:
    """Both sweeps as the documentation has them."""
    accumulator = coherence.Accumulator(model)
    with accumulator.all_reduce(group):
        for x, y in batches:
            accumulator.update(losses_of(forward or model, x, y))
    if interval:
        with accumulator.all_reduce(group):
            for x, y in batches:
                accumulator.revisit(losses_of(forward or model, x, y))
    return accumulator


def whole(accumulator: coherence.Accumulator) -> dict:
    """Everything that a result holds, in a form that travels."""
    result = accumulator.result()
    return {
        "numbers": [
            result.alpha,
            result.alpha_corrected,
            result.standard_error,
            *result.interval,
            result.mean_gradient_squared_norm,
            *(block.alpha for block in result.by_parameter.values()),
            *(block.energy_share for block in result.by_layer.values()),
        ],
        "squared_norms": result.squared_norms,
        "examples": result.examples,
        "routes": dict(result.routes),
        "names": [*result.by_parameter, *result.by_layer, *result.frozen],
    }


class Scenarios:
    """One method a scenario; its name is the key of what it gave."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.last = rank == size - 1
        self.batches = shard("even", rank, size)

    def even(self):
        return whole(together(Tied(), self.batches))

    def uneven(self):
        return whole(together(Tied(), shard("uneven", self.rank, self.size)))

    def empty(self):
        return whole(together(Tied(), shard("empty", self.rank, self.size)))

    def one_sweep(self):
        return together(Tied(), self.batches, interval=False).result().reason

    def mean_gradient(self):
        model = Tied()
        together(model, shard("empty", self.rank, self.size)).add_mean_gradient()
        return [None if p.grad is None else p.grad for p in model.parameters()]

    def other_parameters(self):
        return whole(together(Tied(seed=int(self.last)), self.batches))

    def other_buffers(self):
        model = Tied()
        model.norm.running_mean += 1e-9 * self.last
        return whole(together(model, self.batches))

    def other_frozen(self):
        model = Tied()
        model.inside.bias.requires_grad_(not self.last)
        return whole(together(model, self.batches))

    def other_sweep(self):
        model = Tied()
        accumulator = together(model, self.batches, interval=False)
        if self.last:
            accumulator = coherence.Accumulator(model)
        with accumulator.all_reduce():
            for x, y in self.batches:
                step = accumulator.update if self.last else accumulator.revisit
                step(losses_of(model, x, y))

    def loader_raises(self):
        def batches():
            yield self.batches[0]
            if self.last:
                raise OSError("the disk is gone")

        return whole(together(Tied(), batches()))

    def loss_is_nan(self):
        x, y = self.batches[0]
        return whole(together(Tied(), [(x * (torch.nan if self.last else 1), y)]))

    def second_sweep_is_short(self):
        model, accumulator = Tied(), None
        accumulator = together(model, self.batches, interval=False)
        with accumulator.all_reduce():
            for x, y in self.batches[: -1 if self.last else None]:
                accumulator.revisit(losses_of(model, x, y))

    def step_between(self):
        model = Tied()
        accumulator = coherence.Accumulator(model)
        with accumulator.all_reduce():
            if self.last:
                model.inside.bias.data += 1

    def nothing_anywhere(self):
        return whole(together(Tied(), []))

    def both_sweeps_in_one_block(self):
        model, accumulator = Tied(), coherence.Accumulator(Tied())
        accumulator = coherence.Accumulator(model)
        with accumulator.all_reduce():
            for sweep in (accumulator.update, accumulator.revisit):
                for x, y in self.batches:
                    sweep(losses_of(model, x, y))

    def third_block(self):
        accumulator = together(Tied(), self.batches)
        with accumulator.all_reduce():
            pass

    def result_after_a_failure(self):
        accumulator = coherence.Accumulator(Tied())
        try:
            with accumulator.all_reduce():
                raise KeyError(self.rank)
        except KeyError:
            return whole(accumulator)

    def not_a_block(self):
        model = Tied()
        accumulator = coherence.Accumulator(model)
        for x, y in self.batches:
            accumulator.update(losses_of(model, x, y))
        accumulator.all_reduce()
        return whole(accumulator)

    def update_after_the_block(self):
        model = Tied()
        accumulator = together(model, self.batches, interval=False)
        accumulator.update(losses_of(model, *self.batches[0]))

    def second_sweep_outside(self):
        model = Tied()
        accumulator = together(model, self.batches, interval=False)
        for x, y in self.batches:
            accumulator.revisit(losses_of(model, x, y))
        return whole(accumulator)

    def subgroup(self):
        # the last rank has no part in it, and is told so
        group = dist.new_group(list(range(self.size - 1)))
        return whole(together(Tied(), sample([M]) if self.rank == 0 else [], group=group))

    def ddp(self):
        model = DistributedDataParallel(Tied().train())
        model.eval()
        return whole(together(model, self.batches, forward=model.module))

    def ddp_forward(self):
        # as many batches on every rank: the wrapper's forward pass shares the buffers each time
        model = DistributedDataParallel(Tied())
        return whole(together(model, self.batches))

    def ddp_trains_on(self):
        """Gradients of a training step through the wrapper, taken after a measurement."""
        model = DistributedDataParallel(Tied().requires_grad_(True), find_unused_parameters=True)
        together(model, self.batches)
        together(model, self.batches, forward=model.module)
        for x, y in self.batches:
            losses_of(model, x, y).mean().backward()
        return [None if p.grad is None else p.grad for p in model.parameters()]

    def command(self):
        return _command_on("right")

    def command_other_order(self):
        return _command_on("another_order_on_each_rank")

    def command_other_model(self):
        return _command_on("another_model_on_each_rank")

    def command_raises(self):
        return _command_on("raising_on_rank_1")


def _command_on(factory: str) -> float:
    """Alpha as the command measures it, in the processes that are here already."""
    options = _command.parser().parse_args([f"tests.lib.factories:{factory}", "--quiet"])
    here = _distributed.Ranks(None, torch.empty(0))
    return _command.measured(options, torch.device("cpu"), here)[0].alpha


def dying(rank: int, size: int) -> dict:
    """Leave without a word in the middle of a sweep, on the last rank."""
    accumulator = coherence.Accumulator(Tied())
    try:
        with accumulator.all_reduce():
            if rank == size - 1:
                os._exit(7)
    except RuntimeError as error:
        return {"dying": f"{type(error).__name__}: {error}"}
    return {}


def main(rank: int, size: int, folder: Path, *, dies: bool) -> None:
    """Run every scenario and save what they gave."""
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    outcomes = {}
    if dies:
        outcomes = dying(rank, size)
    else:
        scenarios = Scenarios(rank, size)
        for name in [n for n in vars(Scenarios) if not n.startswith("_")]:
            try:
                outcomes[name] = getattr(scenarios, name)()
            except Exception as error:
                outcomes[name] = f"{type(error).__name__}: {error}"
        dist.destroy_process_group()
    torch.save(outcomes, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), dies=len(sys.argv) > 4)
