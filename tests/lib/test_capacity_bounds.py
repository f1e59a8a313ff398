"""Finite classes, growth functions, and PAC-Bayes: small enough to list all functions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gencoh_lib import bounds, data
from gencoh_lib._weights import noisy_margins

F64 = torch.float64


def recombined(bound):
    return eval(bound.formula, {}, dict(bound.terms)) == pytest.approx(bound.value, rel=1e-12)


# A bound, or the order of one


def test_what_is_of_an_order_only_never_passes_for_a_bound():
    order = bounds.vc_order(dimension=0.001, examples=10**6)
    assert order.value < 1
    assert order.order_only
    assert order.vacuous
    assert repr(order).startswith("order = 0.001731  (order only: constants unknown, not a bound)")
    assert "bound =" not in repr(order)
    bound = bounds.holdout(0, examples=100)
    assert not bound.order_only
    assert repr(bound).startswith("bound = 0.02951  (below the trivial 1)")


def test_a_bound_just_below_the_trivial_does_not_print_as_one():
    bound = bounds.holdout(0.5, examples=1, form="Chernoff", delta=1e-4)
    assert not bound.vacuous
    assert bound.shown == "1 - 2e-09"  # delta^2 / 4
    assert "= 1  (below" not in repr(bound)


# Finite class


def test_finite_class_of_a_thousand():
    # sqrt(ln(2 * 1000 / .05) / 400)
    bound = bounds.finite_class(0, log_size=math.log(1000), examples=200)
    assert bound.value == pytest.approx(0.16276236307, abs=1e-11)
    assert recombined(bound)
    assert bounds.finite_class(0, log_size=32 * 79_400 * math.log(2), examples=3000).vacuous


def risks_and_sample(rng, m, functions=8):
    """Functions that err independently with risks .1 to .45, and their errors on a sample."""
    risks = np.linspace(0.1, 0.45, functions)
    return risks, rng.binomial(m, risks, size=(20_000, functions)) / m


def test_coverage_over_the_whole_class_and_both_sides():
    risks, seen = risks_and_sample(np.random.default_rng(0), 60, functions=64)
    for delta in (0.05, 0.5):
        slack = bounds.finite_class(0, log_size=math.log(64), examples=60, delta=delta).value
        assert (np.abs(risks - seen) > slack).any(axis=1).mean() <= delta
    # as if only the chosen function had been tried: it fails more often than it may
    slack = bounds.finite_class(0, log_size=0, examples=60, delta=0.5).value
    assert (np.abs(risks - seen) > slack).any(axis=1).mean() > 0.5


# McAllester and its sharper form


@pytest.mark.parametrize("form", ["McAllester", "kl-inverse"])
def test_pac_bayes_covers_all_posteriors_on_a_finite_class(form):
    m, delta = 40, 0.3
    risks, seen = risks_and_sample(np.random.default_rng(1), m)
    seen = seen[:3000]
    failed = cheated = 0
    for row in seen:
        wrong = broken = False
        for eagerness in (0.0, 2.0, 10.0, 1e4):  # posteriors from the prior to the best function
            weights = np.exp(-eagerness * (row - row.min()))
            weights /= weights.sum()
            kl = float((weights * np.log(np.maximum(weights, 1e-300) * 8)).sum())
            bound = bounds.pac_bayes(
                float(weights @ row), divergence=max(kl, 0), examples=m, delta=delta, form=form
            )
            wrong |= bound.value < weights @ risks
            # a variant that forgets the divergence and the confidence
            broken |= float(weights @ row) < weights @ risks
        failed, cheated = failed + wrong, cheated + broken
    assert failed / len(seen) <= delta
    assert cheated / len(seen) > delta


def test_pac_bayes_by_hand():
    bound = bounds.pac_bayes(0.1, divergence=30, examples=2000, form="McAllester")
    assert bound.value == pytest.approx(
        0.1 + math.sqrt((30 + math.log(2000 / 0.05)) / (2 * 1999)), rel=1e-13
    )
    sharper = bounds.pac_bayes(0.1, divergence=30, examples=2000)
    budget = (30 + math.log(2 * math.sqrt(2000) / 0.05)) / 2000
    assert bounds.binary_kl(0.1, sharper.value) == pytest.approx(budget, rel=1e-11)
    assert recombined(bound)
    assert recombined(sharper)
    assert sharper.value < bound.value
    # a point mass on one of N functions is the finite class, up to the price of all posteriors
    finite = bounds.finite_class(0.1, log_size=30, examples=2000)
    assert finite.value < bound.value < finite.value + 0.02


def test_the_constant_of_the_sharper_form():
    # Maurer: E exp(m kl(R_hat || R)) <= 2 sqrt(m), and for coins it is this sum whatever R
    for m in (1, 2, 3, 5, 8, 50, 1000):
        total = sum(
            math.comb(m, k) * (k / m) ** k * (1 - k / m) ** (m - k) for k in range(m + 1)
        ) if m <= 50 else math.fsum(
            math.exp(math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1)
                     + (k * math.log(k / m) if k else 0)
                     + ((m - k) * math.log(1 - k / m) if k < m else 0))
            for k in range(m + 1)
        )  # fmt: skip
        assert math.sqrt(m) <= total <= 2 * math.sqrt(m)


@given(st.floats(0, 1), st.floats(0, 100), st.integers(2, 5000), st.floats(0.01, 0.5))
def test_pac_bayes_is_monotone(risk, divergence, m, delta):
    for form in ("McAllester", "kl-inverse"):

        def bound(r=risk, kl=divergence, n=m, d=delta, form=form):
            return bounds.pac_bayes(r, divergence=kl, examples=n, delta=d, form=form).value

        here = bound()
        assert bound(kl=divergence + 1) >= here >= bound(d=delta * 1.5)
        assert bound(n=2 * m) <= here or m < 8  # ln(m)/m first rises
        assert bound(r=min(1, risk + 0.1)) >= here >= risk


# Growth


def test_growth_function_by_hand_and_when_it_says_nothing():
    bound = bounds.growth_function(0.1, log_patterns=5, examples=1000)
    by_hand = 0.1 + math.sqrt(2 * 5 / 1000) + math.sqrt(math.log(20) / 2000)
    assert bound.value == pytest.approx(by_hand, rel=1e-14)
    assert recombined(bound)
    # a class that shows every pattern promises nothing: sqrt(2 ln 2) > 1
    assert bounds.growth_function(0, log_patterns=1000 * math.log(2), examples=1000).vacuous


def test_coverage_for_thresholds():
    # z uniform, label z > .5 with a fifth of the labels flipped: R(t) = .2 + .6 |t - .5|
    rng, m, delta, trials = np.random.default_rng(2), 40, 0.3, 4000
    slack = bounds.growth_function(0, log_patterns=math.log(m + 1), examples=m, delta=delta).value
    failed = broken = 0
    for _ in range(trials):
        z = np.sort(rng.random(m))
        label = (z > 0.5) ^ (rng.random(m) < 0.2)
        # threshold between two points: the worst population risk on either side of the gap
        edges = np.concatenate([[0], z, [1]])
        wrong = np.array([label[:k].sum() + (~label[k:]).sum() for k in range(m + 1)]) / m
        risk = 0.2 + 0.6 * np.maximum(np.abs(edges[:-1] - 0.5), np.abs(edges[1:] - 0.5))
        failed += (risk - wrong > slack).any()
        broken += (risk - wrong > math.sqrt(math.log(1 / delta) / (2 * m))).any()  # one function's
    assert failed / trials <= delta < broken / trials


def patterns_of(sizes, m, draws, seed):
    """Right-or-wrong patterns of random networks on one random labelled sample."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(m, sizes[0], generator=g, dtype=F64)
    y = torch.randint(sizes[-1], (m,), generator=g)
    seen = set()
    for _ in range(draws):
        h = x
        for layer, (a, b) in enumerate(itertools.pairwise(sizes)):
            h = (h.relu() if layer else h) @ torch.randn(a, b, generator=g, dtype=F64)
        seen.add(tuple((h.argmax(1) == y).tolist()))
    return len(seen)


@pytest.mark.parametrize("sizes, m", [((2, 2), 6), ((2, 2, 2), 7), ((1, 3, 3), 6), ((2, 3), 8)])
def test_networks_show_no_more_patterns_than_counted(sizes, m):
    assert math.log(patterns_of(sizes, m, 4000, 0)) <= bounds.log_relu_patterns(sizes, m)
    assert bounds.log_relu_patterns(sizes, m) <= m * math.log(2)


def test_half_planes_through_the_origin_are_counted_exactly():
    # two classes in the plane: a line through 0 splits m points in 2m ways (Cover)
    assert patterns_of((2, 2), 9, 20_000, 1) == 18
    assert math.log(18) <= bounds.log_relu_patterns([2, 2], 9)


def test_patterns_naive_twin():
    def naive(sizes, m):
        total = 0.0
        for k in range(1, len(sizes)):
            last = k == len(sizes) - 1
            n = m * (sizes[k] - last)
            p = sum(sizes[j] * sizes[j - 1] for j in range(1, k + 1))
            all_signs = n * math.log(2)
            total += all_signs if n < p else min(
                all_signs, math.log(2) + p * math.log(2 * math.e * n * k / p))  # fmt: skip
        return min(total, m * math.log(2))

    for sizes in ([2, 2], [5, 4, 3], [3, 2, 2, 2], [64, 100, 10]):
        for m in (1, 10, 10**3, 10**6):
            assert bounds.log_relu_patterns(sizes, m) == pytest.approx(naive(sizes, m), rel=1e-13)
    # per example it falls to zero: with enough of them a class of this kind can be learnt
    assert bounds.log_relu_patterns([5, 4, 3], 10**6) / 10**6 < 1e-3


def test_vc_order_of_the_survey():
    p = 1.6e6
    order = bounds.vc_order(dimension=p * math.log(p), examples=50_000)
    assert order.value == pytest.approx(21.381, abs=1e-3)
    assert recombined(order)


# A network with noise


def blobs(m=600, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(m) % 2
    x = torch.randn(m, 4, generator=g, dtype=F64) * 0.3
    x[torch.arange(m), y] += 1
    return data.Dataset("blobs", x, y, 2, source="here")


def test_noise_on_the_units_is_noise_on_the_weights():
    # one example, many draws: the error of a network with noisy weights, both ways
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 4, generator=g, dtype=F64), torch.randn(2, 3, generator=g, dtype=F64)]
    x, sigmas, draws = torch.randn(4, generator=g, dtype=F64), (0.7, 0.5), 40_000
    one = data.Dataset("one", x.repeat(draws, 1), torch.zeros(draws, dtype=torch.int64), 2, "here")
    fast = noisy_margins(weights, one, sigmas, seed=1)
    noisy = [
        w + s * torch.randn(draws, *w.shape, generator=g, dtype=F64)
        for w, s in zip(weights, sigmas, strict=True)
    ]
    h = torch.einsum("noi,i->no", noisy[0], x).relu()
    out = torch.einsum("noi,ni->no", noisy[1], h)
    slow = out[:, 0] - out[:, 1]
    for moment in (1, 2):
        a, b = fast**moment, slow**moment
        error = math.sqrt(float(a.var() + b.var()) / draws)
        assert float(a.mean() - b.mean()) == pytest.approx(0, abs=4 * error)
    rate = float((slow <= 0).double().mean())
    assert float((fast <= 0).double().mean()) == pytest.approx(
        rate, abs=4 * math.sqrt(2 * rate * (1 - rate) / draws)
    )


def test_a_noisy_network_by_hand():
    sample = blobs()
    weights = [3 * torch.eye(2, 4, dtype=F64)]
    bound = bounds.gaussian_pac_bayes(weights, sample, form="McAllester")
    share = 0.05 / 24
    level = 18 / 2 / bound.terms["divergence"]  # KL = |W|^2 / (2 sigma^2)
    assert level in [pytest.approx(4.0**-j / 4, rel=1e-12) for j in range(12)]
    assert bound.terms["confidence"] == pytest.approx(math.log(600 / share), rel=1e-12)
    seen = float(bound.assumptions[-1].split("error of ")[1].split()[0])
    likely = bounds.kl_inverse(seen, math.log(1 / share) / 600)
    assert bound.terms["stochastic_risk"] == pytest.approx(likely, rel=1e-3)
    assert not bounds.gaussian_pac_bayes(weights, sample).vacuous


def test_a_prior_at_the_network_leaves_the_price_of_the_choice_alone():
    sample, weights = blobs(), [3 * torch.eye(2, 4, dtype=F64)]
    at_home = bounds.gaussian_pac_bayes(weights, sample, prior=weights)
    assert at_home.terms["divergence"] == 0
    assert at_home.value < bounds.gaussian_pac_bayes(weights, sample).value
    assert bounds.gaussian_pac_bayes(weights, sample).value == (
        bounds.gaussian_pac_bayes(weights, sample, seed=0).value
    )


def test_coverage_of_the_noisy_network():
    # the true risk of the noisy network on 40,000 fresh examples, for 40 samples
    weights, fresh = [2 * torch.eye(2, 4, dtype=F64)], blobs(40_000, seed=10**6)
    for seed in range(40):
        bound = bounds.gaussian_pac_bayes(weights, blobs(300, seed=seed), seed=seed)
        sigma = math.sqrt(8 / 2 / bound.terms["divergence"])
        risk = float((noisy_margins(weights, fresh, [sigma], seed=seed) <= 0).double().mean())
        assert risk <= bound.value + 4 * math.sqrt(0.25 / 40_000)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: bounds.finite_class(2, log_size=1, examples=9), ValueError, "empirical_risk"),
        (lambda: bounds.finite_class(0, log_size=-1, examples=9), ValueError, "log_size"),
        (lambda: bounds.finite_class(0, log_size=1, examples=9, delta=0), ValueError, "delta"),
        (lambda: bounds.finite_class(0, log_size=1, examples="9"), TypeError, "examples"),
        (lambda: bounds.growth_function(0, log_patterns=-1, examples=9), ValueError, "log_pat"),
        (lambda: bounds.vc_order(dimension=math.inf, examples=9), ValueError, "dimension"),
        (lambda: bounds.log_relu_patterns([3], 9), ValueError, "at least two"),
        (lambda: bounds.log_relu_patterns([3, 0], 9), ValueError, "positive whole"),
        (lambda: bounds.log_relu_patterns([3, 1], 9), ValueError, "number of classes"),
        (lambda: bounds.log_relu_patterns([3, 2.5], 9), TypeError, "sizes must be"),
        (lambda: bounds.log_relu_patterns([3, 2], 0), ValueError, "examples"),
        (lambda: bounds.pac_bayes(-1, divergence=1, examples=9), ValueError, "stochastic_risk"),
        (lambda: bounds.pac_bayes(0, divergence=-1, examples=9), ValueError, "divergence"),
        (lambda: bounds.pac_bayes(0, divergence=1, examples=9, form="x"), ValueError, "form must"),
        (
            lambda: bounds.pac_bayes(0, divergence=1, examples=1, form="McAllester"),
            ValueError,
            ">= 2",
        ),
        (
            lambda: bounds.gaussian_pac_bayes([torch.eye(2)], blobs(), prior=[torch.eye(3)]),
            ValueError,
            "prior must have the shapes",
        ),
        (
            lambda: bounds.gaussian_pac_bayes([torch.eye(4)], blobs(), delta=2),
            ValueError,
            "delta must lie",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
