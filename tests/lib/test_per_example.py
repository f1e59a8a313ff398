"""Per-example gradients: the graph of the loss vector against one backward pass an example.

The naive twin runs the model on every example alone and squares the gradient it gets. On layers
that mix rows, pad, share or reuse parameters, shipped libraries are known to be silently wrong;
here each of them must agree, or be refused by name.
"""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gencoh_lib import _graph, _moments, _vectors, per_example
from tests.lib.networks import CASES, build

B = 6


def naive_gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """[m, *shape] gradients of every parameter: one example, one forward, one backward pass."""
    named = trainable(model)
    rows: dict[str, list[Tensor]] = {name: [] for name in named}
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for (name, p), g in zip(named.items(), grads, strict=True):
            rows[name].append(torch.zeros_like(p) if g is None else g)
    return {name: torch.stack(r) for name, r in rows.items()}


def batch(*shape, seed=0, m=B):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, *shape, generator=generator, dtype=torch.float64), torch.arange(m) % 3


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def mlp(inputs=5, width=4):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, 3)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("case", CASES)
def test_squared_norms_are_those_of_one_backward_pass_an_example(case):
    model, x = build(case, B)
    y = torch.arange(B) % 3
    losses = F.cross_entropy(model(x), y, reduction="none")
    found = per_example.squared_norms(losses, trainable(model))
    for name, gradients in naive_gradients(model, x, y).items():
        truth = gradients.flatten(1).square().sum(1)
        torch.testing.assert_close(found[name], truth, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_directional_derivatives_are_inner_products_with_the_gradients(case):
    model, x = build(case, B)
    y = torch.arange(B) % 3
    named = trainable(model)
    generator = torch.Generator().manual_seed(2)
    along = {n: torch.randn(p.shape, generator=generator).double() for n, p in named.items()}
    losses = F.cross_entropy(model(x), y, reduction="none")
    found = per_example.directional_derivatives(losses, named, along)
    gradients = naive_gradients(model, x, y)
    truth = sum((g * along[name]).flatten(1).sum(1) for name, g in gradients.items())
    torch.testing.assert_close(found.detach(), truth, rtol=1e-9, atol=1e-13)


def test_float32_gradients_are_squared_without_losing_digits():
    # 2.4 million terms: a float32 sum of squares is off by 1e-4 here
    w = torch.full((2_400_000,), 0.1, requires_grad=True)
    scale = torch.tensor([1.0, 3.0])
    found = per_example.squared_norms(scale * (w * 0.1).sum(), {"w": w})["w"]
    one = float(torch.tensor(0.1).double() ** 2) * 2_400_000
    torch.testing.assert_close(found, torch.tensor([one, 9 * one]).double(), rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=25)
@given(
    m=st.integers(1, 7),
    width=st.integers(1, 5),
    budget=st.integers(1, 4000),
    seed=st.integers(0, 99),
)
def test_the_byte_budget_changes_nothing_but_the_chunks(m, width, budget, seed):
    x, y = batch(3, seed=seed, m=m)
    model = mlp(3, width)
    named = dict(model.named_parameters())
    losses = F.cross_entropy(model(x), y, reduction="none")
    whole = per_example.squared_norms(losses, named)
    chunked = per_example.squared_norms(losses, named, byte_budget=budget)
    for name in named:
        torch.testing.assert_close(chunked[name], whole[name], rtol=1e-12, atol=0)


def test_a_small_budget_takes_one_example_at_a_time(monkeypatch):
    model, x = build("a module used twice", B)
    y = torch.arange(B) % 3
    monkeypatch.setattr(_moments, "_by_rules", lambda *_: ({}, {}))
    rows: list[int] = []
    original = _vectors.backward

    def counting(losses, parameters, seed, **options):
        rows.append(len(seed))
        return original(losses, parameters, seed, **options)

    monkeypatch.setattr(_vectors, "backward", counting)
    losses = F.cross_entropy(model(x), y, reduction="none")
    per_example.squared_norms(losses, dict(model.named_parameters()), byte_budget=1)
    assert rows == [1] * B


class Cube(torch.autograd.Function):
    """x -> x^3 with a backward pass as a user may write it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class OnceOnly(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return Cube.backward(ctx, gradient)


class CutsTheGraph(Cube):
    @staticmethod
    def backward(ctx, gradient):
        return Cube.backward(ctx, gradient.detach())


class Unbatchable(Cube):
    @staticmethod
    def backward(ctx, gradient):
        gradient.detach().sum().item()  # vmap cannot do this
        return Cube.backward(ctx, gradient)


@pytest.mark.parametrize("function", [Cube, OnceOnly, CutsTheGraph, Unbatchable])
def test_hand_written_backward_passes_are_never_silently_wrong(function):
    w = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.0, 2.0], [0.5, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    losses = function.apply(x @ w)
    gradients = 3 * (x @ w.detach()).square()[:, None] * x
    found = per_example.squared_norms(losses, {"w": w})["w"]
    torch.testing.assert_close(found, gradients.square().sum(1))
    v = torch.tensor([2.0, 1.0], dtype=torch.float64)
    inner = per_example.directional_derivatives(losses, {"w": w}, {"w": v})
    torch.testing.assert_close(inner.detach(), gradients @ v)


def test_a_parameter_that_no_loss_uses_has_zero_gradients():
    w, idle = (torch.ones(2, requires_grad=True) for _ in range(2))
    found = per_example.squared_norms(torch.eye(2) @ w, {"w": w, "idle": idle})
    assert found["idle"].tolist() == [0.0, 0.0]
    assert found["w"].tolist() == [1.0, 1.0]


def test_the_model_the_graph_and_the_rng_come_back_as_they_went_in():
    x, y = batch(5)
    model = mlp()
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    losses = F.cross_entropy(model(x), y, reduction="none")
    per_example.squared_norms(losses, dict(model.named_parameters()))
    assert all(p.grad is None for p in model.parameters())
    losses.mean().backward()  # the graph is still there
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


W = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "losses must be a torch.Tensor, got list"),
        (W.sum(), ValueError, r"vector \[m\].*got shape \(\).*reduction=.none."),
        (torch.eye(2) * W, ValueError, r"got shape \(2, 2\)"),
        ((W * 2)[:0], ValueError, r"got shape \(0,\)"),
        (torch.arange(3), TypeError, "floating point"),
        (torch.ones(3), ValueError, "no graph.*no_grad"),
        (torch.ones(3, requires_grad=True), ValueError, "no graph"),
        (W * torch.tensor([1.0, float("nan")]), ValueError, "NaN.*1 of 2 .*index 1"),
        (W * torch.tensor([float("inf"), 1.0]), ValueError, "infinity.*index 0"),
        (torch.ones(2, requires_grad=True) * 2, ValueError, "another graph"),
    ],
)
def test_losses_that_are_no_vector_of_losses_are_refused(losses, error, message):
    with pytest.raises(error, match=message):
        per_example.squared_norms(losses, {"w": W})


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ([W], TypeError, "map names to parameters"),
        ({}, ValueError, "named_parameters is empty"),
        ({"w": 3.0}, TypeError, "parameter 'w' is a float"),
        ({"w": torch.ones(2)}, ValueError, "parameter 'w' is frozen"),
        ({"w": torch.ones(2) * 1j + W}, TypeError, "parameter 'w' is complex"),
        ({"w": W, "again": W}, ValueError, "'w' and 'again' are the same tensor"),
    ],
)
def test_parameters_that_cannot_be_differentiated_by_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        per_example.squared_norms(W * 2, parameters)


def test_a_freed_graph_is_explained():
    losses = (W * 2).square()
    losses.sum().backward()
    W.grad = None
    with pytest.raises(ValueError, match=r"graph behind losses has been freed.*retain_graph"):
        per_example.squared_norms(losses, {"w": W})


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ({}, "no entry for parameter 'w'"),
        ({"w": [1.0, 1.0]}, "is list, its parameter"),
        ({"w": torch.tensor([1.0, float("nan")])}, "holds NaN"),
        ({"w": torch.ones(3)}, r"is \(3,\), its parameter has shape"),
    ],
)
def test_a_direction_of_another_shape_is_refused(direction, message):
    with pytest.raises(ValueError, match=message):
        per_example.directional_derivatives(W * 2, {"w": W}, direction)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_batch_norm_by_batch_statistics_is_refused(affine, tracked):
    # without running statistics the batch is used in eval mode too
    norm = nn.BatchNorm1d(4, affine=affine, track_running_stats=tracked).train(tracked)
    model = nn.Sequential(nn.Linear(5, 4), norm, nn.Linear(4, 3))
    x, y = torch.randn(B, 5, generator=torch.Generator().manual_seed(0)), torch.arange(B) % 3
    losses = F.cross_entropy(model(x), y, reduction="none")
    where = "'1'" if affine else "(whose parameters are not among those given)"
    with pytest.raises(ValueError, match=re.escape(f"batch-norm layer {where} ")):
        per_example.squared_norms(losses, dict(model.named_parameters()))
    with pytest.raises(ValueError, match=r"batch-norm layer '1' "):
        _graph.refuse_what_hides(losses, dict(model.named_parameters()), model.named_modules())


def test_the_graph_counts_and_not_the_mode_the_model_is_in_by_now():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    x, y = torch.randn(B, 5, generator=torch.Generator().manual_seed(0)), torch.arange(B) % 3
    mixed = F.cross_entropy(model(x), y, reduction="none")
    model.eval()
    with pytest.raises(ValueError, match="batch-norm layer '1'"):
        per_example.squared_norms(mixed, dict(model.named_parameters()))
    alone = F.cross_entropy(model(x), y, reduction="none")
    model.train()
    assert per_example.squared_norms(alone, dict(model.named_parameters()))["0.weight"].min() > 0


def test_a_graph_that_need_not_be_kept_is_freed_and_the_values_are_the_same():
    x, y = batch(5)
    model = mlp()
    named = dict(model.named_parameters())
    kept, freed = (F.cross_entropy(model(x), y, reduction="none") for _ in range(2))
    found = per_example.squared_norms(kept, named)
    again = per_example.squared_norms(freed, named, retain_graph=False)
    assert all(torch.equal(found[name], again[name]) for name in named)
    kept.mean().backward()
    with pytest.raises(ValueError, match="has been freed"):
        per_example.squared_norms(freed, named)


def test_checkpointing_needs_the_graph_more_than_once():
    inner, head = nn.Sequential(nn.Linear(5, 4), nn.Tanh()), nn.Linear(4, 3)
    x, y = torch.randn(B, 5, generator=torch.Generator().manual_seed(0)), torch.arange(B) % 3
    hidden = checkpoint(inner, x, use_reentrant=False)
    losses = F.cross_entropy(head(hidden), y, reduction="none")
    named = dict(inner.named_parameters())
    with pytest.raises(ValueError, match=r"activation checkpointing.*retain_graph=True"):
        per_example.squared_norms(losses, named, retain_graph=False)


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_checkpointed_parameters_are_measured_or_refused(kind):
    inner, head = nn.Sequential(nn.Linear(5, 4), nn.Tanh()), nn.Linear(4, 3)
    model = nn.Sequential(inner, head).double()
    x, y = batch(5)
    reentrant = kind == "reentrant"
    hidden = checkpoint(inner, x.requires_grad_(), use_reentrant=reentrant)
    losses = F.cross_entropy(head(hidden), y, reduction="none")
    if reentrant:
        with pytest.raises(ValueError, match=r"hides the parameters.*use_reentrant=False"):
            per_example.squared_norms(losses, dict(model.named_parameters()))
        return
    found = per_example.squared_norms(losses, dict(model.named_parameters()))
    for name, gradients in naive_gradients(model, x, y).items():
        torch.testing.assert_close(found[name], gradients.flatten(1).square().sum(1))


def test_a_refusal_does_not_run_a_checkpointed_batch_norm_again():
    inner = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    x, y = torch.randn(B, 5, generator=torch.Generator().manual_seed(0)), torch.arange(B) % 3
    losses = F.cross_entropy(checkpoint(inner, x, use_reentrant=False), y, reduction="none")
    with pytest.raises(ValueError, match="batch-norm layer '1'"):
        per_example.squared_norms(losses, dict(inner.named_parameters()))
    assert inner[1].num_batches_tracked == 1


@pytest.mark.parametrize("few", [slice(0, 6), slice(1, 5)])
def test_instance_norm_is_measured_whatever_part_of_the_losses_is_asked_for(few):
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
    ).double()
    x = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = model(x).square().sum(1)[few]
    named = dict(model.named_parameters())
    found = torch.stack(list(per_example.squared_norms(losses, named).values())).sum(0)
    rows = [torch.autograd.grad(one, list(named.values()), retain_graph=True) for one in losses]
    want = torch.stack([torch.stack([g.square().sum() for g in row]).sum() for row in rows])
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


def test_batch_norm_over_positions_is_not_taken_for_instance_norm():
    # one input, 16 positions, a loss each: the positions share their statistics
    norm, head = nn.BatchNorm1d(3), nn.Conv1d(3, 2, 1)
    x = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    losses = F.cross_entropy(head(norm(x))[0].T, torch.arange(16) % 2, reduction="none")
    with pytest.raises(ValueError, match="batch-norm layer"):
        per_example.squared_norms(losses, dict(norm.named_parameters(prefix="norm")))


def test_a_compiled_graph_is_refused_when_the_modules_use_batch_statistics():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    x, y = torch.randn(B, 5, generator=torch.Generator().manual_seed(0)), torch.arange(B) % 3
    losses = F.cross_entropy(torch.compile(model, backend="aot_eager")(x), y, reduction="none")
    named = dict(model.named_parameters())
    with pytest.raises(ValueError, match="batch-norm layer '1'"):
        _graph.refuse_what_hides(losses, named, model.named_modules())


class CallsBackward(torch.autograd.Function):
    """Runs a module without the graph, as reversible networks do, and backward() by itself."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.module, ctx.x = module, x
        with torch.no_grad():
            return module(x)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.x.detach().requires_grad_()
            torch.autograd.backward(ctx.module(x), gradient)
        return x.grad, None


@pytest.mark.parametrize(
    "measure",
    [
        per_example.squared_norms,
        per_example.gram,
        lambda losses, named: list(per_example.gradients(losses, named)),
        lambda losses, named: per_example.directional_derivatives(losses, named, named),
    ],
)
def test_parameters_that_a_backward_pass_hides_are_refused_and_keep_their_gradients(measure):
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "hidden": nn.Linear(4, 4)})
    x = torch.randn(B, 4, generator=torch.Generator().manual_seed(0))
    losses = CallsBackward.apply(torch.tanh(model["first"](x)), model["hidden"]).square().sum(1)
    named = dict(model.named_parameters())
    kept = {name: torch.ones_like(p) for name, p in named.items() if name != "hidden.bias"}
    for name, gradient in kept.items():
        named[name].grad = gradient
    with pytest.raises(ValueError, match=r"'hidden\.weight', 'hidden\.bias' are hidden.*CallsBac"):
        measure(losses, named)
    for name, parameter in named.items():
        assert parameter.grad is kept.get(name)
    assert all(bool((gradient == 1).all()) for gradient in kept.values())


@pytest.mark.parametrize("accumulate", [True, False])
def test_after_an_exception_the_gradients_are_what_they_were(accumulate):
    w, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    kept = w.grad = torch.tensor([3.0, 4.0])
    losses = (torch.eye(2) @ (w - 1)).square().sqrt() + torch.eye(2) @ other
    with pytest.raises(ValueError, match="gradients by 'w' hold NaN"):
        per_example.squared_norms(losses, {"w": w, "o": other}, accumulate_grad=accumulate)
    assert w.grad is kept
    assert kept.tolist() == [3.0, 4.0]
    assert other.grad is None


@pytest.mark.parametrize("bag", [False, True])
def test_an_embedding_that_counts_over_the_batch_is_refused(bag):
    kind = nn.EmbeddingBag if bag else nn.Embedding
    model = nn.ModuleDict({"table": kind(5, 3, scale_grad_by_freq=True)})
    losses = model["table"](torch.tensor([[0, 1], [1, 1]])).square().flatten(1).sum(1)
    with pytest.raises(ValueError, match=r"'table\.weight'.*scale_grad_by_freq.*Set scale_grad"):
        per_example.squared_norms(losses, dict(model.named_parameters()))


class CutsAPart(Cube):
    """Sums a with weights that cancel; its backward pass hides from a second derivative."""

    @staticmethod
    def forward(ctx, x, a):
        ctx.save_for_backward(x)
        return x @ a

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return None, x.T @ gradient.detach()


def test_a_cut_that_cancels_at_equal_weights_is_seen():
    a, b = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x, z = (torch.tensor([v], dtype=torch.float64).T for v in ([1, -1, 2, -2], [1, 2, 3, 4]))
    losses = CutsAPart.apply(x, a) + z @ b
    named = {"a": a, "b": b}
    found = per_example.directional_derivatives(losses, named, {n: torch.ones(1) for n in named})
    torch.testing.assert_close(found.detach(), (x + z).flatten())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_losses_are_measured_to_their_own_accuracy(dtype):
    x, y = batch(5)
    model = mlp()
    truth = naive_gradients(model, x, y)
    low = copy.deepcopy(model).to(dtype)
    losses = F.cross_entropy(low(x.to(dtype)), y, reduction="none")
    named = dict(low.named_parameters())
    found = per_example.squared_norms(losses, named)
    ones = {name: torch.ones_like(p) for name, p in named.items()}
    inner = per_example.directional_derivatives(losses, named, ones)
    for name, gradients in truth.items():
        want = gradients.flatten(1).square().sum(1)
        torch.testing.assert_close(found[name], want, rtol=0.1, atol=0.05)
    want = sum(g.flatten(1).sum(1) for g in truth.values())
    torch.testing.assert_close(inner.double().detach(), want, rtol=0.1, atol=0.1)


def test_sparse_gradients_count_as_what_they_are():
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(24, 3)).double()
    x = torch.randint(7, (B, 6), generator=torch.Generator().manual_seed(0))
    y = torch.arange(B) % 3
    losses = F.cross_entropy(model(x), y, reduction="none")
    found = per_example.squared_norms(losses, dict(model.named_parameters()))
    for name, gradients in naive_gradients(model, x, y).items():
        dense = gradients.to_dense().flatten(1)
        torch.testing.assert_close(found[name], dense.square().sum(1))


def test_gradients_that_are_not_finite_are_refused_by_name():
    w = torch.zeros(2, requires_grad=True)
    losses = (torch.eye(2) @ w).square().sqrt()  # the root has no slope at 0
    with pytest.raises(ValueError, match=r"gradients by 'w' hold NaN.*2 of 2"):
        per_example.squared_norms(losses, {"w": w})


def test_losses_from_before_an_optimiser_step_are_refused():
    x, y = batch(5)
    model = mlp()
    losses = F.cross_entropy(model(x), y, reduction="none")
    with torch.no_grad():
        model[2].weight.mul_(2)
    with pytest.raises(ValueError, match=r"changed in place.*compute the losses anew"):
        per_example.squared_norms(losses, dict(model.named_parameters()))


def test_a_freed_graph_with_batch_norm_is_explained():
    model = nn.Sequential(nn.Linear(5, 4), nn.InstanceNorm1d(4))
    x = torch.randn(B, 4, 5, generator=torch.Generator().manual_seed(0))
    losses = model[1](model[0](x)).square().sum((1, 2))
    losses.sum().backward()
    with pytest.raises(ValueError, match="graph behind losses has been freed"):
        per_example.squared_norms(losses, dict(model[0].named_parameters()))
