"""What the processes of a ``torch.distributed`` group tell each other about one common sample.

A collective call waits for all ranks, so a rank that fails must not leave the others waiting. Here
the ranks first say how they fared, and only if all are well, and at the same point in parameter
space, do they exchange numbers; otherwise all of them raise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_T = TypeVar("_T")
_REMEDY = (
    "coherence is a function of one point in parameter space. Give every rank the same model: from "
    "one checkpoint, from one seed, or as DistributedDataParallel leaves it"
)


class Ranks:
    """The processes of a group, seen from one of them.

    ``like`` is a tensor on the device that this process computes on. Numbers travel from there
    where the backend can take them (nccl), from the host otherwise (gloo), and always in float64.
    """

    def __init__(self, group: dist.ProcessGroup | None, like: Tensor) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                "torch.distributed is not initialised: call torch.distributed.init_process_group() "
                "first, under torchrun for example. A single process needs no all_reduce()"
            )
        self.rank = dist.get_rank(group)
        if self.rank < 0:
            raise ValueError("this process is not a member of the group")
        self.size = dist.get_world_size(group)
        self._group = group
        self._device = _travelling(dist.get_backend_config(group), like.device)

    def share(self, value: _T) -> list[_T]:
        """Value of each rank, in their order."""
        values: list[_T] = [value] * self.size
        with self._current():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def totals(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the ranks of tensors that have the same names and shapes on each."""
        shared = {
            name: tensor.detach().to(self._device, torch.float64, copy=True).contiguous()
            for name, tensor in tensors.items()
        }
        with self._current():  # all under way at once: small ones wait for each other otherwise
            for work in [
                dist.all_reduce(tensor, group=self._group, async_op=True)
                for tensor in shared.values()
            ]:
                work.wait()
        return {name: shared[name].to(tensor) for name, tensor in tensors.items()}

    def side_by_side(self, columns: Tensor) -> Tensor:
        """[k, m] from the [k, m_r] of each rank, in their order; some m_r may be zero."""
        lengths = self.share(columns.shape[1])
        # a collective call takes equal shapes
        padded = torch.zeros(len(columns), max(lengths), dtype=torch.float64, device=self._device)
        padded[:, : columns.shape[1]] = columns.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        with self._current():
            dist.all_gather(parts, padded, group=self._group)
        whole = [part[:, :length] for part, length in zip(parts, lengths, strict=True)]
        return torch.cat(whole, 1).to(columns)

    @contextmanager
    def agreeing(
        self, facts: Callable[[], Mapping[str, object]] = dict, remedy: str = _REMEDY
    ) -> Iterator[None]:
        """Run a block on every rank; if it raises on one, or facts differ after it, all raise."""
        problem: Exception | None = None
        mine: dict[str, object] = {}
        try:
            yield
            mine = dict(facts())
        except Exception as error:
            problem = error
        reports = self.share((problem and f"{type(problem).__name__}: {problem}", mine))
        if problem is not None:
            raise problem
        for rank, (said, _) in enumerate(reports):
            if said is not None:
                raise RuntimeError(f"rank {rank} of {self.size} ranks failed: {said}")
        for rank, (_, theirs) in enumerate(reports):
            for name in {**reports[0][1], **theirs}:
                if reports[0][1].get(name) != theirs.get(name):
                    raise ValueError(f"{name} differs between rank 0 and rank {rank}: {remedy}")

    def _current(self) -> AbstractContextManager[object]:
        """Make the travelling device the current one, which is where nccl puts objects."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


def _travelling(backends: str, own: torch.device) -> torch.device:
    """Device to send from, by the group's backends, as in ``"cpu:gloo,cuda:nccl"``."""
    of_device = dict(pair.split(":") for pair in backends.lower().split(","))
    if of_device.get(own.type, "gloo") != "gloo":
        return own
    if "cpu" in of_device:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, under its own names; any other as it is."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def fingerprint(model: nn.Module) -> dict[str, str]:
    """Digest of every parameter and every buffer that a checkpoint would hold, by name.

    Buffers count: a gradient depends on the running statistics of batch norm too.
    """
    facts = {}
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "device_mesh"):
            raise ValueError(
                f"parameter {name!r} is spread over the ranks (a DTensor, as of FSDP or tensor "
                "parallelism): each rank must hold the whole model"
            )
        facts[f"parameter {name!r}"] = digest(parameter, str(parameter.requires_grad))
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(path, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                facts[f"buffer {name!r}"] = digest(buffer)
    return facts


def digest(tensor: Tensor, *more: str) -> str:
    """Hash of a tensor's shape, type and bits, and of what else is given."""
    found = hashlib.sha256(repr((tuple(tensor.shape), tensor.dtype, more)).encode())
    bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    found.update(bits.numpy().data)
    return found.hexdigest()
