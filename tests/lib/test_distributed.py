"""Coherence over several processes: real ones, which meet on this machine alone and in a file.

``ranks.py`` beside this file is what each process runs; here its outcomes are compared with one
process that sees all examples. A process that hangs is killed, and the test fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gencoh_lib import _distributed, coherence
from tests.lib import factories, ranks

WORKER = Path(ranks.__file__)


def launch(size: int, folder: Path, *more: str) -> list[dict]:
    """Outcomes of all ranks, each a process of its own; {} of one that left none."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[2])}
    if sys.platform == "linux":  # loopback has other names elsewhere
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(size), str(folder), *more],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"{rank}.pt" for rank in range(size)]
    assert files[0].exists(), "\n".join(said)
    return [torch.load(file) if file.exists() else {} for file in files]


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def outcomes(request, tmp_path_factory) -> list[dict]:
    return launch(request.param, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> coherence.Accumulator:
    model = ranks.Tied()
    accumulator = coherence.Accumulator(model)
    for sweep in (accumulator.update, accumulator.revisit):
        for x, y in ranks.sample([ranks.M]):
            sweep(ranks.losses_of(model, x, y))
    return accumulator


def test_the_shards_are_the_sample_and_uneven():
    for size, deals in ranks.SHARDS.items():
        for shares in deals.values():
            assert len(shares) == size
            assert sum(map(sum, shares)) == ranks.M
        assert [] in deals["empty"]


@pytest.mark.parametrize("name", ["even", "uneven", "empty", "subgroup", "ddp", "ddp_forward"])
def test_all_ranks_get_what_one_process_gets(outcomes, alone, name):
    wanted = ranks.whole(alone)
    members = outcomes[:-1] if name == "subgroup" else outcomes
    for outcome in members:
        found = outcome[name]
        assert found["numbers"] == pytest.approx(
            wanted["numbers"], rel=1e-12, abs=1e-12, nan_ok=True
        )
        torch.testing.assert_close(
            found["squared_norms"], wanted["squared_norms"], rtol=1e-12, atol=1e-12
        )
        for key in ("examples", "names", "routes"):
            assert found[key] == wanted[key]
    assert set(wanted["routes"].values()) == {"rule", "general", "unused"}


def test_every_rank_has_the_same_bits(outcomes):
    for name in ("uneven", "empty"):
        for outcome in outcomes[1:]:
            assert outcome[name]["squared_norms"].equal(outcomes[0][name]["squared_norms"])
            assert str(outcome[name]["numbers"]) == str(outcomes[0][name]["numbers"])


def test_one_sweep_is_enough_for_the_value_and_says_what_is_missing(outcomes):
    for outcome in outcomes:
        assert "second sweep" in outcome["one_sweep"]


def test_the_mean_gradient_is_that_of_all_ranks(outcomes):
    model = ranks.Tied()
    ((x, y),) = ranks.sample([ranks.M])
    ranks.losses_of(model, x, y).mean().backward()
    for outcome in outcomes:
        for found, parameter in zip(outcome["mean_gradient"], model.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-14)


def test_a_training_step_through_the_wrapper_is_right_after_a_measurement(outcomes):
    model, size = ranks.Tied().requires_grad_(True), len(outcomes)
    for rank in range(size):
        for x, y in ranks.shard("even", rank, size):
            (ranks.losses_of(model, x, y).mean() / size).backward()
    for outcome in outcomes:
        for found, parameter in zip(outcome["ddp_trains_on"], model.parameters(), strict=True):
            if parameter.grad is not None:
                torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other_parameters", ["parameter 'inside.weight'", "rank 0 and rank", "one checkpoint"]),
        ("other_buffers", ["buffer 'norm.running_mean'", "rank 0 and rank"]),
        ("other_frozen", ["parameter 'inside.bias'", "rank 0 and rank"]),
        ("other_sweep", ["the sweep that ends", "rank 0 and rank"]),
        ("nothing_anywhere", ["no batch", "any rank"]),
        ("both_sweeps_in_one_block", ["revisit()", "first sweep"]),
        ("third_block", ["new Accumulator"]),
        ("result_after_a_failure", ["not complete", "with accumulator.all_reduce()"]),
        ("not_a_block", ["not complete", "with accumulator.all_reduce()"]),
        ("update_after_the_block", ["update() after all_reduce()"]),
        ("second_sweep_outside", ["put the second in"]),
    ],
)
def test_what_no_rank_can_do_raises_on_all(outcomes, name, words):
    for outcome in outcomes:
        assert outcome[name].startswith("ValueError: ")
        assert all(word in outcome[name] for word in words), outcome[name]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("loader_raises", "OSError: the disk is gone"),
        ("loss_is_nan", "ValueError: losses hold NaN"),
        ("second_sweep_is_short", "ValueError: the second sweep is not complete"),
        ("step_between", "ValueError: the model's parameters changed"),
    ],
)
def test_what_fails_on_one_rank_raises_on_all_and_names_the_rank(outcomes, name, problem):
    *others, failing = outcomes
    assert failing[name].startswith(problem)
    for outcome in others:
        head = f"RuntimeError: rank {len(others)} of {len(outcomes)} ranks failed: {problem}"
        assert outcome[name].startswith(head)


def test_the_command_deals_the_batches_out_and_measures_them_all(outcomes):
    model, batches = factories.right()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    alpha = coherence.measure(ranks.losses_of(model, x, y), model, interval=False).alpha
    for outcome in outcomes:
        assert outcome["command"] == pytest.approx(alpha, rel=1e-12)
        assert "parameter 'layer1.weight' differs" in outcome["command_other_model"]
        assert "what the loader gives differs between rank 0" in outcome["command_other_order"]
        assert "switch off shuffling" in outcome["command_other_order"]
    for rank, outcome in enumerate(outcomes):
        said = "" if rank == 1 else f"RuntimeError: rank 1 of {len(outcomes)} ranks failed: "
        assert outcome["command_raises"].startswith(f"{said}ValueError: calling tests.lib.fact")


def test_a_process_outside_the_group_is_told(outcomes):
    assert "not a member" in outcomes[-1]["subgroup"]


def test_a_rank_that_dies_does_not_leave_the_others_waiting(tmp_path):
    left, gone = launch(2, tmp_path, "dying")
    assert left["dying"].startswith("RuntimeError")
    assert gone == {}


def test_without_a_group_all_reduce_says_how_to_make_one():
    model = nn.Linear(2, 1)
    accumulator = coherence.Accumulator(model)
    block = accumulator.all_reduce()
    with pytest.raises(RuntimeError, match="init_process_group"), block:
        pass


@pytest.mark.parametrize(
    ("backends", "own", "wanted"),
    [
        ("cpu:gloo", "cpu", "cpu"),
        ("cpu:gloo,cuda:nccl", "cuda:1", "cuda:1"),
        ("cpu:gloo,cuda:nccl", "cpu", "cpu"),
        ("cpu:gloo,cuda:gloo", "cuda:1", "cpu"),
        ("cuda:nccl", "cuda:1", "cuda:1"),
        ("cuda:nccl", "cpu", "cuda:3"),
        ("cpu:gloo", "mps", "cpu"),
    ],
)
def test_numbers_travel_from_a_device_that_the_backend_takes(monkeypatch, backends, own, wanted):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    found = _distributed._travelling(backends, torch.device(own))
    assert found == torch.device(wanted)


def test_the_fingerprint_sees_a_bit_a_type_and_a_buffer_and_no_scratch_space():
    model = nn.BatchNorm1d(2)
    model.register_buffer("scratch", torch.zeros(1), persistent=False)
    before = _distributed.fingerprint(model)
    assert set(before) == {
        "parameter 'weight'",
        "parameter 'bias'",
        "buffer 'running_mean'",
        "buffer 'running_var'",
        "buffer 'num_batches_tracked'",
    }
    model.scratch += 1
    assert _distributed.fingerprint(model) == before
    with torch.no_grad():
        model.weight[0] = torch.nextafter(model.weight[0], torch.tensor(9.0))
    changed = {
        name for name, value in _distributed.fingerprint(model).items() if value != before[name]
    }
    assert changed == {"parameter 'weight'"}
    half = _distributed.fingerprint(nn.BatchNorm1d(2).bfloat16())
    assert half["parameter 'bias'"] != before["parameter 'bias'"]


def test_a_parameter_that_is_spread_over_ranks_is_refused():
    model = nn.Linear(2, 1)
    model.weight.device_mesh = object()  # what a DTensor has
    with pytest.raises(ValueError, match=r"'weight' is spread over the ranks"):
        _distributed.fingerprint(model)


def test_the_wrapper_is_taken_off_without_a_collective_call():
    wrapped = object.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Linear(3, 2)
    accumulator = coherence.Accumulator(wrapped)
    accumulator.update(wrapped.module(torch.rand(4, 3)).sum(1))
    assert list(accumulator.result().by_parameter) == ["weight", "bias"]
