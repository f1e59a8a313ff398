"""Print what per-example gradients cost, as Markdown: ``python -m benchmarks.run --help``."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.measure import BASE, Row, Timing, measure, peak_in_a_process
from benchmarks.methods import METHODS, Method
from benchmarks.models import TASKS, Task

__all__ = ["growth", "head", "main", "markdown", "table"]

ON_CPU = ("mlp", "cnn", "resnet18", "transformer")
ON_GPU = ("resnet50", "gpt2-fp32", "gpt2-bf16", "resnet18", "transformer")
SHARES = (0.25, 0.5, 1, 2)  # of a task's batch, for the growth with its size
PACKAGES = ("torch", "opacus", "backpack-for-pytorch", "numpy")

EXPLANATION = """\
One run of one process. Ratios are to a plain forward and backward pass of the mean loss, taken in
the same round: the median over rounds, with the lower and upper quartile in brackets. First: the
first call, as a multiple of a plain step. Memory: the rise above the level at rest, and its ratio
to the plain step's. Error: the largest relative error of all the ‖gᵢ‖² and of ‖mean g‖², against a
loop over the examples in float64.
"""


def head(
    device: str,
    threads: int,
    repeats: int,
    title: str = "Per-example gradients: what they cost",
    explanation: str = EXPLANATION,
    packages: Sequence[str] = PACKAGES,
) -> str:
    """Say where, when and with what the numbers were taken."""
    now = datetime.datetime.now(datetime.UTC)
    facts = {
        "Date": f"{now:%Y-%m-%d %H:%M} UTC",
        "Processor": f"{_processor()}, {os.cpu_count()} cores; {threads} threads used, "
        f"{torch.get_num_threads()} by PyTorch; load {_load()}",
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "Versions": ", ".join(f"{name} {_version(name)}" for name in packages),
        "Rounds": str(repeats),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        precision = "TF32" if torch.backends.cuda.matmul.allow_tf32 else "full float32"
        facts["GPU"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"CUDA {torch.version.cuda}, {precision}"
        )
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return f"# {title}\n\n" + "\n".join(lines) + "\n\n" + explanation


def _processor() -> str:
    """The processor's name, as Linux knows it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def table(task: Task, rows: Sequence[Row]) -> str:
    """One task's rows in Markdown; columns that no row fills are left out."""
    base = next(row for row in rows if row.method == BASE)
    columns = {
        "method": [row.method for row in rows],
        "CPU ratio": [_ratio(row.cpu) for row in rows],
        "CPU ms": [_milliseconds(row.cpu) for row in rows],
        "wall ratio": [_ratio(row.wall) for row in rows],
        "wall ms": [_milliseconds(row.wall) for row in rows],
        "first": ["" if row.first is None else f"{row.first:.1f}" for row in rows],
        "memory, MiB": [_memory(row.peak, base.peak) for row in rows],
        "error": ["" if row.error is None else f"{row.error:.0e}" for row in rows],
        "remarks": ["; ".join(row.notes) for row in rows],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    return f"## {task.title}, batch {task.batch}\n\n{markdown(filled)}"


def growth(task: Task, by_batch: Mapping[int, Sequence[Row]]) -> str:
    """Ratio to the plain step for each method (a row) and batch size (a column)."""
    names = [row.method for row in next(iter(by_batch.values()))]
    columns = {"batch": names}
    for batch, rows in by_batch.items():
        columns[str(batch)] = [_growth_cell(row) for row in rows]
    return f"### {task.title}: growth with the batch\n\n{markdown(columns)}"


def _growth_cell(row: Row) -> str:
    timing = row.cpu or row.wall
    if timing is None:
        return "; ".join(row.notes)
    return f"{1e3 * timing.seconds:.3g} ms" if row.method == BASE else f"{timing.ratio:.2f}"


def _ratio(timing: Timing | None) -> str:
    if timing is None:
        return ""
    low, high = timing.quartiles
    return f"{timing.ratio:.2f} [{low:.2f}, {high:.2f}]"


def _milliseconds(timing: Timing | None) -> str:
    return "" if timing is None else f"{1e3 * timing.seconds:.3g}"


def _memory(peak: float | None, base: float | None) -> str:
    if peak is None:
        return ""
    ratio = f" ({peak / base:.2f})" if base else ""
    return f"{peak / 2**20:.0f}{ratio}"


def markdown(columns: Mapping[str, Sequence[str]]) -> str:
    """Pad columns to a table that reads well as plain text too; numbers to the right."""
    cleaned = {
        name: [cell.replace("|", "\\|") for cell in cells] for name, cells in columns.items()
    }
    first, last = next(iter(cleaned)), "remarks"
    widths = {name: max(map(len, [name, *cells])) for name, cells in cleaned.items()}

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if name in (first, last) else cell.rjust(width)
            for cell, (name, width) in zip(cells, widths.items(), strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * width if name in (first, last) else "-" * (width - 1) + ":"
        for name, width in widths.items()
    ]
    body = [line(row) for row in zip(*cleaned.values(), strict=True)]
    return "\n".join([line(list(cleaned)), line(rule), *body]) + "\n"


def sections(arguments: argparse.Namespace, methods: Mapping[str, Method]) -> Iterator[str]:
    """Yield the head, then each task's tables as they are ready."""
    yield head(arguments.device, arguments.threads, arguments.repeats)
    for name in arguments.tasks:
        task = TASKS[name]
        rows = measure(task, methods, repeats=arguments.repeats, device=arguments.device)
        if arguments.memory:
            for row in rows:
                if row.wall is not None:
                    row.peak = peak_in_a_process(
                        name, row.method, arguments.device, arguments.threads
                    )
        yield table(task, rows)
        if arguments.growth:
            yield growth(
                task,
                {
                    batch: measure(
                        task,
                        methods,
                        repeats=arguments.repeats,
                        device=arguments.device,
                        batch=batch,
                        truth=False,
                    )
                    for batch in (int(share * task.batch) for share in SHARES)
                },
            )


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument("--repeats", type=int, default=11, help="rounds, 2 at least (11)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tf32", action="store_true", help="let a GPU round float32 products")
    parser.add_argument("--memory", action="store_true", help="peak memory, a process a method")
    parser.add_argument("--growth", action="store_true", help="also other batch sizes")
    arguments = parser.parse_args(words)
    if arguments.repeats < 2:
        parser.error("--repeats: quartiles need 2 rounds at least")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    arguments.tasks = arguments.tasks or (ON_GPU if arguments.device == "cuda" else ON_CPU)
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is asked for and print it."""
    arguments = parsed(words)
    warnings.simplefilter("ignore")  # the rivals' own, about hooks and what is deprecated
    torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.tf32
    chosen = arguments.methods or METHODS
    methods = {name: METHODS[name] for name in METHODS if name in chosen or name == BASE}
    for section in sections(arguments, methods):
        print(section, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
