"""What a Hessian-vector product costs, in gradients: ``python -m benchmarks.curvature``.

A gradient is one forward and one backward pass of the mean loss over the same batch. In every
round each method runs once, in an order of its own, and is divided by the gradient of that same
round. The library keeps one graph for all products; what building it costs is a row of its own.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Timing
from benchmarks.models import TASKS, Problem, Task
from benchmarks.run import head, markdown
from gencoh_lib import curvature

__all__ = ["METHODS", "Row", "main", "measure", "table"]

EXPLANATION = """\
One product with one vector, in gradients (a forward and a backward pass of the mean loss over the
same batch): the median over rounds of CPU time, with the lower and upper quartile in brackets.
Graph: what the library pays once, before any number of products. Error: against a product in
float64, relative.
"""
Run = Callable[[], Tensor | None]
Method = Callable[[Problem, Tensor], Run]


def gradient(problem: Problem, vector: Tensor) -> Run:
    """Forward and backward: the unit."""
    parameters = list(problem.model.parameters())

    def run() -> None:
        torch.autograd.grad(problem.losses().mean(), parameters)

    return run


def graph(problem: Problem, vector: Tensor) -> Run:
    """What ours pays once: the loss and its gradient, with a graph."""
    named = dict(problem.model.named_parameters())

    def run() -> None:
        curvature.hessian(problem.losses().mean(), named)

    return run


def ours(problem: Problem, vector: Tensor) -> Run:
    """The library's Hessian."""
    operator = curvature.hessian(problem.losses().mean(), dict(problem.model.named_parameters()))
    return lambda: operator(vector)


def ours_gauss_newton(problem: Problem, vector: Tensor) -> Run:
    """The library's Gauss-Newton matrix."""
    outputs = problem.model(problem.x)
    loss = F.cross_entropy(outputs, problem.y)
    operator = curvature.gauss_newton(loss, outputs, dict(problem.model.named_parameters()))
    return lambda: operator(vector)


def from_scratch(problem: Problem, vector: Tensor) -> Run:
    """Textbook: the graph is built anew for every product."""
    named = dict(problem.model.named_parameters())
    return lambda: curvature.hessian(problem.losses().mean(), named)(vector)


def _curvlinops(kind: str) -> Method:
    def method(problem: Problem, vector: Tensor) -> Run:
        linops = importlib.import_module("curvlinops")
        operator = getattr(linops, kind)(
            problem.model,
            torch.nn.CrossEntropyLoss(),
            list(problem.model.parameters()),
            [(problem.x, problem.y)],
            check_deterministic=False,
        )
        return lambda: operator @ vector

    return method


def _eigenthings(kind: str) -> Method:
    def method(problem: Problem, vector: Tensor) -> Run:
        things = importlib.import_module("hessian_eigenthings")
        batches = [(problem.x, problem.y)]
        if kind == "HessianOperator":
            operator = things.HessianOperator(
                problem.model, batches, things.supervised_loss(F.cross_entropy)
            )
        else:
            operator = things.GGNOperator(
                problem.model,
                batches,
                things.supervised_forward,
                things.supervised_loss_of_output(F.cross_entropy),
            )
        return lambda: operator @ vector

    return method


METHODS: Mapping[str, Method] = {
    "gradient": gradient,
    "ours: graph": graph,
    "ours: Hessian": ours,
    "Hessian from scratch": from_scratch,
    "curvlinops: Hessian": _curvlinops("HessianLinearOperator"),
    "hessian-eigenthings: Hessian": _eigenthings("HessianOperator"),
    "ours: Gauss-Newton": ours_gauss_newton,
    "curvlinops: Gauss-Newton": _curvlinops("GGNLinearOperator"),
    "hessian-eigenthings: Gauss-Newton": _eigenthings("GGNOperator"),
}


@dataclass
class Row:
    """One method: its timing, its error, or why there is none."""

    timing: Timing | None = None
    error: float | None = None
    remark: str = ""


def measure(task: Task, repeats: int, methods: Mapping[str, Method] = METHODS) -> dict[str, Row]:
    """Time and check every method on one task; `methods` must hold ``"gradient"``."""
    problem = task.problem()
    size = sum(parameter.numel() for parameter in problem.model.parameters())
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0))
    wanted = {
        kind: method(task.problem().double(), vector.double())()
        for kind, method in (("Hessian", ours), ("Gauss-Newton", ours_gauss_newton))
    }
    rows = {name: Row() for name in methods}
    runs: dict[str, Run] = {}
    for name, method in methods.items():
        try:
            run = method(problem, vector)
            found = run()
        except (ImportError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            rows[name].remark = str(error).strip().splitlines()[0]
            continue
        runs[name] = run
        truth = wanted["Gauss-Newton" if "Newton" in name else "Hessian"]
        if found is not None and truth is not None:
            rows[name].error = float((found.detach().double() - truth).norm() / truth.norm())
    seconds = _rounds(runs, repeats)
    for name, taken in seconds.items():
        rows[name].timing = Timing.of(taken, seconds["gradient"])
    return rows


def table(rows: Mapping[str, Row]) -> str:
    """One task in Markdown."""
    columns: dict[str, list[str]] = {
        name: [] for name in ("method", "gradients", "CPU ms", "error", "remarks")
    }
    for name, row in rows.items():
        timing = row.timing
        low, high = timing.quartiles if timing else (0.0, 0.0)
        columns["method"].append(name)
        columns["gradients"].append(f"{timing.ratio:.2f} [{low:.2f}, {high:.2f}]" if timing else "")
        columns["CPU ms"].append(f"{1e3 * timing.seconds:.3g}" if timing else "")
        columns["error"].append("" if row.error is None else f"{row.error:.0e}")
        columns["remarks"].append(row.remark)
    return markdown(columns)


def _rounds(runs: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
    """Seconds of CPU of every method in every round, in shuffled order."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    shuffle = random.Random(0).shuffle
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            began = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - began)
    return seconds


def main(words: Sequence[str] | None = None) -> int:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curvature", description=__doc__)
    known = ("mlp", "cnn", "resnet18", "transformer")
    default = ["mlp", "cnn", "transformer"]
    parser.add_argument("--tasks", nargs="+", choices=known, default=default, metavar="TASK")
    parser.add_argument("--repeats", type=int, default=15, help="rounds, 2 at least (15)")
    arguments = parser.parse_args(words)
    if arguments.repeats < 2:
        parser.error("--repeats: quartiles need 2 rounds at least")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    packages = ("torch", "curvlinops-for-pytorch", "hessian-eigenthings", "numpy")
    title = "Products with the Hessian: what they cost"
    print(head("cpu", 1, arguments.repeats, title, EXPLANATION, packages), flush=True)
    for name in arguments.tasks:
        print(f"## {TASKS[name].title}, batch {TASKS[name].batch}\n", flush=True)
        print(table(measure(TASKS[name], arguments.repeats)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
