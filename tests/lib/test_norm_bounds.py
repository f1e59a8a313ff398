"""Margin bounds by norms: the worked example, each proof step that carries a constant, symmetries.

The worked example is W1 = diag(3, 4), W2 = diag(1, 2) on four unit inputs, margin 1.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencoh_lib import bounds
from gencoh_lib._scale_grid import RATIO, round_up, weight

F64 = torch.float64
W = [torch.diag(torch.tensor([3.0, 4.0], dtype=F64)), torch.diag(torch.tensor([1.0, 2.0]).double())]
X = torch.tensor([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], dtype=F64)
FORMS = ("survey", "Neyshabur-Tomioka-Srebro", "Golowich-Rakhlin-Shamir")


def network(sizes, seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(b, a, generator=g, dtype=F64) for a, b in itertools.pairwise(sizes)]


def outputs(weights, x):
    for layer, w in enumerate(weights):
        x = (x.relu() if layer else x) @ w.T
    return x


def recombined(bound):
    return eval(bound.formula, {}, dict(bound.terms)) == pytest.approx(bound.value, rel=1e-12)


MARGIN_BOUNDS = {
    **{form: partial(bounds.norm_margin, radius=1.0, form=form) for form in FORMS},
    "spectral": partial(bounds.spectral_margin, data_norm=30.0),
    "PAC-Bayes": partial(bounds.pac_bayes_spectral, radius=1.0),
}
ORDERS = {
    "Golowich": partial(bounds.golowich_order, radius=1.0),
    "Bartlett": partial(bounds.spectral_margin_order, data_norm=30.0),
    "Neyshabur": partial(bounds.pac_bayes_spectral_order, radius=1.0),
}


def value(name, weights, *, margin=1.0, examples=1000, **changes):
    if name in ORDERS:
        return ORDERS[name](weights, margin=margin, examples=examples, **changes).value
    return MARGIN_BOUNDS[name](0.1, weights, margin=margin, examples=examples, **changes).value


# The worked example, and the survey's numbers


def test_orders_of_the_worked_example():
    four = {"margin": 1, "examples": 4}
    assert bounds.spectral_complexity(W) == pytest.approx(36.733241, abs=5e-7)
    assert bounds.spectral_complexity([torch.eye(3)] * 2) == pytest.approx(8.485281, abs=5e-7)
    data_norm = float(X.norm())
    found = bounds.spectral_margin_order(W, data_norm=data_norm, **four)
    assert found.value == pytest.approx(12.730771, abs=5e-7)
    found = bounds.pac_bayes_spectral_order(W, radius=1, **four)
    assert found.terms["norms"] == pytest.approx(180, rel=1e-12)
    assert found.value == pytest.approx(22.368164, abs=5e-7)
    eye = bounds.pac_bayes_spectral_order([torch.eye(3)] * 2, radius=1, **four)
    assert eye.terms["norms"] == pytest.approx(6, rel=1e-12)
    assert bounds.golowich_order(W, radius=1, **four).value == pytest.approx(7.905694, abs=5e-7)
    assert bounds.frobenius_rademacher(
        [5, math.sqrt(5)], examples=4, form="survey"
    ) == pytest.approx(11.180340, abs=5e-7)
    for order in ORDERS:
        found = ORDERS[order](W, **four)
        assert found.order_only
        assert found.vacuous
        assert recombined(found)


def test_pac_bayes_of_the_worked_example():
    bound = bounds.pac_bayes_spectral(0, W, radius=1, margin=1, examples=4, beta=math.sqrt(8))
    assert bound.terms["divergence"] == pytest.approx(3521409.484342, abs=1e-5)
    assert bound.value == pytest.approx(4333.691672, abs=1e-6)
    assert bound.terms["grid_cost"] == 0
    assert recombined(bound)


def test_complexities_of_the_survey():
    rademacher = partial(bounds.frobenius_rademacher, examples=1000, form="survey")
    assert rademacher([1]) == pytest.approx(0.031623, abs=5e-7)
    assert rademacher([1] * 2) == pytest.approx(0.063246, abs=5e-7)
    assert rademacher([1] * 3) == pytest.approx(0.126491, abs=5e-7)
    assert rademacher([2] * 3) == pytest.approx(1.011929, abs=5e-7)
    by_group = bounds.frobenius_rademacher([2] * 3, examples=1000, form=FORMS[1])
    assert by_group == pytest.approx(math.sqrt(2) * rademacher([2] * 3), rel=1e-14)
    assert rademacher([2, 3], radius=5) == rademacher([30, 1])  # only the product counts
    # the exponential moment wins from three layers on
    for depth in range(1, 12):
        late = bounds.frobenius_rademacher([1] * depth, examples=1000)
        assert (late < rademacher([1] * depth)) == (depth >= 3)


# Complexities against their definition


def test_complexity_of_the_linear_ball_by_its_definition():
    # sup over |w| <= 1 of sum tau_i w.x_i = |sum tau_i x_i|: all signs
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=F64)
    x = network((5, 8), seed=0)[0]  # 8 points in dimension 5
    x = x / x.norm(dim=1, keepdim=True)
    exact = float((signs @ x).norm(dim=1).mean()) / 8
    for form in FORMS:
        assert exact <= bounds.frobenius_rademacher([1], examples=8, form=form)
    orthonormal = float((signs @ torch.eye(8, dtype=F64)).norm(dim=1).mean()) / 8
    assert orthonormal == pytest.approx(1 / math.sqrt(8), rel=1e-12)
    assert orthonormal == pytest.approx(
        bounds.frobenius_rademacher([1], examples=8, form="survey"), rel=1e-12
    )


def test_complexity_of_two_layers_by_its_definition():
    # with product of norms 1 the best network has one unit: sup_u |sum tau_i relu(u.x_i)|, and in
    # the plane u is an angle
    angles = torch.linspace(0, 2 * math.pi, 2001, dtype=F64)[:-1]
    units = torch.stack([angles.cos(), angles.sin()])
    x = units[:, :: 2000 // 8].T[:8] + 0.0
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=F64)
    exact = float((signs @ (x @ units).relu()).abs().amax(1).mean()) / 8
    assert exact > 0.25
    for form in FORMS:
        assert exact <= bounds.frobenius_rademacher([1, 1], examples=8, form=form)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(0.05, 5))
def test_the_ramp_of_the_margin_is_lipschitz_with_root_two(seed, classes, margin):
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(2, 200, classes))
    two = one + 0.1 * (two - one)

    def ramp(v):
        rest = np.delete(v, 0, axis=1).max(1)
        return np.clip(1 - (v[:, 0] - rest) / margin, 0, 1)

    change = np.abs(ramp(one) - ramp(two))
    assert (change <= math.sqrt(2) / margin * np.linalg.norm(one - two, axis=1) + 1e-12).all()
    # and root two is needed: along the difference of two outputs
    step = np.zeros((1, classes))
    step[0, :2] = 1e-3 * margin, -1e-3 * margin
    start = np.zeros((1, classes))
    start[0, 0], start[0, 2:] = margin / 2, -10 * margin
    slope = abs(ramp(start) - ramp(start + step))[0] / np.linalg.norm(step)
    assert slope == pytest.approx(math.sqrt(2) / margin, rel=1e-9)


def test_the_contraction_for_vectors_on_all_signs():
    # a small class of vector outputs: E sup sum tau_i phi(v_i) <= sqrt(2) Lip E sup sum tau_ij v_ij
    rng = np.random.default_rng(0)
    m, classes = 4, 3
    signs = np.array(list(itertools.product([-1, 1], repeat=m)))
    many = np.array(list(itertools.product([-1, 1], repeat=m * classes)))
    for _ in range(5):
        family = rng.normal(size=(12, m, classes))
        rest = family[:, :, 1:].max(2)
        ramp = np.clip(1 - (family[:, :, 0] - rest) / 0.7, 0, 1)
        left = (signs @ ramp.T).max(1).mean()
        right = (many @ family.reshape(12, -1).T).max(1).mean()
        assert left <= math.sqrt(2) * math.sqrt(2) / 0.7 * right


# The grid


def test_the_shares_of_the_grid_sum_to_one_and_rounding_is_up():
    # telescoping: 2/3 (1 + 1/2) without the tails 2/3 (1/(n+2)) on both sides
    for n in (10, 1000):
        total = math.fsum(weight(j) for j in range(-n, n + 1))
        assert total == pytest.approx(1 - 4 / (3 * (n + 2)), rel=1e-12)


@given(st.floats(-600, 600).map(math.exp))
def test_scales_are_rounded_up_by_at_most_the_ratio(scale):
    rounded, cost = round_up(scale)
    assert scale <= rounded <= scale * RATIO * (1 + 1e-9)
    assert cost >= math.log(3)
    assert cost <= math.log(1.5 * (abs(math.log(scale)) / math.log(RATIO) + 3) ** 2)


def test_a_scale_on_the_grid_stays():
    for power in range(-50, 51):
        assert round_up(RATIO**power)[0] == pytest.approx(RATIO**power, rel=1e-12)


# Naive twins


@pytest.mark.parametrize("form", FORMS)
def test_norm_margin_naive_twin(form):
    w, m, radius, margin = network((6, 9, 5, 3), seed=1), 5000, 2.0, 0.7
    bound = bounds.norm_margin(0.2, w, radius=radius, margin=margin, examples=m, form=form)
    product = radius / margin
    for matrix in w[:-1]:
        product *= math.sqrt(sum(float(v) ** 2 for v in matrix.flatten()))
    product *= max(math.sqrt(sum(float(v) ** 2 for v in row)) for row in w[-1])
    power = math.ceil(math.log(product, 1.1))
    depth = {"survey": 4, FORMS[1]: 4 * math.sqrt(2), FORMS[2]: math.sqrt(6 * math.log(2)) + 1}
    cost = math.log(1.5 * (abs(power) + 1) * (abs(power) + 2) / 0.05)
    by_hand = 0.2 + 4 * 3 * depth[form] * 1.1**power / math.sqrt(m) + math.sqrt(cost / (2 * m))
    assert bound.value == pytest.approx(by_hand, rel=1e-9)
    assert recombined(bound)
    assert bound.terms["grid_cost"] == pytest.approx(cost - math.log(20), rel=1e-9)


def test_spectral_margin_naive_twin():
    w, m, margin = network((6, 9, 5, 3), seed=2), 5000, 0.7
    bound = bounds.spectral_margin(0.2, w, data_norm=60, margin=margin, examples=m)
    spectral = [float(np.linalg.svd(a.numpy())[1][0]) for a in w]
    rows = [sum(math.sqrt(sum(float(v) ** 2 for v in row)) for row in a) for a in w]

    def up(v):
        power = math.ceil(math.log(v, 1.1))
        return 1.1**power, math.log(1.5 * (abs(power) + 1) * (abs(power) + 2))

    scales = [up(math.prod(spectral) / margin)]
    scales += [up(b / s) for b, s in zip(rows, spectral, strict=True)]
    r = scales[0][0] * sum(t ** (2 / 3) for t, _ in scales[1:]) ** 1.5
    by_hand = 0.2 + 8 / m**1.5 + 72 * 60 * math.sqrt(math.log(2 * 81)) * math.log(m) / m * r
    by_hand += 3 * math.sqrt((sum(c for _, c in scales) + math.log(20)) / (2 * m))
    assert bound.value == pytest.approx(by_hand, rel=1e-9)
    assert recombined(bound)
    exact = math.prod(spectral) * sum(
        (b / s) ** (2 / 3) for b, s in zip(rows, spectral, strict=True)
    ) ** 1.5  # fmt: skip
    assert bounds.spectral_complexity(w) == pytest.approx(exact, rel=1e-12)
    assert exact / margin <= r <= 1.1**2 * exact / margin * (1 + 1e-9)


def test_dudley_with_the_covering_number_gives_the_constants():
    # (12/n) int_{1/n}^{sqrt n} c/eps d eps + 4/n^(3/2), twice; c holds sqrt 2 of the margin and
    # sqrt 2 of rounding up in Maurey's lemma
    n, norms = 4000, 3.7
    grid = np.geomspace(1 / n, math.sqrt(n), 200_001)
    c = math.sqrt(2) * math.sqrt(2) * norms
    height = c / grid
    integral = float((np.diff(grid) * (height[1:] + height[:-1]) / 2).sum())
    twice = 2 * (4 / n**1.5 + 12 / n * integral)
    assert twice == pytest.approx(8 / n**1.5 + 72 * norms * math.log(n) / n, rel=1e-6)


def test_distance_from_references():
    w, start = network((4, 6, 3), seed=3), network((4, 6, 3), seed=4)
    naive = 0.0
    for a, b in zip(w, start, strict=True):
        rows = sum(float((ra - rb).norm()) for ra, rb in zip(a, b, strict=True))
        naive += (rows / float(torch.linalg.matrix_norm(a, 2))) ** (2 / 3)
    naive = naive**1.5 * math.prod(float(torch.linalg.matrix_norm(a, 2)) for a in w)
    assert bounds.spectral_complexity(w, start) == pytest.approx(naive, rel=1e-12)
    assert bounds.spectral_complexity(w, w) == 0
    order = bounds.spectral_margin_order(w, data_norm=1, margin=1, examples=9, references=w)
    assert order.value == 0
    assert order.vacuous


# PAC-Bayes with spectral norms: the steps that carry 42 and the grid


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_perturbations_grow_at_most_by_e(seed, depth):
    # |U_i| <= |W_i| / d: |f_{w+u}(x) - f_w(x)| <= e |x| prod |W_i| sum |U_i| / |W_i|
    rng = np.random.default_rng(seed)
    w = network(rng.integers(1, 7, size=depth + 1).tolist(), seed)
    noise = network([w[0].shape[1], *(len(a) for a in w)], seed + 1)
    size = [float(torch.linalg.matrix_norm(a, 2)) for a in w]
    share = rng.random(depth)
    u = [
        n / torch.linalg.matrix_norm(n, 2) * s * h / depth
        for n, s, h in zip(noise, size, share, strict=True)
    ]
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(50, w[0].shape[1], generator=g, dtype=F64)
    moved = outputs([a + b for a, b in zip(w, u, strict=True)], x) - outputs(w, x)
    limit = math.e * math.prod(size) * float(share.sum()) / depth * x.norm(dim=1)
    assert (moved.norm(dim=1) <= limit * (1 + 1e-9)).all()


def test_the_constant_42_leaves_a_quarter_of_the_margin():
    # e (Lipschitz) * e (grid) * sqrt 2 (Gaussian) / 42 <= 1/4
    assert 0.248 < math.e**2 * math.sqrt(2) / 42 < 0.25
    for d in range(2, 60):  # (1 - 1/d)^(d-1) >= 1/e: what rounding to the grid can cost
        assert (1 - 1 / d) ** (d - 1) >= 1 / math.e


def sigma_of(bound, weights, width, margin, radius):
    d = len(weights)
    beta = math.prod(float(torch.linalg.matrix_norm(a, 2)) for a in weights) ** (1 / d)
    assert bound.terms["grid_cost"] == 0
    return margin / (42 * d * radius * beta ** (d - 1) * math.sqrt(width * math.log(4 * width * d)))


def test_the_width_has_to_count_the_inputs():
    # One layer, 2 outputs, 2,000 inputs. In the unit ball the noise moves an output by the length
    # of its row. With h = 2, the outputs alone, that is too much in every draw; with 2,000 never.
    w = [network((2000, 2), seed=0)[0]]
    norm = float(torch.linalg.matrix_norm(w[0], 2))
    options = {"radius": 1, "margin": 1, "examples": 100, "beta": norm}
    bound = bounds.pac_bayes_spectral(0, w, **options)
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(200, 2, 2000, generator=g, dtype=F64)
    moved = noise.norm(dim=2).amax(1)
    right, wrong = (sigma_of(bound, w, h, 1, 1) for h in (2000, 2))
    kl = float(w[0].square().sum()) / (2 * right**2)
    assert bound.terms["divergence"] == pytest.approx(kl, rel=1e-12)
    assert (moved * right < 0.25).all()
    assert (moved * wrong > 0.25).all()


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("m", [2, 50, 10**4, 10**7])
def test_the_grid_reaches_every_scale_that_matters(depth, m):
    for power in np.linspace(-0.99, 3, 40):
        q = 0.5 * float(np.exp(abs(power) * math.log(max(m, 4)) / 6))
        w = [torch.eye(3, dtype=F64) * q ** (1 / depth)] * depth
        bound = bounds.pac_bayes_spectral(0, w, radius=1, margin=1, examples=m)
        points = round(math.exp(bound.terms["grid_cost"]))
        assert points == max(1, math.ceil(depth * (m ** (0.5 / depth) - 1) / 2))
        assert points <= depth * m ** (0.5 / depth) + 1
        beta = q ** (1 / depth)
        precision = math.sqrt(bound.terms["divergence"] * 2 / (3 * depth)) / beta
        width = math.sqrt(3 * math.log(12 * depth))
        if depth > 1:
            centre = (precision / (42 * depth * width)) ** (1 / (depth - 1))
            assert abs(centre - beta) <= beta / depth * (1 + 1e-9)
    huge = [torch.eye(3, dtype=F64) * (math.sqrt(m)) ** (1 / depth)] * depth
    assert bounds.pac_bayes_spectral(0, huge, radius=1, margin=1, examples=m).value > 1


def test_below_the_grid_no_margin_is_reached():
    tiny = [torch.eye(2, dtype=F64) * 0.5]
    with pytest.raises(ValueError, match=r"margin_loss = 0 cannot be: .* margin of 1.2"):
        bounds.pac_bayes_spectral(0, tiny, radius=1, margin=1.2, examples=100)
    assert bounds.pac_bayes_spectral(1, tiny, radius=1, margin=1.2, examples=100).vacuous


# Monotonicities and symmetries


@pytest.mark.parametrize("name", [*MARGIN_BOUNDS, *ORDERS])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(100, 10**6), margin=st.floats(0.1, 3))
def test_more_examples_a_wider_margin_or_a_larger_delta_never_hurt(name, seed, m, margin):
    w = [5 * a for a in network((4, 5, 3), seed)]
    here = value(name, w, margin=margin, examples=m)
    assert value(name, w, margin=margin, examples=4 * m) < here
    # to the grid: a scale that is rounded up further than the next may cost 1.1 a coordinate
    assert value(name, w, margin=1.3 * margin, examples=m) < here
    if name in MARGIN_BOUNDS:
        assert value(name, w, margin=margin, examples=m, delta=0.2) < here


@pytest.mark.parametrize("name", [*MARGIN_BOUNDS, *ORDERS])
def test_what_changes_a_bound_and_what_does_not(name):
    w = network((6, 8, 7, 4), seed=5)
    here = value(name, w)
    # the order of the units
    g = torch.Generator().manual_seed(0)
    p, q = torch.randperm(8, generator=g), torch.randperm(7, generator=g)
    permuted = [w[0][p], w[1][q][:, p], w[2][:, q]]
    assert value(name, permuted) == pytest.approx(here, rel=1e-9)
    # a rotation of the inputs
    rotation = torch.linalg.qr(network((6, 6), seed=6)[0])[0]
    assert value(name, [w[0] @ rotation, *w[1:]]) == pytest.approx(here, rel=1e-9)
    # one layer up, another down: the function is the same
    assert value(name, [2.5 * w[0], w[1] / 2.5, w[2]]) == pytest.approx(here, rel=1e-9)
    # one unit up, and its output down: the same function too, but the norms see it
    scale = torch.ones(8, dtype=F64)
    scale[0] = 30.0
    uneven = [scale[:, None] * w[0], w[1] / scale, w[2]]
    x = network((6, 20), seed=7)[0]
    assert torch.allclose(outputs(uneven, x), outputs(w, x), rtol=1e-9)
    assert value(name, uneven) > 1.2 * here
    # the network and its margin together, where the source does not add ln(1/delta)/margin
    if name != "Neyshabur":
        times = [w[0], w[1], 7 * w[2]]
        assert value(name, times, margin=7.0) == pytest.approx(here, rel=1e-9)


@pytest.mark.parametrize("name", MARGIN_BOUNDS)
def test_no_margin_makes_random_labels_look_learnt(name):
    # coins for labels: the risk is 1/2 whatever the network; the one that fits them best is tried
    # with every margin, and a bound without its complexity would believe it
    g = torch.Generator().manual_seed(0)
    m, d = 400, 100
    x = torch.nn.functional.normalize(torch.randn(m, d, generator=g, dtype=F64), dim=1)
    y = torch.randint(2, (m,), generator=g)
    fitted = torch.linalg.lstsq(x, (1.0 - 2 * y.double())[:, None]).solution.T
    w = [torch.cat([fitted, -fitted])]
    logits = outputs(w, x)
    found = (logits[:, 0] - logits[:, 1]) * (1 - 2 * y)
    cheated = False
    for margin in found[found > 0].quantile(torch.linspace(0, 1, 21, dtype=F64)).tolist():
        loss = float((found < margin).double().mean())
        data = {"data_norm": math.sqrt(m)} if name == "spectral" else {}
        assert MARGIN_BOUNDS[name](loss, w, margin=margin, examples=m, **data).value >= 0.5
        cheated |= loss + math.sqrt(math.log(20) / (2 * m)) < 0.5
    assert cheated


# Refusals

GOOD = {"margin": 1, "examples": 100}


@pytest.mark.parametrize("name", [*MARGIN_BOUNDS, *ORDERS])
@pytest.mark.parametrize(
    "weights, message",
    [
        ([], "sequence of at least one matrix"),
        (torch.eye(2), "sequence of at least one matrix"),
        ([torch.ones(3)], r"weights of layer 1 must be a floating-point matrix .* got \(3,\)"),
        ([np.eye(2)], "layer 1 must be a floating-point matrix .* got ndarray"),
        ([torch.eye(2).long()], "layer 1 must be a floating-point"),
        ([torch.eye(2), torch.eye(3)], "layer 2 take 3 inputs, but the layer before has 2"),
        ([torch.eye(2) * math.nan], "layer 1 hold NaN"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(name, weights, message):
    with pytest.raises(ValueError, match=message):
        value(name, weights)


@pytest.mark.parametrize("name", sorted({*MARGIN_BOUNDS, *ORDERS} - {"Golowich"}))
def test_a_layer_without_weights_is_refused(name):
    with pytest.raises(ValueError, match="weights of layer 2 are all zero"):
        value(name, [torch.eye(2), torch.zeros(2, 2)])


@pytest.mark.parametrize("name", [*MARGIN_BOUNDS, *ORDERS])
@pytest.mark.parametrize(
    "changes, error",
    [
        ({"margin": 0}, ValueError),
        ({"margin": math.nan}, ValueError),
        ({"examples": 0}, ValueError),
        ({"examples": 10.0}, TypeError),
    ],
)
def test_numbers_out_of_range_are_refused(name, changes, error):
    with pytest.raises(error, match=next(iter(changes))):
        value(name, W, **changes)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bounds.norm_margin(0, W, radius=0, **GOOD), "radius must be"),
        (lambda: bounds.norm_margin(2, W, radius=1, **GOOD), "margin_loss must lie"),
        (lambda: bounds.norm_margin(0, W, radius=1, delta=0, **GOOD), "delta must lie"),
        (lambda: bounds.norm_margin(0, W, radius=1, form="x", **GOOD), "form must be one of"),
        (lambda: bounds.norm_margin(0, [W[0][:1]], radius=1, **GOOD), "number of classes"),
        (lambda: bounds.spectral_margin(0, W, data_norm=0, **GOOD), "data_norm must be"),
        (lambda: bounds.spectral_margin(2, W, data_norm=1, **GOOD), "margin_loss must lie"),
        (lambda: bounds.spectral_margin(0, W, data_norm=1, delta=1, **GOOD), "delta must lie"),
        (lambda: bounds.spectral_complexity(W, [torch.eye(2)]), "references must have the shapes"),
        (lambda: bounds.pac_bayes_spectral(2, W, radius=1, **GOOD), "margin_loss must lie"),
        (lambda: bounds.pac_bayes_spectral(0, W, radius=1, delta=1, **GOOD), "delta must lie"),
        (lambda: bounds.pac_bayes_spectral(0, W, radius=1, beta=9, **GOOD), "leave it out"),
        (lambda: bounds.pac_bayes_spectral(0, W, radius=1, beta=-1, **GOOD), "beta must be"),
        (
            lambda: bounds.pac_bayes_spectral(0, W, radius=1, margin=1, examples=1),
            "examples must be a whole number >= 2",
        ),
        (
            lambda: bounds.pac_bayes_spectral_order(W, radius=1, delta=1, **GOOD),
            "delta must lie",
        ),
        (lambda: bounds.frobenius_rademacher([], examples=9), "norms must hold one"),
        (lambda: bounds.frobenius_rademacher([1, -1], examples=9), r"norms\[1\] must be"),
        (lambda: bounds.frobenius_rademacher([1], examples=9, form="x"), "form must be one of"),
        (lambda: bounds.frobenius_rademacher([1], examples=9, radius=0), "radius must be"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
