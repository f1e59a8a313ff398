"""Factories for the tests of ``python -m gencoh_lib.coherence``, right ones and wrong ones."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from gencoh_lib import coherence, models

SIZES = [7, 3, 1, 6, 4]  # uneven, and an odd number of batches


def examples(m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [m, 64] in float64 and labels, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(m, 64, dtype=torch.float64, generator=generator)
    return x, torch.randint(10, (m,), generator=generator)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All of them, in batches of these sizes."""
    x, y = examples(sum(SIZES))
    return list(zip(x.split(SIZES), y.split(SIZES), strict=True))


def right():
    """A model and batches, as a user has them."""
    return models.mlp([64, 6, 10], seed=0).double(), batches()


def under_its_own_name():
    """The same, from code that finds one library and not two copies of it."""
    assert coherence.Coherence.__module__ == coherence.Accumulator.__module__ == coherence.__name__
    assert sys.modules["__main__"].Probe is not coherence.Probe  # there is a second copy, idle
    return right()


def with_loss():
    """A loss of one's own, scaled, and inputs in a dict."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = right()[0]

        def forward(self, inputs):
            return self.inside(inputs["pixels"])

    def loss(outputs, targets):
        return 3 * F.cross_entropy(outputs, targets, reduction="none")

    return Named(), [({"pixels": x}, y) for x, y in batches()], loss


class Stream(torch.utils.data.IterableDataset):
    """Batches without a length."""

    def __iter__(self):
        return iter(batches())


def stream():
    return right()[0], torch.utils.data.DataLoader(Stream(), batch_size=None)


def one_shot():
    return right()[0], (batch for batch in batches())


def in_training_mode():
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    return model.double().train(), batches()


def fitted():
    """Zero gradients, all of them."""
    model = nn.Linear(64, 1, bias=False).double()
    return model, batches(), lambda outputs, targets: 0 * outputs.squeeze(1)


def nothing():
    return right()[0], []


def nan_in_the_second_batch():
    model, loader = right()
    loader[1][0][0, 0] = torch.nan
    return model, loader


def another_order_on_each_rank():
    model, loader = right()
    return model, loader[:: -1 if dist.get_rank() == 1 else 1]


def another_model_on_each_rank():
    return models.mlp([64, 6, 10], seed=dist.get_rank()).double(), batches()


def raising_on_rank_1():
    if dist.get_rank() == 1:
        raise KeyError("there is no such thing")
    return right()


def shuffled():
    model, _ = right()
    sample = torch.utils.data.TensorDataset(
        torch.cat([x for x, _ in batches()]), torch.arange(21) % 3
    )
    return model, torch.utils.data.DataLoader(sample, batch_size=7, shuffle=True)


def raising():
    raise KeyError("there is no such thing")


def model_alone():
    return right()[0]


def four_things():
    return 1, 2, 3, 4


def no_model():
    return "model", batches()


def no_loader():
    return right()[0], 7


def no_loss():
    return *right(), "cross-entropy"


def mean_loss():
    return *right(), F.cross_entropy


def not_a_tensor():
    return *right(), lambda outputs, targets: 1.0


def no_pairs():
    return right()[0], [{"x": x, "y": y} for x, y in batches()]


def three_parts():
    return right()[0], [(x, y, y) for x, y in batches()]


def single_examples():
    return right()[0], examples(9)[0]


def targets_in_a_list():
    return right()[0], [(x, y.tolist()) for x, y in batches()]


def float32_inputs():
    return right()[0], [(x.float(), y) for x, y in batches()]


def frozen():
    model, loader = right()
    return model.requires_grad_(False), loader


def disk_fails():
    def loader():
        yield from batches()[:2]
        raise OSError("the disk is gone")

    return right()[0], loader()


def file_is_gone():
    def loader():
        yield torch.load("nowhere.pt")

    return right()[0], loader()


def an_empty_batch():
    x, y = examples(3)
    return right()[0], [*batches(), (x[:0], y[:0])]


def exits():
    """As a script does that parses its own command line when it is imported."""
    sys.exit(0)


constant = 3
