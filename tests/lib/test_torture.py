"""Ordinary layers on which per-example code goes wrong, each in three orders of its losses.

The shipped per-example libraries are silently wrong on four of these (padding_idx, circular
padding, grouped convolutions, tied weights) and refuse many more. Truth is a loop over examples.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gencoh_lib import per_example

M = 6
Y = torch.arange(M) % 3


class Through(nn.Module):
    """Named layers and a function that uses them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.through = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.through(self, x)


def sequence(*layers):
    return Through(lambda self, x: self.layers(x), layers=nn.Sequential(*layers))


def mean(*dims):
    return Through(lambda self, x: x.mean(dims))


def image(conv, features, *more):
    return sequence(conv, *more, nn.Flatten(), nn.Linear(features, 3))


def tied():
    model = Through(
        lambda self, x: self.head(torch.tanh(self.table(x).mean(1))),
        table=nn.Embedding(3, 4),
        head=nn.Linear(4, 3, bias=False),
    )
    model.head.weight = model.table.weight
    return model


def twice():
    layer = nn.Linear(4, 4)
    return sequence(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 3))


def frozen():
    model = sequence(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    model.layers[0].requires_grad_(False)
    return model


def self_attention():
    return Through(
        lambda self, x: self.head(self.attend(x, x, x, need_weights=False)[0].mean(1)),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
        head=nn.Linear(8, 3),
    )


CASES = {  # how to build it, and the shape of one input, or the size of its vocabulary
    "linear over two dimensions": (
        lambda: sequence(nn.Linear(5, 4), nn.Tanh(), mean(1, 2), nn.Linear(4, 3)), (4, 4, 5)
    ),
    "embedding with padding_idx": (
        lambda: sequence(nn.Embedding(7, 4, padding_idx=0), mean(1), nn.Linear(4, 3)), 7
    ),
    "a module used twice": (twice, (4,)),
    "tied embedding and head": (tied, 3),
    "nn.MultiheadAttention": (self_attention, (5, 8)),
    "a bare parameter": (
        lambda: Through(
            lambda self, x: self.head(torch.tanh(F.linear(x, self.w))),
            w=nn.Parameter(torch.randn(4, 5)), head=nn.Linear(4, 3),
        ), (5,)
    ),
    "in-place ReLU": (
        lambda: sequence(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), (5,)
    ),
    "circular padding": (
        lambda: image(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), 108), (2, 6, 6)
    ),
    "grouped convolution": (lambda: image(nn.Conv2d(4, 4, 3, groups=2), 64), (4, 6, 6)),
    "padding='same'": (lambda: image(nn.Conv2d(2, 3, 3, padding="same"), 108), (2, 6, 6)),
    "transposed convolution": (lambda: image(nn.ConvTranspose2d(2, 3, 3), 192), (2, 6, 6)),
    "batch norm in eval mode": (
        lambda: image(nn.Conv2d(2, 3, 3), 48, nn.BatchNorm2d(3).eval()), (2, 6, 6)
    ),
    "a frozen first layer": (frozen, (5,)),
    "LSTM": (
        lambda: Through(
            lambda self, x: self.head(self.lstm(x)[0].mean(1)),
            lstm=nn.LSTM(5, 4, batch_first=True), head=nn.Linear(4, 3),
        ), (7, 5)
    ),
    "positions without a batch axis": (
        lambda: Through(
            lambda self, x: self.head(
                torch.tanh(self.token(x) + self.position(torch.arange(x.shape[1]))).mean(1)
            ),
            token=nn.Embedding(9, 4), position=nn.Embedding(9, 4), head=nn.Linear(4, 3),
        ), 9
    ),
    "activation checkpointing": (
        lambda: Through(
            lambda self, x: self.head(checkpoint(self.body, x, use_reentrant=False)),
            body=nn.Sequential(nn.Linear(5, 4), nn.Tanh()), head=nn.Linear(4, 3),
        ), (5,)
    ),
    "in-place on a slice": (
        lambda: Through(
            lambda self, x: self.head(in_place(self.body(x))),
            body=nn.Linear(5, 4), head=nn.Linear(4, 3),
        ), (5,)
    ),
    "a hook on a weight": (lambda: hooked(), (5,)),
}  # fmt: skip


def in_place(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 1:3] *= 2
    return torch.tanh(h)


def hooked():
    model = sequence(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    model.layers[0].weight.register_hook(lambda gradient: 2 * gradient)
    return model


ORDERS = {"plain": list(range(M)), "permuted": [3, 1, 0, 5, 2, 4], "sliced": [1, 2, 3]}


def truth(model, x, rows):
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for i in rows:
        loss = F.cross_entropy(model(x[i : i + 1]), Y[i : i + 1])
        gradients = torch.autograd.grad(loss, parameters)
        found.append(torch.stack([g.double().square().sum() for g in gradients]).sum())
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES)
def test_squared_norms_are_right_on_layers_where_others_go_wrong(case, order, dtype):
    make, shape = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make()
        x = torch.randint(shape, (M, 9)) if isinstance(shape, int) else torch.randn(M, *shape)
    x = x.double() if x.is_floating_point() else x
    rows = ORDERS[order]
    exact = truth(model.double(), x, rows)
    model = model.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    losses = F.cross_entropy(model(x), Y, reduction="none")
    losses = losses if order == "plain" else losses[rows] if order == "permuted" else losses[1:4]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.stack(list(per_example.squared_norms(losses, named).values())).sum(0)
    error, of_loop = ((v - exact).abs() / exact for v in (found, truth(model, x, rows)))
    if dtype == torch.float64:
        assert float(error.max()) <= 1e-12
    else:
        assert float(error.max()) <= max(1e-6, 3 * float(of_loop.max()))


def compiled_losses(model, x):
    return F.cross_entropy(
        torch.compile(model, backend="aot_eager", dynamic=True)(x), Y, reduction="none"
    )


def test_compiled_graphs_are_refused_with_two_remedies_that_work():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # what this one saves on the way belongs to the backward pass, which therefore runs once
        layers = nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3)
        model = nn.Sequential(*layers).double()
        x = torch.randn(M, 5, dtype=torch.float64)
    named = dict(model.named_parameters())
    for measure in (per_example.squared_norms, per_example.gram):
        with pytest.raises(ValueError, match=r"torch\.compile.*_orig_mod.*donated_buffer"):
            measure(compiled_losses(model, x), named)
    original = torch.compile(model, backend="aot_eager")._orig_mod
    eager = F.cross_entropy(original(x), Y, reduction="none")
    torch.compiler.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        again = compiled_losses(model, x)
        for losses in (eager, again):
            found = torch.stack(list(per_example.squared_norms(losses, named).values())).sum(0)
            torch.testing.assert_close(found, truth(model, x, range(M)), rtol=1e-12, atol=0)
    torch.compiler.reset()


def test_batch_norm_in_training_mode_is_refused_by_name():
    model = image(nn.Conv2d(2, 3, 3), 48, nn.BatchNorm2d(3))
    losses = F.cross_entropy(model(torch.randn(M, 2, 6, 6)), Y, reduction="none")
    with pytest.raises(ValueError, match=r"batch-norm layer 'layers\.1'.*model\.eval\(\)"):
        per_example.squared_norms(losses, dict(model.named_parameters()))
