"""Networks with the ordinary layers on which per-example code goes wrong.

The shipped per-example libraries are silently wrong on four of these (padding_idx, circular
padding, grouped convolutions, tied weights) and refuse many more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
    return sequence(conv, *more, nn.Tanh(), nn.Flatten(), nn.Linear(features, 3))


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
    "group norm": (
        lambda: image(nn.Conv2d(2, 4, 3), 64, nn.GroupNorm(2, 4)), (2, 6, 6)
    ),
    "instance norm": (
        lambda: image(nn.Conv2d(2, 4, 3), 64, nn.InstanceNorm2d(4, affine=True)), (2, 6, 6)
    ),
    "weight norm": (
        lambda: sequence(
            nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)
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


def build(case: str, m: int) -> tuple[nn.Module, Tensor]:
    """A network, the same one every time, and m inputs, both in float64 (or tokens)."""
    make, shape = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make().double()
        x = torch.randint(shape, (m, 9)) if isinstance(shape, int) else torch.randn(m, *shape)
    return model, x.double() if x.is_floating_point() else x
