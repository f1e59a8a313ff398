"""The gradients themselves and their Gram matrix.

The naive twin takes one backward pass an example and one dot product a pair. Where vectors are
known in closed form, losses <x_i, w> have the rows of x as their gradients.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gencoh_lib import _vectors, coherence, per_example
from gencoh_lib._vectors import gradients, gram

M = 7


def normal(*shape: int, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def naive(losses: Tensor, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """[m, *shape] gradients: one backward pass an example."""
    rows: dict[str, list[Tensor]] = {name: [] for name in named}
    for loss in losses:
        found = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        for (name, p), g in zip(named.items(), found, strict=True):
            rows[name].append(torch.zeros_like(p) if g is None else g.to_dense())
    return {name: torch.stack(parts) for name, parts in rows.items()}


def joined(parts) -> dict[str, Tensor]:
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def linear(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses whose gradients are the rows of x."""
    w = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    return x @ w, {"w": w}


class Model(nn.Module):
    """Any module, and a function that turns it into [m] losses."""

    def __init__(self, losses, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.losses = lambda: losses(self)


def zoo() -> dict[str, Model]:
    torch.manual_seed(0)
    x, tokens = torch.randn(M, 6), torch.randint(5, (M, 3))
    image, sequence = torch.randn(M, 2, 5, 5), torch.randn(M, 4, 6)
    y = torch.randint(3, (M,))

    def entropy(outputs):
        return F.cross_entropy(outputs, y, reduction="none")

    return {
        "mlp": Model(
            lambda n: entropy(n.net(x)),
            net=nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)),
        ),
        "cnn": Model(
            lambda n: entropy(n.head(n.conv(image).relu().flatten(1))),
            conv=nn.Conv2d(2, 3, 3, stride=2, padding=1),
            head=nn.Linear(27, 3),
        ),
        "recurrent": Model(
            lambda n: entropy(n.rnn(sequence)[0][:, -1]), rnn=nn.GRU(6, 3, batch_first=True)
        ),
        "sparse embedding": Model(
            lambda n: entropy(n.table(tokens).mean(1)), table=nn.Embedding(5, 3, sparse=True)
        ),
        "attention": Model(
            lambda n: entropy(n.attend(sequence, sequence, sequence)[0][:, 0, :3]),
            attend=nn.MultiheadAttention(6, 2, batch_first=True),
        ),
        "checkpointed": Model(
            lambda n: entropy(checkpoint(n.net, x, use_reentrant=False)),
            net=nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)),
        ),
        "reordered and sliced losses": Model(
            lambda n: torch.cat([n.net(x)[4:, 1].square(), 3 * n.net(x)[:4, 0]]).flip(0),
            net=nn.Linear(6, 3),
        ),
        "an unused layer": Model(
            lambda n: entropy(n.net(x)), net=nn.Linear(6, 3), spare=nn.Linear(2, 2)
        ),
    }


MODELS = tuple(zoo())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_the_gradients_are_those_of_one_backward_pass_an_example(name, chunk):
    model = zoo()[name]
    named = dict(model.named_parameters())
    losses = model.losses()
    expected = naive(losses, named)
    found = joined(gradients(losses, named, chunk=chunk))
    assert list(found) == list(named)
    for key in named:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-6)


def test_each_step_holds_the_next_examples_and_the_last_holds_what_is_left():
    losses, named = linear(normal(M, 4))
    assert [len(part["w"]) for part in gradients(losses, named, chunk=3)] == [3, 3, 1]


def test_gradients_keep_the_dtype_and_are_detached_and_leave_everything_as_it_was():
    model = zoo()["mlp"]
    named = dict(model.named_parameters())
    losses = model.losses()
    state = torch.get_rng_state()
    found = joined(gradients(losses, named))
    gram(losses, named)
    assert all(g.dtype == torch.float32 and not g.requires_grad for g in found.values())
    assert all(p.grad is None for p in named.values())
    assert torch.equal(state, torch.get_rng_state())
    losses.mean().backward()  # the graph is still there
    for name, p in named.items():
        torch.testing.assert_close(p.grad, found[name].mean(0))


def test_operations_that_cannot_be_batched_go_one_example_after_the_other():
    class Stubborn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (2 if float(gradient.sum()) > -math.inf else 0)  # reads a value

    x = normal(M, 4)
    losses, named = linear(x)
    (found,) = gradients(Stubborn.apply(losses), named)
    torch.testing.assert_close(found["w"], 2 * x)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("byte_budget", [1, 2000, 2**27])
def test_the_gram_matrix_holds_every_dot_product_whatever_the_budget(name, byte_budget):
    model = zoo()[name]
    named = dict(model.named_parameters())
    losses = model.losses()
    flat = torch.cat([g.flatten(1) for g in naive(losses, named).values()], 1).double()
    expected = torch.tensor([[float(a @ b) for a in flat] for b in flat], dtype=torch.float64)
    found = gram(losses, named, byte_budget=byte_budget)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))
    assert torch.equal(found, found.T)


def test_the_gram_matrix_is_exact_in_double_precision_and_positive():
    x = normal(9, 5, dtype=torch.float64)
    for byte_budget in (1, 400, 2**20):
        found = gram(*linear(x), byte_budget=byte_budget)
        torch.testing.assert_close(found, x @ x.T, rtol=1e-14, atol=1e-14)
        assert float(torch.linalg.eigvalsh(found)[0]) > -1e-12  # rank 5 of 9


def test_long_parameters_are_multiplied_tile_by_tile(monkeypatch):
    x = normal(4, 1000, dtype=torch.float64)
    monkeypatch.setattr(_vectors, "_TILE_BYTES", 8 * 8 * 7)  # seven columns at a time
    torch.testing.assert_close(gram(*linear(x)), x @ x.T, rtol=1e-12, atol=1e-12)


def test_sums_are_kept_in_double_precision():
    # in float32 the product of these two would be 2^24, without the last 1
    x = torch.ones(2, 2**24 + 1)
    assert gram(*linear(x))[0, 1] == 2**24 + 1


def test_the_matrices_of_the_parameters_add_up_to_that_of_the_model():
    model = zoo()["cnn"]
    named = dict(model.named_parameters())
    losses = model.losses()
    parts = [gram(losses, {name: p}) for name, p in named.items()]
    torch.testing.assert_close(torch.stack(parts).sum(0), gram(losses, named), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_its_trace_and_sum_are_those_of_the_exact_coherence(name):
    model = zoo()[name]
    named = dict(model.named_parameters())
    found = gram(model.losses(), named)
    squares = sum(per_example.squared_norms(model.losses(), named).values())
    torch.testing.assert_close(found.diagonal(), squares, rtol=1e-4, atol=1e-9)
    measured = coherence.measure(model.losses(), model)
    assert float(found.sum() / found.trace()) == pytest.approx(measured.m_coherence, rel=1e-4)


def test_dense_layers_have_the_closed_form():
    # the gradient of layer y = W a + b is (d a', d): <g_i, g_j> = (d_i . d_j) (a_i . a_j + 1)
    torch.manual_seed(0)
    layer, a = nn.Linear(5, 3).double(), normal(M, 5, dtype=torch.float64)
    y = torch.randint(3, (M,))
    outputs = layer(a)
    d = outputs.softmax(1) - F.one_hot(y, 3)
    found = gram(F.cross_entropy(outputs, y, reduction="none"), dict(layer.named_parameters()))
    torch.testing.assert_close(found, (d @ d.T) * (a @ a.T + 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "rows, expected",
    [
        (torch.eye(4), 1.0),  # at right angles
        (torch.ones(4, 2), 4.0),  # identical
        (torch.eye(4) - 0.25, 0.0),  # centred simplex
        (torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 3), 4.25),
        (torch.tensor([[1.0, 0.0]] * 9 + [[-1.0, 0.0]]), 6.4),
        (torch.arange(1.0, 5)[:, None], 100 / 30),  # one direction, lengths 1 to 4
    ],
)
def test_m_coherence_of_known_vectors(rows, expected):
    found = gram(*linear(rows))
    assert float(found.sum() / found.trace()) == pytest.approx(expected, abs=1e-12)


def test_coherence_by_class_stiffness_and_effective_rank_are_read_off_the_matrix():
    # 6 copies of each of 3 orthonormal vectors, a class for each
    y = torch.arange(3).repeat(6)
    found = gram(*linear(torch.eye(3)[y]))
    for c in range(3):
        block = found[y == c][:, y == c]
        assert float(block.sum() / block.trace()) == 6
        assert float(found[y == c][:, y != c].abs().max()) == 0
    length = found.diagonal().sqrt()
    cosine = found / length / length[:, None]
    off = ~torch.eye(18, dtype=torch.bool)
    assert float(cosine[off].mean()) == pytest.approx(3 * 6 * 5 / (18 * 17))
    share = torch.linalg.eigvalsh(found).clamp(min=0) / found.trace()
    assert float(torch.special.entr(share).sum().exp()) == pytest.approx(3)


matrices = st.tuples(st.integers(1, 8), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-9, 9).map(float))
)


@given(matrices, st.integers(1, 2000), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_order_weighting_and_cut_of_the_examples_gives_the_same_vectors(
    x, byte_budget, chunk, random
):
    # whole numbers, so that every operation is exact
    rows = torch.from_numpy(x)
    losses, named = linear(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    weights = torch.tensor([random.choice([-2.0, 0.0, 1.0, 3.0]) for _ in order]).double()
    changed = losses[order] * weights
    expected = rows[order] * weights[:, None]
    assert torch.equal(joined(gradients(changed, named, chunk=chunk))["w"], expected)
    found = gram(changed, named, byte_budget=byte_budget)
    assert torch.equal(found, expected @ expected.T)


def test_nothing_is_formed_twice_where_it_fits_and_the_budget_holds_where_it_does_not(monkeypatch):
    x = normal(8, 100, dtype=torch.float64)  # 800 bytes a gradient
    losses, named = linear(x)
    formed, largest = [], []
    honest = _vectors.backward

    def counting(losses, parameters, seed, **options):
        found = honest(losses, parameters, seed, **options)
        formed.append(len(seed))
        largest.append(sum(g.numel() * g.element_size() for g in found))
        return found

    monkeypatch.setattr(_vectors, "backward", counting)
    gram(losses, named)
    assert sum(formed) == 8
    formed.clear(), largest.clear()
    gram(losses, named, byte_budget=8000)  # five at rest and three on their way past
    assert sum(formed) == 8 + 3
    assert max(largest) <= 4000


@pytest.mark.parametrize("call", [gradients, gram])
def test_what_has_no_per_example_gradients_is_refused_at_the_call(call):
    x = normal(M, 4)
    losses, named = linear(x)
    with pytest.raises(ValueError, match="must be a vector"):
        call(losses.sum(), named)
    with pytest.raises(ValueError, match="no graph"):
        call(losses.detach(), named)
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
        call([1.0], named)
    with pytest.raises(ValueError, match="losses hold NaN"):
        call(losses * math.nan, named)
    with pytest.raises(ValueError, match="named_parameters is empty"):
        call(losses, {})
    with pytest.raises(ValueError, match="'w' is frozen"):
        call(losses, {"w": torch.zeros(4)})
    with pytest.raises(ValueError, match="same tensor"):
        call(losses, named | {"again": named["w"]})
    norm = nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match="batch-norm"):
        call(norm(x).sum(1), dict(norm.named_parameters()))


class Broken(torch.autograd.Function):
    """A backward pass that goes wrong for the example at index 5, and for it alone."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        wrong = torch.arange(gradient.shape[-1]) == 5
        return torch.where(wrong & (gradient != 0), math.nan, gradient)


def consume(losses, named):
    return list(gradients(losses, named, chunk=2))


@pytest.mark.parametrize("call", [consume, gram])
def test_what_shows_only_on_the_way_is_refused_too(call):
    losses, _ = linear(normal(M, 4))
    with pytest.raises(ValueError, match="depend on none of the given parameters"):
        call(losses, {"other": nn.Parameter(torch.zeros(4))})
    x = torch.ones(M, 1)
    x[5] = 0
    losses, named = linear(x)
    with pytest.raises(ValueError, match=r"gradients.* hold NaN or infinity"):
        call((losses + x[:, 0]).sqrt(), named)  # a finite loss with an infinite slope
    with pytest.raises(ValueError, match=r"1 of 7 examples \(the first at index 5\)"):
        call(Broken.apply(losses), named)
    model = zoo()["mlp"]
    losses = model.losses()
    losses.mean().backward()
    with pytest.raises(ValueError, match="freed"):
        call(losses, dict(model.named_parameters()))


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True, None])
def test_a_chunk_must_be_a_positive_whole_number(chunk):
    losses, named = linear(normal(M, 4))
    with pytest.raises(ValueError, match="chunk must be a whole number"):
        gradients(losses, named, chunk=chunk)
