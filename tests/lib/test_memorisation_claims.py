"""The claims of "Suppressing memorisation", each failing without its hypothesis."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from gencoh_lib import data, training
from gencoh_lib.aggregation import Winsorized, median_of_three, winsorize, winsorized_mean
from gencoh_lib.coherence import from_gradients


def level(values_a_side: int, m: int) -> float:
    """Percentage that stands for r values a side of m."""
    return 100 * values_a_side / (m - 1)


@st.composite
def samples(draw):
    """m values, how many of them are replaced a side, and the places of as many of them."""
    m = draw(st.integers(3, 11))
    r = draw(st.integers(1, (m - 1) // 2))
    values = draw(arrays(np.float64, m, elements=st.floats(-100, 100).map(lambda v: round(v, 2))))
    few = draw(st.lists(st.integers(0, m - 1), min_size=r, max_size=r, unique=True))
    return torch.from_numpy(values), r, few


@pytest.mark.claim("prop-winsorized-few", kind="exact")
@given(samples(), st.floats(-1e6, 1e6))
def test_what_r_examples_ask_for_is_not_heard(sample, anything):
    values, r, few = sample
    m = len(values)
    sparse = torch.zeros(m, dtype=torch.float64)
    sparse[few] = values[few] * anything  # of any sizes and signs
    assert winsorized_mean(sparse, level(r, m)) == 0
    others = torch.ones(m, dtype=torch.bool)
    others[few] = False
    replaced = values.clone()
    replaced[few] = anything
    mean = float(winsorized_mean(replaced, level(r, m)))
    assert values[others].min() - 1e-9 <= mean <= values[others].max() + 1e-9


@pytest.mark.claim("prop-winsorized-few", kind="exact")
@given(st.integers(1, 9), st.integers(0, 9), st.sampled_from([-7.0, 0.5, 3.0]))
def test_one_example_more_is_heard_in_full(r, more, v):
    m = 2 * r + 2 + more
    values = torch.zeros(m, dtype=torch.float64)
    values[: r + 1] = v
    assert float(winsorized_mean(values, level(r, m))) == pytest.approx((r + 1) * v / m, rel=1e-12)
    values[r + 2 :] = v  # fewer zeros than that, and even they are overruled
    values[r + 1] = 0
    assert float(winsorized_mean(values, level(r, m))) == pytest.approx(v, rel=1e-12)


def test_more_than_r_replaced_values_move_the_winsorized_mean_anywhere():
    values = torch.zeros(9, dtype=torch.float64)
    values[:3] = 1e9
    assert winsorized_mean(values, level(2, 9)) > 1e8


def descend(toy, r: int, step: float, steps: int) -> list[Tensor]:
    m = len(toy.train)
    w = torch.zeros(m + 2, dtype=torch.float64, requires_grad=True)
    optimizer = Winsorized(torch.optim.SGD([w], lr=step), level(r, m) if r else 0)
    path = [w.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        optimizer.backward((toy.train.y - toy.train.x @ w).square() / 2)
        optimizer.step()
        path.append(w.detach().clone())
    return path


@pytest.mark.claim("prop-winsorized-toy", kind="exact")
@pytest.mark.parametrize(("m", "r"), [(3, 1), (4, 1), (8, 1), (8, 3)])
@pytest.mark.parametrize("strength", [0.0, 0.5, -1.0, 2.0])
def test_winsorized_descent_learns_what_is_shared_and_nothing_else(m, r, strength):
    toy = data.coherence_toy(strength, examples=m, dtype=torch.float64)
    step = 0.7 / max(strength**2, 1)
    for t, w in enumerate(descend(toy, r, step, 12)):
        assert not w[: m + 1].any()
        if strength == 0:
            assert not w.any()
        expected = (1 - step * strength**2) ** t
        for part in (toy.train, toy.test):
            residuals = part.y * (part.y - part.x @ w)
            assert residuals.tolist() == pytest.approx([expected] * len(part), abs=1e-12)


def test_without_winsorizing_or_with_too_long_a_step_the_toy_claim_fails():
    toy = data.coherence_toy(1.0, dtype=torch.float64)
    assert descend(toy, 0, 0.5, 3)[-1][:4].abs().min() > 0.1  # r = 0 memorises
    path = descend(toy, 1, 2.5, 30)
    assert path[-1].abs().max() > 1e3  # step size above 2 / s^2


@pytest.mark.parametrize(("strength", "expected"), [(1.0, [0, 0, 0, 0, 0, -1]), (0.0, [0] * 6)])
def test_median_gradient_of_the_toy_set_at_the_start(strength, expected):
    toy = data.coherence_toy(strength, dtype=torch.float64)
    gradients = -toy.train.y[:, None] * toy.train.x
    assert winsorized_mean(gradients, 50).tolist() == expected
    assert winsorize(gradients, level(1, 4)).mean(0).tolist() == expected


@pytest.mark.claim("prop-decrease-share", kind="exact")
@given(st.integers(1, 12), st.integers(0, 12))
def test_agreement_counts_squared_in_the_share_of_the_decrease(pristine, corrupt):
    gradients = torch.zeros(pristine + corrupt, corrupt + 1, dtype=torch.float64)
    gradients[:pristine, 0] = 1
    gradients[pristine:, 1:] = torch.eye(corrupt)
    total = gradients.sum(0)
    share = float(total @ gradients[:pristine].sum(0) / total.square().sum())
    assert share == pytest.approx(pristine**2 / (pristine**2 + corrupt), abs=1e-12)
    rest = float(total @ gradients[pristine:].sum(0) / total.square().sum())
    assert share + rest == pytest.approx(1, abs=1e-12)


@pytest.mark.claim("prop-decrease-share", kind="exact")
@given(st.integers(0, 10_000))
def test_shares_add_up_to_one_and_may_be_negative(seed):
    gradients = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)).double()
    total = gradients.sum(0)
    one, other = (float(total @ gradients[k].sum(0) / total.square().sum())
                  for k in (slice(0, 3), slice(3, 8)))  # fmt: skip
    assert one + other == pytest.approx(1, abs=1e-9)
    # without orthogonality the formula of two groups is wrong: the second may lose
    against = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert float(against.sum(0) @ against[2:].sum(0) / against.sum(0).square().sum()) == -1


def seen(held: tuple[bool, ...], b: int) -> tuple[bool, bool]:
    """Whether the median and the mean of three micro-batches are non-zero, by computing them."""
    entries = torch.tensor(held, dtype=torch.float64).view(3, b).mean(1)
    return bool(median_of_three(*entries) != 0), bool(entries.mean() != 0)


@pytest.mark.claim("prop-median-rare", kind="exact")
@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("p", [Fraction(1, 50), Fraction(1, 3), Fraction(9, 10)])
def test_probability_that_a_median_of_three_sees_a_feature(b, p):
    # every way in which 3 b independent draws can hold the feature or not, in exact arithmetic
    median = mean = Fraction(0)
    for held in itertools.product([False, True], repeat=3 * b):
        weight = p ** sum(held) * (1 - p) ** (3 * b - sum(held))
        by_median, by_mean = seen(held, b)
        median += weight * by_median
        mean += weight * by_mean
    q = 1 - (1 - p) ** b
    assert median == 3 * q**2 - 2 * q**3
    assert mean == 1 - (1 - q) ** 3


@pytest.mark.claim("prop-median-rare", kind="exact")
def test_rare_features_reach_the_median_quadratically():
    p, b = 1e-5, 5
    q = 1 - (1 - p) ** b
    assert 3 * q**2 - 2 * q**3 == pytest.approx(3 * (p * b) ** 2, rel=1e-3)
    assert 1 - (1 - q) ** 3 == pytest.approx(3 * p * b, rel=1e-3)


def test_with_two_signs_the_median_may_be_zero_where_two_micro_batches_hold_the_feature():
    assert median_of_three(*torch.tensor([1.0, -1.0, 0.0])) == 0


class Deep(nn.Module):
    """w_j = u_j^N with u_own for all own weights apart, and v for the common one."""

    def __init__(self, depth: int, start: float, m: int) -> None:
        super().__init__()
        self.depth = depth
        self.u = nn.Parameter(torch.full((m + 2,), start, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.u**self.depth


def slope(depth, m, s, u, v):
    rho = 1 - u**depth - s * v**depth
    return np.array([depth * u ** (depth - 1) * rho / m, depth * v ** (depth - 1) * s * rho])


def flow(depth, m, s, start, time, steps=4000):
    """Gradient flow on (u, v) by the classical Runge-Kutta method."""
    state, h, path = np.array([start, start]), time / steps, []
    for _ in range(steps):
        path.append(state)
        k1 = slope(depth, m, s, *state)
        k2 = slope(depth, m, s, *(state + h / 2 * k1))
        k3 = slope(depth, m, s, *(state + h / 2 * k2))
        k4 = slope(depth, m, s, *(state + h * k3))
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return np.array(path)


def deep_coherence(depth, m, s, u, v):
    a, b = u ** (2 * depth - 2), s**2 * v ** (2 * depth - 2)
    return (a + m * b) / (a + b)


@pytest.mark.claim("prop-depth-toy", kind="exact")
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("m", "s"), [(4, 1.0), (8, 0.5), (5, 2.0)])
def test_depth_ties_the_common_weight_to_the_own_ones(depth, m, s):
    start = 0.2
    path = flow(depth, m, s, start, time=8 if depth < 3 else 20)
    u, v = path.T
    if depth == 2:
        np.testing.assert_allclose(v / start, (u / start) ** (m * s), rtol=1e-9)
    else:
        left = v ** (2.0 - depth) - start ** (2.0 - depth)
        right = m * s * (u ** (2.0 - depth) - start ** (2.0 - depth))
        np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-9)
    agree = deep_coherence(depth, m, s, u, v)
    assert agree[0] == pytest.approx((1 + m * s**2) / (1 + s**2), rel=1e-12)
    assert agree.max() <= m
    if depth >= 2:
        going = 1 - u**depth - s * v**depth > 1e-9
        assert (np.diff(agree[going]) > -1e-12).all()
        assert agree[going][-1] > agree[0] + 0.1


@pytest.mark.claim("prop-depth-toy", kind="exact")
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_formulas_of_depth_are_those_of_autograd(depth):
    m, s, u, v = 5, 1.5, 0.3, 0.6
    toy = data.coherence_toy(s, examples=m, dtype=torch.float64)
    model = Deep(depth, u, m)
    with torch.no_grad():
        model.u[-1] = v
    losses = training.half_squared_error(model(toy.train.x), toy.train.y)
    rows = torch.stack([torch.autograd.grad(one, model.u, retain_graph=True)[0] for one in losses])
    expected = deep_coherence(depth, m, s, u, v)
    assert from_gradients(rows).m_coherence == pytest.approx(expected, rel=1e-12)
    mean = -rows.mean(0)
    assert mean[[0, -1]].tolist() == pytest.approx(slope(depth, m, s, u, v).tolist(), rel=1e-12)
    assert mean[:m].tolist() == pytest.approx([float(mean[0])] * m, rel=1e-12)


def test_a_feature_too_weak_loses_coherence_with_depth():
    m, s = 4, 0.1  # m s < 1: the own weights outgrow the common one
    u, v = flow(2, m, s, 0.2, time=20).T
    agree = deep_coherence(2, m, s, u, v)
    assert agree[-1] < agree[0]
