"""The claims of the chapter "The gap, exactly", each also without a hypothesis of it."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch

from gencoh_lib import bounds, models, paths, per_example

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense(*sizes, seed=0):
    return models.mlp(list(sizes), bias=False, seed=seed, dtype=F64)


def matrices(net):
    return [p.detach() for p in net.parameters()]


def by_hand(net, x):
    """Features and weights of all paths, by a loop over single weights; and the matrices."""
    weights, gates, h = matrices(net), [], x
    for w in weights[:-1]:
        gates.append((h @ w.T > 0).to(F64))
        h = (h @ w.T) * gates[-1]
    z, products = [], []
    for path in itertools.product(*(range(w.shape[1]) for w in weights)):
        feature, product = x[:, path[0]], weights[-1][:, path[-1]]
        for layer, unit in enumerate(path[1:]):
            feature = feature * gates[layer][:, unit]
            product = product * weights[layer][unit, path[layer]]
        z.append(feature)
        products.append(product)
    return torch.stack(z, 1), torch.stack(products, 1), gates


@pytest.mark.claim("thm-paradox-linear", kind="exact")
def test_interpolating_weights_may_be_as_large_and_as_far_away_as_you_like():
    phi, phi_test = draw(20, 100, seed=1), draw(30, 100, seed=2)
    targets = draw(20, 3, seed=3)
    assert float((phi @ paths.memorise(phi, targets) - targets).abs().max()) < 1e-12
    truth = draw(100, 3, seed=4)
    for deviation, norm in itertools.product((0.0, 1e-3), (0.0, 10.0, 1e6)):
        found = paths.large_solution(phi, phi_test, truth, norm=norm, deviation=deviation)
        w = found.weights
        for features in (phi, phi_test):
            slack = 1e-14 * features.norm() * (w.norm() + truth.norm())  # of rounding
            assert float((features @ (w - truth)).norm()) <= deviation * (1 + 1e-9) + slack
        assert float(w.norm()) >= norm
        assert float((w - truth).norm()) >= norm
    # collinear features will do where n <= m, as long as the rank is below n
    flat = torch.cat([draw(50, 4, seed=5), torch.zeros(50, 1, dtype=F64)], 1)
    found = paths.large_solution(flat[:20], flat[20:], draw(5, 1, seed=6), norm=1e3)
    assert found.train_deviation < 1e-9 < 1e3 <= found.norm
    # with full rank there is only one solution; with dependent rows not every target is reached
    with pytest.raises(ValueError, match="only one solution"):
        paths.large_solution(draw(20, 5, seed=5), draw(30, 5), draw(5, 1), norm=1e3)
    with pytest.raises(ValueError, match="rank 1"):
        paths.memorise(torch.ones(2, 5, dtype=F64), draw(2, 1))


@pytest.mark.claim("prop-path-sum", kind="exact")
def test_the_output_is_a_sum_over_paths():
    for seed in range(5):
        net, x = dense(4, 6, 5, 3, seed=seed), draw(7, 4, seed=seed)
        z, weights, _ = by_hand(net, x)
        assert z.shape == (7, 120)
        assert float((z @ weights.T - net(x).detach()).abs().max()) < 1e-13
        listed = paths.path_features(net, x)
        assert float((listed.z @ listed.weights.T - net(x).detach()).abs().max()) < 1e-13
    # with gates of another input the sum is another number
    assert float((by_hand(net, -x)[0] @ weights.T - net(-x).detach()).abs().max()) < 1e-13
    assert float((z @ weights.T - net(-x).detach()).abs().max()) > 1e-2


@pytest.mark.claim("prop-path-kernel", kind="exact")
def test_kernel_and_norms_need_no_paths():
    for seed in range(5):
        net, x = dense(4, 6, 5, 3, seed=seed), draw(9, 4, seed=seed)
        z, weights, gates = by_hand(net, x)
        product = x @ x.T
        for gate in gates:
            product = product * (gate @ gate.T)
        assert torch.allclose(product, z @ z.T, rtol=1e-12, atol=1e-12)
        assert torch.allclose(paths.path_kernel(net, x), product, rtol=1e-12, atol=1e-12)
        h = torch.ones(4, dtype=F64)
        for w in matrices(net):
            h = w.square() @ h
        assert torch.allclose(h, weights.square().sum(1), rtol=1e-12)
        assert torch.allclose(paths.path_norms(net, x).squared, h, rtol=1e-12)
        assert float(h.sum()) <= math.prod(float(w.square().sum()) for w in matrices(net))


def dense_parts(z, w, y, c):
    """G, v, both sides of the identity and the bound, as dense matrices."""
    g, v = z.T @ (c[:, None] * z), -(z.T @ (c[:, None] * y))
    values, vectors = torch.linalg.eigh(g)
    lengths, v_lengths = w.norm(dim=0), v.norm(dim=0)
    cos1, cos2 = (vectors.T @ w) / lengths, (v * w).sum(0) / (lengths * v_lengths)
    c_y = c @ y.square().sum(1)
    right = (lengths**2 * (values @ cos1**2) + 2 * v_lengths * lengths * cos2).sum() + c_y
    bound = (lengths**2 * values[-1] + 2 * v_lengths * lengths).sum() + c_y
    return float(c @ (z @ w - y).square().sum(1)), float(right), float(bound)


def a_sample(n, m, seed):
    """Masses of a random distribution minus those of m draws with replacement, and the draws."""
    rng = np.random.default_rng(seed)
    p, index = rng.dirichlet(np.ones(n)), rng.integers(n, size=m)
    p = torch.from_numpy(p)
    counts = torch.bincount(torch.from_numpy(index), minlength=n).double()
    return p, torch.from_numpy(index), p - counts / m


@pytest.mark.claim("thm-gap-identity", kind="exact")
def test_the_gap_is_norm_times_spectrum_times_alignment():
    for seed in range(10):
        net, x, y = dense(4, 6, 5, 3, seed=seed), draw(9, 4, seed=seed), draw(9, 3, seed=seed + 50)
        p, index, c = a_sample(9, 5, seed)
        z, weights, _ = by_hand(net, x)
        gap, right, bound = dense_parts(z, weights.T, y, c)
        assert right == pytest.approx(gap, abs=1e-11)
        assert gap <= bound
        parts = paths.gap_decomposition(net, (x, y), index, masses=p)
        assert parts.gap == pytest.approx(gap, abs=1e-12)
        assert parts.quadratic + parts.linear + parts.c_y == pytest.approx(gap, abs=1e-10)
        assert parts.bound == pytest.approx(bound, rel=1e-9)
    # features of another network are not those of this one: the identity is lost
    other = by_hand(dense(4, 6, 5, 3, seed=99), x)[0]
    assert abs(dense_parts(other, weights.T, y, c)[1] - gap) > 1e-2


@pytest.mark.claim("prop-any-features", kind="exact")
def test_the_identity_asks_nothing_of_the_features():
    f, y = draw(9, 3, seed=1), draw(9, 3, seed=2)
    _, _, c = a_sample(9, 5, 3)
    gap, right, bound = dense_parts(torch.eye(9, dtype=F64), f, y, c)
    assert right == pytest.approx(gap, abs=1e-12)
    assert gap == pytest.approx(float(c @ (f - y).square().sum(1)), abs=1e-14)
    assert gap <= bound
    z = draw(9, 12, seed=4)  # and for features that were drawn at random
    w = torch.linalg.lstsq(z, f, driver="gelsd").solution
    assert dense_parts(z, w, y, c)[1] == pytest.approx(gap, abs=1e-10)
    # but f = z w it must be
    assert abs(dense_parts(z, w + 0.1, y, c)[1] - gap) > 1e-2


@pytest.mark.claim("prop-unseen-up", kind="exact")
def test_unseen_examples_push_up_and_seen_ones_down():
    net, x, y = dense(24, 20, 1), draw(20, 24, seed=1), draw(20)
    assert float(torch.linalg.eigvalsh(paths.path_kernel(net, x))[0]) > 1e-3
    for m in (1, 6, 19):
        values = paths.gap_decomposition(net, (x, y), range(m)).eigenvalues
        assert (int((values > 0).sum()), int((values < 0).sum())) == (20 - m, m)
    # a kernel that is not positive definite: two equal inputs, one seen and one not
    twins = x[[0, 0]]
    values = paths.gap_decomposition(net, (twins, y[:2]), [0]).eigenvalues
    assert int((values.abs() > 1e-12).sum()) == 0


@pytest.mark.claim("prop-rescaling", kind="exact")
def test_rescaling_a_unit_moves_only_the_product_of_frobenius_norms():
    net, x, y = dense(4, 6, 5, 3), draw(9, 4, seed=1), draw(9, 3, seed=2)
    z, weights, _ = by_hand(net, x)
    before, products = paths.gap_decomposition(net, (x, y), range(4)), []
    for a in (0.1, 7.0, 1e3):
        twin = copy.deepcopy(net)
        with torch.no_grad():
            twin.layer1.weight[2] *= a
            twin.layer2.weight[:, 2] /= a
        z2, weights2, _ = by_hand(twin, x)
        assert torch.equal(z, z2)
        assert torch.allclose(weights, weights2, rtol=1e-12)
        assert torch.allclose(net(x), twin(x), rtol=1e-12, atol=1e-12)
        after = paths.gap_decomposition(twin, (x, y), range(4))
        assert after.gap == pytest.approx(before.gap, rel=1e-10)
        assert torch.allclose(after.eigenvalues, before.eigenvalues, atol=1e-10)
        assert torch.allclose(after.v_norm, before.v_norm, rtol=1e-10)
        products.append(paths.path_norms(twin, x).frobenius_product)
    assert products[2] > 1e4 * products[1] / 7
    # a negative factor closes the gates that were open: the function is another one
    with torch.no_grad():
        twin.layer1.weight[2] *= -1
        twin.layer2.weight[:, 2] *= -1
    assert float((net(x) - twin(x)).detach().abs().max()) > 1e-2


def test_the_trace_of_the_hessian_is_a_sum_of_squared_gradients_and_grows_by_rescaling():
    net, x, y = dense(2, 3, 2, seed=1), draw(6, 2, seed=1), draw(6, 2, seed=2)
    weights = dict(net.named_parameters())

    def loss(*values):
        f = torch.func.functional_call(net, dict(zip(weights, values, strict=True)), (x,))
        return (f - y).square().sum(1).mean()

    def traces():
        blocks = torch.autograd.functional.hessian(loss, tuple(weights.values()))
        exact = 0.0
        for n, (row, w) in enumerate(zip(blocks, weights.values(), strict=True)):
            exact += float(row[n].reshape(w.numel(), -1).trace())
        squares = [per_example.squared_norms(net(x)[:, k], weights) for k in range(2)]
        return exact, 2 * sum(float(s.mean()) for one in squares for s in one.values())

    exact, by_gradients = traces()
    assert by_gradients == pytest.approx(exact, rel=1e-12)
    with torch.no_grad():
        net.layer1.weight[0] *= 100
        net.layer2.weight[:, 0] /= 100
    assert traces()[1] == pytest.approx(traces()[0], rel=1e-12)
    assert traces()[0] > 50 * exact


@pytest.mark.claim("prop-validation", kind="exact")
def test_the_validation_bound_solves_the_quadratic_and_covers():
    for m, f, delta, variance in itertools.product((50, 10_000), (1, 1e9), (0.1,), (1, 0.0025)):
        rate = math.log(f / delta) / m
        options = {"examples": m, "candidates": f, "delta": delta, "variance": variance}
        slack = bounds.validation(0, **options, form="root").value
        exponent = slack**2 * m / 2 / (variance + slack / 3)
        assert f * math.exp(-exponent) == pytest.approx(delta, rel=1e-9)
        relaxed = bounds.validation(0, **options, form="relaxed").value
        assert relaxed == pytest.approx(2 * rate / 3 + math.sqrt(2 * variance * rate), rel=1e-12)
        assert slack <= relaxed
    # the authors' two examples
    quoted = {"examples": 10_000, "candidates": 1e9, "delta": 0.1, "form": "relaxed"}
    assert round(bounds.validation(0, **quoted, variance=1).value, 4) == 0.0694
    assert round(bounds.validation(0, **quoted, variance=0.05**2).value, 4) == 0.0049
    # coverage: 200 models, 500 examples, the worst of all models in each of 2000 repetitions
    rng = np.random.default_rng(0)
    risks = rng.uniform(0.2, 0.3, 200)
    seen = rng.binomial(500, risks, size=(2000, 200)) / 500
    options = {"examples": 500, "delta": 0.1}
    slack = bounds.validation(0, candidates=200, **options).value
    assert ((risks - seen).max(1) > slack).mean() <= 0.1
    # counting only the chosen one as a candidate: it fails more often than delta allows
    alone = bounds.validation(0, candidates=1, **options).value
    assert ((risks - seen).max(1) > alone).mean() > 0.1


def samples_of_a_coin(size, repetitions=4000, seed=0):
    """G for samples of an input that is 0 or 1 with equal probability."""
    rng = np.random.default_rng(seed)
    return 0.5 - rng.binomial(size, 0.5, repetitions) / size


def coin_bound(squared, absolute, size, delta):
    return bounds.two_phase_squared(
        squared_norm=squared, absolute_norm=absolute, spectral_range=0.5, spectral_variance=0.25,
        cross_range=0, cross_variance=0, label_range=0, label_variance=0, examples=size, paths=1,
        outputs=1, delta=delta,
    ).value  # fmt: skip


@pytest.mark.claim("thm-two-phase-squared", kind="exact")
def test_the_corrected_two_phase_bound_covers_and_the_printed_one_does_not():
    # targets of zero, one weight t: the gap is t^2 G, and only beta_1 is left
    g = samples_of_a_coin(50)
    for t in (1.0, 10.0, 100.0):
        assert (t**2 * g > coin_bound(t**2, t, 50, 0.1)).mean() <= 0.1
    swapped = coin_bound(100.0, 100.0**2, 50, 0.1)  # the norms as they are printed
    assert (100.0**2 * g > swapped).mean() > 0.4
    # all three parts: gates and weights of a network, fixed; targets and sample drawn
    net, x, y = dense(2, 3, 2, seed=2), draw(30, 2, seed=1), draw(30, 2, seed=2)
    constants, norms = paths.path_constants(net, (x, y)), paths.path_norms(net, x)
    bound = bounds.two_phase_squared(
        **constants.squared_loss, squared_norm=float(norms.squared.sum()),
        absolute_norm=float(norms.absolute.sum()), examples=40, paths=norms.paths, outputs=2,
        delta=0.1,
    )  # fmt: skip
    losses = (net(x).detach() - y).square().sum(1).numpy()
    drawn = np.random.default_rng(1).integers(30, size=(4000, 40))
    gaps = losses.mean() - losses[drawn].mean(1)
    assert (gaps > bound.value).mean() <= 0.1
    terms = bound.terms
    assert bound.value == pytest.approx(
        terms["beta_1"] * float(norms.squared.sum())
        + 2 * terms["beta_2"] * float(norms.absolute.sum())
        + terms["beta_3"]
    )
    # an entry of v, standard normal in the limit: the printed root of beta_2 fails too often
    rate = math.log(6 / 0.1)
    tail = lambda root: math.erfc(root / math.sqrt(2))  # noqa: E731 - both sides of a normal
    assert tail(math.sqrt(2 * rate)) <= 0.1 / 3 < tail(math.sqrt(rate))
    # examples that are not independent, here one example forty times: no bound
    assert (t**2 * samples_of_a_coin(1) > coin_bound(t**2, t, 40, 0.1)).mean() > 0.1


@pytest.mark.claim("prop-darc-signs", kind="exact")
def test_darc1_is_the_worst_case_over_signs():
    for seed in range(5):
        logits = draw(8, 3, seed=seed)
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=8)), dtype=F64)
        assert float(paths.darc1(logits, 1.0)) == pytest.approx(
            float((signs @ logits).max()), rel=1e-12
        )
    assert float(paths.darc1(torch.tensor([[1.0, -2.0], [-3.0, 4.0]]))) == pytest.approx(0.006)
