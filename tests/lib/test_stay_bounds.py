"""Lower bounds on staying, against exact values, simulation, and problems that break a hypothesis.

A lower bound that holds proves little: it may be far too low. So each is also shown to fail where
one of its hypotheses is dropped, which is why the caller has to declare what cannot be checked.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from gencoh_lib._stay_isotropic import _tail
from gencoh_lib.stagnation import (
    DecayingSteps,
    IsotropicNoise,
    LinearChain,
    Tube,
    contraction,
    curved_offset,
    linear_surrogate,
    noisy_sgd,
    proportion,
    stagnation_radius,
    stay_bound,
    stay_bound_decaying,
    stay_bound_drift,
    stay_bound_isotropic,
)

# eta, h, k, r, T (sigma = 1), then product, union and S from another program; None: vacuous
TABLE = [
    (0.1, 1, 1, 1.0, 1000, 0.987188, 0.986928, None),
    (0.05, 1, 1, 1.0, 1000, None, None, 0.998938),
    (0.1, 2, 1, 0.8, 1000, None, None, 0.268198),
    (0.1, 1, 5, 1.2, 200, 0.991038, 0.990293, None),
    (0.1, 1, 10, 1.4, 1000, 0.950620, 0.948570, None),
    (0.1, 1, 10, 1.6, 1000, 0.999534, 0.999526, 0.300764),
    (0.1, 1, 10, 2.0, 1000, 1.000000, 1.000000, 0.999801),
    (0.05, 1, 20, 1.0, 1000, 0.001517, None, None),
    (0.02, 1, 50, 1.0, 1000, 0.960026, 0.954875, None),
    (0.1, 1, 100, 3.0, 500, 0.993892, 0.993623, None),
]


def options(eta=0.1, h=1.0, k=1, steps=1000, noise=1.0, **changes):
    return {
        "steps": steps, "contraction": abs(1 - eta * h), "step_size": eta, "noise": noise,
        "dimension": k, "minimal_set": "affine",
    } | changes  # fmt: skip


def share_that_stays(gradient, start, tube, *, eta, sigma, steps, chains, seed=0):
    run = noisy_sgd(
        gradient, start, steps=steps, step_size=eta, noise=IsotropicNoise(sigma), chains=chains,
        tube=tube, seed=seed,
    )  # fmt: skip
    return run.stay().probability()


@pytest.mark.parametrize("eta, h, k, r, steps, product, union, general", TABLE)
def test_bounds_of_the_table(eta, h, k, r, steps, product, union, general):
    given = options(eta, h, k, steps)
    sharp, plain = stay_bound_isotropic(r, **given), stay_bound(r, **given)
    assert sharp.value == LinearChain(h, eta, 1, k).stay(r, steps)
    if product is not None:
        assert sharp.terms["product"] == pytest.approx(product, abs=6e-7)
    if union is not None:
        assert sharp.terms["union"] == pytest.approx(union, abs=6e-7)
    if general is None:
        assert plain.vacuous
    else:
        assert plain.value == pytest.approx(general, abs=6e-7)


def is_ordered(r, **given):
    sharp, plain = stay_bound_isotropic(r, **given), stay_bound(r, **given)
    terms = sharp.terms
    chain = [terms["linear_chain"], terms["product"], terms["power"], terms["union"], plain.value]
    return all(a >= b - 1e-11 for a, b in pairwise(chain))


@given(
    eta=st.floats(0.02, 0.4),
    h=st.floats(0.2, 4),
    sigma=st.floats(0.1, 5),
    k=st.integers(1, 12),
    q=st.floats(0.3, 9),
    steps=st.integers(1, 150),
)
@settings(max_examples=60, deadline=None)
def test_exact_product_power_union_and_general_bound_come_in_this_order(eta, h, sigma, k, q, steps):
    given = options(eta, h, k, steps, sigma)
    r = q * math.sqrt(LinearChain(h, eta, sigma).stationary_variance)
    assert is_ordered(r, **given)


@given(q=st.floats(0, 30), k=st.integers(1, 50), steps=st.integers(0, 10**6))
def test_the_general_bound_is_its_formula(q, k, steps):
    v = 0.01 / 0.19
    found = stay_bound(q * math.sqrt(v) + 1e-12, **options(k=k, steps=steps))
    naive = 1 - steps * math.exp(-(max(q - math.sqrt(k), 0) ** 2) / 2)
    assert found.value == pytest.approx(naive, rel=1e-6, abs=1e-9)
    assert eval(found.formula, {}, dict(found.terms)) == pytest.approx(found.value, rel=1e-12)
    assert found.vacuous == (found.value <= 0)


def test_no_noise_stays_and_no_time_does_not_matter():
    for bound in (stay_bound, stay_bound_isotropic):
        assert bound(0.5, **options(noise=0)).value == 1
        assert bound(0.5, **options(steps=0)).value == 1
    assert stay_bound_isotropic(1, **options(contraction=0.0, steps=50)).value == pytest.approx(
        math.erf(10 / math.sqrt(2)) ** 50, rel=1e-9
    )


@pytest.mark.parametrize("r, general", [(1.0, None), (1.6, 0.99333), (1.9, 0.999994)])
def test_anisotropic_noise_stays_more_often_than_the_general_bound(r, general):
    h = torch.tensor([1.0, 2, 4, 8, 10])
    sd = torch.tensor([1.0, 0.5, 1, 0.2, 0.7])
    given = options(
        k=5, steps=500, contraction=contraction(0.1, mu=1, lipschitz=10, symmetric=True)
    )
    assert given["contraction"] == pytest.approx(0.9)
    found = stay_bound(r, **given)
    if general is None:
        assert found.vacuous
    else:
        assert found.value == pytest.approx(general, abs=6e-6)
    distances = linear_surrogate(h, sd**2, step_size=0.1, steps=500, chains=4000, seed=5)
    stayed = int((distances[:, 1:] <= r).all(1).sum())
    assert proportion(stayed, 4000).high >= found.value
    if r == 1.0:  # another program measured .992
        assert stayed / 4000 == pytest.approx(0.992, abs=4 * math.sqrt(2 * 0.008 / 4000))


def test_a_valley_that_is_not_convex_stays_at_least_as_often_as_the_linear_chain():
    # x^2 (1 + y^2) / 2, y clipped to [-2, 2]: contraction at most .9 as 1 - .1 (1 + y^2) >= .5
    def gradient(t):
        x, y = t.unbind(1)
        return torch.stack([x * (1 + y**2), x**2 * y], 1)

    def clip(t):
        return torch.stack([t[:, 0], t[:, 1].clamp(-2, 2)], 1)

    run = noisy_sgd(
        gradient, torch.zeros(2), steps=1000, step_size=0.1, chains=20_000, projection=clip,
        noise=IsotropicNoise(1.0), tube=Tube(torch.zeros(2), 1.0, normal=torch.eye(2)[:, :1]),
    )  # fmt: skip
    found = run.stay().probability()
    assert found.value == pytest.approx(0.9979, abs=4 * math.sqrt(2 * 0.0021 / 20_000))
    assert found.low >= stay_bound_isotropic(1.0, **options()).value


def test_the_order_holds_for_random_bowls_that_are_not_round():
    generator = np.random.default_rng(4)
    for trial in range(6):
        k, eta = int(generator.integers(2, 6)), 0.1
        h = torch.tensor(generator.uniform(0.5, 6, k)).float()
        rho = contraction(eta, mu=float(h.min()), lipschitz=float(h.max()), symmetric=True)
        v = eta**2 / (1 - rho**2)
        r = math.sqrt(v) * (math.sqrt(k) + 2.2)
        sharp = stay_bound_isotropic(r, **options(k=k, steps=100, contraction=rho)).value
        found = share_that_stays(
            lambda x, h=h: h * x, torch.zeros(k), Tube(torch.zeros(k), r), eta=eta, sigma=1.0,
            steps=100, chains=2000, seed=trial,
        )  # fmt: skip
        assert found.value + 4 * math.sqrt(0.25 / 2000) * 2 * math.sqrt(found.value) >= sharp


@pytest.mark.parametrize(
    "r, value, measured", [(0.5, None, 0.563), (0.749, 0.95174, 1), (0.9, 0.99998, 1)]
)
def test_a_wrong_gradient_costs_radius(r, value, measured):
    # the worst error: outward everywhere, of length .3
    def gradient(x):
        return x - 0.3 * x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-12)

    given = options(k=2, steps=500, noise=0.3)
    found = stay_bound_drift(r, gradient_error=0.3, **given)
    if value is None:
        assert found.vacuous
    else:
        assert found.value == pytest.approx(value, abs=6e-6)
    stayed = share_that_stays(
        gradient,
        torch.zeros(2),
        Tube(torch.zeros(2), r),
        eta=0.1,
        sigma=0.3,
        steps=500,
        chains=4000,
    )
    assert stayed.value == pytest.approx(measured, abs=4 * math.sqrt(2 * 0.25 / 4000) + 1e-9)
    assert stayed.high >= found.value
    if r == 0.5:  # without the error the general bound would promise what is false
        assert stay_bound(r, **given).value > 0.999 > stayed.high


@given(q=st.floats(0, 30), k=st.integers(1, 20), error=st.floats(0, 3), rho=st.floats(0, 0.99))
def test_the_bound_with_an_error_is_its_formula(q, k, error, rho):
    v = 0.01 / (1 - rho**2)
    r = q * math.sqrt(2 * v) + 1e-12
    found = stay_bound_drift(r, gradient_error=error, **options(k=k, steps=100, contraction=rho))
    effective = k + (1 + rho**2) / (1 - rho**2) * error**2
    naive = 1 - 100 * math.exp(-(max(q - math.sqrt(effective), 0) ** 2) / 2)
    assert found.value == pytest.approx(naive, rel=1e-6, abs=1e-9)
    assert found.value <= stay_bound(r, **options(k=k, steps=100, contraction=rho)).value + 1e-9


def test_shrinking_steps_may_stay_for_ever_and_constant_ones_do_not():
    given = {
        "mu": 1, "lipschitz": 1, "noise": 1, "dimension": 1, "minimal_set": "affine"
    }  # fmt: skip
    shrinking = DecayingSteps(0.2, 50, 0.75)
    horizons = (100, 1000, 10_000, math.inf)
    found = [
        stay_bound_decaying(1.2, steps=t, step_size=shrinking, **given).value for t in horizons
    ]
    assert found == pytest.approx([0.997874, 0.997873, 0.997873, 0.997873], abs=6e-7)
    constant = [
        stay_bound_decaying(1.2, steps=t, step_size=0.2, **given).value for t in horizons[:3]
    ]
    assert constant == pytest.approx([0.9703, 0.7287, 0.0415], abs=6e-5)
    endless = stay_bound_decaying(1.2, steps=math.inf, step_size=DecayingSteps(0.2, 50, 0), **given)
    assert endless.value == 0
    assert (
        stay_bound_decaying(1.2, steps=math.inf, step_size=shrinking, **given | {"noise": 0}).value
        == 1
    )
    # a step of size 0 repeats the distance, and the product counts it again
    pauses = stay_bound_decaying(0.2, steps=2, step_size=[0.1, 0.0], **given).value
    assert pauses == pytest.approx(math.erf(2 / math.sqrt(2)) ** 2, rel=1e-12)
    # with a constant step it is the product of the isotropic bound
    same = stay_bound_isotropic(1.2, **options(eta=0.2)).terms["product"]
    assert constant[1] == pytest.approx(same, rel=1e-10)


@pytest.mark.parametrize(
    "step_size, measured", [(DecayingSteps(0.2, 50, 0.75), 0.9981), (0.2, 0.789)]
)
def test_simulated_runs_stay_more_often_than_the_bound_for_changing_steps(step_size, measured):
    run = noisy_sgd(
        lambda x: x, torch.zeros(1), steps=1000, step_size=step_size, chains=8000,
        noise=IsotropicNoise(1.0), tube=Tube(torch.zeros(1), 1.2),
    )  # fmt: skip
    found = run.stay().probability()
    assert found.value == pytest.approx(
        measured, abs=4 * math.sqrt(measured * (1 - measured) / 2000)
    )
    bound = stay_bound_decaying(
        1.2, steps=1000, mu=1, lipschitz=1, step_size=step_size, noise=1, dimension=1,
        minimal_set="affine",
    )  # fmt: skip
    assert found.high >= bound.value


@pytest.mark.parametrize("power", [0.3, 0.6, 1.0])
def test_the_endless_tail_is_no_smaller_than_a_long_sum(power):
    steps = DecayingSteps(0.3, 20, power)
    r, k = 0.75, 3
    bound = stay_bound_decaying(
        r, steps=math.inf, mu=1, lipschitz=1.5, step_size=steps, noise=0.5, dimension=k,
        minimal_set="affine",
    )  # fmt: skip
    v, log = 0.0, 0.0
    for t in range(300_000):
        eta = steps(t)
        v = (1 - 2 * eta + (1.5 * eta) ** 2) * v + (0.5 * eta) ** 2
        log += math.log1p(-chi2.sf(r**2 / v, k)) if t < 3000 or t % 1000 == 0 else 0.0
    assert 0 < bound.value <= math.exp(log) + 1e-12
    assert eval(bound.formula, {}, dict(bound.terms)) == pytest.approx(bound.value, rel=1e-12)


def test_the_tail_after_a_step_bounds_the_sum_of_all_later_exits():
    steps, r, k = DecayingSteps(0.3, 20, 0.5), 0.6, 2
    v, variances = 0.0, []
    for t in range(60_000):
        eta = steps(t)
        v = (1 - eta) ** 2 * v + (0.5 * eta) ** 2
        variances.append(v)
    later = chi2.sf(r**2 / np.array(variances), k)
    for last in (100, 300, 1000):
        tail = _tail(r, variances[last - 1], last, k, 0.5, 1, 1, steps)
        assert 0 < later[last:].sum() <= tail <= 3 * later[last:].sum()


def test_radius_by_design():
    r = stagnation_radius(0.05, steps=1000, contraction=0.9, step_size=0.1, noise=1, dimension=10)
    assert r == pytest.approx(1.7465, abs=6e-5)
    assert stay_bound(r, **options(k=10)).value == pytest.approx(0.95, rel=1e-12)


@pytest.mark.parametrize("k", [1, 6])
def test_runs_that_start_at_the_edge_of_the_core_keep_the_promise(k):
    given = options(k=k, steps=300)
    r = stagnation_radius(0.3, steps=300, contraction=0.9, step_size=0.1, noise=1, dimension=k)
    tube, v = Tube(torch.zeros(k), r), 0.01 / 0.19
    core = tube.core_radius(v)
    assert core == pytest.approx(math.sqrt(r * math.sqrt(k * v)), rel=1e-12)
    start = core * torch.eye(k)[0]
    found = share_that_stays(lambda x: x, start, tube, eta=0.1, sigma=1.0, steps=300, chains=2000)
    assert found.low >= stay_bound(r, start=core, **given).value == pytest.approx(0.7)
    exact = stay_bound_isotropic(r, start=core, **given)
    assert found.value == pytest.approx(exact.value, abs=4 * math.sqrt(0.25 / 2000))
    assert set(exact.terms) == {"linear_chain"}


def test_the_contraction_is_the_largest_factor():
    assert contraction(0.1, mu=1, lipschitz=1) == pytest.approx(0.9, rel=1e-15)
    assert contraction(0.1, mu=1, lipschitz=5) == pytest.approx(math.sqrt(1 - 0.2 + 0.25))
    h = torch.diag(torch.linspace(1, 5, 4))
    for eta in (0.1, 0.33, 0.39):
        step = torch.linalg.matrix_norm(torch.eye(4) - eta * h, 2)
        found = contraction(eta, mu=1, lipschitz=5, symmetric=True)
        assert found == pytest.approx(float(step), rel=1e-6)
        assert found <= contraction(eta, mu=1, lipschitz=5) + 1e-12


# --- hypotheses that are dropped ---


def sphere(t):
    """Gradient of (|theta| - 1)^2 / 2: the minima are a sphere."""
    length = torch.linalg.vector_norm(t, dim=1, keepdim=True)
    return (length - 1) * t / length


@pytest.mark.parametrize(
    "p, predicted, measured", [(1, 0.0045, 0.0041), (10, 0.0431, 0.0430), (50, 0.189, 0.1907)]
)
def test_noise_along_a_sphere_keeps_the_chain_off_it(p, predicted, measured):
    offset = curved_offset(1, tangential=p, curvature=1, step_size=0.1, noise=0.3)
    assert offset == pytest.approx(predicted, abs=6e-4)
    start = torch.zeros(p + 1)
    start[0] = 1
    run = noisy_sgd(
        sphere, start, steps=300, step_size=0.1, chains=4000, noise=IsotropicNoise(0.3), seed=1
    )
    lengths = torch.linalg.vector_norm(run.final, dim=1)
    error = float(lengths.std()) / math.sqrt(4000)
    assert float(lengths.mean()) - 1 == pytest.approx(measured, abs=4 * error)
    assert float(lengths.mean()) - 1 == pytest.approx(offset, abs=4 * error + 0.01 * p / 50)


def test_declaring_a_sphere_affine_makes_all_bounds_false():
    # On the sphere one direction is normal and a step shrinks the distance by .9: only the
    # declaration is wrong.
    given = options(k=1, steps=200, noise=0.3)
    r = stagnation_radius(0.05, steps=200, contraction=0.9, step_size=0.1, noise=0.3, dimension=1)
    start = torch.zeros(51)
    start[0] = 1
    run = noisy_sgd(
        sphere, start, steps=200, step_size=0.1, chains=2000, noise=IsotropicNoise(0.3), keep=1
    )
    assert run.positions is not None
    off = (torch.linalg.vector_norm(run.positions, dim=2) - 1).abs()
    stayed = proportion(int((off <= r).all(1).sum()), 2000)
    assert stayed.high < stay_bound(r, **given).value < stay_bound_isotropic(r, **given).value


def test_more_noise_or_less_pull_than_was_said_makes_the_bound_false():
    r = stagnation_radius(0.05, steps=1000, contraction=0.9, step_size=0.1, noise=1, dimension=2)
    promised = stay_bound(r, **options(k=2)).value
    tube, start = Tube(torch.zeros(2), r), torch.zeros(2)
    louder = share_that_stays(lambda x: x, start, tube, eta=0.1, sigma=1.6, steps=1000, chains=1000)
    weaker = share_that_stays(
        lambda x: 0.3 * x, start, tube, eta=0.1, sigma=1.0, steps=1000, chains=1000
    )
    assert louder.high < promised
    assert weaker.high < promised


def test_noise_in_one_of_two_directions_stays_like_one_direction():
    h, s = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])
    distances = linear_surrogate(h, s, step_size=0.1, steps=200, chains=4000, seed=1)
    stayed = float((distances[:, 1:] <= 0.6).all(1).double().mean())
    exact = stay_bound_isotropic(0.6, **options(k=1, steps=200)).value
    assert stayed == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 4000))
    assert stay_bound_isotropic(0.6, **options(k=2, steps=200)).value < stayed


@pytest.mark.parametrize("bound", [stay_bound, stay_bound_isotropic])
@pytest.mark.parametrize("declared", ["curved", "sphere", None])
def test_a_set_that_is_not_declared_affine_or_convex_is_refused(bound, declared):
    with pytest.raises(ValueError, match="curved_offset predicts how far"):
        bound(1.0, **options(minimal_set=declared))
    with pytest.raises(ValueError, match="which you have to declare"):
        stay_bound_drift(1.0, gradient_error=0.1, **options(minimal_set=declared))
    with pytest.raises(ValueError, match="which you have to declare"):
        stay_bound_decaying(
            1.0, steps=3, mu=1, lipschitz=1, step_size=0.1, noise=1, dimension=1,
            minimal_set=declared,
        )  # fmt: skip


def test_nothing_is_assumed_where_nothing_is_declared():
    given = options()
    del given["minimal_set"]
    with pytest.raises(TypeError, match="minimal_set"):
        stay_bound(1.0, **given)


def test_a_convex_set_holds_with_all_dimensions():
    # the minima are the half-plane y >= 0: convex, and no subspace
    def gradient(t):
        return torch.stack([torch.zeros_like(t[:, 0]), t[:, 1].clamp(max=0)], 1)

    run = noisy_sgd(
        gradient, torch.zeros(2), steps=300, step_size=0.1, chains=2000,
        noise=IsotropicNoise(1.0), keep=1,
    )  # fmt: skip
    assert run.positions is not None
    distance = (-run.positions[:, :, 1]).clamp(min=0)
    found = proportion(int((distance <= 1.0).all(1).sum()), 2000)
    bound = stay_bound_isotropic(1.0, **options(k=2, steps=300, minimal_set="convex"))
    assert found.high >= bound.value
    assert "closed and convex" in repr(bound)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"contraction must lie in \[0, 1\)"):
        stay_bound(1.0, **options(contraction=1.0))
    with pytest.raises(ValueError, match=r"outside the core of radius 0\.479"):
        stay_bound(1.0, **options(start=0.5))
    with pytest.raises(ValueError, match=r"outside the core of radius 0\.2"):
        stay_bound(0.2, **options(start=0.5))
    with pytest.raises(ValueError, match="lies outside the tube"):
        stay_bound_isotropic(1.0, **options(start=1.5))
    with pytest.raises(ValueError, match="noise must be a finite number > 0"):
        stay_bound_drift(1.0, gradient_error=0.1, **options(noise=0))
    with pytest.raises(ValueError, match="gradient_error must be"):
        stay_bound_drift(1.0, gradient_error=-1, **options())
    with pytest.raises(ValueError, match="radius must be"):
        stay_bound(0, **options())
    with pytest.raises(ValueError, match="steps must be a whole number >= 0"):
        stay_bound(1, **options(steps=-1))
    with pytest.raises(ValueError, match="failure must lie"):
        stagnation_radius(0, steps=1, contraction=0.5, step_size=0.1, noise=1, dimension=1)
    with pytest.raises(ValueError, match="mu = 2 exceeds lipschitz = 1"):
        contraction(0.1, mu=2, lipschitz=1)
    with pytest.raises(ValueError, match="tangential must be a whole number >= 0"):
        curved_offset(1, tangential=-1, curvature=1, step_size=0.1, noise=1)
    for step_size in (0.1, DecayingSteps(0.1, 10, 1.5)):
        with pytest.raises(ValueError, match="power of at most 1"):
            stay_bound_decaying(
                1, steps=math.inf, mu=1, lipschitz=1, step_size=step_size, noise=1, dimension=1,
                minimal_set="affine",
            )  # fmt: skip
