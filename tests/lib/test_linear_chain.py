"""The linear chain against closed forms, other quadratures, and simulation.

Everything else about staying is compared with this chain, so it is checked first and by three
independent routes: formulas for its moments, a Simpson rule with scipy's non-central chi-square
as the kernel, and thousands of simulated chains.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import erf
from scipy.stats import chi2, ncx2, norm

from gencoh_lib._radius_density import radius_density
from gencoh_lib.stagnation import (
    IsotropicNoise,
    LinearChain,
    Tube,
    linear_surrogate,
    noisy_sgd,
    stationary_variances,
)

UNIT = LinearChain(curvature=1, step_size=0.1, noise=1)

# eta, h, sigma, k, r, T, probability of staying
STAYS = [
    (0.1, 1, 1, 1, 0.5, 50, 0.642842),
    (0.1, 1, 1, 1, 0.8, 100, 0.977361),
    (0.1, 1, 1, 1, 1.0, 1000, 0.991617),
    (0.05, 1, 1, 1, 1.0, 1000, 1.000000),
    (0.1, 2, 1, 1, 0.8, 1000, 0.998592),
    (0.1, 1, 1, 5, 1.2, 200, 0.993991),
    (0.1, 1, 1, 10, 1.4, 1000, 0.965745),
    (0.1, 1, 1, 10, 1.6, 1000, 0.999627),
    (0.1, 1, 1, 10, 2.0, 1000, 1.000000),
    (0.05, 1, 1, 20, 1.0, 1000, 0.140062),
    (0.02, 1, 1, 50, 1.0, 1000, 0.988311),
    (0.1, 1, 1, 100, 3.0, 500, 0.995198),
    (0.1, 1, 20, 1, 1.0, 10, 0.000052),
]


def chain(eta, h, sigma, k=1):
    return LinearChain(curvature=h, step_size=eta, noise=sigma, dimension=k)


def simpson(eta, h, sigma, k, r, steps, nodes=1201):
    """The same probability on a uniform grid, with another kernel: slow and plain."""
    grid = np.linspace(0, r, nodes)
    weights = np.full(nodes, 2.0)
    weights[1::2] = 4
    weights[[0, -1]] = 1
    weights *= r / (nodes - 1) / 3
    s, rho = eta * sigma, 1 - eta * h
    with np.errstate(invalid="ignore", divide="ignore"):
        first = 2 * grid / s**2 * chi2.pdf((grid / s) ** 2, k)
        later = [
            2 * grid / s**2 * ncx2.pdf((grid / s) ** 2, k, (rho * a / s) ** 2) for a in grid[1:]
        ]
    if k == 1:  # the densities of the square are infinite at 0
        later = [
            (norm.pdf((grid - rho * a) / s) + norm.pdf((grid + rho * a) / s)) / s for a in grid[1:]
        ]
        first = 2 * norm.pdf(grid / s) / s
    kernel = np.vstack([first, *later]) * weights
    alive = np.ones(nodes)
    for _ in range(steps):
        alive = kernel @ alive
    return alive[0]


def test_moments_have_their_closed_forms():
    assert UNIT.stationary_variance == pytest.approx(1 / 19, rel=1e-12)
    found = [UNIT.variance(t) for t in (1, 5, 20)]
    assert found == pytest.approx([0.01, 0.0342801, 0.0518536], abs=5e-8)
    assert UNIT.autocovariance(10) == pytest.approx(0.0183515, abs=5e-8)
    assert UNIT.correlation_time == pytest.approx(19, rel=1e-12)
    assert UNIT.expected_loss == pytest.approx(0.0263158, abs=5e-8)
    assert UNIT.variance(0) == 0


def test_a_flat_direction_is_a_random_walk_and_a_large_step_diverges():
    flat = chain(0.1, 0, 1)
    assert flat.variance(500) == pytest.approx(5.0, rel=1e-12)
    assert flat.stationary_variance == flat.correlation_time == math.inf
    wild = chain(2.1, 1, 1)
    assert wild.variance(50) == pytest.approx(289_372, abs=1)
    assert wild.stationary_variance == math.inf


def test_one_and_two_steps_have_their_closed_forms():
    assert UNIT.stay(0.2, 1) == pytest.approx(math.erf(2 / math.sqrt(2)), rel=1e-12)
    assert UNIT.stay(0.2, 2) == pytest.approx(0.8423792, abs=5e-8)
    wide = chain(0.5, 1, 1)
    assert [wide.stay(1, 1), wide.stay(1, 2)] == pytest.approx([0.9544997, 0.8905035], abs=5e-8)
    assert chain(0.1, 1, 20).stay(1, 1) == pytest.approx(0.382925, abs=5e-7)
    # one step in k dimensions is a chi-square probability
    assert chain(0.1, 1, 1, 7).stay(0.3, 1) == pytest.approx(chi2.cdf(9, 7), rel=1e-12)
    assert UNIT.stay(0.2, 0) == 1


@pytest.mark.parametrize("eta, h, sigma, k, r, steps, exact", STAYS)
def test_stay_probabilities_of_the_table(eta, h, sigma, k, r, steps, exact):
    assert chain(eta, h, sigma, k).stay(r, steps) == pytest.approx(exact, abs=6e-7)


@pytest.mark.parametrize("row", [STAYS[0], STAYS[2], STAYS[5], STAYS[9]])
def test_another_quadrature_agrees(row):
    eta, h, sigma, k, r, steps, _ = row
    found = chain(eta, h, sigma, k).stay(r, steps)
    assert found == pytest.approx(simpson(eta, h, sigma, k, r, steps), rel=1e-7)


@pytest.mark.parametrize(
    "row", [STAYS[1], STAYS[2], STAYS[5], STAYS[6], STAYS[9], STAYS[11]], ids=str
)
def test_simulated_chains_stay_as_often(row):
    eta, h, sigma, k, r, steps, _ = row
    exact, chains = chain(eta, h, sigma, k).stay(r, steps), 2000
    run = noisy_sgd(
        lambda x: h * x, torch.zeros(k), steps=steps, step_size=eta, chains=chains,
        noise=IsotropicNoise(sigma), tube=Tube(torch.zeros(k), radius=r), seed=3,
    )  # fmt: skip
    error = math.sqrt(exact * (1 - exact) / chains)
    assert run.stay().probability().value == pytest.approx(exact, abs=4 * error)


def test_a_start_off_the_minimum_is_a_shorter_way_out():
    for k in (1, 3):
        one = chain(0.1, 1, 1, k)
        stays = [one.stay(0.8, 100, start=a) for a in (0, 0.2, 0.5, 0.8)]
        assert stays == sorted(stays, reverse=True)
    # the first step from a: |rho a + s z| <= r
    upper, lower = (0.8 - 0.45) / 0.1, (-0.8 - 0.45) / 0.1
    normal = (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))) / 2
    assert UNIT.stay(0.8, 1, start=0.5) == pytest.approx(normal, rel=1e-12)


def test_the_curve_ends_where_stay_does_and_falls():
    curve = UNIT.stay_curve(0.5, 50)
    assert curve.shape == (51,)
    assert curve[0] == 1
    assert curve[-1] == pytest.approx(UNIT.stay(0.5, 50), rel=1e-12)
    assert (np.diff(curve) <= 1e-15).all()


def test_only_the_size_of_the_contraction_counts_from_the_minimum():
    back_and_forth = chain(0.1, 19, 1)  # rho = -0.9
    assert back_and_forth.stay(0.5, 50) == pytest.approx(UNIT.stay(0.5, 50), rel=1e-12)


@given(
    eta=st.floats(0.02, 0.3),
    h=st.floats(0, 4),
    sigma=st.floats(0.3, 5),
    k=st.integers(1, 8),
    kicks=st.floats(0.5, 12),
    steps=st.integers(1, 60),
)
@settings(max_examples=40, deadline=None)
def test_staying_grows_with_the_radius_and_shrinks_with_time(eta, h, sigma, k, kicks, steps):
    one = chain(eta, h, sigma, k)
    r = kicks * eta * sigma
    curve = one.stay_curve(r, steps)
    assert ((curve >= -1e-15) & (curve <= 1)).all()
    assert (np.diff(curve) <= 1e-13).all()
    assert one.stay(1.3 * r, steps) >= curve[-1] - 1e-12
    # units: noise and radius together only rescale
    assert chain(eta, h, 2 * sigma, k).stay(2 * r, steps) == pytest.approx(curve[-1], abs=1e-10)


@pytest.mark.parametrize(
    "eta, h, sigma, r, mean, tolerance",
    [
        (0.1, 1, 1, 0.5, 107.14, 1e-4),
        (0.1, 1, 1, 0.8, 3928.8, 1e-4),
        (0.1, 1, 1, 1.0, 117_260, 1e-3),
        (0.1, 1, 3, 1.0, 25.081, 1e-4),
        (0.1, 1, 20, 1.0, 1.6095, 1e-4),
    ],
)
def test_mean_exit_times(eta, h, sigma, r, mean, tolerance):
    assert chain(eta, h, sigma).mean_exit_time(r) == pytest.approx(mean, rel=tolerance)


def test_the_mean_exit_time_is_the_sum_of_the_stay_probabilities():
    for k, r in ((1, 0.4), (4, 0.7)):
        one = chain(0.1, 1, 1, k)
        assert one.mean_exit_time(r) == pytest.approx(one.stay_curve(r, 3000).sum(), rel=1e-9)


def ornstein_uhlenbeck(h, spread, radius):
    """Mean exit time of dX = -hX dt + ..., with stationary standard deviation `spread`."""
    integral, _ = quad(lambda u: math.exp(u**2) * erf(u), 0, radius / (spread * math.sqrt(2)))
    return math.sqrt(math.pi) / h * integral


def test_the_continuous_formula_is_too_short_and_a_moved_barrier_mends_it():
    for sigma, r in ((1, 0.5), (1, 0.8), (1, 1.0), (3, 1.0)):
        one = chain(0.1, 1, sigma)
        exact = one.mean_exit_time(r)
        # spread^2 = eta sigma^2 / (2h), the variance of the process in continuous time
        naive = ornstein_uhlenbeck(1, math.sqrt(0.1 / 2) * sigma, r) / 0.1
        assert 0.325 <= 1 - naive / exact <= 0.47
        v, h = one.stationary_variance, -math.log(0.9) / 0.1
        moved = r + 0.5826 * math.sqrt(2 * h * v * 0.1)
        assert ornstein_uhlenbeck(h, math.sqrt(v), moved) / 0.1 == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    "sigma, r, rate", [(1, 1.0, 0.99999147), (1, 0.5, 0.9902005), (20, 1.0, 0.3717)]
)
def test_with_a_constant_step_staying_dies_out_geometrically(sigma, r, rate):
    one = chain(0.1, 1, sigma)
    assert one.survival_rate(r) == pytest.approx(rate, abs=6e-5 if sigma == 20 else 6e-8)
    curve = one.stay_curve(r, 200)
    assert curve[-1] / curve[-2] == pytest.approx(one.survival_rate(r), rel=1e-7)


def test_limits_of_the_noise():
    quiet = chain(0.1, 1, 0)
    assert quiet.stay(0.5, 1000) == quiet.stay(0.5, 1000, start=0.5) == 1
    assert quiet.stay(0.5, 10, start=0.6) == 0  # the first step leads to 0.54
    assert quiet.stay(0.5, 10, start=0.55) == 1
    assert quiet.survival_rate(0.5) == 1
    assert chain(2.1, 1, 0).stay(0.5, 10, start=0.4) == 0
    assert chain(2.1, 1, 0).survival_rate(0.5) == 0
    assert chain(0.1, 1, 1e6).stay(0.5, 1) < 1e-5


@pytest.mark.parametrize("k", [1, 2, 3, 10, 99, 1000, 2000])
def test_the_density_is_that_of_a_non_central_chi(k):
    r = np.linspace(0.01, 4 * math.sqrt(k), 60)
    for a in (1e-8, 0.3, 5.0, math.sqrt(k), 3 * math.sqrt(k)):
        found = radius_density(r / 3, np.array(a / 3), 1 / 3, k)
        expected = 3 * 2 * r * ncx2.pdf(r**2, k, a**2)
        assert np.abs(found - expected).max() <= 2e-9 * found.max()
    central = radius_density(r, np.array(0.0), 1.0, k)
    assert np.abs(central - 2 * r * chi2.pdf(r**2, k)).max() <= 1e-9 * central.max()


def test_stationary_variances_of_a_regression():
    # noise of covariance c H: nearly the same in all directions, exactly 0 where H is
    h = torch.tensor([0.110, 0.253, 1.0, 0.0], dtype=torch.float64)
    found = stationary_variances(h, 0.04 * h, 0.5)
    assert found.tolist() == pytest.approx([0.01028, 0.01067, 0.01333, 0.0], abs=1.2e-5)
    assert found[:3].tolist() == pytest.approx((0.02 / (2 - 0.5 * h[:3])).tolist(), rel=1e-12)


def test_stationary_variances_without_a_hold_are_infinite():
    one = torch.ones(4)
    found = stationary_variances(torch.tensor([1.0, 0.0, -1.0, 20.0]), one, 0.1)
    assert found.tolist() == [pytest.approx(1 / 19, rel=1e-6), math.inf, math.inf, math.inf]


def test_the_surrogate_has_the_variances_and_stays_like_the_chain():
    h, s = torch.tensor([1.0, 4.0]).double(), torch.tensor([1.0, 0.25]).double()
    distances = linear_surrogate(h, s, step_size=0.1, steps=200, chains=8000, seed=1)
    v = stationary_variances(h, s, 0.1)
    squared = distances[:, -1].square()
    error = math.sqrt(2 * float(v.square().sum()) / 8000)
    assert float(squared.mean()) == pytest.approx(float(v.sum()), abs=4 * error)
    one = linear_surrogate(h[:1], s[:1], step_size=0.1, steps=50, chains=8000, seed=2)
    stayed = float((one <= 0.5).all(1).double().mean())
    assert stayed == pytest.approx(0.642842, abs=4 * math.sqrt(0.23 / 8000))
    assert distances.shape == (8000, 201)
    assert not distances[:, 0].any()


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="step_size must be a finite number > 0"):
        LinearChain(1, 0, 1)
    with pytest.raises(ValueError, match="curvature must be a finite number"):
        LinearChain(math.nan, 0.1, 1)
    with pytest.raises(ValueError, match="noise must be a finite number >= 0"):
        LinearChain(1, 0.1, -1)
    with pytest.raises(TypeError, match="dimension must be a whole number"):
        LinearChain(1, 0.1, 1, 2.0)
    with pytest.raises(ValueError, match="more than 4096: use a smaller radius"):
        LinearChain(1, 0.1, 1).stay(100, 10)
    with pytest.raises(ValueError, match="accurate up to 2000 dimensions"):
        LinearChain(1, 0.1, 1, 2001).stay(1, 10)
    with pytest.raises(ValueError, match="beyond 1e11 steps"):
        LinearChain(1, 0.01, 1).mean_exit_time(1)
    with pytest.raises(ValueError, match="use noise > 0"):
        LinearChain(1, 0.1, 0).mean_exit_time(1)
    with pytest.raises(ValueError, match="radius must be a finite number > 0"):
        UNIT.stay(0, 3)


@pytest.mark.parametrize(
    "h, s, error, words",
    [
        ([1.0], torch.ones(1), TypeError, "curvatures must be a floating-point tensor"),
        (torch.ones(2), torch.ones(3), ValueError, "2 curvatures but 3 noise_variances"),
        (torch.ones(2), -torch.ones(2), ValueError, "must not be negative"),
        (torch.ones(2, 2), torch.ones(4), ValueError, r"finite and of shape \[k\]"),
    ],
)
def test_bad_spectra_are_refused(h, s, error, words):
    with pytest.raises(error, match=words):
        stationary_variances(h, s, 0.1)


def test_the_chain_of_a_contraction_shrinks_by_it():
    one = LinearChain.from_contraction(0.7, step_size=0.2, noise=1, dimension=3)
    assert one.contraction == pytest.approx(0.7, rel=1e-15)
    assert one.dimension == 3
