"""Networks as sums over paths, and the generalisation gap as an identity in path space.

The naive twins list paths by recursion over single weights, or write G and v as dense matrices.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gencoh_lib import data, models, paths
from gencoh_lib._network_graph import evaluate
from gencoh_lib._tracing import trace

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense(sizes=(4, 6, 5, 3), *, bias=False, seed=0):
    net = models.mlp(list(sizes), bias=bias, seed=seed, dtype=F64)
    with torch.no_grad():
        for number, p in enumerate(net.parameters()):
            if p.ndim == 1:
                p.copy_(draw(*p.shape, seed=100 + seed + number))
    return net


class Branches(nn.Module):
    """Biases, a residual sum, and the input skipping ahead."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.skip, self.out, self.direct = (
            nn.Linear(3, 4, bias=False),
            nn.Linear(4, 2),
            nn.Linear(3, 2),
        )
        self.double()

    def forward(self, x):
        h = F.relu(self.first(x))
        h = torch.relu(self.second(h) + self.skip(x)) + h
        return self.out(h) + self.direct(x)


class Convolutional(nn.Module):
    """Stride, dilation, groups, overlapping and padded pools, functional and method forms."""

    def __init__(self):
        super().__init__()
        self.image = nn.Unflatten(1, (2, 5, 5))
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.two = nn.Conv2d(4, 4, 2, groups=2, dilation=2)
        self.side = nn.Conv2d(2, 4, 5, bias=False)
        self.out = nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        image = self.image(x)
        h = self.two(self.pool(self.one(image).relu()))
        h += self.side(image)
        return self.out(torch.flatten(F.max_pool2d(h, 1), 1))


class Sequence1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding="same")
        self.pool, self.flat, self.out = nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 2)
        self.double()

    def forward(self, x):
        return self.out(self.flat(self.pool(F.relu(self.conv(x)))))


class Residual(nn.Module):
    """Biases, a residual sum with the identity, and the input skipping to the output."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 4)
        self.out, self.direct = nn.Linear(4, 1), nn.Linear(3, 1, bias=False)
        self.double()

    def forward(self, x):
        h = self.one(x).relu()
        return self.out(F.relu(self.two(h)) + h) + self.direct(x)


def pooled_conv():
    """A convolution, a maximum over pairs and a fully connected layer, without biases."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 3, bias=False), nn.ReLU(), nn.MaxPool1d(2),
        nn.Flatten(), nn.Linear(6, 2, bias=False),
    ).double()  # fmt: skip


def rearranged():
    """Convolution, flattened and folded into other channels: the general route of the kernel."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.ReLU(),
        nn.Flatten(), nn.Unflatten(1, (4, 2)), nn.Conv1d(4, 2, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(2, 2),
    ).double()  # fmt: skip


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


NETWORKS = {
    "dense": (lambda: dense(), (4,)),
    "dense with biases": (lambda: dense(bias=True), (4,)),
    "linear": (lambda: nn.Linear(3, 2).double(), (3,)),
    "branches": (Branches, (3,)),
    "convolutional": (Convolutional, (50,)),
    "sequence": (Sequence1d, (1, 6)),
    "rearranged": (rearranged, (6,)),
    "residual": (Residual, (3,)),
    "pooled": (pooled_conv, (8,)),
    "mostly padding": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)),
            nn.Conv1d(1, 2, 2, padding=2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12, 2),
        ).double(),
        (3,),
    ),
    "one output behind a gate": (lambda: nn.Sequential(dense((3, 4, 1)), nn.ReLU()), (3,)),
    "course cnn": (
        lambda: models.cnn((1, 4, 4), channels=(2, 3), classes=2, seed=0, dtype=F64),
        (16,),
    ),
}


def network(name, m=7):
    build, shape = NETWORKS[name]
    return seeded(build), draw(m, *shape, seed=1)


each_network = pytest.mark.parametrize("name", NETWORKS)


@each_network
def test_the_output_is_the_sum_over_paths(name):
    net, x = network(name)
    listed = paths.path_features(net, x, limit=100_000)
    assert torch.allclose(listed.z @ listed.weights.T, net(x), rtol=0, atol=1e-12)
    assert len(listed.labels) == listed.z.shape[1] == paths.path_norms(net, x).paths


def test_paths_are_counted_as_by_hand():
    # chain: 4 * 6 * 5; residual: 4 units with (3 + 1), again 4 with (4 * 4 + 1) + 4, then + 1 + 3;
    # pooled: 2 channels, 3 windows of 2 places that see 3 inputs each
    for name, number in (("dense", 120), ("residual", 4 * 21 + 4), ("pooled", 2 * 3 * 2 * 3)):
        net, x = network(name)
        assert paths.path_norms(net, x).paths == number


@each_network
def test_the_kernel_is_that_of_the_listed_features(name):
    net, x = network(name)
    other = draw(4, *x.shape[1:], seed=2)
    z, z_other = (paths.path_features(net, a, limit=100_000).z for a in (x, other))
    scale = float((z @ z.T).abs().max())
    assert torch.allclose(paths.path_kernel(net, x), z @ z.T, rtol=0, atol=1e-12 * scale)
    crossed = paths.path_kernel(net, x, other)
    assert torch.allclose(crossed, z @ z_other.T, rtol=0, atol=1e-12 * scale)


@each_network
def test_forward_passes_with_changed_weights_give_the_path_norms(name):
    net, x = network(name)
    listed, norms = paths.path_features(net, x, limit=100_000), paths.path_norms(net, x)
    assert torch.allclose(norms.squared, listed.weights.square().sum(1), rtol=1e-12)
    assert torch.allclose(norms.absolute, listed.weights.abs().sum(1), rtol=1e-12)


@each_network
def test_the_identity_holds_and_the_model_comes_back_as_it_was(name):
    net, x = network(name, m=9)
    net.train()
    hooks = [layer.register_forward_hook(lambda *_: None) for layer in net.children()]
    before, x_before = copy.deepcopy(net.state_dict()), x.clone()
    f = net(x).detach()
    y = draw(9, f.shape[1], seed=3)
    masses = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(9)))
    random_state = torch.get_rng_state()
    parts = paths.gap_decomposition(net, (x, y), [0, 2, 2, 5, 8], masses=masses, tolerance=1e-10)
    assert parts.identity_error < 1e-12
    assert parts.gap <= parts.bound
    # each part alone, from outputs: sums of c f^2 and of -2 c y f
    c = masses - torch.tensor([1, 0, 2, 0, 0, 1, 0, 0, 1], dtype=F64) / 5
    assert parts.quadratic == pytest.approx(float(c @ f.square().sum(1)), abs=1e-10)
    assert parts.linear == pytest.approx(-2 * float(c @ (y * f).sum(1)), abs=1e-10)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert torch.equal(x, x_before)
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(layer.training for layer in net.modules())
    assert all(hook.id in hook.hooks_dict_ref() for hook in hooks)
    assert all(p.grad is None for p in net.parameters())


def by_hand(net, x):
    """Paths of a chain of Linear layers without biases, weight by weight (the naive twin)."""
    weights = [layer.weight.detach() for layer in net if isinstance(layer, nn.Linear)]
    open_gates, h = [], x
    for w in weights[:-1]:
        pre = h @ w.T
        open_gates.append(pre > 0)
        h = pre * (pre > 0)
    widths = [weights[0].shape[1], *(w.shape[0] for w in weights[:-1])]
    features, products = [], []
    for path in itertools.product(*map(range, widths)):
        z = x[:, path[0]].clone()
        for gate, unit in zip(open_gates, path[1:], strict=True):
            z = z * gate[:, unit]
        product = weights[-1][:, path[-1]].clone()
        for w, (v, u) in zip(weights, itertools.pairwise(path), strict=False):
            product = product * w[u, v]
        features.append(z)
        products.append(product)
    return torch.stack(features, 1), torch.stack(products, 1)


def test_listed_paths_are_those_of_a_loop_over_single_weights():
    net, x = dense(), draw(7, 4, seed=1)
    z, weights = by_hand(net, x)
    listed = paths.path_features(net, x)
    # the library lists by the last hidden unit first, the loop by the input first
    order = sorted(range(120), key=lambda j: [int(p.split("[")[1][:-1]) for p in listed.labels[j]])
    assert torch.equal(listed.z[:, order], z)
    assert torch.allclose(listed.weights[:, order], weights, rtol=1e-14)
    assert listed.z.shape == (7, 120)


def test_the_kernel_of_layers_is_a_product_of_gram_matrices():
    net, x = dense(), draw(11, 4, seed=1)
    open_gates = [g.double() for g in paths.gates(net, x).values()]
    product = x @ x.T
    for g in open_gates:
        product = product * (g @ g.T)
    assert torch.allclose(paths.path_kernel(net, x), product, rtol=1e-13)
    # the diagonal: squared input times the number of open paths
    counts = torch.stack([g.sum(1) for g in open_gates]).prod(0)
    assert torch.allclose(product.diagonal(), x.square().sum(1) * counts)


def test_blocks_of_rows_give_the_same_kernel(monkeypatch):
    net, x = network("convolutional", m=9)
    whole = paths.path_kernel(net, x)
    crossed = paths.path_kernel(net, x, x[:4])
    monkeypatch.setattr("gencoh_lib._path_kernel._NUMBERS", 1)
    assert torch.allclose(paths.path_kernel(net, x), whole, rtol=1e-13)
    assert torch.allclose(paths.path_kernel(net, x, x[:4]), crossed, rtol=1e-13)


def dense_twin(z, w, f, y, p, drawn):
    """G, v and all parts as dense matrices over path space."""
    m = drawn.sum()
    c = p - drawn / m
    g = z.T @ (c[:, None] * z)
    v = -(z.T @ (c[:, None] * y)).T
    values, vectors = torch.linalg.eigh(g)
    cosines = (w @ vectors).square() / w.square().sum(1, keepdim=True)
    return g, v, values, cosines


@pytest.mark.parametrize("name", ["dense", "branches", "sequence"])
def test_every_part_is_that_of_dense_matrices(name):
    net, x = network(name, m=8)
    listed = paths.path_features(net, x)
    z, w = listed.z, listed.weights
    y = draw(8, len(w), seed=3)
    drawn = torch.tensor([1, 0, 2, 0, 0, 1, 0, 1], dtype=F64)
    p = torch.full((8,), 1 / 8, dtype=F64)
    _, v, values, cosines = dense_twin(z, w, net(x).detach(), y, p, drawn)
    parts = paths.gap_decomposition(net, (x, y), [0, 2, 2, 5, 7])
    big = values[values.abs() > 1e-9 * values.abs().max()]
    small = parts.eigenvalues[parts.eigenvalues.abs() > 1e-9 * values.abs().max()]
    assert torch.allclose(small, big, rtol=1e-9)
    assert torch.allclose(parts.v_norm, v.norm(dim=1), rtol=1e-10)
    expected = (v * w).sum(1) / v.norm(dim=1) / w.norm(dim=1)
    assert torch.allclose(parts.v_cosine, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(parts.rayleigh, cosines @ values, rtol=1e-9, atol=1e-11)
    assert torch.allclose(cosines.sum(1), torch.ones(len(w), dtype=F64))  # a whole basis
    assert parts.largest_eigenvalue == pytest.approx(float(values.max()), rel=1e-9)
    w2 = w.square().sum(1)
    bound = (2 * v.norm(dim=1) * w2.sqrt() + values.max() * w2).sum()
    assert parts.bound - parts.c_y == pytest.approx(float(bound), rel=1e-9)
    losses = (net(x).detach() - y).square().sum(1)
    assert parts.gap == pytest.approx(float(losses @ (p - drawn / 5)), rel=1e-12)


def test_squared_cosines_add_up_to_the_share_in_the_span_of_the_data():
    net, x = dense((2, 3, 2)), draw(40, 2, seed=1)  # 40 examples span the space of 6 paths
    parts = paths.gap_decomposition(net, (x, draw(40, 2)), range(10))
    assert len(parts.eigenvalues) == parts.paths == 6
    assert torch.allclose(parts.alignment.sum(1), torch.ones(2, dtype=F64), rtol=1e-10)
    net, x = network("dense")  # 7 examples do not span that of 120
    parts = paths.gap_decomposition(net, (x, draw(7, 3)), range(3))
    listed = paths.path_features(net, x)
    seen = torch.linalg.lstsq(listed.z, net(x).detach(), driver="gelsd").solution
    share = seen.square().sum(0) / listed.weights.square().sum(1)
    assert torch.allclose(parts.alignment.sum(1), share, rtol=1e-9)
    assert float(share.max()) < 1


def test_path_space_of_any_size_is_never_written_out():
    net = models.mlp([100] * 20 + [3], bias=False, seed=0, dtype=F64)
    parts = paths.gap_decomposition(net, (draw(30, 100), draw(30, 3, seed=1)), range(10))
    assert parts.paths == pytest.approx(1e40)
    assert parts.identity_error < 1e-12


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(0, 3), st.booleans(), st.booleans())
def test_the_identity_holds_on_random_graphs(seed, depth, skip, bias):
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3, bias=bias) for _ in range(depth))
            self.jumps = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(depth))
            self.last = nn.Linear(3, 2, bias=bias)

        def forward(self, x):
            h = x
            for layer, jump in zip(self.layers, self.jumps, strict=True):
                h = F.relu(layer(h) + jump(x)) + h if skip else F.relu(layer(h))
            return self.last(h)

    net = seeded(Random, seed).double()
    x, y = draw(6, 3, seed=seed), draw(6, 2, seed=seed + 1)
    sample = torch.randint(6, (4,), generator=torch.Generator().manual_seed(seed))
    parts = paths.gap_decomposition(net, (x, y), sample, tolerance=1e-10)
    assert parts.quadratic + parts.linear + parts.c_y == pytest.approx(parts.gap, abs=1e-10)
    assert parts.gap <= parts.bound + 1e-10


def test_the_whole_population_as_the_sample_leaves_nothing():
    net, x = network("dense")
    parts = paths.gap_decomposition(net, (x, draw(7, 3)), range(7))
    assert parts.gap == parts.quadratic == parts.linear == parts.c_y == 0
    assert float(parts.v_norm.abs().max()) == 0
    masses = torch.tensor([2, 1, 0, 0, 0, 0, 0], dtype=F64) / 3  # the same where masses match
    other = paths.gap_decomposition(net, (x, draw(7, 3)), [0, 0, 1], masses=masses)
    assert abs(other.gap) < 1e-15
    assert float(other.eigenvalues.abs().max()) < 1e-13


def test_one_hot_labels_have_no_label_part():
    digits = data.load("digits").take(range(60))
    parts = paths.gap_decomposition(models.mlp([64, 8, 10], seed=0), digits, range(20))
    assert parts.c_y == 0
    mask = torch.arange(60) < 20
    assert paths.gap_decomposition(models.mlp([64, 8, 10], seed=0), digits, mask).gap == parts.gap


def test_classes_that_do_not_occur_have_their_output_all_the_same():
    net, x = network("dense")
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0])  # of the three classes the last is missing
    classes = paths.gap_decomposition(net, (x, labels), range(3))
    one_hot = paths.gap_decomposition(net, (x, F.one_hot(labels, 3).double()), range(3))
    assert classes.gap == one_hot.gap


def test_unseen_examples_push_up_and_seen_ones_push_down():
    # Sylvester: with a positive definite kernel, signs of eigenvalues are signs of the masses
    net, x = dense((24, 20, 1)), draw(20, 24, seed=1)
    assert float(torch.linalg.eigvalsh(paths.path_kernel(net, x))[0]) > 0
    parts = paths.gap_decomposition(net, (x, draw(20)), range(6))
    assert int((parts.eigenvalues > 0).sum()) == 14
    assert int((parts.eigenvalues < 0).sum()) == 6


def test_rescaling_a_hidden_unit_moves_only_the_product_of_frobenius_norms():
    net, x = dense(), draw(9, 4, seed=1)
    sharp = copy.deepcopy(net)
    with torch.no_grad():
        sharp.layer1.weight[2] *= 7
        sharp.layer2.weight[:, 2] /= 7
    flat, steep = (paths.path_features(n, x) for n in (net, sharp))
    assert torch.equal(flat.z, steep.z)
    assert torch.allclose(flat.weights, steep.weights, rtol=1e-14)
    y = draw(9, 3, seed=2)
    one, two = (paths.gap_decomposition(n, (x, y), range(4)) for n in (net, sharp))
    assert one.gap == pytest.approx(two.gap, rel=1e-12)
    assert torch.allclose(one.eigenvalues, two.eigenvalues)
    before, after = (paths.path_norms(n, x) for n in (net, sharp))
    assert torch.allclose(before.squared, after.squared, rtol=1e-14)
    assert after.frobenius_product > 1.5 * before.frobenius_product


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_path_norms_stay_below_the_product_of_frobenius_norms(seed):
    norms = paths.path_norms(dense(seed=seed), draw(1, 4))
    assert float(norms.squared.sum()) <= norms.frobenius_product


def test_every_layer_sees_a_homogeneous_function():
    # Euler: sum of W df_k/dW over one layer gives f_k back, for each layer without biases
    net, x = dense(), draw(1, 4, seed=1)
    for layer in (net.layer1, net.layer2, net.layer3):
        for k in range(3):
            (gradient,) = torch.autograd.grad(net(x)[0, k], layer.weight)
            assert float((gradient * layer.weight.detach()).sum()) == pytest.approx(
                float(net(x)[0, k].detach()), abs=1e-14
            )


def test_gates_of_exactly_zero_are_off_and_dead_inputs_are_no_harm():
    net = dense((2, 2, 1))
    with torch.no_grad():
        net.layer1.weight.copy_(torch.eye(2))
    x = torch.tensor([[0.0, 1.0], [0.0, 0.0], [2.0, -1.0]], dtype=F64)
    assert paths.gates(net, x)["act1"].tolist() == [[False, True], [False, False], [True, False]]
    parts = paths.gap_decomposition(net, (x, draw(3)), [0, 1])
    assert parts.identity_error < 1e-14
    silent = paths.gap_decomposition(net, (torch.zeros_like(x), draw(3)), [0])
    assert silent.quadratic == silent.linear == 0
    assert silent.gap == pytest.approx(silent.c_y)
    assert repr(silent)
    assert silent.plot().alt


def test_a_layer_called_twice_counts_its_weights_at_each_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act = nn.Linear(3, 3), nn.ReLU()

        def forward(self, x):
            return self.layer(self.act(self.layer(self.act(self.layer(x)))))

    net, x = seeded(Twice).double(), draw(5, 3)
    listed = paths.path_features(net, x)
    assert torch.allclose(listed.z @ listed.weights.T, net(x), atol=1e-14)
    assert len(paths.gates(net, x)) == 2


def test_weights_that_a_parametrisation_computes_are_read():
    net = seeded(lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2),
    ).double())  # fmt: skip
    listed = paths.path_features(net, draw(5, 3))
    assert torch.allclose(listed.z @ listed.weights.T, net(draw(5, 3)), atol=1e-14)


def test_float32_models_are_measured_in_float64():
    net = models.mlp([4, 6, 3], seed=0)
    x = draw(5, 4).float()
    outputs, _ = evaluate(trace(net, x), x)
    assert outputs.dtype == F64
    assert torch.allclose(outputs.float(), net(x), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_are_measured_in_float64(dtype):
    net, x = models.mlp([4, 6, 3], seed=0).to(dtype), draw(5, 4)
    listed = paths.path_features(net, x)
    twin = copy.deepcopy(net).double()  # the same weights
    assert torch.allclose(listed.z @ listed.weights.T, twin(x), atol=1e-14)


def test_a_model_that_works_in_place_leaves_the_inputs_as_they_are():
    for net in (
        nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)).double(),
        lambda_module(add_to_the_input).double(),
    ):
        x = draw(5, 3)
        before = x.clone()
        listed = paths.path_features(net, x)
        assert torch.equal(x, before)
        assert torch.allclose(listed.z @ listed.weights.T, net(x.clone()), atol=1e-14)


def add_to_the_input(s, x):
    x += s.one(x)
    return s.two(x)


def test_arguments_by_name_are_the_same_graph():
    named = lambda_module(
        lambda s, x: s.two(input=torch.add(input=F.relu(input=s.one(input=x)), other=x))
    )
    plain = lambda_module(lambda s, x: s.two(F.relu(s.one(x)) + x))
    plain.load_state_dict(named.state_dict())
    x = draw(5, 3).float()
    assert torch.equal(paths.path_kernel(named, x), paths.path_kernel(plain, x))


def test_in_place_layers_are_taken_where_nothing_else_reads_their_input():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    listed = paths.path_features(net, draw(5, 3))
    assert torch.allclose(listed.z @ listed.weights.T, net(draw(5, 3)), atol=1e-14)


# What is refused, by name


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.act, self.two = nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)

    def forward(self, x):
        h = self.one(x)
        return self.two(self.act(h) + h)


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.shift = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.one(x) + self.shift


def lambda_module(function):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return function(self, x)

    return Module()


class Overridden(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 2)

    def forward(self, x, scale=None):
        return self.one(x)


REFUSED = {
    "tanh": (nn.Sequential(nn.Linear(3, 2), nn.Tanh()), "layer '1' (Tanh)"),
    "batch norm": (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), "fold it into the layer"),
    "nested": (nn.Sequential(nn.Sequential(nn.Linear(3, 2), nn.GELU())), "layer '0.1' (GELU)"),
    "dropout": (nn.Sequential(nn.Dropout(), nn.Linear(3, 2)), "layer '0' (Dropout)"),
    "dropout, called": (lambda_module(lambda s, x: s.one(F.dropout(x))), "leave it out: paths"),
    "view": (lambda_module(lambda s, x: s.one(x).view(len(x), -1)), "cannot trace"),
    "reshape": (lambda_module(lambda s, x: s.one(x).reshape(-1, 3)), "write flatten(1)"),
    "underscore": (lambda_module(lambda s, x: s.one(x).relu_()), "without the underscore"),
    "average": (
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.AvgPool1d(3), nn.Flatten()),
        "layer '1' (AvgPool1d) is not covered; replace it",
    ),
    "complex": (nn.Linear(3, 2, dtype=torch.complex64), "weights of type torch.complex64"),
    "meta": (nn.Linear(3, 2, device="meta"), "weights on the meta device"),
    "lazy": (nn.Sequential(nn.LazyLinear(2)), "'0' (LazyLinear) has no weights yet"),
    "two types": (
        nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2).double()),
        "mixes torch.float32 and torch.float64",
    ),
    "spectral norm": (
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2))),
        "call model.eval() first",
    ),
    "in place": (InPlace(), "layer 'act' (ReLU) works in place"),
    "parameter": (Outside(), "'shift' is used outside a layer"),
    "product": (lambda_module(lambda s, x: s.one(x) * s.two(x)), "operation 'mul'"),
    "constant": (lambda_module(lambda s, x: s.one(x) + 1), "takes something that is not"),
    "scaled sum": (lambda_module(lambda s, x: torch.add(s.one(x), x, alpha=2)), "without alpha="),
    "control flow": (lambda_module(lambda s, x: s.one(x) if x.sum() > 0 else x), "cannot trace"),
    "two outputs": (lambda_module(lambda s, x: (s.one(x), s.two(x))), "several tensors"),
    "two inputs": (TwoInputs(), "second input 'scale'"),
    "overridden": (nn.Sequential(Overridden(3, 2)), "overrides Linear.forward"),
    "broadcast": (nn.Sequential(lambda_module(lambda s, x: x + s.one(x).flatten(0))), "merges"),
    "circular": (
        nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
        ),
        "pads by 'circular'",
    ),
    "ceil": (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.MaxPool1d(2, ceil_mode=True)), "ceil_mode"),
    "positions": (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Linear(3, 2)), "put a Flatten before"),
    "dimensions": (nn.Sequential(nn.Conv1d(3, 2, 1)), "needs 2 dimensions"),
    "not flat": (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 3)), "end with a Linear"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_paths_cannot_describe_is_refused_by_name(case):
    net, message = REFUSED[case]
    buffers = [b.clone() for b in net.buffers()]
    with pytest.raises(paths.UnsupportedLayerError) as refused:
        paths.path_norms(net, torch.ones(2, 3))
    assert message in str(refused.value)
    assert all(torch.equal(a, b) for a, b in zip(buffers, net.buffers(), strict=True))


def test_a_model_that_changes_its_buffers_is_refused_and_put_right():
    net = lambda_module(lambda s, x: s.two(s.one(x)))
    net.register_buffer("calls", torch.zeros(1))
    net.one.register_forward_hook(lambda *_: net.calls.add_(1) and None)
    with pytest.raises(paths.UnsupportedLayerError, match="changes its own buffers"):
        paths.path_norms(net, torch.ones(2, 3))
    assert float(net.calls) == 0


def test_layers_that_do_not_fit_the_inputs_or_hold_nan_are_named():
    with pytest.raises(ValueError, match=r"layer '1' \(Linear\) cannot take units of shape \(4,\)"):
        paths.path_norms(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), torch.ones(2, 3))
    broken = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"layer '0' \(Linear\) has weights that are NaN"):
        paths.path_norms(broken, torch.ones(2, 3))


def test_sums_of_other_shapes_are_refused():
    net = lambda_module(lambda s, x: s.one(x) + s.shorter(x))
    net.shorter = nn.Linear(3, 1)
    with pytest.raises(paths.UnsupportedLayerError, match="broadcasting"):
        paths.path_norms(net, torch.ones(2, 3))


def test_hooks_that_the_graph_does_not_show_are_noticed():
    net = models.mlp([3, 4, 2], seed=0)
    net.layer1.register_forward_hook(lambda module, given, output: output + 1)
    with pytest.raises(paths.UnsupportedLayerError, match="such as a hook"):
        paths.path_kernel(net, torch.ones(2, 3))


def test_outputs_that_see_different_paths_are_refused():
    gated = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    for measure in (paths.path_kernel, paths.path_features):
        with pytest.raises(paths.UnsupportedLayerError, match="do not see the same path features"):
            measure(gated, torch.ones(2, 3))


def test_too_many_paths_to_list_are_an_error_and_not_a_freeze():
    net = models.mlp([64, 64, 64, 64, 10], seed=0)
    with pytest.raises(ValueError, match="more than limit = 5000"):
        paths.path_features(net, torch.ones(1, 64))
    deep = models.mlp([100] * 20, seed=0)
    with pytest.raises(ValueError, match=r"e\+\d+ paths"):
        paths.path_features(deep, torch.ones(1, 100))


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.ones(3), r"\[m, ...\]"),
        (torch.ones(2, 3, dtype=torch.int64), "floating-point"),
        (torch.full((2, 3), torch.nan), "NaN"),
        (torch.ones(0, 3), "m >= 1"),
        (np.ones((2, 3)), "ndarray"),
    ],
)
def test_inputs_that_are_none_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        paths.path_norms(nn.Linear(3, 2), x)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        paths.path_norms(lambda x: x, torch.ones(2, 3))


def test_rows_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="rows differ"):
        paths.path_kernel(nn.Linear(3, 2), torch.ones(2, 3), torch.ones(2, 4))


X, Y = draw(5, 3), draw(5, 2)


@pytest.mark.parametrize(
    "population, sample, options, error, message",
    [
        ((X, Y[:4]), [0], {}, ValueError, "N = 5"),
        ((X, Y[:, :1]), [0], {}, ValueError, "1 columns and the model 2 outputs"),
        ((X, Y / 0), [0], {}, ValueError, "targets hold NaN"),
        ((X, torch.tensor([0, 1, -1, 0, 1])), [0], {}, ValueError, "classes 0, 1"),
        ((X, torch.tensor([0, 1, 2, 0, 1])), [0], {}, ValueError, "class 2, but the model has 2"),
        ((X, [1, 2]), [0], {}, TypeError, "must hold tensors"),
        (X, [0], {}, TypeError, "pair"),
        ((X, Y), [], {}, ValueError, "with one at least"),
        ((X, Y), [0.5], {}, ValueError, "list of positions"),
        ((X, Y), 3, {}, ValueError, "list of positions"),
        ((X, Y), None, {}, TypeError, "list of positions"),
        ((X, Y), {0, 1}, {}, TypeError, "list of positions"),
        ((X, Y), [5], {}, IndexError, "0 ... 4"),
        ((X, Y), [-1], {}, IndexError, "0 ... 4"),
        ((X, Y), torch.zeros(5, dtype=torch.bool), {}, ValueError, "one at least must be True"),
        ((X, Y), torch.ones(4, dtype=torch.bool), {}, ValueError, "must have 5 entries"),
        ((X, Y), [0], {"masses": torch.ones(5)}, ValueError, "add up to 1"),
        ((X, Y), [0], {"masses": torch.ones(4) / 4}, ValueError, "must be 5 numbers"),
    ],
)
def test_samples_and_populations_that_do_not_fit_are_refused(
    population, sample, options, error, message
):
    with pytest.raises(error, match=message):
        paths.gap_decomposition(nn.Linear(3, 2).double(), population, sample, **options)


def test_an_identity_that_fails_is_an_error(monkeypatch):
    net = dense((3, 4, 2))
    broken = lambda *args: torch.zeros(5, 5, dtype=F64)  # noqa: E731
    monkeypatch.setattr("gencoh_lib._gap.kernel", broken)
    with pytest.raises(FloatingPointError, match="the identity"):
        paths.gap_decomposition(net, (X, Y), [0, 1])


def test_results_print_and_draw_themselves():
    net, x = network("dense")
    y = draw(7, 3, seed=2)
    parts = paths.gap_decomposition(net, (x, y), [0, 1, 2])
    assert "sample of 3, population of 7" in repr(parts)
    assert f"{parts.gap:.4g}" in repr(parts)
    assert f"{parts.gap:.3g}" in parts.plot().alt
    assert "120 paths" in repr(paths.path_features(net, x))
    assert "paths to an output" in repr(paths.path_norms(net, x))
