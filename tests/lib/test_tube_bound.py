"""What a tube buys: the bound and its parts, the Lipschitz constant behind it, and spectral norms.

The numbers are those of the digits network of the chapter: two layers with spectral norms 2.435 and
3.244, inputs of length at most 4.745, margin 1.204, 500 examples.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from gencoh_lib import models
from gencoh_lib.stagnation import (
    NetworkLoss,
    linearised_complexity,
    parameter_lipschitz,
    proportion,
    spectral_complexity,
    stagnation_guarantee,
    stay_bound,
    tube_bound,
)

NORMS = [2.435, 3.244]


def bound(**changes):
    options = {
        "spectral_norms": NORMS, "input_norm": 4.745, "lipschitz_loss": math.sqrt(2) / 1.204,
        "flat_dimension": 16, "length": 0.4, "thickness": 0.0, "examples": 500,
    } | changes  # fmt: skip
    return tube_bound(**options)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "p, length, thickness, entropy",
    [
        (592, 9.07, 0, 31_496), (592, 0.4, 0, 381), (592, 0.2, 0, 179), (16, 0.4, 0, 62.6),
        (8, 0.2, 0, 20.8), (8, 0.2, 0.54, 52.6),
    ],
)  # fmt: skip
def test_values_on_digits(p, length, thickness, entropy):
    found = bound(flat_dimension=p, length=length, thickness=thickness)
    before = found.value - found.terms["concentration"]
    assert before == pytest.approx(entropy, rel=6e-3)
    assert found.vacuous


@pytest.mark.parametrize(
    "length, thickness, value", [(0.4, 0, 20.6), (0.2, 0, 9.7), (0.2, 0.54, 31.2)]
)
def test_the_form_without_a_dimension_on_digits(length, thickness, value):
    found = bound(length=length, thickness=thickness, form="perturbation")
    assert found.terms["perturbation"] == pytest.approx(value, rel=6e-3)
    assert found.value == bound(length=length, thickness=thickness, form="best").value
    assert bound(
        flat_dimension=592, length=length, thickness=thickness, form="perturbation"
    ).value == (pytest.approx(found.value, rel=1e-12))


def test_no_flat_direction_is_pure_perturbation_and_a_point_pure_concentration():
    flat = bound(flat_dimension=0, length=7.0, thickness=0.1)
    assert flat.terms["entropy"] == 0
    assert flat.value == pytest.approx(
        bound(flat_dimension=0, thickness=0.1, form="perturbation").value, rel=1e-12
    )
    point = bound(flat_dimension=0)
    assert point.value == pytest.approx(math.sqrt(math.log(40) / 1000), rel=1e-12)
    assert not point.vacuous


def test_many_minima_cost_a_logarithm():
    # a tanh layer of 8 units: 2^8 8! copies of each minimum
    copies = 2**8 * math.factorial(8)
    assert copies == 10_321_920
    one, all_of_them = (bound(tubes=k).terms["concentration"] for k in (1, copies))
    assert (one, all_of_them) == pytest.approx((0.0607, 0.1409), abs=6e-5)


def test_the_best_form_is_the_smaller():
    many = bound(examples=10**8)
    assert many.value < bound(examples=10**8, form="perturbation").value
    assert bound(examples=10**8, form="best").value == many.value


@given(
    p=st.integers(1, 500),
    length=st.floats(0.01, 3),
    thickness=st.floats(0, 3),
    n=st.integers(10, 10**6),
    k=st.integers(1, 10**6),
)
def test_the_bound_is_its_formula_and_monotone(p, length, thickness, n, k):
    options = {
        "flat_dimension": p, "length": length, "thickness": thickness, "examples": n, "tubes": k
    }  # fmt: skip
    found = bound(**options)
    size = math.hypot(length, thickness)
    s = [norm + size for norm in NORMS]
    slope = math.sqrt(2) / 1.204 * 4.745 * math.sqrt(s[0] ** 2 + s[1] ** 2)
    j, _ = quad(lambda u: math.sqrt(math.log(3 / u)), 0, 1)
    naive = (
        24 * j * slope * length * math.sqrt(p / n)
        + 2 * slope * thickness
        + math.sqrt(math.log(2 * k / 0.05) / (2 * n))
    )
    assert found.value == pytest.approx(naive, rel=1e-7)
    assert eval(found.formula, {}, dict(found.terms)) == pytest.approx(found.value, rel=1e-12)
    for change in ("flat_dimension", "tubes"):
        assert bound(**options | {change: options[change] + 1}).value > found.value
    for change in ("length", "thickness"):
        assert bound(**options | {change: options[change] + 0.1}).value > found.value
    assert bound(**options | {"examples": n + 1}).value < found.value


@given(st.integers(1, 3), st.floats(0.01, 5), st.integers(0, 2**31), st.booleans())
@settings(deadline=None)
def test_outputs_change_no_faster_than_the_constant(hidden, distance, seed, relu):
    sizes = [4, *[5] * hidden, 3]
    model = models.mlp(
        sizes, activation=torch.nn.ReLU if relu else torch.nn.Tanh, bias=False, seed=seed % 1000,
        dtype=torch.float64,
    )  # fmt: skip
    x = normals(6, 4, seed=seed)
    net = NetworkLoss(model, x, torch.zeros(6, dtype=torch.int64))
    move = normals(net.dimension, seed=seed + 1)
    other = net.start + distance * move / move.norm()
    norms = [float(torch.linalg.matrix_norm(w, 2)) for w in net.weights()]
    lipschitz = parameter_lipschitz(norms, input_norm=float(x.norm(dim=1).max()), radius=distance)
    first, second = net.outputs(torch.stack([net.start, other]))
    change = float((first - second).norm(dim=1).max())
    assert change <= lipschitz * distance * (1 + 1e-12)


def test_the_constant_is_reached_by_a_linear_network_and_fails_without_the_radius():
    # one layer: |A x - B x| = |x| |A - B|
    assert parameter_lipschitz([7.0], input_norm=2.0) == 2.0
    # f = a b x with a = b = 1 moved to a = b = 1 + t: the change is (2 + t) t x
    t, at_centre = 3.0, parameter_lipschitz([1, 1], input_norm=1)
    change, distance = (2 + t) * t, math.sqrt(2) * t
    assert change > at_centre * distance
    assert change <= parameter_lipschitz([1, 1], input_norm=1, radius=distance) * distance


def test_the_constant_survives_a_layer_of_norm_zero():
    assert parameter_lipschitz([0.0, 3.0], input_norm=2.0) == pytest.approx(6.0)


def test_fixed_networks_miss_their_risk_no_more_often_than_promised():
    # no directions and no thickness: K points, losses 0 or 1 and all independent
    k, n, delta, samples = 20, 50, 0.2, 4000
    promised = bound(flat_dimension=0, tubes=k, examples=n, delta=delta).value
    risks = np.random.default_rng(1).uniform(0.1, 0.9, k)
    means = np.random.default_rng(2).binomial(n, risks, (samples, k)) / n
    missed = (np.abs(means - risks) > promised).any(1).mean()
    assert missed <= delta
    # for a single point instead of K the same promise would be broken
    one = bound(flat_dimension=0, tubes=1, examples=n, delta=delta).value
    assert (np.abs(means - risks) > one).any(1).mean() > delta


def test_the_gap_of_a_whole_segment_is_below_the_bound():
    # f = theta x on [-1, 1], loss the ramp |theta x - y| / 2 cut at 1; risk known exactly
    n, samples, delta = 100, 300, 0.1
    generator = np.random.default_rng(3)
    x = generator.choice([-1.0, 1.0], (samples, n))
    y = np.where(generator.random((samples, n)) < 0.8, x, -x)
    theta = np.linspace(-0.5, 0.5, 41)

    def losses(x, y):
        return np.minimum(np.abs(theta[:, None, None] * x - y) / 2, 1)

    cases = (
        losses(np.array([[1.0]]), np.array([[1.0]])),
        losses(np.array([[1.0]]), np.array([[-1.0]])),
    )
    risk = 0.8 * cases[0][:, 0, 0] + 0.2 * cases[1][:, 0, 0]
    gap = np.abs(losses(x, y).mean(2) - risk[:, None]).max(0)
    options = {
        "spectral_norms": [0.0], "input_norm": 1.0, "lipschitz_loss": 0.5, "flat_dimension": 1,
        "length": 0.5, "thickness": 0.0, "examples": n, "delta": delta,
    }  # fmt: skip
    assert (gap > tube_bound(**options).value).mean() <= delta
    assert (gap > tube_bound(form="perturbation", **options).value).mean() <= delta


# --- several tubes and the chance to stay ---


def test_a_guarantee_pays_for_the_bound_and_for_staying():
    bounds = [bound(flat_dimension=0, thickness=r, tubes=2) for r in (0.001, 0.002)]
    found = stagnation_guarantee(bounds, stay=0.97, delta=0.05)
    assert found.value == bounds[1].value
    assert found.probability == pytest.approx(0.92)
    assert not found.vacuous
    stay = stay_bound(
        1.0,
        steps=1000,
        contraction=0.95,
        step_size=0.05,
        noise=1,
        dimension=1,
        minimal_set="affine",
    )
    by_bound = stagnation_guarantee(bounds, stay=stay, delta=0.05)
    assert by_bound.probability == pytest.approx(0.998938 - 0.05, abs=6e-7)
    measured = proportion(200, 200)
    assert stagnation_guarantee(bounds, stay=measured, delta=0.05).leaves == 1 - measured.low
    hopeless = stay_bound(
        0.1,
        steps=1000,
        contraction=0.95,
        step_size=0.05,
        noise=1,
        dimension=1,
        minimal_set="affine",
    )
    nothing = stagnation_guarantee(bounds, stay=hopeless, delta=0.05)
    assert nothing.vacuous
    assert nothing.leaves == 1


# --- spectral norms ---


def naive_complexity(weights, references):
    product, total = 1.0, 0.0
    for a, m in zip(weights, references, strict=True):
        norm = np.linalg.svd(a.numpy(), compute_uv=False)[0]
        rows = sum(math.sqrt(sum(v**2 for v in row)) for row in (a - m).tolist())
        product *= norm
        total += rows ** (2 / 3) / norm ** (2 / 3)
    return product * total**1.5


@given(st.integers(1, 4), st.integers(0, 2**31))
def test_the_spectral_complexity_is_that_of_a_loop(layers, seed):
    weights = [normals(3, 3, seed=seed + i) for i in range(layers)]
    references = [normals(3, 3, seed=seed + 100 + i) for i in range(layers)]
    found = spectral_complexity(weights, references)
    assert found.value == pytest.approx(naive_complexity(weights, references), rel=1e-9)
    zero = spectral_complexity(weights)
    twin = naive_complexity(weights, [torch.zeros(3, 3)] * layers)
    assert zero.value == pytest.approx(twin, rel=1e-9)


def test_a_reference_at_the_centre_makes_it_local():
    weights = [normals(5, 4), normals(3, 5, seed=1)]
    directions = [normals(5, 4, seed=2), normals(3, 5, seed=3)]
    assert spectral_complexity(weights, weights).value == 0

    def at(s):
        moved = [w + s * d for w, d in zip(weights, directions, strict=True)]
        return spectral_complexity(moved, weights)

    # linear in the distance, up to the change of the spectral norms
    assert at(2e-6).value / at(1e-6).value == pytest.approx(2, rel=1e-4)
    norms = [s.spectral_norms for s in (at(0.0), at(1e-6))]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    found = spectral_complexity(weights)
    term = found.main_term(data_norm=7.0, margin=0.5, examples=100)
    assert term == pytest.approx(7 * found.value * math.log(5) / (0.5 * 100), rel=1e-12)
    assert "R_A" in repr(found)


def test_a_layer_of_norm_zero_has_a_finite_complexity():
    found = spectral_complexity([torch.zeros(2, 2), 3 * torch.eye(2)], [torch.eye(2), torch.eye(2)])
    assert found.value == pytest.approx(6.0)  # distance 2 of the first times the other's norm 3
    close = spectral_complexity(
        [1e-9 * torch.eye(2), 3 * torch.eye(2)], [torch.eye(2), torch.eye(2)]
    )
    assert close.value == pytest.approx(found.value, rel=1e-5)


def test_the_linearised_complexity_is_the_mean_of_suprema():
    # sup over the ellipsoid of the average of signed linear losses, averaged over signs
    g, v, q, n = normals(30, 4), torch.tensor([0.5, 1.0, 2.0, 0.1]).double(), 1.5, 30
    signs = normals(20_000, n, seed=1).sign()
    suprema = q * ((signs @ g / n) * v.sqrt()).norm(dim=1)
    found = linearised_complexity(v, g.square().mean(0), examples=n, q=q)
    assert float(suprema.square().mean().sqrt()) == pytest.approx(found, rel=0.03)
    assert float(suprema.mean()) <= found


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="spectral_norms is empty"):
        parameter_lipschitz([], input_norm=1)
    with pytest.raises(ValueError, match="spectral_norms must be"):
        parameter_lipschitz([-1.0], input_norm=1)
    with pytest.raises(ValueError, match="form must be 'entropy', 'perturbation' or 'best'"):
        bound(form="both")
    with pytest.raises(ValueError, match="length must be"):
        bound(length=math.inf)
    with pytest.raises(TypeError, match="flat_dimension must be a whole number"):
        bound(flat_dimension=1.5)
    with pytest.raises(ValueError, match="delta must lie strictly"):
        bound(delta=0)
    with pytest.raises(ValueError, match="bounds is empty"):
        stagnation_guarantee([], stay=1, delta=0.05)
    with pytest.raises(ValueError, match=r"stay must be a probability, got 1\.5"):
        stagnation_guarantee([bound()], stay=1.5, delta=0.05)
    with pytest.raises(ValueError, match="weights is empty"):
        spectral_complexity([])
    with pytest.raises(TypeError, match="must be matrices"):
        spectral_complexity([torch.ones(3)])
    with pytest.raises(ValueError, match="references must have the shapes"):
        spectral_complexity([torch.ones(2, 2)], [torch.ones(3, 2)])
    with pytest.raises(ValueError, match=r"must both be of shape \[k\]"):
        linearised_complexity(torch.ones(2), torch.ones(3), examples=1)
    with pytest.raises(ValueError, match="finite and not negative"):
        linearised_complexity(torch.ones(2), -torch.ones(2), examples=1)
