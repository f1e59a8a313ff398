"""The command `python -m gencoh_lib.coherence`: here, in a process of its own, under torchrun.

What it measures is compared with the library called by hand; what it refuses has to be said in a
line or two, on standard error, with the exit status that a script can act on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gencoh_lib import _command, coherence
from gencoh_lib._factory import Batches
from tests.lib import factories

ROOT = Path(factories.__file__).parents[2]
HERE = "tests.lib.factories"
NUMBERS = (
    "alpha",
    "m_coherence",
    "alpha_corrected",
    "standard_error",
    "noise_scale",
    "gradient_diversity",
    "mean_gradient_squared_norm",
    "examples",
    "confidence",
)


@pytest.fixture(autouse=True)
def alone_on_the_cpu(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GENCOH_FRONT_END"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def run(capsys, factory: str, *more: str) -> tuple[int, str, str]:
    status = _command.main([factory if ":" in factory else f"{HERE}:{factory}", *more])
    return (status, *capsys.readouterr())


def by_hand(model: nn.Module) -> coherence.Coherence:
    x, y = (torch.cat(parts) for parts in zip(*factories.batches(), strict=True))
    return coherence.measure(F.cross_entropy(model(x), y, reduction="none"), model)


def started(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run Python in the repository's root; kill it if it hangs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def under_torchrun(factory: str, folder: Path, *more: str) -> subprocess.CompletedProcess:
    # a free port that is found by listening, on this machine alone
    meeting = ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    launcher = ["-m", "torch.distributed.run", *meeting, "--local-addr=127.0.0.1"]
    command = ["-m", "gencoh_lib.coherence", f"{HERE}:{factory}", "--device", "cpu", *more]
    return started([*launcher, "--nproc-per-node=2", *command], folder)


def test_the_table_and_the_file_say_what_the_library_says(capsys, tmp_path):
    file = tmp_path / "coherence.json"
    status, out, err = run(capsys, "right", "--interval", "--json", str(file))
    truth = by_hand(factories.right()[0])
    assert status == 0
    first, table = out.split("\n", 1)
    assert first == f"{HERE}:right, eval mode, 1 process, cpu"
    assert table == f"{truth!r}\n"
    assert "sweep 1 of 2" in err
    assert "sweep 2 of 2" in err
    found = json.loads(file.read_text())
    for name in NUMBERS:
        assert found[name] == pytest.approx(getattr(truth, name), rel=1e-10)
    assert found["interval"] == pytest.approx(truth.interval, rel=1e-10)
    assert found["by_layer"]["layer1"]["alpha"] == pytest.approx(truth.by_layer["layer1"].alpha)
    assert list(found["by_parameter"]) == list(truth.by_parameter)
    assert found["routes"] == dict(truth.routes)
    assert found["processes"] == 1
    assert list(tmp_path.iterdir()) == [file]


def test_one_sweep_has_no_interval_and_writes_null_for_it(capsys, tmp_path):
    file = tmp_path / "out.json"
    status, out, _ = run(capsys, "right", "--json", str(file), "--confidence", "0.9")
    assert status == 0
    assert "90% jackknife interval [nan, nan]" in out
    found = json.loads(file.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert found["interval"] == [None, None]
    assert "second sweep" in found["reason"]


def test_a_loss_of_ones_own_and_inputs_in_a_dict(capsys, tmp_path):
    file = tmp_path / "out.json"
    assert run(capsys, "with_loss", "--json", str(file))[0] == 0
    truth, found = by_hand(factories.right()[0]), json.loads(file.read_text())
    assert found["alpha"] == pytest.approx(truth.alpha, rel=1e-10)
    assert found["mean_gradient_squared_norm"] == pytest.approx(
        9 * truth.mean_gradient_squared_norm, rel=1e-10
    )


@pytest.mark.parametrize("factory", ["stream", "one_shot", "right"])
def test_loaders_without_a_length_and_the_first_batches_only(capsys, tmp_path, factory):
    file = tmp_path / "out.json"
    assert run(capsys, factory, "--batches", "3", "--json", str(file))[0] == 0
    assert json.loads(file.read_text())["examples"] == sum(factories.SIZES[:3])
    assert run(capsys, factory, "--batches", "99", "--json", str(file))[0] == 0
    assert json.loads(file.read_text())["examples"] == sum(factories.SIZES)


def test_the_model_is_measured_in_eval_mode_unless_its_modes_are_to_be_kept(capsys):
    assert run(capsys, "in_training_mode")[0] == 0
    status, _, err = run(capsys, "in_training_mode", "--keep-modes")
    assert status == 1
    assert "batch 1: batch-norm layer '1' normalised by the statistics of the batch" in err


def test_where_all_gradients_vanish_there_is_no_number_but_a_reason(capsys, tmp_path):
    file = tmp_path / "out.json"
    status, out, _ = run(capsys, "fitted", "--interval", "--json", str(file))
    assert status == 0
    assert "all gradients vanish" in out
    found = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert found["alpha"] is None
    assert "all gradients vanish" in found["reason"]


def test_quiet_leaves_standard_error_to_errors(capsys):
    status, out, err = run(capsys, "right", "--quiet")
    assert (status, err) == (0, "")
    assert "m-coherence" in out


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {f"module.{n}": v for n, v in s.items()}])
@pytest.mark.parametrize("key", [None, "state"])
def test_a_checkpoint_is_loaded_also_from_data_parallel_training(capsys, tmp_path, wrap, key):
    model = factories.right()[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    state, file = wrap(model.state_dict()), tmp_path / "model.pt"
    torch.save(state if key is None else {key: state, "epoch": 7}, file)
    more = [] if key is None else ["--checkpoint-key", key]
    out = tmp_path / "out.json"
    status, *_ = run(capsys, "right", "--checkpoint", str(file), "--json", str(out), *more)
    assert status == 0
    found = json.loads(out.read_text())
    assert found["alpha"] == pytest.approx(by_hand(model).alpha, rel=1e-10)
    assert found["checkpoint"] == str(file)


class Harmful:
    def __reduce__(self):
        return print, ("this code must not run",)


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        ({"epoch": 3}, [], ["lacks layer1.weight, layer1.bias", "--checkpoint-key"]),
        ({"epoch": 3}, ["--checkpoint-key", "model"], ["no entry 'model'", "holds epoch"]),
        (7, [], ["a state_dict is needed, got one of type int"]),
        ("shape", [], ["in another shape layer1.weight"]),
        ("more", [], ["has, and the model has not, extra"]),
        (Harmful(), [], ["more than tensors", "torch.save(model.state_dict()"]),
        (None, [], ["No such file or directory: "]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(capsys, tmp_path, content, more, words):
    file = tmp_path / "model.pt"
    state = factories.right()[0].state_dict()
    if content == "shape":
        content = state | {"layer1.weight": torch.zeros(6, 63)}
    elif content == "more":
        content = state | {"extra": torch.zeros(1)}
    if content is not None:
        torch.save(content, file)
    status, out, err = run(capsys, "right", "--checkpoint", str(file), *more)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: --checkpoint {file}: ")
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("nowhere.at_all:make", ["no module 'nowhere' to import from", "PYTHONPATH"]),
        ("tests.lib.nowhere:make", ["no module 'tests.lib.nowhere'"]),
        (f"{HERE}:absent", ["module 'tests.lib.factories' has no 'absent'"]),
        (f"{HERE}:constant", ["is of type int, not a function"]),
        ("..factories:right", ["write package.module:function"]),
        (f"{HERE}:", ["write package.module:function"]),
        ("tests/lib/factories.py:right", ["write package.module:function, without .py"]),
        ("raising", [f"calling {HERE}:raising: KeyError: 'there is no such thing'", "--traceback"]),
        ("model_alone", ["must return (model, loader)", "got Sequential"]),
        ("four_things", ["must return (model, loader)", "got 4 values"]),
        ("no_model", ["its model is of type str, not a torch.nn.Module"]),
        ("no_loader", ["its loader is of type int, not an iterable"]),
        ("no_loss", ["its loss is of type str, not a function"]),
        ("mean_loss", ["batch 1: loss must return one number an example", "reduction='none'"]),
        ("not_a_tensor", ["batch 1: TypeError: losses must be a torch.Tensor, got float"]),
        ("no_pairs", ["batch 1: the loader must give pairs (x, y), got dict"]),
        ("three_parts", ["batch 1: the loader must give pairs (x, y), got 3 parts"]),
        ("single_examples", ["batch 1: the loader must give pairs (x, y), got Tensor"]),
        ("targets_in_a_list", ["batch 1: the targets y must be a tensor", "got list"]),
        ("float32_inputs", ["batch 1: ", "the inputs are torch.float32", "torch.float64"]),
        ("frozen", ["all 4 parameters of the model are frozen"]),
        ("nothing", ["the loader gave no batch"]),
        ("nan_in_the_second_batch", ["batch 2: losses hold NaN or infinity at 1 of 3 examples"]),
        ("disk_fails", ["batch 3: OSError: the disk is gone"]),
        ("file_is_gone", ["batch 1: No such file or directory: nowhere.pt"]),
        ("an_empty_batch", ["batch 6: the batch has no examples"]),
        ("exits", [f"calling {HERE}:exits: the code ended the program, sys.exit(0)"]),
    ],
)
def test_what_a_factory_does_wrong_is_said_in_a_line(capsys, tmp_path, factory, words):
    file = tmp_path / "out.json"
    status, out, err = run(capsys, factory, "--quiet", "--json", str(file))
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not file.exists()


def test_a_module_that_misses_another_is_not_called_missing_itself(capsys, tmp_path, monkeypatch):
    (tmp_path / "wants_more.py").write_text("import gencoh_is_not_a_package_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    _, _, err = run(capsys, "wants_more:make")
    assert "importing wants_more: ModuleNotFoundError: No module named 'gencoh_is_not" in err


@pytest.mark.parametrize(
    ("factory", "more", "words"),
    [
        ("one_shot", ["--interval"], ["can be gone through only once", "DataLoader or a list"]),
        ("shuffled", ["--interval"], ["batch 1: revisit() number 1", "in the same order"]),
        ("right", ["--device", "cuda"], ["needs GPU 0, and PyTorch sees 0 GPUs"]),
        ("right", ["--device", "abacus"], ["--device abacus: PyTorch knows no such device"]),
        ("right", ["--device", "meta"], ["--device meta", "have no values"]),
        ("right", ["--json", "nowhere/at/all.json"], ["there is no folder nowhere/at"]),
        ("right", ["--json", "."], ["--json .: this is a folder; name a file in it"]),
    ],
)
def test_what_options_ask_and_cannot_be_had(capsys, monkeypatch, factory, more, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    torch.manual_seed(0)
    status, out, err = run(capsys, factory, "--quiet", *more)
    assert (status, out) == (1, "")
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--batches", "0"],
        ["--batches", "x"],
        ["--confidence", "2"],
        ["--speed"],
        ["--checkpoint-key", "model"],
    ],
)
def test_wrong_usage_has_a_status_of_its_own(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        run(capsys, "right", *words) if words else _command.main([])
    assert stopped.value.code == 2
    assert "usage: python -m gencoh_lib.coherence" in capsys.readouterr().err


def test_traceback_lets_the_error_through(capsys):
    with pytest.raises(ValueError, match="calling") as raised:
        run(capsys, "raising", "--traceback")
    assert isinstance(raised.value.__cause__, KeyError)


def test_an_interrupt_is_no_error_of_ours(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_command, "measured", interrupted)
    assert run(capsys, "right") == (130, "", "")


def test_a_file_that_cannot_be_finished_leaves_the_old_one(capsys, tmp_path, monkeypatch):
    file = tmp_path / "out.json"
    file.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    status, out, err = run(capsys, "right", "--quiet", "--json", str(file))
    assert status == 1
    assert err == f"error: --json {file}: OSError: disk full (--traceback shows where)\n"
    assert "m-coherence" in out  # what was measured is not lost
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_takes_no_files_is_found_out_before_the_work(capsys, tmp_path, monkeypatch):
    def refused(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(_command.tempfile, "TemporaryFile", refused)
    status, out, err = run(capsys, "right", "--json", str(tmp_path / "out.json"))
    assert (status, out) == (1, "")
    assert f"out.json: Permission denied: {tmp_path}" in err
    assert "sweep" not in err


def test_each_process_gets_the_gpu_of_its_number(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _command._device(None) == _command._device("cuda") == torch.device("cuda", 1)
    assert _command._device("cuda:0") == torch.device("cuda", 0)
    assert chosen == [1, 1, 0]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="needs GPU 2, and PyTorch sees 2 GPUs"):
        _command._device("cuda")


def test_as_a_command_it_runs_on_one_copy_of_the_library(tmp_path):
    words = ["-m", "gencoh_lib.coherence", f"{HERE}:under_its_own_name", "--device", "cpu"]
    done = started([*words, "--quiet"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert repr(by_hand(factories.right()[0])).split("95%")[0] in done.stdout


def test_under_torchrun_it_measures_what_one_process_measures(capsys, tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    run(capsys, "right", "--interval", "--json", str(one))
    done = under_torchrun("right", tmp_path, "--interval", "--json", str(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("m-coherence") == 2  # the value, and the head of the table by layer
    assert done.stdout.startswith(f"{HERE}:right, eval mode, 2 processes, cpu\n")
    assert done.stderr.count("sweep 1 of 2:   0%") == 1  # one bar
    alone, together = json.loads(one.read_text()), json.loads(two.read_text())
    assert (alone.pop("processes"), together.pop("processes")) == (1, 2)
    for name, value in alone.items():
        if isinstance(value, float) or name == "interval":
            assert together[name] == pytest.approx(value, rel=1e-12, abs=1e-12)
        elif name.startswith("by_"):
            for block, numbers in value.items():
                assert together[name][block] == pytest.approx(numbers, rel=1e-12)
        else:
            assert together[name] == value


def test_under_torchrun_an_error_ends_all_processes_and_is_said_once(tmp_path):
    done = under_torchrun("nan_in_the_second_batch", tmp_path, "--quiet", "--json", "out.json")
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "rank 1 of 2 ranks failed: ValueError: batch 2: losses hold NaN" in line
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_a_loader_sees_another_order_and_other_inputs():
    def facts(loader, limit=None):
        batches = Batches(loader, limit, None)
        assert [place for place, _ in batches] == list(range(limit or len(loader)))
        return batches.facts()

    loader = factories.batches()
    changed = [(x + 1e-9 * (place == 2), y) for place, (x, y) in enumerate(loader)]
    assert facts(loader) == facts(factories.batches())
    for other in (loader[::-1], loader[:-1], changed):
        assert facts(other) != facts(loader)
    assert facts(loader, 2) == facts(loader[:2])


def test_the_factory_on_the_set_up_page_works_as_the_page_says(capsys, tmp_path, monkeypatch):
    page = (ROOT / "chapters/foundations/set-up.md").read_text()
    section = page.partition("## Your own network")[2].partition("\n## ")[0]
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", section, re.S) if "def make" in b]
    words = re.search(r"python -m gencoh_lib.coherence (.*)", section)[1].split()
    (tmp_path / "my_probe.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words)[0] == 0
    found = json.loads((tmp_path / "coherence.json").read_text())
    assert found["examples"] == 200
    assert None not in found["interval"]
