"""What coherence costs on several processes of one machine: ``python -m benchmarks.processes``.

All processes stay for the whole run; in every round each number of them, in an order of its own,
measures the same batches while the rest wait, and is divided by the single process of that same
round. What is timed is one sweep of :class:`gencoh_lib.coherence.Accumulator`, and not the start
of the processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.measure import Timing
from benchmarks.models import TASKS, Problem
from benchmarks.run import head, markdown
from gencoh_lib import coherence

__all__ = ["Span", "main", "measure", "sweep", "table"]

EXPLANATION = """\
The same batches, dealt out to 1, 2, ... processes of one machine over gloo, each on one thread.
Time: from the first process that starts to the last that has the result; the median over rounds.
Speed-up: the time of one process in the same round over this; the median over rounds, with the
lower and upper quartile in brackets. Efficiency: speed-up over processes. CPU: what all processes
together use, over what one process does; where this is near 1 and the efficiency is not, cores were
short. Exchange: from the last batch of the slowest process to the end. Difference: of alpha,
relative to one process.
"""


@dataclass(frozen=True)
class Span:
    """When a process began, was through with its own batches, and had the result; in seconds."""

    began: float
    worked: float
    ended: float
    busy: float  # seconds of CPU
    alpha: float


def sweep(
    problem: Problem, batches: int, rank: int, size: int, group: dist.ProcessGroup | None
) -> Span:
    """Measure this process's share of the batches into which the problem's examples are cut."""
    length = len(problem.y) // batches
    began, busy = time.perf_counter(), time.process_time()
    accumulator = coherence.Accumulator(problem.model)
    with accumulator.all_reduce(group) if size > 1 else nullcontext():
        for place in range(rank, batches, size):
            accumulator.update(problem.losses(place * length, (place + 1) * length))
        worked = time.perf_counter()
    alpha = accumulator.result().alpha
    return Span(began, worked, time.perf_counter(), time.process_time() - busy, alpha)


def measure(
    problem: Problem, batches: int, sizes: Sequence[int], repeats: int
) -> dict[int, list[list[Span]]]:
    """Spans by number of processes, round and rank. Every process of the world calls this."""
    rank = dist.get_rank()
    groups = {size: dist.new_group(list(range(size))) for size in sizes}
    rounds: dict[int, list[list[Span]]] = {size: [] for size in sizes}
    shuffle = random.Random(0).shuffle  # the same order in every process
    order = list(sizes)
    for turn in range(repeats + 1):
        shuffle(order)
        for size in order:
            dist.barrier()
            mine = sweep(problem, batches, rank, size, groups[size]) if rank < size else None
            spans: list[Span | None] = [None] * dist.get_world_size()
            dist.all_gather_object(spans, mine)
            if turn:  # the first warms up
                rounds[size].append([span for span in spans if span is not None])
    return rounds


def table(rounds: Mapping[int, Sequence[Sequence[Span]]]) -> str:
    """One task's numbers of processes in Markdown."""
    times = {size: [_time(spans) for spans in one] for size, one in rounds.items()}
    truth = rounds[1][0][0].alpha
    columns: dict[str, list[str]] = {
        name: []
        for name in ("processes", "ms", "speed-up", "efficiency", "CPU", "exchange", "difference")
    }
    for size, one in rounds.items():
        # seconds and base change places: here more is better
        speed = Timing.of(times[1], times[size])
        low, high = speed.quartiles
        exchange = statistics.median(
            max(s.ended for s in spans) - max(s.worked for s in spans) for spans in one
        )
        worst = max(abs(span.alpha / truth - 1) for spans in one for span in spans)
        columns["processes"].append(str(size))
        columns["ms"].append(f"{1e3 * statistics.median(times[size]):.3g}")
        columns["speed-up"].append(f"{speed.ratio:.2f} [{low:.2f}, {high:.2f}]")
        columns["efficiency"].append(f"{speed.ratio / size:.0%}")
        busy = statistics.median(
            sum(span.busy for span in mine) / base[0].busy
            for mine, base in zip(one, rounds[1], strict=True)
        )
        columns["CPU"].append(f"{busy:.2f}")
        columns["exchange"].append(f"{1e3 * exchange:.2g} ms")
        columns["difference"].append(f"{worst:.0e}")
    return markdown(columns)


def _time(spans: Sequence[Span]) -> float:
    # one clock for all processes of a machine
    return max(span.ended for span in spans) - min(span.began for span in spans)


def work(rank: int, arguments: argparse.Namespace, folder: str) -> None:
    """What each process does; the first one prints."""
    torch.set_num_threads(1)
    meeting = (Path(folder) / "meeting").as_uri()
    world = max(arguments.processes)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    for name in arguments.tasks:
        task = TASKS[name]
        problem = task.problem(batch=task.batch * arguments.batches)
        rounds = measure(problem, arguments.batches, arguments.processes, arguments.repeats)
        if rank == 0:
            print(f"## {task.title}, {arguments.batches} batches of {task.batch}\n", flush=True)
            print(table(rounds), flush=True)
    dist.destroy_process_group()


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    known = ("mlp", "cnn", "resnet18", "transformer")
    parser.add_argument("--tasks", nargs="+", choices=known, default=["mlp", "cnn"], metavar="TASK")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--batches", type=int, default=12, help="of all processes together (12)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds, 2 at least (9)")
    arguments = parser.parse_args(words)
    arguments.processes = sorted({1, *arguments.processes})
    if arguments.processes[0] < 1:
        parser.error("--processes: 1 at least")
    if arguments.repeats < 2:
        parser.error("--repeats: quartiles need 2 rounds at least")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Start the processes and print what the first one measured."""
    arguments = parsed(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    title = "Coherence on several processes of one machine"
    packages = ("torch", "numpy")
    print(head("cpu", 1, arguments.repeats, title, EXPLANATION, packages), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=work, args=(rank, arguments, folder), daemon=True)
            for rank in range(max(arguments.processes))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
