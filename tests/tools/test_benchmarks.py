"""The benchmark's tables are whole and honest; nothing here looks at how long anything took.

A tiny model stands in for the real ones, and the rivals are taken to be not installed, as they
are not in the environment of the tests.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import measure, methods, models, processes, run, sparsity
from benchmarks.processes import Span
from gencoh_lib import coherence

TINY = models.Task(
    "Tiny", lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 10)), (5,), 6
)
HERE = ("plain", "plain+length", "ours", "loop", "vmap")
RIVALS = ("BackPACK", "Opacus-ghost", "Opacus-grad-sample")


@pytest.fixture
def rows(monkeypatch):
    found = methods.importlib.import_module

    def missing(name, *rest, **more):
        if name.split(".")[0] not in ("backpack", "opacus"):
            return found(name, *rest, **more)  # others import lazily too
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    monkeypatch.setattr(methods.importlib, "import_module", missing)
    return {row.method: row for row in measure.measure(TINY, repeats=2)}


def cells(text):
    """The rows of a Markdown table, header and rule included, as lists of cells."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_every_method_that_is_here_is_timed_and_right(rows):
    for name in HERE:
        assert rows[name].cpu.seconds > 0
        assert rows[name].cpu.quartiles[0] <= rows[name].cpu.ratio <= rows[name].cpu.quartiles[1]
        assert not rows[name].notes
    assert rows["plain"].cpu.ratio == 1
    assert rows["plain"].error is None
    assert all(rows[name].error < 1e-5 for name in HERE[1:])


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_that_is_not_installed_keeps_its_row_and_says_so(rows, name):
    assert rows[name].cpu is None
    assert rows[name].notes == [f"{name.split('-')[0].lower()} is not installed"]


def test_tables_are_well_formed(rows):
    rows["ours"].peak, rows["plain"].peak = 3 * 2.0**20, 2 * 2.0**20
    text = run.table(TINY, list(rows.values()))
    header, rule, *body = cells(text)
    assert text.startswith("## Tiny, batch 6\n\n|")
    assert header[:3] == ["method", "CPU ratio", "CPU ms"]
    assert all(set(cell) <= set("-:") for cell in rule)
    assert [row[0] for row in body] == [*HERE, *RIVALS]
    assert {len(row) for row in (rule, *body)} == {len(header)}
    assert body[2][header.index("memory, MiB")] == "3 (1.50)"
    assert body[-1][header.index("remarks")] == "opacus is not installed"


def test_a_column_that_nothing_fills_is_left_out(rows):
    header = cells(run.table(TINY, [rows["plain"]]))[0]
    assert "memory, MiB" not in header
    assert "remarks" not in header


def test_growth_has_a_column_for_each_batch():
    two = {name: methods.METHODS[name] for name in ("plain", "ours")}
    by_batch = {b: measure.measure(TINY, two, repeats=2, batch=b, truth=False) for b in (3, 6)}
    header, _, plain, ours = cells(run.growth(TINY, by_batch))
    assert header == ["batch", "3", "6"]
    assert [cell.split()[1] for cell in plain[1:]] == ["ms", "ms"]
    assert all(float(cell) > 0 for cell in ours[1:])


def test_the_head_names_hardware_versions_and_date():
    text = run.head("cpu", threads=1, repeats=2)
    for word in ("Date: 20", "Processor: ", "torch 2.", "Rounds: 2"):
        assert word in text


def test_an_error_shows_in_the_squares_and_in_the_mean():
    truth = methods.reference(TINY.problem())
    wrong = truth.squares.clone()
    wrong[3] *= 1.25
    assert measure.error(truth._replace(squares=wrong), truth) == pytest.approx(0.25)
    assert measure.error(truth._replace(mean_square=truth.mean_square / 2), truth) == 0.5


def test_rules_that_a_rival_lacks_are_counted(monkeypatch):
    def partial(problem):
        return lambda: methods.ours(problem)()._replace(left_out=1)

    (_, row) = measure.measure(TINY, {"plain": methods.plain, "partial": partial}, repeats=2)
    assert row.notes == ["no rule for 1 of 4 parameters"]


def test_a_method_that_fails_says_how():
    def broken(problem):
        raise RuntimeError("no such kernel\nand a long trace")

    (_, row) = measure.measure(TINY, {"plain": methods.plain, "broken": broken}, repeats=2)
    assert row.notes == ["RuntimeError: no such kernel"]


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "transformer"])
def test_ours_is_right_on_the_models_that_are_timed(name):
    task = replace(models.TASKS[name], batch=2)
    found = methods.ours(task.problem())()
    assert measure.error(found, methods.reference(task.problem())) < 1e-5


def test_problems_are_the_same_every_time_and_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    one, two = TINY.problem(), TINY.problem()
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.losses(), two.losses())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_round_is_refused():
    with pytest.raises(SystemExit):
        run.parsed(["--repeats", "1"])


def test_the_table_of_processes_divides_by_one_process_of_the_same_round():
    # two rounds; the machine is twice as slow in the second, for everybody
    alone = [[Span(0, 1.9, 2, 2, 0.5)], [Span(10, 13.9, 14, 4, 0.5)]]
    pair = [
        [Span(0, 0.5, 1.25, 1, 0.5), Span(0, 1.0, 1.25, 2, 0.5)],
        [Span(10, 11.0, 12.5, 3, 0.5), Span(10, 12.0, 12.5, 3, 0.75)],
    ]
    header, _, one, two = cells(processes.table({1: alone, 2: pair}))
    wanted = ["processes", "ms", "speed-up", "efficiency", "CPU", "exchange", "difference"]
    assert header == wanted
    assert one == ["1", "3e+03", "1.00 [1.00, 1.00]", "100%", "1.00", "1e+02 ms", "0e+00"]
    assert two == ["2", "1.88e+03", "1.60 [1.60, 1.60]", "80%", "1.50", "3.8e+02 ms", "5e-01"]


def test_a_sweep_measures_its_share_of_the_batches():
    problem = TINY.problem(batch=12)
    span = processes.sweep(problem, 4, rank=0, size=1, group=None)
    losses = problem.losses()
    alpha = coherence.measure(losses, problem.model, interval=False).alpha
    assert span.alpha == pytest.approx(alpha, rel=1e-5)
    assert span.began <= span.worked <= span.ended


def test_two_processes_agree_with_one(tmp_path):
    words = ["--tasks", "mlp", "--processes", "2", "--batches", "3", "--repeats", "2"]
    root = Path(processes.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.processes", *words],
        env=os.environ | {"PYTHONPATH": str(root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    _, _, one, two = cells(done.stdout)
    assert (one[0], two[0]) == ("1", "2")
    assert float(two[-1]) < 1e-6


@pytest.mark.parametrize("words", [["--repeats", "1"], ["--processes", "0"]])
def test_processes_refuse_what_gives_no_table(words):
    with pytest.raises(SystemExit):
        processes.parsed(words)


@pytest.mark.parametrize("examples", [0, 100])
def test_the_bound_is_measured_with_its_search(examples):
    case = sparsity.Case("tiny", (4,), examples, "one-shot")
    found = sparsity.cost(case, rounds=1, steps=2)
    assert found.examples == 10_000 - examples
    assert 0 < found.best <= found.dense
    assert found.tried >= 81  # perturbations of the default grid
    assert found.cpu > 0
    assert found.peak > 2**20 or found.peak != found.peak  # NaN where the system does not tell


def test_the_table_of_bounds_has_a_row_for_each_case():
    one = sparsity.Cost(10_000, 1.25, 2.0, 3 * 2**20, 81, 0.5, 0.75, (19, 3), 15.9)
    header, _, row = cells(sparsity.table({"deep": one}))
    assert header[:5] == ["case", "images", "CPU s", "wall s", "memory, MiB"]
    wanted = ["10000", "1.2", "2.0", "3", "81", "0.500", "0.750", "19, 3", "15.9"]
    assert row == [sparsity.CASES["deep"].title, *wanted]


@pytest.mark.parametrize("words", [["--repeats", "0"], ["--cases", "vgg"]])
def test_bounds_refuse_what_gives_no_table(words):
    with pytest.raises(SystemExit):
        sparsity.parsed(words)
