"""Essential convexity: a valley whose Hessian is indefinite and whose pull is not.

The teaching example is R(x, y) = x^2 (1 + y^2) / 2 with minima on {x = 0}. Everything about it has
a closed form: the secant ratio is 1 + y^2 and the Hessian's determinant x^2 (1 - 3 y^2).
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencoh_lib.stagnation import (
    Tube,
    contraction,
    essential_convexity,
    gradient_error,
    gradient_of,
    hessian_on_segments,
    sampled_contraction,
    secant_ratio,
)

TUBE = Tube(torch.zeros(2).double(), 1.0, flat=torch.eye(2).double()[:, 1:])


def valley(t):
    return t[:, 0] ** 2 * (1 + t[:, 1] ** 2) / 2


slope = gradient_of(valley)


def valley_product(theta, vectors):
    x, y = theta.tolist()
    hessian = torch.tensor([[1 + y**2, 2 * x * y], [2 * x * y, x**2]], dtype=theta.dtype)
    return hessian @ vectors


def test_the_secant_ratio_of_the_valley_is_one_plus_y_squared():
    assert secant_ratio(slope, TUBE).value == pytest.approx(1, rel=1e-12)
    far = secant_ratio(slope, TUBE, radii=[0.3], trials=400, stretch=2.0, seed=1)
    assert 1 < far.value < 1.001
    assert far.trials == 400
    at = torch.tensor([[0.5, 2.0], [-0.1, 3.0], [0.0, 1.0]]).double()
    points = secant_ratio(slope, TUBE, radii=[], points=at)
    assert points.value == points.at_points == pytest.approx(5, rel=1e-12)
    assert points.trials == 2  # the third lies on the piece


def test_the_valley_is_essentially_convex_and_not_convex():
    found = essential_convexity(valley, slope, TUBE, stretch=2.0, trials=300)
    assert found.value >= 1 - 1e-9
    across = hessian_on_segments(valley_product, TUBE, stretch=2.0)
    assert across.value >= 1
    # the whole Hessian has a negative eigenvalue for |y| > 1/sqrt(3)
    ball = Tube(torch.tensor([0.5, 1.0]).double(), 0.01)
    whole = hessian_on_segments(valley_product, ball, trials=3)
    assert whole.value < -0.05
    hessian = valley_product(torch.tensor([0.5, 1.0]).double(), torch.eye(2).double())
    assert float(torch.linalg.det(hessian)) == pytest.approx(0.25 * (1 - 3), rel=1e-12)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=5), st.integers(0, 2**31))
@settings(deadline=None)
def test_a_quadratic_is_bounded_by_its_eigenvalues(curvatures, seed):
    h = torch.tensor(curvatures, dtype=torch.float64)
    d = len(h) + 1
    q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)).double()).Q
    matrix = q[:, :-1] * h @ q[:, :-1].T
    tube = Tube(q[:, 0], 0.7, flat=q[:, -1:])
    low, high = float(h.min()), float(h.max())

    def gradient(t):
        return (t - tube.centre) @ matrix

    def loss(t):
        return ((t - tube.centre) @ matrix * (t - tube.centre)).sum(1) / 2

    options = {"trials": 30, "stretch": 1.0, "seed": seed}
    ratio = secant_ratio(gradient, tube, **options)
    assert low * (1 - 1e-9) <= ratio.value <= high * (1 + 1e-9)
    convexity = essential_convexity(loss, gradient, tube, **options)
    assert low * (1 - 1e-6) <= convexity.value <= high * (1 + 1e-6)
    segments = hessian_on_segments(lambda t, v: matrix @ v, tube, trials=2, stretch=1.0)
    assert segments.value == pytest.approx(low, rel=1e-9)
    eta = 1.5 / high
    factor = sampled_contraction(gradient, tube, eta, **options)
    assert factor.value <= contraction(eta, mu=low, lipschitz=high, symmetric=True) + 1e-9


def test_convexity_across_implies_the_secant_inequality():
    # add the inequality at (x, Px) and at (Px, x): the ratio is at least the convexity
    def steep(t):
        return t[:, 0] ** 4 / 4 + t[:, 0] ** 2 / 2

    options = {"radii": [1.0], "trials": 2000}
    convexity = essential_convexity(steep, gradient_of(steep), TUBE, **options)
    ratio = secant_ratio(gradient_of(steep), TUBE, **options)
    assert ratio.value == pytest.approx(2, rel=1e-9)
    # 1 + min (x^2 + 2xy + 3y^2)/2 at x = 1, which y = -1/3 attains
    assert convexity.value == pytest.approx(4 / 3, abs=1e-4)
    assert convexity.value <= ratio.value


def test_the_contraction_of_the_valley_moves_with_y():
    # |N(delta - eta grad)| = |x| |1 - eta (1 + y^2)|
    at = torch.tensor([[0.5, 0.0], [0.5, 1.0], [0.5, 5.0]]).double()
    for points, factor in ((at[:2], 0.9), (at, 1.6)):
        found = sampled_contraction(slope, TUBE, 0.1, radii=[], points=points)
        assert found.value == pytest.approx(factor, rel=1e-12)


def test_only_the_error_across_the_piece_counts():
    found = gradient_error(slope, lambda t: slope(t) + torch.tensor([0.2, 9.0]), TUBE)
    assert found.value == pytest.approx(0.2, rel=1e-6)
    assert found.kind == "maximum"
    assert "the true one may be larger" in repr(found)


def test_an_extreme_is_the_worst_of_its_parts_and_says_how_many_trials_it_took():
    at = torch.tensor([[0.5, 2.0]]).double()
    found = secant_ratio(slope, TUBE, radii=[0.1, 0.2], trials=7, stretch=3.0, points=at)
    assert found.value == min(*found.by_radius.values(), found.at_points)
    assert found.trials == 15
    assert list(found.by_radius) == [0.1, 0.2]
    text = repr(found)
    assert "over 15 trials: the true one may be smaller" in text
    assert "at distance 0.1" in text
    assert "at the points" in text


def test_the_samples_are_those_of_the_seed():
    values = [secant_ratio(slope, TUBE, stretch=2.0, trials=5, seed=s).value for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="nothing to try"):
        secant_ratio(slope, TUBE, radii=[])
    with pytest.raises(ValueError, match="radii must be a finite number > 0"):
        secant_ratio(slope, TUBE, radii=[-1.0])
    with pytest.raises(ValueError, match="some of them off the piece"):
        secant_ratio(slope, TUBE, points=torch.zeros(3, 2).double())
    with pytest.raises(ValueError, match="is not finite at some of the points"):
        secant_ratio(lambda t: t * math.nan, TUBE)
    with pytest.raises(ValueError, match="points_per_segment must be a whole number >= 2"):
        hessian_on_segments(valley_product, TUBE, points_per_segment=1)
    with pytest.raises(ValueError, match="step_size must be"):
        sampled_contraction(slope, TUBE, 0)
    with pytest.raises(ValueError, match="trials must be"):
        secant_ratio(slope, TUBE, trials=0)
