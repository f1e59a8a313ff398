"""The fast route: models put together at random, and losses in every order.

Truth is a loop over examples in float64. What is measured in float64 must agree to 1e-12, what is
measured in float32 to the larger of 1e-6 and three times the error of a float32 loop.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gencoh_lib import _moments, _ownership, per_example
from gencoh_lib._convolution import Convolution

B = 6


class Apply(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Twice(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.tanh(self.inner(torch.tanh(self.inner(x))))


class Scaled(nn.Module):
    """A scalar that multiplies everything, and a bias along positions."""

    def __init__(self, *shape):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return self.scale * x + self.shift


class Attend(nn.Module):
    def __init__(self, width, batch_first):
        super().__init__()
        self.attend = nn.MultiheadAttention(width, 2, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x):
        y = x if self.batch_first else x.transpose(0, 1)
        y = self.attend(y, y, y, need_weights=False)[0]
        return x + (y if self.batch_first else y.transpose(0, 1))


class ClassToken(nn.Module):
    """One learned row, expanded to every example and put in front of its positions."""

    def __init__(self, width):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1)


class FromWeights(nn.Module):
    """A weight made from two others."""

    def __init__(self, width):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(width, 2)), nn.Parameter(torch.randn(2, width))

    def forward(self, x):
        return torch.tanh(x @ (self.u @ self.v))


WIDTH = 4
SEQUENCE = {  # [B, T, 4] to [B, T', 4]
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "no bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "rms norm": lambda: nn.RMSNorm(WIDTH),
    "residual": lambda: Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())),
    "twice": lambda: Twice(nn.Linear(WIDTH, WIDTH)),
    "scaled": lambda: Scaled(WIDTH),
    "attention": lambda: Attend(WIDTH, batch_first=True),
    "attention, time first": lambda: Attend(WIDTH, batch_first=False),
    "token": lambda: ClassToken(WIDTH),
    "made weights": lambda: FromWeights(WIDTH),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "over time": lambda: Apply(lambda x: x.flip(1)),
    "gelu": nn.GELU,
    "in-place relu": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True)),
    "gru": lambda: nn.Sequential(nn.GRU(WIDTH, WIDTH, batch_first=True), Apply(lambda out: out[0])),
}
IMAGE = {  # [B, 4, 6, 6] to the same
    "conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
    "conv, circular": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular"),
    "conv, same": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding="same", bias=False),
    "conv, dilated": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2),
    "conv, depthwise": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH),
    "conv, grouped": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=2),
    "conv 1x1": lambda: nn.Conv2d(WIDTH, WIDTH, 1),
    "down and up": lambda: nn.Sequential(
        nn.Conv2d(WIDTH, 3, 2, stride=2), nn.ConvTranspose2d(3, WIDTH, 2, stride=2)
    ),
    "up, grouped": lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1, groups=2),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "instance norm": lambda: nn.InstanceNorm2d(WIDTH, affine=True),
    "batch norm, eval": lambda: nn.BatchNorm2d(WIDTH).eval(),
    "residual": lambda: Residual(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Tanh())),
    "twice": lambda: Twice(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
    "scaled": lambda: Scaled(WIDTH, 1, 1),
    "pool": lambda: nn.MaxPool2d(3, stride=1, padding=1),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    ).eval(),
    "linear on channels": lambda: nn.Sequential(
        Apply(lambda x: x.movedim(1, -1)),
        nn.Linear(WIDTH, WIDTH),
        Apply(lambda x: x.movedim(-1, 1)),
    ),
}
HEADS = {
    "sequence": lambda: [Apply(lambda x: x.mean(1)), nn.Linear(WIDTH, 3)],
    "image": lambda: [Apply(lambda x: x.mean((2, 3))), nn.Linear(WIDTH, 3)],
}
MENU = {"sequence": SEQUENCE, "image": IMAGE}
SHAPE = {"sequence": (5, WIDTH), "image": (WIDTH, 6, 6)}
ORDERS = {
    "plain": lambda losses: (losses, list(range(B)), torch.ones(B)),
    "permuted": lambda losses: (losses[[3, 1, 0, 5, 2, 4]], [3, 1, 0, 5, 2, 4], torch.ones(B)),
    "sliced": lambda losses: (losses[1:4], [1, 2, 3], torch.ones(3)),
    "picked": lambda losses: (losses[[4, 2]], [4, 2], torch.ones(2)),
    "stacked": lambda losses: (torch.stack([losses[5], losses[0]]), [5, 0], torch.ones(2)),
    "flipped": lambda losses: (losses.flip(0), list(range(B))[::-1], torch.ones(B)),
    "weighted": lambda losses: (
        losses * torch.arange(B), list(range(B)), torch.arange(B).double()
    ),
}  # fmt: skip


def build(kind: str, names: list[str], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(*(MENU[kind][name]() for name in names), *HEADS[kind]())
        # parameters at zero or one hide what they are multiplied by
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def loop(model: nn.Module, x: Tensor, y: Tensor, rows: list[int], weights: Tensor) -> Tensor:
    """[m] squared norms over all parameters, one example at a time."""
    parameters = list(model.parameters())
    found = []
    for i, weight in zip(rows, weights, strict=True):
        loss = weight * F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append(sum(g.double().square().sum() for g in gradients if g is not None))
    return torch.stack([torch.as_tensor(f, dtype=torch.float64) for f in found]).detach()


def measured(model, x, y, order):
    losses, rows, weights = ORDERS[order](F.cross_entropy(model(x), y, reduction="none"))
    result = _moments.moments(losses, dict(model.named_parameters()))
    return result, rows, weights


@settings(deadline=None, max_examples=120, derandomize=True)
@given(data=st.data())
def test_random_models_agree_with_a_loop_in_float64(data):
    kind = data.draw(st.sampled_from(sorted(MENU)))
    names = data.draw(st.lists(st.sampled_from(sorted(MENU[kind])), min_size=1, max_size=4))
    order = data.draw(st.sampled_from(sorted(ORDERS)))
    seed = data.draw(st.integers(0, 1000))
    model = build(kind, names, seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(B, *SHAPE[kind], generator=generator), torch.arange(B) % 3

    exact = copy.deepcopy(model).double()
    result, rows, weights = measured(exact, x.double(), y, order)
    truth = loop(exact, x.double(), y, rows, weights)
    found = sum(result.squares.values())
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-20)
    total = sum(
        w * F.cross_entropy(exact(x[i : i + 1].double()), y[i : i + 1])
        for i, w in zip(rows, weights, strict=True)
    )
    sums = torch.autograd.grad(total, list(exact.parameters()), allow_unused=True)
    for (name, parameter), want in zip(exact.named_parameters(), sums, strict=True):
        want = torch.zeros_like(parameter) if want is None else want
        torch.testing.assert_close(result.sums[name].double(), want, rtol=1e-9, atol=1e-12)

    result, rows, weights = measured(model, x, y, order)
    naive = (loop(model, x, y, rows, weights) - truth).abs() / truth.clamp(min=1e-30)
    error = (sum(result.squares.values()).detach() - truth).abs() / truth.clamp(min=1e-30)
    assert float(error.max()) <= max(1e-6, 3 * float(naive.max()))


def test_ordinary_layers_take_the_fast_route_and_reused_weights_the_general_one():
    model = build("sequence", ["linear", "layer norm", "attention", "twice", "made weights"], 0)
    x, y = torch.randn(B, 5, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(B) % 3
    losses = F.cross_entropy(model(x), y, reduction="none")
    routes = _moments.moments(losses, dict(model.named_parameters())).routes
    slow = {name for name, route in routes.items() if route == "general"}
    assert slow == {"3.inner.weight", "3.inner.bias", "4.u", "4.v"}
    assert set(routes.values()) == {"rule", "general"}


def test_every_image_layer_that_has_a_rule_uses_it():
    names = [name for name in IMAGE if name not in ("twice", "scaled", "spectral norm")]
    for name in names:
        model = build("image", [name, "pool"], 0)  # after a mean, a scale would have no gradient
        x = torch.randn(B, WIDTH, 6, 6, generator=torch.Generator().manual_seed(0))
        losses = F.cross_entropy(model(x), torch.arange(B) % 3, reduction="none")
        routes = _moments.moments(losses, dict(model.named_parameters())).routes
        assert set(routes.values()) == {"rule"}, (name, routes)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("positions", [3, 9])
def test_convolutions_in_every_dimension_by_patches_and_by_pixels(dimensions, positions):
    # few positions and many channels: the Gram matrix of pixels; else the patches
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    size = positions if dimensions < 3 else 4
    model = nn.Sequential(
        conv(3, 16, 3, padding=1, stride=2), nn.Tanh(), conv(16, 8, 2), nn.Flatten()
    ).double()  # fmt: skip
    model.append(nn.LazyLinear(3).double())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, 3, *[size] * dimensions, generator=generator, dtype=torch.float64)
    y = torch.arange(B) % 3
    model(x)
    losses = F.cross_entropy(model(x), y, reduction="none")
    result = _moments.moments(losses, dict(model.named_parameters()))
    truth = loop(model, x, y, list(range(B)), torch.ones(B))
    torch.testing.assert_close(sum(result.squares.values()), truth, rtol=1e-11, atol=0)
    assert set(result.routes.values()) == {"rule"}


WAYS = {"pairs": (True, False), "patches": (False, True), "convolutions": (False, False)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_all_ways_of_a_convolution_give_the_same(dimensions, way, dtype, monkeypatch):
    pairs, patches = WAYS[way]
    monkeypatch.setattr(Convolution, "_by_pairs", lambda self, applications: pairs)
    monkeypatch.setattr(Convolution, "_by_patches", lambda self, applications: patches)
    monkeypatch.setattr(_moments, "CACHE_BYTES", 1000)  # several chunks
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    generator = torch.Generator().manual_seed(0)
    size = [7, 6, 5][:dimensions]
    strided = conv(
        3, 4, [3, 2, 2][:dimensions], stride=2, padding=1, dilation=[2, 1, 1][:dimensions]
    )
    model = nn.Sequential(conv(2, 3, 2, padding=1), nn.Tanh(), strided, nn.Flatten())
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(B, 2, *size, generator=generator)
    want = model.double()(x.double()).square().sum(1)
    truth = _moments.moments(want, dict(model.named_parameters()))
    rows = [torch.autograd.grad(one, list(model.parameters()), retain_graph=True) for one in want]
    for k, (name, squares) in enumerate(truth.squares.items()):
        each = torch.stack([row[k] for row in rows])
        torch.testing.assert_close(squares, each.flatten(1).square().sum(1), rtol=1e-12, atol=0)
        torch.testing.assert_close(truth.sums[name], each.sum(0), rtol=1e-11, atol=1e-11)
    model.to(dtype)
    losses = model(x.to(dtype)).square().sum(1)
    found = _moments.moments(losses, dict(model.named_parameters()))
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    for name, squares in found.squares.items():
        torch.testing.assert_close(squares, truth.squares[name], rtol=rtol, atol=0)


class RollsWithTheData(nn.Module):
    """Mixes examples where the data say so: what a cached layout must not miss."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(torch.where(x[:, :1] > 0, h, h.roll(1, 0)))


def test_rows_that_move_with_the_data_are_probed_again():
    model, y = RollsWithTheData().double(), torch.arange(B) % 3
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(B, 4, generator=generator, dtype=torch.float64) + 0.1
    for batch in (x, torch.cat([x[:2], -x[2:]]), x):  # straight, mixed, straight
        agree(F.cross_entropy(model(batch), y, reduction="none"), dict(model.named_parameters()))


class SharesALittle(nn.Module):
    """Every example leans on its neighbour by a small amount."""

    def __init__(self, amount):
        super().__init__()
        self.first, self.last, self.amount = nn.Linear(4, 4), nn.Linear(4, 3), amount

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(h + self.amount * h.roll(1, 0))


@pytest.mark.parametrize("amount", [1.0, 0.1, 1e-3, 1e-6])
def test_examples_that_mix_by_hand_take_the_general_route(amount):
    model = SharesALittle(amount)
    x = torch.randn(B, 4, generator=torch.Generator().manual_seed(0))
    losses = F.cross_entropy(model(x), torch.arange(B) % 3, reduction="none")
    routes = _moments.moments(losses, dict(model.named_parameters())).routes
    assert routes["first.weight"] == routes["first.bias"] == "general"
    assert routes["last.weight"] == "rule"


STRAIGHT = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.Tanh(), nn.Linear(5, 3)),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3), nn.ReLU(), nn.GroupNorm(2, WIDTH), nn.MaxPool2d(2),
        nn.BatchNorm2d(WIDTH).eval(), nn.Flatten(), nn.Linear(16, 3),
    ),
    "residual": lambda: build("image", ["residual", "conv, grouped"], 0),
    "over positions": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(36, 4), nn.LayerNorm(4), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRAIGHT)
def test_ordinary_networks_are_proved_and_not_probed(name, monkeypatch):
    monkeypatch.setattr(_ownership, "_probe", lambda *_: pytest.fail("probed"))
    model = STRAIGHT[name]().double()
    x = torch.randn(B, WIDTH, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    losses = F.cross_entropy(model(x), torch.arange(B) % 3, reduction="none")
    agree(losses, dict(model.named_parameters()))


# in place on a view, reused or made: not proved, or without a rule
PROBED = {"in-place relu", "twice", "gru", "made weights", "weight norm"}


@pytest.mark.parametrize("name", [n for n in SEQUENCE if n not in PROBED])
def test_sequence_models_are_proved_and_not_probed(name, monkeypatch):
    monkeypatch.setattr(_ownership, "_probe", lambda *_: pytest.fail("probed"))
    model = build("sequence", [name, "linear"], 0).double()
    x = torch.randn(B, 5, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    agree(
        F.cross_entropy(model(x), torch.arange(B) % 3, reduction="none"),
        dict(model.named_parameters()),
    )


def test_what_cannot_be_proved_is_probed_and_only_that(monkeypatch):
    probed = []
    original = _ownership._probe

    def spy(graph, losses, rules):
        probed.extend(rule.use.parameter for rule in rules)
        return original(graph, losses, rules)

    monkeypatch.setattr(_ownership, "_probe", spy)
    model = Wired(*WIRING["rows by index"])
    x = torch.randn(B, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = agree(model.losses(x), dict(model.named_parameters()))
    assert {id(p) for p in probed} == {id(p) for p in model.a.parameters()}
    assert set(result.routes.values()) == {"rule"}


def agree(losses, named):
    """Each parameter against one backward pass a loss, in float64."""
    result = _moments.moments(losses, named)
    rows = [
        torch.autograd.grad(one, list(named.values()), retain_graph=True, allow_unused=True)
        for one in losses
    ]
    for k, (name, parameter) in enumerate(named.items()):
        each = [torch.zeros_like(parameter) if row[k] is None else row[k] for row in rows]
        want = torch.stack([g.to_dense().square().sum() for g in each])
        torch.testing.assert_close(result.squares[name], want, rtol=1e-9, atol=1e-18)
        total = sum(g.to_dense() for g in each)
        torch.testing.assert_close(result.sums[name].to(total), total, rtol=1e-8, atol=1e-12)
    return result


class Wired(nn.Module):
    """Layers with something between them that may move or mix rows."""

    def __init__(self, between, after=lambda losses: losses):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.double()
        self.between, self.after = between, after

    def losses(self, x):
        h = self.between(torch.tanh(self.a(x)))
        out = self.c(torch.tanh(self.b(h)))
        return self.after(F.cross_entropy(out, torch.arange(len(out)) % 3, reduction="none"))


A = torch.rand(B, B, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def same(losses):
    return losses


WIRING = {
    "a graph network": (lambda h: A @ h, same),
    "a roll that is off": (lambda h: h + 0.0 * h.roll(1, 0), same),
    "a small roll": (lambda h: h + 1e-4 * h.roll(1, 0), same),
    "rows by index": (lambda h: h[torch.tensor([5, 4, 3, 2, 1, 0])], same),
    "activations through an embedding": (
        lambda h: F.embedding(torch.tensor([1, 0, 3, 2, 5, 4]), h), same
    ),
    "the mean of the batch": (lambda h: h + h.mean(0), same),
    "batch moved to columns": (lambda h: (h.T @ A.T).T, same),
    "losses that cancel": (same, lambda losses: losses - losses.mean()),
    "neighbours that cancel": (same, lambda losses: losses - losses.roll(1)),
    "a ranking hinge": (same, lambda losses: losses + F.relu(losses.roll(1) - losses - 0.5)),
    "one loss twice": (same, lambda losses: losses[[0, 0, 1, 2]]),
    "weights of very different size": (
        same, lambda losses: losses * torch.logspace(0, -9, B, dtype=torch.float64)
    ),
    "some weights zero": (same, lambda losses: losses * (torch.arange(B) > 2)),
    "packed": (same, lambda losses: torch.stack([losses[:2].sum(), losses[2:].sum()])),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRING)
def test_wiring_that_moves_or_mixes_rows_is_right_by_either_route(name):
    model = Wired(*WIRING[name])
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        x = torch.randn(B, 4, generator=generator, dtype=torch.float64)
        agree(model.losses(x), dict(model.named_parameters()))


@pytest.mark.parametrize("m", [8, 16, 32])
def test_a_duplicated_example_is_not_taken_for_another_one(m):
    model = Wired(same, lambda losses: losses[[1, 1, *range(2, m)]])
    x = torch.randn(m, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    agree(model.losses(x), dict(model.named_parameters()))


def test_a_head_that_starts_at_zero_spoils_no_later_step():
    # the first gradients below it are zero and say nothing about whose rows they are
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Apply(lambda h: h.mean(0)), nn.Linear(4, 3))
    model.double()
    nn.init.zeros_(model[3].weight)
    x = torch.randn(5, B, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for _ in range(3):
        losses = F.cross_entropy(model(x), torch.arange(B) % 3, reduction="none")
        agree(losses, dict(model.named_parameters()))
        losses.mean().backward()
        torch.optim.SGD(model.parameters(), lr=0.5).step()
        model.zero_grad()


def test_complex_activations_count_their_real_parameters_right():
    w = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(B, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = (torch.fft.rfft(x) * w).abs().pow(1.5).sum((1, 2))
    agree(losses, {"w": w})


def test_sparse_inputs_take_the_general_route():
    w = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(B, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = (x.to_sparse() @ w).square().sum(1)
    assert agree(losses, {"w": w}).routes["w"] == "general"


def test_gradients_that_nearly_cancel_over_positions_keep_their_length():
    # large inputs, and what flows in sums to almost nothing: a float32 Gram matrix goes negative
    layer = nn.Linear(64, 64)
    generator = torch.Generator().manual_seed(0)
    x = 100 + 0.01 * torch.randn(B, 4, 64, generator=generator)
    losses = layer(x).softmax(1).square().sum((1, 2))
    found = per_example.squared_norms(losses, dict(layer.named_parameters()))["weight"]
    exact = copy.deepcopy(layer).double()
    wide = exact(x.double()).softmax(1).square().sum((1, 2))
    want = per_example.squared_norms(wide, dict(exact.named_parameters()))["weight"]
    rows = [torch.autograd.grad(one, layer.weight, retain_graph=True)[0] for one in losses]
    naive = torch.stack([g.double().square().sum() for g in rows])
    error, of_loop = ((v - want).abs() / want for v in (found, naive))
    assert float(found.min()) >= 0
    assert float(error.max()) <= max(1e-6, 3 * float(of_loop.max()))


def test_the_mean_gradient_leaves_unused_parameters_alone_and_adds_in_place():
    used, idle = (torch.ones(2, requires_grad=True) for _ in range(2))
    buffer = used.grad = torch.ones(2)
    per_example.squared_norms(torch.eye(2) @ used, {"u": used, "i": idle}, accumulate_grad=True)
    assert idle.grad is None
    assert used.grad is buffer
    assert buffer.tolist() == [1.5, 1.5]


def test_a_mean_gradient_that_overflows_is_refused():
    w = torch.ones(4, 1, dtype=torch.float16, requires_grad=True)
    losses = (torch.full((2048, 4), 100.0, dtype=torch.float16) @ w)[:, 0]
    with pytest.raises(ValueError, match=r"by 'w' overflows torch.float16: scale the losses down"):
        per_example.squared_norms(losses, {"w": w}, accumulate_grad=True)
    assert w.grad is None


def test_a_mean_gradient_that_fits_is_kept_though_the_sum_does_not():
    w = torch.ones(2, 2, dtype=torch.float16, requires_grad=True)
    x = torch.full((2048, 4, 2), 10.0, dtype=torch.float16)
    losses = (x @ w).sum((1, 2))  # gradients of 40, over positions and in chunks
    per_example.squared_norms(losses, {"w": w}, accumulate_grad=True)
    assert w.grad.dtype == torch.float16
    assert w.grad.tolist() == [[40.0, 40.0]] * 2
    w.grad = None
    large = (x.float() @ w.float()).sum((1, 2)) * 2000  # 80 000, too much for float16
    with pytest.raises(ValueError, match=r"by 'w' overflows torch.float16"):
        per_example.squared_norms(large, {"w": w}, accumulate_grad=True)
    assert w.grad is None


def test_a_saved_attribute_that_torch_no_longer_has_means_the_general_route(monkeypatch):
    monkeypatch.setattr(
        _ownership.Linear, "fits", classmethod(lambda cls, use: use.node._saved_gone)
    )
    model = build("sequence", ["linear"], 0)
    x, y = torch.randn(B, 5, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(B) % 3
    result, rows, weights = measured(model, x, y, "plain")
    assert result.routes["0.weight"] == "general"
    truth = loop(model, x, y, rows, weights)
    torch.testing.assert_close(sum(result.squares.values()), truth, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_examples_that_change_places_are_not_taken_for_each_other(dtype):
    # the probe's codes must be apart by more than rounding, for every pair
    m = 200
    generator = torch.Generator().manual_seed(0)
    first, last = nn.Linear(5, 8), nn.Linear(8, 3)
    for parameter in (*first.parameters(), *last.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(m, 5, generator=generator).to(dtype)
    first.to(dtype), last.to(dtype)
    order = torch.arange(m)
    order[[6, 11, 190, 191]] = order[[11, 6, 191, 190]]
    losses = last(torch.tanh(first(x))[order]).square().sum(1)
    found = per_example.squared_norms(losses, {"w": first.weight})["w"]
    want = torch.stack(
        [
            torch.autograd.grad(one, first.weight, retain_graph=True)[0].double().square().sum()
            for one in losses
        ]
    )
    torch.testing.assert_close(found, want, rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=0)


@pytest.mark.parametrize("m", [1, 2, 7, 1000, 5000])
def test_codes_are_apart_and_of_both_signs(m):
    codes = _ownership._codes(m)
    assert codes.shape == (2, m)
    telling, exact = codes
    assert bool((telling.abs() >= 0.5).all() and (telling.abs() <= 2).all())
    gaps = telling.sort().values.diff()
    assert m == 1 or float(gaps.min()) > 0.7 / m
    assert m < 7 or bool((codes > 0).any(1).all() and (codes < 0).any(1).all())
    assert bool((torch.frexp(exact.abs()).mantissa == 0.5).all())  # powers of two
    assert bool((exact.abs() >= 1).all() and (exact.abs() < 2**16).all())


def test_a_little_of_a_large_neighbour_is_seen_in_a_small_example():
    generator = torch.Generator().manual_seed(0)
    first, last = nn.Linear(5, 8), nn.Linear(8, 3)
    for parameter in (*first.parameters(), *last.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    h = torch.tanh(first(torch.randn(8, 5, generator=generator)))
    weights = torch.ones(8)
    weights[3] = 1e-6
    losses = last(h + 1e-6 * h.roll(1, 0)).square().sum(1) * weights
    result = _moments.moments(losses, {"w": first.weight})
    rows = [torch.autograd.grad(one, first.weight, retain_graph=True)[0] for one in losses]
    want = torch.stack([row.double().square().sum() for row in rows])
    torch.testing.assert_close(result.squares["w"], want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("amount", [1e-4, 1e-5, 1e-6, 1e-7])
def test_a_trace_of_a_neighbour_is_seen_in_float32(amount):
    # less than the rounding of a backward pass, and more than the result may be off
    generator = torch.Generator().manual_seed(0)
    first, last = nn.Linear(8, 8), nn.Linear(8, 3)
    for parameter in (*first.parameters(), *last.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    h = torch.tanh(first(torch.randn(64, 8, generator=generator)))
    losses = last(h + amount * h.roll(1, 0)).square().sum(1)
    found = per_example.squared_norms(losses, {"w": first.weight})["w"]
    rows = [torch.autograd.grad(one, first.weight, retain_graph=True)[0] for one in losses]
    want = torch.stack([row.double().square().sum() for row in rows])
    torch.testing.assert_close(found, want, rtol=1e-6, atol=0)


def test_a_very_uneven_share_of_rows_goes_the_general_way():
    layer = nn.Linear(3, 2).double()
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # 380 rows are the first example's, one each the others'
    rows = layer(x[torch.randperm(400, generator=torch.Generator().manual_seed(1))]).square().sum(1)
    losses = torch.cat([rows[:380].sum()[None], rows[380:]])
    assert set(agree(losses, dict(layer.named_parameters())).routes.values()) == {"general"}


class ScaledDotProductMix(torch.autograd.Function):
    """A function of somebody's own that begins like a built-in one, and mixes examples."""

    @staticmethod
    def forward(ctx, x):
        return x.roll(1, 0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.roll(-1, 0)


def test_a_function_of_ones_own_is_not_taken_for_a_built_in_one():
    first, last = nn.Linear(5, 4).double(), nn.Linear(4, 3).double()
    x = torch.randn(B, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = last(ScaledDotProductMix.apply(torch.tanh(first(x))[:, None])[:, 0]).square().sum(1)
    agree(losses, dict(first.named_parameters()))


def test_autocast_around_the_measurement_rounds_nothing():
    conv, layer = nn.Conv2d(3, 4, 3), nn.Linear(64, 64)
    generator = torch.Generator().manual_seed(0)
    images, rows = (torch.randn(4, *s, generator=generator) for s in ((3, 8, 8), (3, 64)))
    for model, x in ((conv, images), (layer, rows)):
        losses = torch.tanh(model(x)).flatten(1).square().sum(1)
        named = dict(model.named_parameters())
        along = {name: torch.ones_like(p) for name, p in named.items()}
        alone = (
            per_example.squared_norms(losses, named)["weight"],
            per_example.gram(losses, named),
            per_example.directional_derivatives(losses, named, along),
        )
        with torch.autocast("cpu"):
            inside = (
                per_example.squared_norms(losses, named)["weight"],
                per_example.gram(losses, named),
                per_example.directional_derivatives(losses, named, along),
            )
        for one, other in zip(alone, inside, strict=True):
            assert torch.equal(one, other)


def test_rows_of_equal_entries_are_squared_to_the_digit():
    # rounding goes one way here, so that long naive sums drift
    layer = nn.Linear(2047, 2)
    x = torch.full((4, 2047), 1.7)
    losses = torch.tanh(0.001 * layer(x)).sum(1)
    found = per_example.squared_norms(losses, {"w": layer.weight})["w"]
    rows = [torch.autograd.grad(one, layer.weight, retain_graph=True)[0] for one in losses]
    want = torch.stack([row.double().square().sum() for row in rows])
    torch.testing.assert_close(found, want, rtol=1e-6, atol=0)


def test_large_gradients_over_positions_do_not_overflow():
    layer = nn.Linear(64, 64)
    x = torch.randn(4, 3, 64, generator=torch.Generator().manual_seed(0)) * 1e12
    losses = (layer(x) * 1e12).sum((1, 2)) * 1e-10
    large = per_example.squared_norms(losses * 1e10, {"w": layer.weight})["w"]
    small = per_example.squared_norms(losses, {"w": layer.weight})["w"]
    torch.testing.assert_close(large, small * 1e20, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_experts_without_rows_have_zero_gradients(rows):
    one, other = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = torch.cat([one(x[: 4 - rows]), other(x[4 - rows :])]).square().sum(1)
    agree(losses, {"one": one.weight, "other": other.weight})


@pytest.mark.parametrize("m", [1, 4])
def test_layers_of_no_width_have_zero_gradients(m):
    one, other = nn.Linear(4, 0).double(), nn.Linear(0, 3).double()
    losses = other(one(torch.ones(m, 4, dtype=torch.float64))).sum(1)
    named = {"one": one.weight, "other": other.weight, "bias": other.bias}
    found = per_example.squared_norms(losses, named)
    want = torch.tensor([0, 0, 3.0], dtype=torch.float64)[:, None].expand(3, m)
    torch.testing.assert_close(torch.stack(list(found.values())), want)


class Stop(torch.autograd.Function):
    """Uses a parameter, and passes no gradient on to it."""

    @staticmethod
    def forward(ctx, x, w):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def test_a_parameter_that_gets_no_gradient_has_a_zero_one():
    layer, w = nn.Linear(5, 4).double(), torch.ones(4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(B, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = Stop.apply(layer(x), w).square().sum(1)
    agree(losses, {"w": w, **dict(layer.named_parameters())})


def test_nested_tensors_go_the_general_way():
    layer = nn.Linear(3, 2).double()
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (2, 4, 1)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged)
    found = layer(nested).sin()
    losses = torch.stack([part.sum() for part in found.unbind()])
    assert set(agree(losses, dict(layer.named_parameters())).routes.values()) == {"general"}


def test_the_mean_gradient_is_added_to_a_sparse_one():
    table = nn.Embedding(5, 3, sparse=True)
    keys = torch.tensor([[0, 1], [2, 2], [4, 0], [1, 3]])
    table(keys).sum().backward()
    before = table.weight.grad.to_dense().clone()
    losses = table(keys).square().sum((1, 2))
    per_example.squared_norms(losses, {"w": table.weight}, accumulate_grad=True)
    found = table.weight.grad - before
    (want,) = torch.autograd.grad(losses.mean(), table.weight)
    torch.testing.assert_close(found, want.to_dense())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_convolution_may_give_one_number_for_all_dimensions(dimensions):
    # this is how autograd keeps padding="valid"
    conv = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, 2, *[6] * dimensions, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 2, *[2] * dimensions, generator=generator, dtype=torch.float64)
    w.requires_grad_()
    for options in ({"padding": "valid"}, {"padding": (1,)}, {"stride": (2,)}, {"dilation": (2,)}):
        losses = torch.tanh(conv(x, w, **options)).flatten(1).sum(1)
        assert agree(losses, {"w": w}).routes["w"] == "rule"


BROADCAST = {  # the shape of a parameter, and of what it is added to or multiplied with
    "positions": ((1, 5, 4), (B, 5, 4)),
    "channels": ((4, 1, 1), (B, 4, 3, 3)),
    "channels, all written out": ((1, 4, 1, 1), (B, 4, 3, 3)),
    "one a position": ((5, 1), (B, 5, 4)),
    "wider than the input": ((1, 5, 4), (B, 5, 1)),
    "a number": ((1,), (B, 4)),
    "a number in three brackets": ((1, 1, 1), (B, 5, 4)),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_a_parameter_that_is_broadcast_has_a_rule(name):
    own, shape = BROADCAST[name]
    generator = torch.Generator().manual_seed(0)
    shift, scale = (
        torch.randn(own, generator=generator, dtype=torch.float64).requires_grad_() for _ in "ab"
    )
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    losses = torch.tanh(scale * torch.sin(x + shift)).flatten(1).sum(1)
    assert set(agree(losses, {"a": shift, "b": scale}).routes.values()) == {"rule"}


def test_under_autocast_the_rules_look_through_the_copies_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.GELU(), nn.Flatten(2), nn.Linear(6, 8), nn.Tanh(), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    x, y = torch.randn(B, 3, 8, generator=generator), torch.arange(B) % 3
    with torch.autocast("cpu", torch.bfloat16):
        losses = F.cross_entropy(model(x), y, reduction="none")
    named = dict(model.named_parameters())
    result = _moments.moments(losses, named)
    assert set(result.routes.values()) == {"rule"}
    for name, parameter in named.items():
        rows = [torch.autograd.grad(one, parameter, retain_graph=True)[0] for one in losses]
        want = torch.stack([row.double().square().sum() for row in rows])
        torch.testing.assert_close(result.squares[name], want, rtol=2e-2, atol=0)
        torch.testing.assert_close(result.sums[name].float(), sum(rows), rtol=3e-2, atol=3e-2)


def test_the_summed_gradient_of_many_examples_in_half_precision_does_not_stagnate(monkeypatch):
    # one example a chunk, all alike: in bfloat16 a running sum stops growing at 256 times its terms
    monkeypatch.setattr(_moments, "CACHE_BYTES", 1)
    w = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    x = torch.ones(600, 4, 2, dtype=torch.bfloat16)
    result = _moments.moments((x @ w).sum((1, 2)), {"w": w})
    assert result.routes["w"] == "rule"
    assert result.sums["w"].tolist() == [[2400.0, 2400.0]] * 2


class Remembers(torch.autograd.Function):
    """Keeps a tensor under the name that autograd uses for leaves."""

    @staticmethod
    def forward(ctx, x, others):
        (ctx.variable,) = others
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def test_a_function_that_remembers_a_parameter_does_not_use_it():
    w, idle = (torch.ones(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x = torch.randn(B, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = torch.tanh(x + Remembers.apply(w.exp(), [idle])).sum((1, 2))
    agree(losses, {"w": w, "idle": idle})


def test_a_scalar_that_scales_a_weight_is_measured_by_the_general_route():
    # its gradients are [m] numbers without a dimension of their own
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    losses = torch.tanh(x @ (scale * w)).sum(1)
    named = {"scale": scale, "w": w}
    assert set(agree(losses, named).routes.values()) == {"general"}
    rows = [part["scale"] for part in per_example.gradients(losses, named, chunk=3)]
    each = torch.stack([torch.autograd.grad(one, scale, retain_graph=True)[0] for one in losses])
    torch.testing.assert_close(torch.cat(rows), each)
    kernel = per_example.gram(losses, {"scale": scale})
    torch.testing.assert_close(kernel, torch.outer(each, each))
    along = {"scale": torch.tensor(2.0, dtype=torch.float64), "w": torch.zeros_like(w)}
    found = per_example.directional_derivatives(losses, named, along)
    torch.testing.assert_close(found.detach(), 2 * each)
