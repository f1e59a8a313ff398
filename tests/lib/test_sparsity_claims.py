"""The claims of "Only what is active counts", each also without a hypothesis of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def part(w, rows, columns):
    return w[list(rows)][:, list(columns)]


def subsets(n, size):
    return list(itertools.combinations(range(n), size))


def sparse_norm(w, s2, s1):
    """The definition: the largest norm of a submatrix, by trying all."""
    d2, d1 = w.shape
    return max(
        float(torch.linalg.matrix_norm(part(w, rows, columns), 2))
        for rows in subsets(d2, d2 - s2)
        for columns in subsets(d1, d1 - s1)
    )


def row_norm(w, s1):
    return float(
        w.square().sort(1, descending=True).values[:, : w.shape[1] - s1].sum(1).max().sqrt()
    )


def babel(w, s2, s1):
    """The definition: over all row sets, their rows, and column sets for each pair."""
    d2, d1 = w.shape
    columns = [list(c) for c in subsets(d1, d1 - s1)]
    pair = {
        (i, j): max(abs(float(w[i, c] @ w[j, c])) for c in columns)
        for i, j in itertools.permutations(range(d2), 2)
    }
    largest = max(
        sum(pair[i, j] for i in rows if i != j) for rows in subsets(d2, d2 - s2) for j in rows
    )
    return largest / row_norm(w, s1) ** 2


def levels_of(w):
    return itertools.product(range(w.shape[0]), range(w.shape[1]))


def some_matrices():
    yield torch.tensor([[3.0, 0, 4], [0, 1, 0], [1, 2, 2]], dtype=F64)
    yield torch.tensor([[1.0, 1], [1, -1]], dtype=F64)
    yield torch.ones(3, 4, dtype=F64)
    for seed in range(6):
        yield draw(4, 3 + seed % 3, seed=seed)


@pytest.mark.claim("prop-sparse-norm-monotone", kind="exact")
def test_leaving_out_more_never_makes_the_norm_larger():
    for w in some_matrices():
        norm = {level: sparse_norm(w, *level) for level in levels_of(w)}
        for (s2, s1), (t2, t1) in itertools.product(norm, norm):
            if s2 <= t2 and s1 <= t1:
                assert norm[t2, t1] <= norm[s2, s1] * (1 + 1e-12)
    # with levels that cannot be compared there is no order: one row, or one column
    tall, wide = torch.ones(4, 1, dtype=F64), torch.ones(1, 4, dtype=F64)
    assert sparse_norm(tall, 3, 0) < sparse_norm(tall, 0, 0)
    assert sparse_norm(wide, 0, 3) < sparse_norm(wide, 0, 0)


@pytest.mark.claim("prop-babel-norm", kind="exact")
def test_row_norm_and_babel_bound_the_sparse_norm():
    for w in some_matrices():
        for s2, s1 in levels_of(w):
            mu = babel(w, s2, s1)
            assert -1e-12 <= mu <= (w.shape[0] - s2 - 1) * (1 + 1e-12)
            assert sparse_norm(w, s2, s1) <= row_norm(w, s1) * math.sqrt(1 + mu) * (1 + 1e-12)
    # tight where all rows are equal, and lost if off-diagonal entries are not counted
    ones = torch.ones(3, 4, dtype=F64)
    assert sparse_norm(ones, 1, 1) == pytest.approx(row_norm(ones, 1) * math.sqrt(2))
    assert sparse_norm(ones, 0, 0) > row_norm(ones, 0)
    # the worked example, and a Babel function that grows with the column level
    w = torch.tensor([[3.0, 0, 4], [0, 1, 0], [1, 2, 2]], dtype=F64)
    assert babel(w, 0, 0) == pytest.approx(13 / 25)
    assert babel(w, 0, 2) > babel(w, 0, 1)


def radius(w, x, level, xi, zeta):
    """Of one input: the level-th largest entry of -Wx/(xi zeta), or 0; and the units."""
    if level == 0:
        return math.inf, []
    depth = -(w @ x) / (xi * zeta)
    values, units = depth.sort(descending=True)
    return max(float(values[level - 1]), 0.0), units[:level].tolist()


def a_layer(seed, *, zeros, moved=0.02):
    """A layer, an input with zeros, and a twin of both nearby that moves along as few entries."""
    w, x = draw(6, 5, seed=seed), draw(5, seed=seed + 1000)
    x[:zeros] = 0
    w[:4] = w[:4] - 1.5 * torch.outer(torch.ones(4, dtype=F64), x) / x.norm()
    dx, dw = draw(5, seed=seed + 2000), draw(6, 5, seed=seed + 3000)
    dx[-zeros:] = 0  # zeros of its own
    return w, x, w + moved * dw, x + moved * dx


@pytest.mark.claim("lem-layer-stability", kind="exact")
def test_a_deep_unit_stays_off_and_the_radius_moves_little():
    met = 0
    for seed, level in itertools.product(range(60), (1, 2, 3)):
        w, x, wh, xh = a_layer(seed, zeros=2)
        zeta = float(x.norm())
        xi, omega = row_norm(w, 2), sparse_norm(w, level, 2)
        e0 = float((xh - x).norm()) / zeta
        e1 = max(row_norm(wh - w, 2) / xi, sparse_norm(wh - w, level, 2) / omega)
        t = (1 + e0) * (1 + e1) - 1
        r, units = radius(w, x, level, xi, zeta)
        r_hat, _ = radius(wh, xh, level, xi, zeta)
        assert abs(r_hat - r) <= t * (1 + 1e-12)
        out, out_hat = (w @ x).relu(), (wh @ xh).relu()
        if r > 0:
            assert not out[units].any()
            assert float(out.norm()) <= omega * zeta * (1 + 1e-12)
        if r >= t:
            met += 1
            assert not out_hat[units].any()
            assert float((out_hat - out).norm()) <= t * omega * zeta * (1 + 1e-12)
    assert met > 50
    # a radius below T is no promise: the unit wakes up
    w, x = torch.tensor([[-1.0, 0], [1, 0]], dtype=F64), torch.tensor([0.1, 1], dtype=F64)
    wh = w + torch.tensor([[0.0, 0.2], [0, 0]], dtype=F64)
    r, units = radius(w, x, 1, 1.0, float(x.norm()))
    assert 0 < r < 0.2
    assert (wh @ x).relu()[units].any()
    # if the input moves in all coordinates, the reduced norm sees too little of the row
    w, x = torch.tensor([[-1.0, 1, 1, 1]], dtype=F64), torch.eye(4, dtype=F64)[0]
    step = torch.tensor([-1.0, 1, 1, 1], dtype=F64) / 20
    t = float(step.norm())
    assert (
        abs(radius(w, x + step, 1, row_norm(w, 3), 1)[0] - radius(w, x, 1, row_norm(w, 3), 1)[0])
        > t
    )


def a_network(seed, widths=(4, 5, 5, 3)):
    return [
        draw(b, a, seed=10 * seed + k) / math.sqrt(a)
        for k, (a, b) in enumerate(itertools.pairwise(widths))
    ]


def run(weights, x):
    """Inputs of every layer, and the outputs."""
    signals = [x]
    for w in weights[:-1]:
        signals.append((w @ signals[-1]).relu())
    return signals, weights[-1] @ signals[-1]


def scales(weights, levels, m_x):
    s = [0, *levels]
    xi = [row_norm(w, s[k]) for k, w in enumerate(weights)]
    omega = [sparse_norm(w, s[k + 1], s[k]) for k, w in enumerate(weights[:-1])]
    zeta = [m_x]
    for value in (*omega, xi[-1]):
        zeta.append(zeta[-1] * value)
    return s, xi, omega, zeta


def on_the_edge(weights, s, xi, omega, eps, seed):
    """A random network whose distance in each layer is exactly what the hypotheses allow."""
    found = []
    for k, w in enumerate(weights):
        d = draw(*w.shape, seed=seed * 31 + k)
        size = row_norm(d, s[k]) / xi[k]
        if k < len(weights) - 1:
            size = max(size, sparse_norm(d, s[k + 1], s[k]) / omega[k])
        found.append(w + d * eps[k] / size)
    return found


@pytest.mark.claim("prop-network-stability", kind="exact")
def test_a_network_nearby_has_the_same_dead_units():
    met = broken = 0
    for seed in range(400):
        weights, eps = a_network(seed), [0.01, 0.02, 0.015]
        x = draw(4, seed=seed + 5)
        x = x / x.norm()
        signals, out = run(weights, x)
        levels = [
            min(4, max(0, int((w @ h < 0).sum()) - seed % 2))
            for w, h in zip(weights[:-1], signals, strict=False)
        ]
        s, xi, omega, zeta = scales(weights, levels, 1.0)
        gamma = [math.prod(1 + e for e in eps[: k + 1]) - 1 for k in range(3)]
        other = on_the_edge(weights, s, xi, omega, eps, seed)
        signals_hat, out_hat = run(other, x)
        r = [radius(weights[k], signals[k], s[k + 1], xi[k], zeta[k]) for k in range(2)]
        r_hat = [radius(other[k], signals_hat[k], s[k + 1], xi[k], zeta[k])[0] for k in range(2)]
        if all(value > 0 for value, _ in r):
            for k in (1, 2):
                assert float(signals[k].norm()) <= zeta[k] * (1 + 1e-12)
            assert float(out.abs().max()) <= zeta[3] * (1 + 1e-12)
        for k in range(2):
            if s[k + 1] and all(r[n][0] >= gamma[n] for n in range(k)):
                assert abs(r_hat[k] - r[k][0]) <= gamma[k] * (1 + 1e-12)
        if all(r[k][0] >= gamma[k] for k in range(2)):
            met += 1
            for k in range(2):
                assert not signals_hat[k + 1][r[k][1]].any()
                distance = float((signals_hat[k + 1] - signals[k + 1]).norm())
                assert distance <= gamma[k] * zeta[k + 1] * (1 + 1e-12)
            assert float((out_hat - out).abs().max()) <= gamma[2] * zeta[3] * (1 + 1e-12)
        else:
            broken += any(bool(signals_hat[k + 1][r[k][1]].any()) for k in range(2))
    assert met > 50
    assert broken  # without the condition on the radii, units do wake up


def kl(q, p):
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True) if a)


@pytest.mark.claim("thm-pac-bayes", kind="exact")
def test_pac_bayes_holds_for_all_posteriors_at_once():
    # step 1, exactly: the mean of exp(2(m-1) positive part^2) is at most m, for every risk
    for m, p in itertools.product((2, 3, 10, 50), np.linspace(0.01, 0.99, 25)):
        k = np.arange(m + 1)
        log_mass = [
            math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1)
            + i * math.log(p) + (m - i) * math.log(1 - p)
            for i in k
        ]  # fmt: skip
        delta = np.maximum(p - k / m, 0)
        assert float(np.exp(log_mass + 2 * (m - 1) * delta**2).sum()) <= m
    # step 3: change of measure, with equality for the tilted prior
    rng = np.random.default_rng(0)
    prior, g = rng.dirichlet(np.ones(6)), rng.normal(size=6) * 3
    log_mean = math.log(float((prior * np.exp(g)).sum()))
    for _ in range(100):
        q = rng.dirichlet(np.ones(6) * 0.5)
        assert float(q @ g) <= kl(q, prior) + log_mean + 1e-12
    tilted = prior * np.exp(g - log_mean)
    assert float(tilted @ g) == pytest.approx(kl(tilted, prior) + log_mean, rel=1e-12)
    # the whole: 40 classifiers, a posterior that picks the best on the sample, 2000 samples
    m, delta, risks = 30, 0.1, np.full(40, 0.5)
    wrong = rng.binomial(m, risks, size=(2000, 40)) / m
    best = wrong.min(1)
    slack = math.sqrt((math.log(40) + math.log(m / delta)) / (2 * (m - 1)))
    assert float((best + slack < 0.5).mean()) <= delta
    # a prior that has seen the sample sits on that classifier: no divergence, and no theorem
    assert float((best + math.sqrt(math.log(m / delta) / (2 * (m - 1))) < 0.5).mean()) <= delta
    many = rng.binomial(m, 0.5, size=(200, 100_000)).min(1) / m
    assert float((many + math.sqrt(math.log(m / delta) / (2 * (m - 1))) < 0.5).mean()) > delta


def alpha(d2, d1, s2, s1, failure):
    def choose(n, k):
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    log_terms = choose(d2, s2) + choose(d1, s1) + math.log(1 / failure)
    return math.sqrt(d2 - s2) + math.sqrt(d1 - s1) + math.sqrt(2 * log_terms)


@pytest.mark.claim("lem-sparse-noise", kind="exact")
def test_noise_seldom_exceeds_its_scale_and_the_best_corner_is_the_best_level():
    rng = np.random.default_rng(1)
    for seed, (s2, s1) in enumerate([(0, 0), (1, 2), (3, 4), (2, 0)]):
        norms = [sparse_norm(draw(4, 5, seed=100 * seed + n), s2, s1) for n in range(150)]
        assert np.mean([norm > alpha(4, 5, s2, s1, 0.1) for norm in norms]) <= 0.1
    # without the logarithms, which pay for all submatrices at once, it fails at high levels
    tall = [float(draw(200, 1, seed=n).abs().max()) for n in range(150)]
    assert np.mean([norm > 1 + 1 for norm in tall]) > 0.1
    assert np.mean([norm > alpha(200, 1, 199, 0, 0.1) for norm in tall]) <= 0.1
    for _ in range(60):
        d2, d1 = (int(v) for v in rng.integers(1, 30, size=2))
        s2, s1 = int(rng.integers(d2)), int(rng.integers(d1))
        box = [alpha(d2, d1, a, b, 0.01) for a in range(s2 + 1) for b in range(s1 + 1)]
        corners = [alpha(d2, d1, a, b, 0.01) for a in (0, s2) for b in (0, s1)]
        assert min(corners) == pytest.approx(min(box), rel=1e-12)
    # and the corner matters: half of the units off cost more than none
    assert alpha(100, 784, 50, 0, 0.01) > alpha(100, 784, 0, 0, 0.01)


def margin(outputs, label):
    others = [v for k, v in enumerate(outputs.tolist()) if k != label]
    return float(outputs[label]) - max(others)


def signs(weights, x, s, xi, zeta):
    """Radii and outputs of one network at one input, with the constants of another perhaps."""
    signals, out = run(weights, x)
    layers = range(len(weights) - 1)
    return [radius(weights[k], signals[k], s[k + 1], xi[k], zeta[k])[0] for k in layers], out


def a_cloud(seed):
    """A network, its constants, and a twin within the distance that the cloud keeps to."""
    weights = a_network(seed)
    rng = np.random.default_rng(seed)
    levels = [int(v) for v in rng.integers(0, 4, size=2)]
    eps = [float(v) for v in rng.uniform(0.0002, 0.015, size=3)]
    s, xi, omega, zeta = scales(weights, levels, 1.0)
    gamma = [math.prod(1 + e for e in eps[: k + 1]) - 1 for k in range(3)]
    return weights, on_the_edge(weights, s, xi, omega, eps, seed), s, xi, zeta, gamma


@pytest.mark.claim("thm-one-shot", kind="exact")
def test_where_the_network_errs_the_cloud_pays_and_where_it_is_safe_it_does_not():
    errs = safe = unstable = 0
    for seed in range(300):
        weights, other, s, xi, zeta, gamma = a_cloud(seed)
        for n in range(8):
            x = draw(4, seed=1000 * seed + n)
            x, label = x / x.norm(), n % 3
            r, out = signs(weights, x, s, xi, zeta)
            r_hat, out_hat = signs(other, x, s, xi, zeta)
            unit = zeta[3] * gamma[2]
            pays = margin(out_hat, label) < 2 * unit or any(
                r_hat[k] < 2 * gamma[k] for k in range(2)
            )
            if margin(out, label) < 0:
                errs += 1
                unstable += any(r[k] < gamma[k] for k in range(2))
                assert pays
            if margin(out, label) >= 4 * unit and all(r[k] >= 3 * gamma[k] for k in range(2)):
                safe += 1
                assert not pays
    assert errs > 300
    assert unstable > 100
    assert safe > 50


def one_shot(share, divergence, m, delta, tau):
    root = math.sqrt((divergence + math.log(m / delta)) / (2 * (m - 1)))
    return share + (tau + root) / (1 - tau)


def test_a_prior_that_has_seen_the_sample_voids_the_theorem():
    # A table of random labels, learned by heart, is its own prior: nothing fails on the sample,
    # the divergence is zero, and half of all inputs that were not drawn are wrong.
    rng, m, inputs = np.random.default_rng(0), 2000, 100_000
    labels, sample = rng.integers(2, size=inputs), rng.integers(inputs, size=m)
    table = np.zeros(inputs, dtype=int)
    table[sample] = labels[sample]
    risk = float((table != labels).mean())
    promised = one_shot(float((table[sample] != labels[sample]).mean()), 0, m, 0.05, m**-0.5)
    assert promised < 0.1 < 0.45 < risk


@pytest.mark.claim("thm-sparsity-bound", kind="exact")
def test_each_step_of_theorem_13_holds_on_the_edge_of_the_cloud():
    moved = 0
    for seed in range(300):
        weights, other, s, xi, zeta, gamma = a_cloud(seed)
        for n in range(8):
            x = draw(4, seed=1000 * seed + n)
            x, label = x / x.norm(), n % 3
            r, out = signs(weights, x, s, xi, zeta)
            r_hat, out_hat = signs(other, x, s, xi, zeta)
            # step 1: a margin that moves by more than half of c needs some r_k < gamma_k
            if abs(margin(out_hat, label) - margin(out, label)) > 2 * zeta[3] * gamma[2]:
                moved += 1
                assert any(r[k] < gamma[k] for k in range(2))
            # step 2: a radius that moves by more than half of c needs an earlier r_n < gamma_n
            assert s[1] == 0 or abs(r_hat[0] - r[0]) <= gamma[0] * (1 + 1e-12)
            if s[2] and abs(r_hat[1] - r[1]) > gamma[1]:
                assert r[0] < gamma[0]
    # step 0: the division, for every share and every root that do not make it trivial
    for m, share, root in itertools.product((4, 10, 1000), np.linspace(0, 1, 11), (0, 0.1, 2.0)):
        tau = m**-0.5
        divided = (share + tau + root) / (1 - tau)
        assert divided <= share + 2 / (math.sqrt(m) - 1) + 2 * root + 1e-12


def prototypes(n):
    first = torch.eye(n, dtype=F64) - 0.5
    return [first, torch.eye(2, dtype=F64).repeat(1, n // 2)]


@pytest.mark.claim("prop-prototypes", kind="exact")
def test_the_prototype_network_is_as_the_table_says():
    for n in (4, 6, 20, 50):
        weights, inputs = prototypes(n), torch.eye(n, dtype=F64)
        assert row_norm(weights[0], 0) == pytest.approx(math.sqrt(n) / 2)
        gram = (weights[0] @ weights[0].T).abs().fill_diagonal_(0)
        assert float(gram.sum(1).max()) / (n / 4) == pytest.approx((n - 1) * (n - 4) / n)
        spectral = float(torch.linalg.matrix_norm(weights[0], 2))
        assert spectral == pytest.approx(n / 2 - 1)
        mu = (n - 1) * (n - 4) / n
        assert row_norm(weights[0], 0) * math.sqrt(1 + mu) == pytest.approx(spectral)
        for j in range(n):
            signals, out = run(weights, inputs[j])
            assert int((signals[1] > 0).sum()) == 1
            assert margin(out, j % 2) == pytest.approx(0.5)
            r, _ = radius(weights[0], inputs[j], n - 1, math.sqrt(n) / 2, 1.0)
            assert r == pytest.approx(1 / math.sqrt(n))
        dense = spectral * row_norm(weights[1], 0)
        sparse = row_norm(weights[0], 0) * row_norm(weights[1], n - 1)
        assert dense == pytest.approx((n / 2 - 1) * math.sqrt(n / 2))
        assert sparse == pytest.approx(math.sqrt(n) / 2)
        assert dense / sparse == pytest.approx((n - 2) / math.sqrt(2))
    # with N = 2 the rows point against each other, and at other inputs two units may be on
    assert float(torch.linalg.matrix_norm(prototypes(2)[0], 2)) == pytest.approx(1)
    signals, _ = run(weights, inputs[0] + inputs[1] - inputs[2])
    assert int((signals[1] > 0).sum()) == 2
