"""Random directed graphs of everything that paths cover: listing, kernel, norms and identity agree.

Every graph is drawn anew: convolutions with stride, dilation, groups and padding, pools, sums in
four spellings, layers that are used twice, units folded into other channels. In some all numbers
are small integers, so that maxima tie and pre-activations are exactly zero.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gencoh_lib import paths

F64 = torch.float64


def in_place(a, b):
    a = a.relu()
    a += b
    return a


SUMS = (lambda a, b: a + b, torch.add, lambda a, b: a.add(b), in_place)
RELUS = (F.relu, torch.relu, lambda h: h.relu())


class Graph(nn.Module):
    """A random graph on [channels, positions...], then a fully connected part with a skip."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choose = choose = random.Random(seed)
        size = choose.randint(3, 5)
        self.planar = choose.random() < 0.5
        self.input = (choose.choice([1, 2, 4]), *([size] * (2 if self.planar else 1)))
        self.layers, self.plan = nn.ModuleList(), []
        shapes = [self.input]
        for _ in range(choose.randint(1, 4)):
            step = getattr(self, choose.choice(["conv", "conv", "pool", "add", "relu", "twice"]))
            source = choose.randrange(max(0, len(shapes) - 2), len(shapes))
            found = step(shapes, source)
            if found is not None:
                self.plan.append((found[0], source))
                shapes.append(found[1])
        flat = math.prod(shapes[-1])
        channels = choose.choice([k for k in (1, 2, 3, 4) if flat % k == 0])
        self.fold = nn.Unflatten(1, (channels, flat // channels))
        groups = choose.choice([k for k in (1, 2) if channels % k == 0])
        self.folded = nn.Conv1d(channels, 2 * groups, 1, groups=groups)
        self.first = nn.Linear(2 * groups * flat // channels, 3)
        self.shared, self.out = nn.Linear(3, 3), nn.Linear(3, 2, bias=choose.random() < 0.5)

    def added(self, layer, shape):
        after = layer(torch.zeros(1, *shape)).shape[1:]
        self.layers.append(layer)
        return tuple(after)

    def conv(self, shapes, source):
        choose, shape = self.choose, shapes[source]
        groups = choose.choice([k for k in (1, 2, 4) if shape[0] % k == 0])
        kind = nn.Conv2d if self.planar else nn.Conv1d
        layer = kind(
            shape[0], groups * choose.randint(1, 2), choose.randint(1, 3), groups=groups,
            stride=choose.randint(1, 2), padding=choose.randint(1, 2), bias=choose.random() < 0.7,
            dilation=choose.choice([1, 1, 2]),
        )  # fmt: skip
        if min(shape[1:]) + 2 * layer.padding[0] <= layer.dilation[0] * (layer.kernel_size[0] - 1):
            return None
        after = self.added(layer, shape)
        return lambda values, h: layer(h), after

    def pool(self, shapes, source):
        width, shape = self.choose.randint(2, 3), shapes[source]
        if min(shape[1:]) < width:
            return None
        kind = nn.MaxPool2d if self.planar else nn.MaxPool1d
        layer = kind(width, stride=self.choose.randint(1, 2), padding=width // 2)
        after = self.added(layer, shape)
        return lambda values, h: layer(h), after

    def twice(self, shapes, source):
        shape = shapes[source]
        layer = (nn.Conv2d if self.planar else nn.Conv1d)(shape[0], shape[0], 3, padding=1)
        after = self.added(layer, shape)
        return lambda values, h: layer(F.relu(layer(h))), after

    def add(self, shapes, source):
        other = self.choose.choice([n for n, s in enumerate(shapes) if s == shapes[source]])
        sum_of = self.choose.choice(SUMS)
        return lambda values, h: sum_of(h, values[other]), shapes[source]

    def relu(self, shapes, source):
        function = self.choose.choice(RELUS)
        return lambda values, h: function(h), shapes[source]

    def forward(self, x):
        values = [x]
        for step, source in self.plan:
            values.append(step(values, values[source]))
        h = self.folded(self.fold(torch.flatten(values[-1], 1))).relu()
        h = F.relu(self.first(h.flatten(1)))
        h = self.shared(F.relu(self.shared(h))) + h
        return self.out(h)


def drawn(seed: int) -> tuple[Graph, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Graph(seed).double()
        x = torch.randn(6, *net.input, dtype=F64)
        if seed % 3 == 0:
            x = x.round().clamp(-1, 1)
            with torch.no_grad():
                for p in net.parameters():
                    p.copy_(torch.randint(-1, 2, p.shape))
    return net, x


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-10, atol=1e-10 * (1 + float(b.abs().max())))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 100_000))
def test_listing_kernel_norms_and_identity_agree_on_random_graphs(seed):
    net, x = drawn(seed)
    f, norms = net(x).detach(), paths.path_norms(net, x)
    y = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(seed))
    parts = paths.gap_decomposition(net, (x, y), [0, 1, 1, 3], tolerance=1e-10)
    assert parts.gap <= parts.bound + 1e-10 * abs(parts.bound)
    if norms.paths > 20_000:
        return
    listed = paths.path_features(net, x, limit=20_000)
    assert len(listed.labels) == norms.paths
    assert close(listed.z @ listed.weights.T, f)
    assert close(paths.path_kernel(net, x), listed.z @ listed.z.T)
    assert close(norms.squared, listed.weights.square().sum(1))
    assert close(norms.absolute, listed.weights.abs().sum(1))


def test_the_graphs_reach_what_they_are_meant_to():
    kinds, zeros = set(), 0
    for seed in range(120):
        net, x = drawn(seed)
        for layer in net.layers:
            kinds.add(type(layer).__name__)
            if isinstance(layer, nn.Conv1d | nn.Conv2d):
                kinds |= {"groups"} if layer.groups > 1 else set()
                kinds |= {"stride"} if layer.stride[0] > 1 else set()
                kinds |= {"dilation"} if layer.dilation[0] > 1 else set()
        before = []
        net.first.register_forward_hook(lambda layer, given, out, kept=before: kept.append(out))
        net(x)
        zeros += bool((before[0] == 0).any())
    wanted = {"Conv1d", "Conv2d", "MaxPool1d", "MaxPool2d", "groups", "stride", "dilation"}
    assert kinds == wanted
    assert zeros > 10  # pre-activations that are exactly zero
