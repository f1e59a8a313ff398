"""What the sparsity-aware bound costs with its search: ``python -m benchmarks.sparsity``.

Networks without biases on the 10,000 digits that are shipped, scaled to unit norm. Each row has a
process of its own on one thread; training is not timed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.run import head, markdown
from gencoh_lib import data, models, sparsity
from gencoh_lib._sparsity_network import Norm
from gencoh_lib._sparsity_search import BoundName

__all__ = ["CASES", "Case", "Cost", "cost", "main", "table"]

EXPLANATION = """\
Each row is one call of `gencoh_lib.sparsity.search`, from the module and the images to the best
bound, in a process of its own on one thread. It looks at every perturbation of the default grid
with the levels 0 and those of the layer-wise greedy rule for each of its targets, and pays for all
levels of all layers, all perturbations and all points of the Babel grid. CPU and wall: seconds, the
median over rounds; other work on the machine lengthens the wall and hardly the CPU. Memory: the
high-water mark of the whole process during the calls, PyTorch and the images included. Tried:
choices that were evaluated.
"""

STEPS, BATCH, RATE = 300, 100, 0.5


@dataclass(frozen=True)
class Case:
    """A network, and how its bound is searched."""

    title: str
    hidden: tuple[int, ...]
    for_prior: int  # examples that the prior is trained on; 0: prior at zero
    bound: BoundName = "theorem 13"
    norm: Norm = "babel"


CASES = {
    "wide": Case("784-1000-10, prior at zero, Theorem 13", (1000,), 0),
    "wide-prior": Case("784-1000-10, trained prior, Theorem 13", (1000,), 2000),
    "wide-one-shot": Case(
        "784-1000-10, trained prior, one-shot, smallest norms",
        (1000,), 2000, "one-shot", "minimum",
    ),
    "deep": Case(
        "784-500-500-10, prior at zero, one-shot, norms without Babel",
        (500, 500), 0, "one-shot", "spectral",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one case took, and what it found."""

    examples: int
    cpu: float
    wall: float
    peak: float  # bytes
    tried: int
    best: float
    dense: float
    levels: tuple[int, ...]
    union_cost: float


def trained(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    """Train by SGD on random batches."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(steps):
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimiser.step()


def cost(case: Case, rounds: int, steps: int = STEPS) -> Cost:
    """Train, then search `rounds` times. Peaks are right in a fresh process only."""
    digits = data.load("mnist10k")
    x, y = nn.functional.normalize(digits.x, dim=1), digits.y
    model = models.mlp([784, *case.hidden, 10], bias=False, seed=0)
    prior: sparsity.Prior | None = None
    if case.for_prior:
        split = sparsity.split_for_prior((x, y), case.for_prior, seed=0)
        trained(model, split.prior.x, split.prior.y, steps)
        prior = sparsity.Prior.trained_on(model, split.prior)
        x, y = split.bound.x, split.bound.y
        trained(model, x, y, steps // 100)  # a little further, for a divergence
        evaluated: tuple[sparsity.Part] | tuple[torch.Tensor, torch.Tensor] = (split.bound,)
    else:
        trained(model, x, y, steps)
        evaluated = (x, y)
    times: list[tuple[float, float]] = []
    _reset_peak()
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        found = sparsity.search(model, *evaluated, prior=prior, bound=case.bound, norm=case.norm)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return Cost(
        examples=len(x),
        cpu=statistics.median(busy for busy, _ in times),
        wall=statistics.median(waited for _, waited in times),
        peak=_peak(),
        tried=len(found.tried),
        best=found.best.value,
        dense=found.dense.value,
        levels=found.best.hyper.levels,
        union_cost=found.best.union_cost,
    )


def _reset_peak() -> None:
    """Set the high-water mark of memory back, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> float:
    """Bytes of memory that this process had at most since then; NaN where that is unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def table(costs: dict[str, Cost]) -> str:
    """All cases in Markdown."""
    columns: dict[str, list[str]] = {
        name: []
        for name in (
            "case", "images", "CPU s", "wall s", "memory, MiB", "tried", "bound", "at level 0",
            "levels", "union cost",
        )
    }  # fmt: skip
    for name, one in costs.items():
        columns["case"].append(CASES[name].title)
        columns["images"].append(str(one.examples))
        columns["CPU s"].append(f"{one.cpu:.1f}")
        columns["wall s"].append(f"{one.wall:.1f}")
        columns["memory, MiB"].append(f"{one.peak / 2**20:.0f}")
        columns["tried"].append(str(one.tried))
        columns["bound"].append(f"{one.best:.3f}")
        columns["at level 0"].append(f"{one.dense:.3f}")
        columns["levels"].append(", ".join(map(str, one.levels)))
        columns["union cost"].append(f"{one.union_cost:.1f}")
    return markdown(columns)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparsity", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3, help="calls of each case (3)")
    arguments = parser.parse_args(words)
    if arguments.repeats < 1:
        parser.error("--repeats: 1 at least")
    return arguments


def _work(name: str, rounds: int) -> Cost:
    torch.set_num_threads(1)
    return cost(CASES[name], rounds)


def main(words: Sequence[str] | None = None) -> int:
    """Measure every case in a process of its own, and print one table."""
    arguments = parsed(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    title = "The sparsity-aware bound with its search"
    print(head("cpu", 1, arguments.repeats, title, EXPLANATION, ("torch", "numpy")), flush=True)
    costs: dict[str, Cost] = {}
    for name in arguments.cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            costs[name] = pool.apply(_work, (name, arguments.repeats))
    print(table(costs), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
