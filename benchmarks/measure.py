"""How methods are timed, weighed and checked.

Time: every round runs each method once, in an order of its own, and divides by the plain step of
that same round, so that slow drifts of the machine cancel; the median and quartiles over rounds
are kept. CPU time of the process is the steadier of the two, wall time is what is waited for.

Memory: a process of its own for each method, and in it how far memory rises above the level of
model and batch at rest: the resident high-water mark on Linux, PyTorch's count on a GPU. The
first call counts too, where a method looks around before it settles.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.methods import METHODS, Absent, Found, Method, Run, reference
from benchmarks.models import TASKS, Task

__all__ = ["Row", "Timing", "error", "measure", "peak", "peak_in_a_process"]

BASE = "plain"  # the method that all others are divided by


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, and what they are as multiples of the plain step's."""

    seconds: float
    ratio: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, seconds: Sequence[float], base: Sequence[float]) -> Timing:
        """Summarise rounds; two at least."""
        ratios = [mine / plain for mine, plain in zip(seconds, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(statistics.median(seconds), middle, (low, high))


@dataclass
class Row:
    """One method on one task; what could not be had is None, and ``note`` says why."""

    method: str
    cpu: Timing | None = None
    wall: Timing | None = None
    first: float | None = None  # time of the first call, as a multiple of the plain step's
    error: float | None = None
    peak: float | None = None  # bytes
    notes: list[str] = field(default_factory=list)


def measure(
    task: Task,
    methods: Mapping[str, Method] = METHODS,
    *,
    repeats: int,
    device: str = "cpu",
    batch: int | None = None,
    truth: bool = True,
) -> list[Row]:
    """Time and check methods on one task; `methods` must hold ``"plain"``.

    With `truth` the first results are compared with the float64 loop, which takes its time.
    """
    wanted = reference(task.problem(device, batch)) if truth else None
    rows = {name: Row(name) for name in methods}
    runs: dict[str, Run] = {}
    firsts: dict[str, tuple[float, float]] = {}
    for name, method in methods.items():
        try:
            run = prepared(task, method, device, batch)
            seconds, busy, found = _timed(run, device)
            firsts[name] = seconds, busy
            run()  # from here on every call is like the next
        except Exception as problem_met:
            rows[name].notes.append(reason(problem_met))
            continue
        runs[name] = run
        if wanted is not None:
            rows[name].error = error(found, wanted)
        if found.left_out:
            count = sum(1 for _ in task.build().parameters())
            rows[name].notes.append(f"no rule for {found.left_out} of {count} parameters")
    wall, cpu = _rounds(runs, repeats, device)
    for name in runs:
        rows[name].wall = Timing.of(wall[name], wall[BASE])
        rows[name].cpu = Timing.of(cpu[name], cpu[BASE]) if device == "cpu" else None
        base = (cpu if device == "cpu" else wall)[BASE]
        rows[name].first = firsts[name][device == "cpu"] / statistics.median(base)
    return list(rows.values())


def prepared(task: Task, method: Method, device: str, batch: int | None = None) -> Run:
    """Set a method up, with the imports and kernels behind it, which are not its own, loaded.

    That takes a call at another batch size, so that nothing is remembered of this one.
    """
    size = batch or task.batch
    method(task.problem(device, size - 1))()
    return method(task.problem(device, size))


def _rounds(
    runs: Mapping[str, Run], repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall and CPU seconds of each run in each round, the order shuffled every time."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    shuffle = random.Random(0).shuffle  # no method always comes after the same other
    order = list(runs)
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            gc.collect()
            seconds, busy, _ = _timed(runs[name], device)
            wall[name].append(seconds)
            cpu[name].append(busy)
    return wall, cpu


def _timed(run: Run, device: str) -> tuple[float, float, Found]:
    """Wall and CPU seconds of one call, work queued on a GPU included."""
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else bool
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    wait()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def error(found: Found, wanted: Found) -> float | None:
    """Largest relative error of all that a method measured; None if that is nothing."""
    pairs = ((found.squares, wanted.squares), (found.mean_square, wanted.mean_square))
    worst = [
        float(((mine.detach().double() - true).abs() / true).max())
        for mine, true in pairs
        if mine is not None and true is not None
    ]
    return max(worst, default=None)


def reason(problem_met: Exception) -> str:
    """Why there is no number, short enough for a table."""
    if isinstance(problem_met, Absent):
        return str(problem_met)
    if isinstance(problem_met, torch.OutOfMemoryError):
        return "out of memory"
    line = next(iter(str(problem_met).splitlines()), "")
    return f"{type(problem_met).__name__}: {line[:80]}"


def peak(task: Task, method: Method, device: str = "cpu") -> float | None:
    """Bytes that memory rises by in two steps of a method; None where that cannot be told.

    Right in a fresh process only: memory that was freed before may be used again unseen.
    """
    run = prepared(task, method, device)
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        rest = torch.cuda.memory_allocated()
    else:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
        except OSError:
            return None
        rest = _resident("VmRSS")
    for _ in range(2):
        run()
    return (torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")) - rest


def _resident(key: str) -> int:
    """Bytes that Linux counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def peak_in_a_process(task: str, method: str, device: str, threads: int) -> float | None:
    """:func:`peak` of a task and a method, both by name, in a process of its own."""
    # Small blocks go back to the system as soon as they are free: what is seen is what is held.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.measure", task, method, device, str(threads)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=os.environ | settings
    )
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    print(peak(TASKS[sys.argv[1]], METHODS[sys.argv[2]], sys.argv[3]))
