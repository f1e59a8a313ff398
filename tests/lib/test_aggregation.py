"""Robust averages against sorting, and the optimizers against loops of a few lines.

Where a claim of the chapter has a hypothesis that can be dropped, the same test shows it failing
without it.
"""

from __future__ import annotations

import copy
import io
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from gencoh_lib import aggregation, data, models, per_example, training
from gencoh_lib.aggregation import (
    M3,
    RA3,
    RM3,
    Winsorized,
    median_of_means,
    median_of_three,
    winsorize,
    winsorized_mean,
)

SGD = torch.optim.SGD
OF_THREE = [M3, RM3, RA3]


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "static")


def sorting_twin(rows: np.ndarray, level: float) -> np.ndarray:
    """Winsorize by sorting every coordinate; the bounds are where NumPy's nearest rule puts them.

    (Where two ranks are equally near, NumPy rounds to the even one, which may take unequal numbers
    from the two sides; the library takes the outer one on both.)
    """
    exact = level * (len(rows) - 1) / 100
    k = math.floor(exact) + (exact - math.floor(exact) > 0.5)
    ordered = np.sort(rows, axis=0)
    return np.minimum(np.maximum(rows, ordered[k]), ordered[len(rows) - 1 - k])


matrices = st.tuples(st.integers(1, 9), st.integers(1, 4)).flatmap(
    lambda shape: arrays(
        np.float64, shape, elements=st.floats(-1e3, 1e3).map(lambda v: round(v, 3))
    )
)
levels = st.one_of(st.integers(0, 50), st.floats(0, 50))
anything = st.floats(allow_nan=False, width=64)


# --- averages of tensors ---------------------------------------------------------------------


def test_winsorizing_by_hand():
    rows = torch.tensor([-5.0, 0.0, 1.0, 2.0, 100.0])
    assert winsorize(rows, 20).tolist() == [0, 0, 1, 2, 2]
    assert winsorize(rows, 0).tolist() == rows.tolist()
    assert winsorize(rows, 50).tolist() == [1, 1, 1, 1, 1]
    assert winsorize(torch.tensor([4.0, 1.0, 3.0, 2.0]), 50).mean() == 2.5  # the median


@pytest.mark.parametrize("level", [1, 2, 4, 8, 20, 49])
def test_level_c_replaces_c_values_a_side_of_a_hundred(level):
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(0)).double()
    found = winsorize(rows, level)
    assert (found.min(), found.max()) == (level, 99 - level)
    assert int((found != rows).sum()) == 2 * level


@given(matrices, levels)
def test_winsorizing_is_what_sorting_gives_to_the_bit(rows, level):
    twin = sorting_twin(rows, level)
    assert np.array_equal(winsorize(torch.from_numpy(rows), level).numpy(), twin)
    mean = winsorized_mean(torch.from_numpy(rows), level).numpy()
    np.testing.assert_allclose(mean, twin.mean(0), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("m", [2, 5, 8, 30, 100])
def test_bounds_are_the_nearest_percentiles_of_numpy_where_it_has_no_tie(m):
    rows = np.random.default_rng(m).normal(size=(m, 3))
    for level in range(51):
        if (level * (m - 1)) % 100 == 50:
            continue
        low, high = np.percentile(rows, [level, 100 - level], axis=0, method="nearest")
        assert np.array_equal(winsorize(torch.from_numpy(rows), level), np.clip(rows, low, high))


@given(matrices, levels, st.floats(-10, 10), st.floats(0.1, 10))
def test_winsorized_mean_moves_and_stretches_with_the_rows(rows, level, shift, scale):
    x = torch.from_numpy(rows)
    mean = winsorized_mean(x, level)
    torch.testing.assert_close(winsorized_mean(x * scale + shift, level), mean * scale + shift)
    torch.testing.assert_close(winsorized_mean(-x, level), -mean)  # both sides alike
    torch.testing.assert_close(winsorized_mean(x.flip(0), level), mean)


@given(matrices)
def test_ends_of_the_scale_are_mean_and_median(rows):
    x = torch.from_numpy(rows)
    torch.testing.assert_close(winsorized_mean(x, 0), x.mean(0))
    np.testing.assert_allclose(winsorized_mean(x, 50).numpy(), np.median(rows, axis=0), atol=1e-12)


def test_tiles_of_coordinates_change_nothing(monkeypatch):
    rows = torch.randn(20, 7, 5, generator=torch.Generator().manual_seed(0))
    whole = winsorized_mean(rows, 10)
    monkeypatch.setattr("gencoh_lib._robust._TILE_BYTES", 1)
    torch.testing.assert_close(winsorized_mean(rows, 10), whole)
    assert whole.shape == (7, 5)


def test_infinities_are_pulled_in_where_the_level_reaches():
    rows = torch.tensor([-math.inf, 1.0, 2.0, 3.0, math.inf])
    assert winsorized_mean(rows, 25) == 2


@given(anything, anything, anything)
def test_median_of_three_is_the_middle_one_to_the_bit(a, b, c):
    tensors = [torch.tensor(value, dtype=torch.float64) for value in (a, b, c)]
    for order in itertools.permutations(tensors):
        assert median_of_three(*order).item() == sorted([a, b, c])[1]


def test_median_of_three_survives_what_a_sum_does_not():
    one, large = torch.tensor(1.0), torch.tensor(1e20)
    assert one + large - large - large + large == 0  # the sum minus smallest minus largest
    assert median_of_three(one, large, -large) == 1
    infinite = torch.tensor(math.inf)
    assert median_of_three(infinite, one, -infinite) == 1
    assert median_of_three(infinite, one, infinite) == infinite
    generator = torch.Generator().manual_seed(0)
    heavy = torch.distributions.Cauchy(0.0, 1e10).icdf(torch.rand(3, 10_000, generator=generator))
    assert torch.equal(median_of_three(*heavy), heavy.median(0).values)


def test_median_of_numbers_that_are_no_tensors_is_refused():
    with pytest.raises(TypeError, match="the three must be tensors, got float"):
        median_of_three(torch.tensor(1.0), 2.0, torch.tensor(3.0))


def test_nan_is_nobodys_median():
    nan, one = torch.tensor(math.nan), torch.tensor(1.0)
    for order in itertools.permutations([nan, one, one]):
        assert median_of_three(*order).isnan()
    with pytest.raises(ValueError, match="rows hold NaN"):
        winsorize(torch.stack([nan, one]), 10)


@given(matrices, st.integers(1, 9))
def test_median_of_means_against_its_definition(rows, groups):
    if groups > len(rows):
        groups = len(rows)
    means = [part.mean(0) for part in np.array_split(rows, groups)]
    found = median_of_means(torch.from_numpy(rows), groups).numpy()
    np.testing.assert_allclose(found, np.median(means, axis=0), atol=1e-10)


@pytest.mark.parametrize("level", [-1, 51, math.nan, "4", True, None])
def test_impossible_levels_are_refused(level):
    for refused in (
        lambda: winsorize(torch.ones(3), level),
        lambda: winsorized_mean(torch.ones(3), level),
        lambda: Winsorized(SGD(nn.Linear(1, 1).parameters()), level),
    ):
        with pytest.raises(ValueError, match=r"level is the percentage .* from 0 to 50"):
            refused()


def test_impossible_budgets_are_refused():
    with pytest.raises(ValueError, match="byte_budget must be at least 1, got 0"):
        Winsorized(SGD([weight()]), 4, byte_budget=0)
    with pytest.raises(TypeError, match="byte_budget"):
        Winsorized(SGD([weight()]), 4, byte_budget="1 MB")


def test_impossible_rows_are_refused():
    with pytest.raises(TypeError, match="floating-point tensor"):
        winsorize(torch.arange(3), 10)
    with pytest.raises(TypeError, match="got list"):
        winsorized_mean([1.0], 10)
    with pytest.raises(ValueError, match=r"m >= 1, got shape \(0, 2\)"):
        winsorize(torch.ones(0, 2), 10)
    with pytest.raises(ValueError, match="between 1 and the 3 rows, got 4"):
        median_of_means(torch.ones(3), 4)
    with pytest.raises(ValueError, match="one shape"):
        median_of_three(torch.ones(1), torch.ones(2), torch.ones(1))


# --- when and by how much the optimizers step ------------------------------------------------


def feed(optimizer, parameter: Tensor, gradients: list[float]) -> list[float]:
    """Value of the parameter after a call with each of the gradients."""
    values = []
    for gradient in gradients:
        optimizer.zero_grad()
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        values.append(parameter.detach().flatten()[0].item())
    return values


def weight(value: float = 0.0) -> Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


def test_m3_moves_on_every_third_call_only():
    w = weight()
    assert feed(M3(SGD([w], lr=1)), w, [1, 9, 2, 4, 4, 4, 7, 8, 9]) == [
        0, 0, -2, -2, -2, -6, -6, -6, -14,
    ]  # fmt: skip


def test_rm3_moves_from_the_third_call_on():
    w = weight()
    assert feed(RM3(SGD([w], lr=1)), w, [1, 9, 2, 3]) == [0, 0, -2, -5]
    w = weight()
    assert feed(RM3(SGD([w], lr=0.5)), w, [2] * 5) == [0, 0, -1, -2, -3]


def test_ra3_takes_the_mean_in_the_rhythm_of_rm3():
    w = weight()
    assert feed(RA3(SGD([w], lr=1)), w, [1, 9, 2, 4]) == [0, 0, -4, -9]


@pytest.mark.parametrize("kind", OF_THREE)
def test_three_equal_gradients_are_one(kind):
    w = weight()
    assert feed(kind(SGD([w], lr=0.25)), w, [4, 4, 4])[-1] == -1


def network(seed=0, dtype=torch.float64):
    return models.mlp([64, 8, 10], seed=seed, dtype=dtype)


@pytest.fixture(scope="module")
def digits():
    small = data.split(data.load("digits"), [90], seed=0)[0]
    return data.Dataset("small", small.x.double(), small.y, 10, "here")


def flat(model) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient_of(model, digits, batch) -> list[Tensor]:
    loss = F.cross_entropy(model(digits.x[batch]), digits.y[batch])
    return list(torch.autograd.grad(loss, list(model.parameters())))


def middle(gradients: list[Tensor]) -> Tensor:
    return torch.stack(gradients).sort(0).values[1]


def mean(gradients: list[Tensor]) -> Tensor:
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("kind", "rolling", "average"), [(M3, False, middle), (RM3, True, middle), (RA3, True, mean)]
)
def test_training_with_them_equals_a_naive_loop(digits, kind, rolling, average, decay):
    model, twin = network(), network()
    optimizer = kind(SGD(model.parameters(), lr=0.3, weight_decay=decay))
    batches = [slice(10 * i, 10 * i + 10) for i in range(8)]
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(digits.x[batch]), digits.y[batch]).backward()
        optimizer.step()
    collected = []
    for batch in batches:
        own = gradient_of(twin, digits, batch)
        pairs = zip(own, twin.parameters(), strict=True)
        collected.append([g + decay * p.detach() for g, p in pairs])
        if len(collected) == 3:
            with torch.no_grad():
                for p, *three in zip(twin.parameters(), *collected, strict=True):
                    p -= 0.3 * average(three)
            collected = collected[1:] if rolling else []
    torch.testing.assert_close(flat(model), flat(twin), rtol=1e-9, atol=1e-12)


def test_m3_is_the_median_of_means_of_its_micro_batches(digits):
    model = network()
    named = dict(model.named_parameters())
    losses = training.cross_entropy(model(digits.x), digits.y)
    rows = [torch.cat([g.flatten(1) for g in part.values()], 1)
            for part in per_example.gradients(losses, named)]  # fmt: skip
    expected = flat(model) - 0.5 * median_of_means(torch.cat(rows), 3)
    optimizer = M3(SGD(model.parameters(), lr=0.5))
    for batch in torch.arange(90).split(30):
        optimizer.zero_grad()
        F.cross_entropy(model(digits.x[batch]), digits.y[batch]).backward()
        optimizer.step()
    torch.testing.assert_close(flat(model), expected, rtol=1e-9, atol=1e-12)


# --- weight decay ----------------------------------------------------------------------------


def test_rolling_median_takes_each_gradient_with_the_decay_of_its_own_weights():
    # From w = 10 with decay 1 the gradients 0 + w: 10, 10, 10, then 0 + 0 at w = 0.
    w = weight(10)
    assert feed(RM3(SGD([w], lr=1, weight_decay=1)), w, [0, 0, 0, 0, 0]) == [10, 10, 0, -10, -10]
    # Decay after the median would have stopped at 0: the median of zeros, plus the present w.
    w = weight(10)
    assert feed(RM3(SGD([w], lr=1)), w, [0] * 5)[-1] == 10


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "inside",
    [
        lambda p, **k: SGD(p, lr=0.1, **k),
        lambda p, **k: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.9), **k),
        lambda p, **k: torch.optim.AdamW(p, lr=0.1, betas=(0.0, 0.9), **k),
        lambda p, **k: torch.optim.RMSprop(p, lr=0.1, **k),
        lambda p, **k: torch.optim.Adagrad(p, lr=0.1, **k),
        lambda p, **k: torch.optim.NAdam(p, betas=(0.0, 0.9), decoupled_weight_decay=True, **k),
        lambda p, **k: torch.optim.Adafactor(p, lr=0.1, **k),
    ],
)
def test_m3_of_one_repeated_gradient_is_the_wrapped_optimizer_with_its_decay(inside, maximize):
    # At fixed weights the decay is the same in all three gradients, wherever it is added.
    w, twin = torch.tensor([[3.0, -1.0]]), torch.tensor([[3.0, -1.0]])
    options = {"weight_decay": 0.5, "maximize": maximize}
    optimizer, plain = M3(inside([w], **options)), inside([twin], **options)
    for gradient in ([1.0, -2.0], [0.3, 4.0]):
        for _ in range(3):
            w.grad = torch.tensor([gradient])
            optimizer.step()
        twin.grad = torch.tensor([gradient])
        plain.step()
    torch.testing.assert_close(w, twin)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


# --- winsorized gradient descent -------------------------------------------------------------


def test_winsorized_descent_equals_a_loop_over_examples(digits):
    model, twin = network(), network()
    optimizer = Winsorized(SGD(model.parameters(), lr=0.3, weight_decay=0.01), level=8)
    for batch in (slice(0, 40), slice(40, 90)):
        optimizer.zero_grad()
        optimizer.backward(training.cross_entropy(model(digits.x[batch]), digits.y[batch]))
        optimizer.step()
        examples = range(batch.start, batch.stop)
        own = [gradient_of(twin, digits, slice(i, i + 1)) for i in examples]
        with torch.no_grad():
            for p, *rows in zip(twin.parameters(), *own, strict=True):
                clipped = sorting_twin(torch.stack(rows).numpy(), 8).mean(0)
                p -= 0.3 * (torch.from_numpy(clipped) + 0.01 * p)
    torch.testing.assert_close(flat(model), flat(twin), rtol=1e-9, atol=1e-12)


def test_level_zero_is_the_wrapped_optimizer(digits):
    model, twin = network(), network()
    one, other = Winsorized(SGD(model.parameters(), lr=0.3), 0), SGD(twin.parameters(), lr=0.3)
    one.backward(training.cross_entropy(model(digits.x), digits.y))
    training.cross_entropy(twin(digits.x), digits.y).mean().backward()
    one.step()
    other.step()
    torch.testing.assert_close(flat(model), flat(twin), rtol=1e-9, atol=1e-12)


def test_lots_of_parameters_change_nothing_but_the_memory(digits, monkeypatch):
    held = []
    real = per_example.gradients

    def watched(losses, named):
        held.append(list(named))
        return real(losses, named)

    monkeypatch.setattr("gencoh_lib._winsorized.per_example.gradients", watched)
    found = []
    for budget in (10**9, 90 * 8 * 600, 1):
        model = network()
        optimizer = Winsorized(SGD(model.parameters()), level=4, byte_budget=budget)
        optimizer.backward(training.cross_entropy(model(digits.x), digits.y))
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    names = list(dict(network().named_parameters()))
    assert [len(lot) for lot in held] == [4, 3, 1, 1, 1, 1, 1]
    assert held[-4:] == [[f"parameter {i} of group 0"] for i in range(len(names))]


def test_backward_adds_to_the_gradient_and_leaves_unused_and_frozen_parameters_alone():
    used, unused, frozen = weight(1), weight(1), weight(1).detach()
    used.grad = torch.tensor([10.0], dtype=torch.float64)
    optimizer = Winsorized(SGD([used, unused, frozen], lr=1), level=25)
    optimizer.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 90.0]) * used)
    assert used.grad.item() == 10 + 3
    assert unused.grad is None
    assert frozen.grad is None
    optimizer.step()
    assert (used.item(), unused.item()) == (-12, 1)


def test_winsorized_step_without_its_backward_is_refused():
    w = weight()
    optimizer = Winsorized(SGD([w], lr=1), level=10)
    (3 * w).sum().backward()  # of the mean, say: the examples are lost
    with pytest.raises(RuntimeError, match=r"optimizer.backward\(losses\)"):
        optimizer.step()
    assert w.item() == 0
    optimizer.backward(torch.ones(9) * w)
    optimizer.step()
    with pytest.raises(RuntimeError, match="without backward"):
        optimizer.step()
    optimizer.backward(torch.ones(9) * w)
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="without backward"):
        optimizer.step()


def test_failed_backward_leaves_the_gradients_as_they_were():
    first, second = weight(1), weight(0)
    first.grad = torch.ones_like(first)
    optimizer = Winsorized(SGD([first, second], lr=1), level=10, byte_budget=1)
    losses = torch.ones(9) * first + second.sqrt()  # infinite slope, met after the first lot
    with pytest.raises(ValueError, match=r"parameter 1 of group 0.*NaN or infinity at 9 of 9"):
        optimizer.backward(losses)
    assert first.grad.item() == 1
    with pytest.raises(ValueError, match="losses must be a vector"):
        optimizer.backward(losses.mean())


@pytest.mark.parametrize(("level", "needed"), [(1, 52), (4, 14), (8, 8), (50, 3)])
def test_level_that_replaces_nothing_warns_and_says_how_many_examples_it_takes(level, needed):
    w = weight()
    optimizer = Winsorized(SGD([w]), level)
    with pytest.warns(UserWarning, match=f"replaces no value.*takes {needed} examples"):
        optimizer.backward(torch.ones(needed - 1) * w)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.backward(torch.ones(needed) * w)
        Winsorized(SGD([w]), 0).backward(torch.ones(1) * w)


# --- momentum is refused ---------------------------------------------------------------------


MAKERS = [*OF_THREE, lambda optimizer: Winsorized(optimizer, 4)]


class Foreign(torch.optim.Optimizer):
    """Somebody's own optimizer, with momentum under one of the usual names."""

    def __init__(self, parameters, **settings):
        super().__init__(parameters, settings)


@pytest.mark.parametrize("wrap", MAKERS)
@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (lambda p: SGD(p, momentum=0.9), "SGD has momentum=0.9 .*Build SGD with momentum=0"),
        (lambda p: SGD(p, momentum=0.9, nesterov=True), "momentum=0.9"),
        (lambda p: torch.optim.RMSprop(p, momentum=0.5), "RMSprop has momentum=0.5"),
        (torch.optim.Adam, r"Adam has betas=\(0.9, 0.999\).*Build Adam with betas=\(0.0, 0.999\)"),
        (torch.optim.AdamW, "AdamW has betas"),
        (torch.optim.NAdam, "NAdam has betas"),
        (torch.optim.RAdam, "RAdam has betas"),
        (torch.optim.Adamax, "Adamax has betas"),
        (torch.optim.Muon, "Muon has momentum=0.95"),
        (lambda p: torch.optim.LBFGS(p), "LBFGS, which builds its step from .* many past"),
        (torch.optim.SparseAdam, "SparseAdam, which takes sparse gradients only.* wrap Adam with"),
        (lambda p: Foreign(p, beta1=0.9), r"Foreign has beta1=0\.9.*Build Foreign with beta1=0$"),
        (lambda p: Foreign(p, betas=[0.9, 0.8, 0.7]), r"with betas=\(0\.0, 0\.8, 0\.7\)"),
    ],
)
def test_optimizers_with_momentum_are_refused_with_the_reason(wrap, inside, message):
    with pytest.raises(ValueError, match=message):
        wrap(inside([torch.zeros(1, 1, requires_grad=True)]))


@pytest.mark.parametrize("wrap", MAKERS)
def test_momentum_that_is_none_is_no_momentum(wrap):
    nothing = {"momentum": None, "beta1": None, "betas": (None, 0.9)}
    assert isinstance(wrap(Foreign([weight()], **nothing)), torch.optim.Optimizer)


@pytest.mark.parametrize("wrap", MAKERS)
def test_momentum_of_one_group_among_several_is_found(wrap):
    groups = [{"params": [weight()]}, {"params": [weight()], "momentum": 0.8}]
    with pytest.raises(ValueError, match=r"momentum=0\.8 in group 1"):
        wrap(SGD(groups))


def test_momentum_that_a_scheduler_brings_in_is_refused_and_nothing_changes():
    w = weight()
    optimizer = RM3(SGD([w], lr=1))
    feed(optimizer, w, [1, 2])
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1, total_steps=10)
    before = optimizer.state_dict()["aggregation"]
    with pytest.raises(ValueError, match=r"SGD has momentum=0\.95"):
        optimizer.step()
    assert w.item() == 0
    assert optimizer.state_dict()["aggregation"] == before


@pytest.mark.parametrize("wrap", MAKERS)
def test_what_cannot_be_wrapped_is_refused(wrap):
    with pytest.raises(TypeError, match=r"wraps a torch.optim optimizer, got list; write \w+\("):
        wrap([weight()])
    with pytest.raises(TypeError, match="cannot wrap M3, which aggregates already"):
        wrap(M3(SGD([weight()])))
    with pytest.raises(TypeError, match="parameter 0 of group 0 is complex"):
        wrap(SGD([torch.zeros(1, dtype=torch.cfloat, requires_grad=True)]))


@pytest.mark.parametrize(
    "inside",
    [
        SGD, torch.optim.ASGD, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop,
        torch.optim.Rprop, torch.optim.Adafactor,
        lambda p: torch.optim.Adam(p, betas=(0.0, 0.99)),
        lambda p: torch.optim.NAdam(p, betas=(0.0, 0.99)),
        lambda p: torch.optim.RAdam(p, betas=(0.0, 0.99)),
        lambda p: torch.optim.Adamax(p, betas=(0.0, 0.99)),
    ],
)  # fmt: skip
def test_all_optimizers_of_torch_without_momentum_step(inside):
    w, twin = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
    optimizer, plain = M3(inside([w])), inside([twin])
    for _ in range(3):
        w.grad = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
        optimizer.step()
    twin.grad = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    plain.step()
    assert torch.equal(w, twin)


# --- as an optimizer among others ------------------------------------------------------------


@pytest.mark.parametrize("kind", OF_THREE)
def test_gradients_come_back_as_they_were(kind):
    w, unused = weight(), weight()
    optimizer = kind(SGD([w, unused], lr=1))
    for gradient in (1.0, 9.0, 2.0):
        own = w.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert w.grad is own
        assert w.grad.item() == gradient
    assert unused.grad is None
    assert unused.item() == 0


def test_gradient_collected_is_a_copy():
    w = weight()
    optimizer = M3(SGD([w], lr=1))
    w.grad = torch.zeros(1, dtype=torch.float64)
    for gradient in (1, 9, 2):
        w.grad.fill_(gradient)  # as zero_grad(set_to_none=False) and backward() do
        optimizer.step()
    assert w.item() == -2


def test_parameter_without_gradient_in_some_of_three_counts_as_zero_there():
    w = weight()
    for present, value in (([5, None, None], 0), ([5, 3, None], -3), ([None, -5, -3], 3)):
        w.data.zero_()
        optimizer = M3(SGD([w], lr=1))
        for gradient in present:
            w.grad = None if gradient is None else torch.tensor([float(gradient)]).double()
            optimizer.step()
        assert w.item() == value
    # without one in all three it is left alone, also by weight decay
    w.data.fill_(7)
    optimizer = M3(SGD([w], lr=1, weight_decay=0.5))
    w.grad = None
    for _ in range(3):
        optimizer.step()
    assert w.item() == 7


@pytest.mark.parametrize("kind", OF_THREE)
def test_nan_is_refused_and_nothing_changes(kind):
    w, other = weight(), weight()
    optimizer = kind(SGD([("w", w), ("other", other)], lr=1))
    w.grad, other.grad = torch.tensor([1.0]).double(), torch.tensor([math.nan]).double()
    with pytest.raises(ValueError, match=r"gradient of other, shape \(1,\), holds NaN"):
        optimizer.step()
    assert feed(optimizer, w, [4, 4, 4]) == [0, 0, -4]  # the bad call has left no trace


def test_infinite_gradient_is_left_out_by_the_median():
    w = weight()
    assert feed(M3(SGD([w], lr=1)), w, [math.inf, 1, -math.inf])[-1] == -1


def test_sparse_gradients_are_taken():
    table = nn.Embedding(4, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = M3(SGD(table.parameters(), lr=1))
    for index in (1, 1, 2):
        optimizer.zero_grad()
        table(torch.tensor([index])).sum().backward()
        optimizer.step()
    expected = torch.tensor([[0.0, 0.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(table.weight.detach() - before, expected)


def test_closure_is_called_once_a_step_with_gradients_on():
    w = weight(1)
    optimizer = M3(SGD([w], lr=1))
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = 3 * w.sum()
        loss.backward()
        calls.append(torch.is_grad_enabled())
        return loss

    with torch.no_grad():
        losses = [float(optimizer.step(closure)) for _ in range(3)]
    assert losses == [3, 3, 3]
    assert calls == [True] * 3
    assert w.item() == -2

    robust = Winsorized(SGD([w], lr=1), level=10)
    robust.zero_grad()
    robust.step(lambda: robust.backward(torch.ones(9) * w))
    assert w.item() == -3


@pytest.mark.parametrize("on_wrapped", [False, True])
@pytest.mark.parametrize("kind", OF_THREE)
def test_learning_rate_schedules_work_on_either(kind, on_wrapped):
    w = weight()
    inside = SGD([w], lr=1)
    optimizer = kind(inside)
    scheduler = torch.optim.lr_scheduler.StepLR(inside if on_wrapped else optimizer, 3, gamma=0.5)
    rates = []
    with warnings.catch_warnings():
        if not on_wrapped:  # which may warn that it is called before the wrapped one has stepped
            warnings.simplefilter("error")
        else:
            warnings.simplefilter("ignore")
        for _ in range(6):
            w.grad = torch.ones_like(w)
            optimizer.step()
            scheduler.step()
            rates.append((inside.param_groups[0]["lr"], optimizer.param_groups[0]["lr"]))
    assert rates == [(1, 1), (1, 1), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.25, 0.25)]
    assert w.item() == {M3: -1.5, RM3: -2.5, RA3: -2.5}[kind]


def test_step_hooks_run_with_every_call():
    w, seen = weight(), []
    optimizer = M3(SGD([w], lr=1))
    optimizer.register_step_post_hook(lambda *_: seen.append(w.item()))
    feed(optimizer, w, [1, 1, 1, 1])
    assert seen == [0, 0, -1, -1]


@pytest.mark.parametrize("wrap", MAKERS)
def test_groups_state_and_defaults_are_those_of_the_wrapped_one(wrap):
    inside = torch.optim.Adagrad([weight()], lr=0.7)
    optimizer = wrap(inside)
    assert optimizer.param_groups is inside.param_groups
    assert optimizer.state is inside.state
    assert optimizer.defaults is inside.defaults
    inside.load_state_dict(inside.state_dict())  # which makes a new list of groups
    assert optimizer.param_groups is inside.param_groups
    assert repr(optimizer).startswith(f"{type(optimizer).__name__} around Adagrad")
    assert isinstance(optimizer, torch.optim.Optimizer)
    with pytest.raises(AttributeError, match="no attribute 'leanring_rate'"):
        _ = optimizer.leanring_rate


def saved(optimizer) -> dict:
    """The state, after the journey through a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("inside", [SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("kind", OF_THREE)
@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_a_run_goes_on_from_its_state_as_if_nothing_had_happened(kind, inside, calls):
    gradients = [3, -1, 4, 1, -5, 9, 2, 6]
    whole, part, later = weight(), weight(), weight()
    expected = feed(kind(inside([whole], lr=0.5)), whole, gradients)[-1]
    first = kind(inside([part], lr=0.5))
    feed(first, part, gradients[:calls])
    later.data.copy_(part.data)
    second = kind(inside([later], lr=0.1))
    second.load_state_dict(saved(first))
    assert second.param_groups[0]["lr"] == 0.5
    assert feed(second, later, gradients[calls:])[-1] == expected


def test_winsorized_state_holds_the_level():
    one, other = (Winsorized(SGD([weight()], lr=0.5), level) for level in (4, 10))
    other.load_state_dict(saved(one))
    assert other.level == 4
    assert other.param_groups[0]["lr"] == 0.5


def test_state_of_something_else_is_refused_and_nothing_changes():
    w = weight()
    optimizer = RM3(SGD([w], lr=1))
    feed(optimizer, w, [1, 2])
    two, wide = [weight(), weight()], torch.zeros(2, requires_grad=True)
    other = RM3(SGD([wide]))
    feed(other, wide, [1.0])
    pair = RM3(SGD(two))
    feed(pair, two[1], [1.0])
    momentous = RM3(SGD([weight()])).state_dict()
    momentous["param_groups"][0]["momentum"] = 0.9
    for state, message in (
        (SGD([w]).state_dict(), r"plain optimizer.*\.optimizer\.load_state_dict"),
        (M3(SGD([w])).state_dict(), "state of M3, it cannot be loaded into RM3"),
        (other.state_dict(), r"gradient of shape \(2,\) for the parameter at position 0"),
        (pair.state_dict(), "position 1, which this optimizer does not have"),
        (momentous, "momentum=0.9"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
    assert feed(optimizer, w, [9]) == [-2]
    assert optimizer.param_groups[0]["lr"] == 1


def test_state_in_a_checkpoint_is_a_copy():
    w = weight()
    optimizer = M3(SGD([w], lr=1))
    feed(optimizer, w, [1, 9])
    state = optimizer.state_dict()
    state["aggregation"]["collected"][0][0].fill_(100)
    assert feed(optimizer, w, [2]) == [-2]


def test_deep_copy_goes_its_own_way():
    w = weight()
    optimizer = RM3(SGD([w], lr=1))
    torch.optim.lr_scheduler.StepLR(optimizer, 100)
    feed(optimizer, w, [1, 9])
    twin = copy.deepcopy(optimizer)
    (other,) = twin.param_groups[0]["params"]
    assert other is not w
    assert feed(twin, other, [2, 3]) == [-2, -5]
    assert feed(optimizer, w, [0]) == [-1]


def test_added_parameters_start_the_collection_anew():
    w, late = weight(), weight()
    inside = SGD([w], lr=1)
    optimizer = M3(inside)
    feed(optimizer, w, [1, 1])
    optimizer.add_param_group({"params": [late], "lr": 2})
    assert len(inside.param_groups) == 2
    for _ in range(3):
        w.grad, late.grad = torch.ones_like(w), torch.ones_like(late)
        optimizer.step()
    assert (w.item(), late.item()) == (-1, -2)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"params": [torch.zeros(1, requires_grad=True)], "momentum": 0.9}, "momentum=0.9"),
        ({"params": [torch.zeros(1, dtype=torch.cfloat, requires_grad=True)]}, "complex"),
    ],
)
def test_added_parameters_that_are_refused_are_not_added(group, message):
    w = weight()
    optimizer = M3(SGD([w], lr=1))
    feed(optimizer, w, [1, 2])
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    assert feed(optimizer, w, [9]) == [-2]


def test_error_of_the_wrapped_optimizer_leaves_the_collection_and_the_decay_as_they_were():
    w = weight()
    inside = SGD([w], lr=1, weight_decay=0.5)
    optimizer = M3(inside)
    feed(optimizer, w, [1, 2])
    works = inside.step
    inside.step = lambda: 1 / 0
    own = w.grad = torch.tensor([3.0], dtype=torch.float64)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert w.grad is own
    assert inside.param_groups[0]["weight_decay"] == 0.5
    inside.step = works
    assert feed(optimizer, w, [9]) == [-2]


# --- in training.train -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", OF_THREE)
def test_train_counts_calls(digits, kind):
    def make(parameters):
        return kind(SGD(parameters))

    history = training.train(
        network(), digits, steps=7, learning_rate=0.1, batch_size=30, optimizer=make,
        at=range(8), probes={"w": flat},
    )  # fmt: skip
    w = history.series("w")
    moved = [bool((w[i] != w[i + 1]).any()) for i in range(7)]
    assert moved == {
        M3: [False, False, True, False, False, True, False],
        RM3: [False, False, True, True, True, True, True],
    }.get(kind, [False, False, True, True, True, True, True])


def test_train_hands_the_losses_to_the_winsorized_backward(digits):
    model, twin = network(), network()
    robust = {"optimizer": lambda parameters: Winsorized(SGD(parameters), level=10)}
    training.train(model, digits, steps=3, learning_rate=0.2, probes={}, **robust)
    optimizer = Winsorized(SGD(twin.parameters(), lr=0.2), level=10)
    for _ in range(3):
        optimizer.zero_grad()
        optimizer.backward(training.cross_entropy(twin(digits.x), digits.y))
        optimizer.step()
    assert torch.equal(flat(model), flat(twin))
    plain = network()
    training.train(plain, digits, steps=3, learning_rate=0.2, probes={})
    assert not torch.allclose(flat(model), flat(plain))


# --- what the module says of itself ----------------------------------------------------------


def test_public_names_say_where_they_are_from():
    for name in aggregation.__all__:
        assert getattr(aggregation, name).__module__ == "gencoh_lib.aggregation"
