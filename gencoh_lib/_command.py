"""The command ``python -m gencoh_lib.coherence``: measure a model and a loader of one's own.

On one process, or on those that torchrun starts. Nothing is scheduled here: every process calls the
factory, goes through the whole loader and measures each n-th batch of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

import gencoh_lib
from gencoh_lib import _distributed, coherence
from gencoh_lib._factory import Batches, Subject, doing, in_a_line, load, made

_DESCRIPTION = """\
Coherence of the per-example gradients of your own model on your own data.

FACTORY is package.module:function. The function takes nothing and returns (model, loader) or
(model, loader, loss): a torch.nn.Module, an iterable of batches (x, y), and a function of model(x)
and y that gives one loss an example, which is cross-entropy unless you return another.

Under torchrun every process calls the factory and must get the same model and the same batches, in
the same order; of n processes, process r then measures batches r, r + n, r + 2n and so on.
"""
_EPILOGUE = """\
examples:
  python -m gencoh_lib.coherence my_project.probe:make --interval --json coherence.json
  torchrun --nproc-per-node 2 -m gencoh_lib.coherence my_project.probe:make --device cpu

exit status: 0 measured; 1 not measured, and why is on standard error; 2 wrong usage
"""
_SAME_BATCHES = (
    "every process must see the same batches in the same order, of which it takes its share: "
    "switch off shuffling, random augmentation and DistributedSampler, or seed them in the factory"
)


class _Alone:
    """The part of :class:`gencoh_lib._distributed.Ranks` that is played by a single process."""

    rank, size = 0, 1

    def agreeing(self, *_: object) -> AbstractContextManager[None]:
        return nullcontext()


Ranks = _distributed.Ranks | _Alone


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    command = parser()
    options = command.parse_args(words)
    if options.checkpoint_key is not None and options.checkpoint is None:
        command.error("--checkpoint-key names an entry of --checkpoint FILE, and none is given")
    try:
        device = _device(options.device)
        with _processes(device, several_a_device=":" in (options.device or "")) as ranks:
            try:
                result, subject = measured(options, device, ranks)
                if ranks.rank == 0:
                    _say(result, subject, options, ranks.size)
            except Exception:
                # whatever went wrong, all ranks know of it by now, and one says it
                if options.traceback or ranks.rank == 0:
                    raise
                return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if options.traceback:
            raise
        hint = " (--traceback shows where)" if error.__cause__ else ""
        print(f"error: {in_a_line(error)}{hint}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gencoh_lib.coherence",
        description=_DESCRIPTION,
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("factory", metavar="FACTORY", help="package.module:function")
    add("--interval", action="store_true", help="also the jackknife interval: a second sweep")
    add("--confidence", type=_level, default=0.95, metavar="C", help="its nominal coverage (0.95)")
    add("--batches", type=_count, metavar="N", help="only the first N batches of the loader")
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps; by default cuda where there is one")
    add("--checkpoint", type=Path, metavar="FILE", help="state_dict to load into the model")
    add("--checkpoint-key", metavar="KEY", help="entry of FILE that holds the state_dict")
    add("--keep-modes", action="store_true", help="leave train and eval modes as the factory did")
    add("--json", type=Path, metavar="FILE", help="write every number there as well")
    add("--quiet", action="store_true", help="no progress bar")
    add("--traceback", action="store_true", help="show where in the code an error came from")
    return parser


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {word!r}")
    return int(word)


def _level(word: str) -> float:
    try:
        level = float(word)
    except ValueError:
        level = math.nan
    if not 0 < level < 1:
        raise argparse.ArgumentTypeError(f"a number between 0 and 1 is needed, got {word!r}")
    return level


def _device(asked: str | None) -> torch.device:
    """Device of this process: the GPU of its number on this machine, where GPUs are asked for."""
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {asked}: PyTorch knows no such device") from error
    if device.type == "meta":
        raise ValueError("--device meta: its tensors have no values to measure, use --device cpu")
    if device.type != "cuda":
        return device
    gpus = torch.cuda.device_count()
    number = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if number >= gpus:
        raise ValueError(
            f"--device {device}: this process needs GPU {number}, and PyTorch sees {gpus} GPUs "
            "here. Start one process a GPU, or use --device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@contextmanager
def _processes(device: torch.device, *, several_a_device: bool) -> Iterator[Ranks]:
    """Meet the other processes, if torchrun or the like has started some."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield _Alone()
        return
    nccl = device.type == "cuda" and not several_a_device
    dist.init_process_group("nccl" if nccl else "gloo")
    try:
        yield _distributed.Ranks(None, torch.empty(0, device=device))
    finally:
        dist.destroy_process_group()


def measured(
    options: argparse.Namespace, device: torch.device, ranks: Ranks
) -> tuple[coherence.Coherence, Subject]:
    """Make the model and the loader, and measure them; what fails on one rank fails on all."""
    with ranks.agreeing():
        if options.json is not None and ranks.rank == 0:
            _check_writable(options.json)
        subject = _prepared(options, device)
    with ranks.agreeing(lambda: _distributed.fingerprint(subject.model)):
        accumulator = coherence.Accumulator(subject.model, confidence=options.confidence)
    sweeps = [accumulator.update, accumulator.revisit] if options.interval else [accumulator.update]
    for number, step in enumerate(sweeps, 1):
        bar = None if options.quiet or ranks.rank else f"sweep {number} of {len(sweeps)}"
        joined = accumulator.all_reduce() if ranks.size > 1 else nullcontext()
        batches = Batches(subject.loader, options.batches, bar)
        with joined, ranks.agreeing(batches.facts, _SAME_BATCHES):
            for place, batch in batches:
                if place % ranks.size == ranks.rank:
                    with doing(f"batch {place + 1}"):
                        step(subject.losses(batch))
            if not batches.seen:
                raise ValueError("the loader gave no batch")
    return accumulator.result(), subject


def _prepared(options: argparse.Namespace, device: torch.device) -> Subject:
    """Call the factory, and bring its model to where and how it is to be measured."""
    subject = made(options.factory, device)
    if options.interval and isinstance(subject.loader, Iterator):
        raise ValueError(
            f"the loader of {options.factory} can be gone through only once, and --interval takes "
            "two sweeps: return a DataLoader or a list, or leave --interval out"
        )
    if options.checkpoint is not None:
        load(subject.model, options.checkpoint, options.checkpoint_key)
    with doing(f"moving the model to {device}"):
        subject.model.to(device)
    if not options.keep_modes:
        subject.model.eval()
    return subject


def _say(
    result: coherence.Coherence, subject: Subject, options: argparse.Namespace, processes: int
) -> None:
    """Write the file if one is wanted, and print the table; one that fails spares the other."""
    mode = "modes of the factory" if options.keep_modes else "eval mode"
    share = f"{processes} processes" if processes > 1 else "1 process"
    try:
        if options.json is not None:
            with doing(f"--json {options.json}"):
                _write(options.json, _report(result, subject, options, processes))
    finally:
        print(f"{options.factory}, {mode}, {share}, {subject.device.type}\n{result}", flush=True)


def _report(
    result: coherence.Coherence,
    subject: Subject,
    options: argparse.Namespace,
    processes: int,
) -> dict[str, object]:
    """Everything but the norms of single examples; what is not finite becomes None."""
    numbers = ("alpha", "m_coherence", "alpha_corrected", "standard_error", "gradient_diversity")
    more = ("noise_scale", "mean_gradient_squared_norm")
    return {
        "factory": options.factory,
        "checkpoint": None if options.checkpoint is None else str(options.checkpoint),
        "model": type(subject.model).__name__,
        "eval_mode": not options.keep_modes,
        "device": subject.device.type,
        "processes": processes,
        "versions": {"gencoh_lib": gencoh_lib.__version__, "torch": torch.__version__},
        "examples": result.examples,
        **{name: _finite(getattr(result, name)) for name in numbers + more},
        "interval": [_finite(end) for end in result.interval],
        "confidence": result.confidence,
        "by_layer": {name: _block(block) for name, block in result.by_layer.items()},
        "by_parameter": {name: _block(block) for name, block in result.by_parameter.items()},
        "frozen": list(result.frozen),
        "routes": dict(result.routes),
        "reason": result.reason,
    }


def _block(block: coherence.Block) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in asdict(block).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_writable(file: Path) -> None:
    """Refuse a file that could not be written in the end, before the work and not after it."""
    with doing(f"--json {file}"):
        if file.is_dir():
            raise ValueError("this is a folder; name a file in it")
        if not file.parent.is_dir():
            raise ValueError(f"there is no folder {file.parent}")
        tempfile.TemporaryFile(dir=file.parent).close()


def _write(file: Path, report: Mapping[str, object]) -> None:
    """Write the whole file or nothing: what stands there under its name is never half of one."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
