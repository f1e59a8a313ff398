"""Bounds by held-out examples: their coverage is computed, not drawn, wherever it can be.

A hold-out bound on the 0-1 loss is a function of the number of errors, and that is binomial: the
probability that the bound fails is a finite sum.
"""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gencoh_lib import bounds

FORMS = ("Hoeffding", "Chernoff", "binomial", "Bernstein", "empirical Bernstein")
getcontext().prec = 60


def exact_kl(q, p):
    """kl(q || p) of the floats themselves, in 60 digits."""
    q, p = Decimal(q), Decimal(p)
    first = q * (q / p).ln() if q else Decimal(0)
    return first + ((1 - q) * ((1 - q) / (1 - p)).ln() if q < 1 else Decimal(0))


def recombined(bound):
    return eval(bound.formula, {}, dict(bound.terms)) == pytest.approx(bound.value, rel=1e-12)


# The divergence and its inverse


@pytest.mark.parametrize(
    "q, p",
    [(0.1, 0.2), (0.2, 0.1), (0.3, 0.3), (0.5, 0.5000001), (1e-9, 0.4), (0.999, 1e-6), (0.0, 0.7)],
)
def test_divergence_in_high_precision(q, p):
    assert bounds.binary_kl(q, p) == pytest.approx(float(exact_kl(q, p)), rel=1e-9, abs=1e-16)


def test_divergence_at_the_ends():
    assert bounds.binary_kl(0, 1) == bounds.binary_kl(1, 0) == bounds.binary_kl(0.5, 1) == math.inf
    assert bounds.binary_kl(1, 1) == bounds.binary_kl(0, 0) == 0
    assert bounds.binary_kl(1, 0.5) == pytest.approx(math.log(2), rel=1e-15)


@settings(max_examples=300)
@given(st.floats(0, 1), st.floats(-40, 4).map(math.exp))
def test_the_inverse_is_rounded_outward_and_by_little(q, budget):
    p = bounds.kl_inverse(q, budget)
    assert q <= p <= 1
    if p == 1:  # no float below is far enough
        below = max(q, 1 - 2.0**-53)
        assert exact_kl(q, below) < Decimal(budget) * (1 + Decimal(2) ** -40)
        return
    assert exact_kl(q, p) >= Decimal(budget)
    closer = q + (p - q) * (1 - 1e-6)
    if (p - q) > 1e-6 * q:
        assert exact_kl(q, closer) < Decimal(budget)


def test_plain_bisection_can_land_below_the_budget():
    # the same search without the allowance for rounding returns some values that are too small
    def naive(q, budget):
        low, high = q, 1.0
        while low < (middle := (low + high) / 2) < high:
            kl = q * math.log(q / middle) + (1 - q) * math.log((1 - q) / (1 - middle))
            low, high = (low, middle) if kl >= budget else (middle, high)
        return high

    rng = np.random.default_rng(0)
    cases = [(float(rng.random()), float(10 ** rng.uniform(-10, 0))) for _ in range(300)]
    assert any(exact_kl(q, naive(q, c)) < Decimal(c) for q, c in cases if naive(q, c) < 1)
    assert all(exact_kl(q, p) >= Decimal(c) for q, c in cases if (p := bounds.kl_inverse(q, c)) < 1)


def test_the_smallest_of_all_risks_is_rounded_up_before_it_is_divided_by():
    assert bounds.kl_inverse(5e-324, 0.1) == bounds.kl_inverse(1e-300, 0.1)
    assert exact_kl(5e-324, bounds.kl_inverse(5e-324, 0.1)) >= Decimal("0.1")


def test_inverse_without_errors_or_without_budget():
    for budget in (1e-12, 0.01, 1.0, 20.0):
        assert bounds.kl_inverse(0, budget) == pytest.approx(-math.expm1(-budget), rel=1e-13)
    assert bounds.kl_inverse(0.3, 0) == 0.3
    assert bounds.kl_inverse(1, 0.1) == 1
    assert bounds.kl_inverse(0.3, math.inf) == 1


def tail(k, m, p):
    """P[Bin(m, p) <= k] of the float p, as a fraction."""
    p = Fraction(p)
    return sum(math.comb(m, j) * p**j * (1 - p) ** (m - j) for j in range(k + 1))


@pytest.mark.parametrize("k, m", [(0, 1), (0, 100), (1, 2), (3, 40), (39, 40), (20, 60), (7, 300)])
@pytest.mark.parametrize("delta", [0.05, 0.5, 1e-9])
def test_the_exact_binomial_is_rounded_outward_and_by_little(k, m, delta):
    p = bounds.binomial_upper(k, m, delta)
    assert tail(k, m, p) <= Fraction(delta)
    assert tail(k, m, p * (1 - 1e-9)) > Fraction(delta)


def test_the_exact_binomial_of_many_examples():
    # without errors: p = 1 - delta^(1/m); with all: 1
    assert bounds.binomial_upper(0, 10**7, 0.05) == pytest.approx(
        -math.expm1(math.log(0.05) / 1e7), rel=1e-6
    )
    assert bounds.binomial_upper(5, 5, 0.05) == 1
    upper = bounds.binomial_upper(20_000, 10**6, 0.05)  # nearly normal
    assert upper == pytest.approx(0.02 + 1.645 * math.sqrt(0.02 * 0.98 / 1e6), rel=1e-3)


# The bounds


@pytest.mark.parametrize("form", FORMS)
def test_value_by_hand(form):
    k, m, delta = 12, 400, 0.1
    r, c = k / m, math.log(1 / delta)
    found = bounds.holdout(r, examples=m, delta=delta, form=form)
    assert recombined(found)
    assert found.trivial == 1
    assert not found.vacuous
    if form == "Hoeffding":
        assert found.value == pytest.approx(r + math.sqrt(c / 2 / m), rel=1e-14)
    elif form == "Chernoff":
        assert float(exact_kl(r, found.value)) == pytest.approx(c / m, rel=1e-12)
    elif form == "binomial":
        assert float(tail(k, m, found.value)) == pytest.approx(delta, rel=1e-9)
    elif form == "Bernstein":
        big = found.value
        again = r + c / 3 / m + math.sqrt((c / 3 / m) ** 2 + 2 * big * (1 - big) * c / m)
        assert again == pytest.approx(big, rel=1e-12)
    else:
        losses = np.zeros(m)
        losses[:k] = 1
        c = math.log(2 / delta)
        by_hand = r + math.sqrt(2 * losses.var(ddof=1) * c / m) + 7 * c / 3 / (m - 1)
        assert found.value == pytest.approx(by_hand, rel=1e-12)


def failure(form, m, risk, delta, bound=None):
    """Exact probability that the bound is below the risk."""
    bound = bound or (lambda k: bounds.holdout(k / m, examples=m, delta=delta, form=form).value)
    return sum(
        math.comb(m, k) * risk**k * (1 - risk) ** (m - k) for k in range(m + 1) if bound(k) < risk
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("m, delta", [(10, 0.05), (60, 0.05), (60, 0.4)])
def test_coverage_is_what_is_promised(form, m, delta):
    found = {k: bounds.holdout(k / m, examples=m, delta=delta, form=form).value
             for k in range(m + 1)}  # fmt: skip
    risks = [
        *np.linspace(0.005, 0.995, 100),
        *(v * (1 + 1e-9) for v in found.values() if v < 0.999),
    ]
    worst = max(failure(form, m, float(risk), delta, found.__getitem__) for risk in risks)
    assert worst <= delta
    if form == "binomial":
        assert worst == pytest.approx(delta, rel=1e-5)  # the promise is kept exactly


def test_broken_variants_do_not_cover():
    m, delta = 60, 0.05
    c = math.log(1 / delta)
    broken = {
        "Hoeffding with twice the examples": lambda k: k / m + math.sqrt(c / (4 * m)),
        "Bernstein with the seen variance and nothing else": lambda k: (
            k / m + math.sqrt(2 * (k / m) * (1 - k / m) * c / m)
        ),
        "Chernoff the wrong way round": lambda k: max(
            p for p in np.linspace(k / m, 1, 300) if k / m == p or
            (p < 1 and bounds.binary_kl(p, k / m or 1e-12) <= c / m)
        ),
    }  # fmt: skip
    for name, bound in broken.items():
        values = {k: bound(k) for k in range(m + 1)}
        worst = max(
            failure("", m, r, delta, values.__getitem__) for r in np.linspace(0.01, 0.9, 60)
        )
        assert worst > delta, name


def test_coverage_of_the_empirical_form_for_losses_between_zero_and_one():
    # Beta(.3, 3) losses with mean 1/11, and coins with the same mean: 20,000 samples of 80
    rng, m, trials, delta = np.random.default_rng(0), 80, 20_000, 0.2
    for losses in (rng.beta(0.3, 3, (trials, m)), rng.random((trials, m)) < 1 / 11):
        mean, variance = losses.mean(1), losses.var(1, ddof=1)
        values = [
            bounds.holdout(a, examples=m, delta=delta, form="empirical Bernstein", variance=v).value
            for a, v in zip(mean[:2000], variance[:2000], strict=True)
        ]
        c = math.log(2 / delta)
        by_hand = mean + np.sqrt(2 * variance * c / m) + 7 * c / 3 / (m - 1)
        assert values == pytest.approx(by_hand[:2000], rel=1e-12)
        assert (by_hand < 1 / 11).mean() <= delta


@given(st.sampled_from(FORMS), st.integers(0, 30), st.integers(31, 200), st.floats(0.01, 0.5))
def test_more_examples_or_a_larger_delta_never_hurt(form, k, m, delta):
    def bound(k, m, delta):
        return bounds.holdout(k / m, examples=m, delta=delta, form=form).value

    here = bound(k, m, delta)
    assert bound(k, m, min(0.99, delta * 1.3)) <= here
    assert bound(2 * k, 2 * m, delta) <= here
    assert bound(k + 1, m, delta) >= here
    assert here >= k / m


def test_the_order_of_the_forms_with_few_errors():
    value = {f: bounds.holdout(0.01, examples=2000, form=f).value for f in FORMS}
    assert value["binomial"] < value["Chernoff"] < value["Bernstein"]
    assert value["Bernstein"] < value["empirical Bernstein"] < value["Hoeffding"]


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"risk": -0.1}, ValueError, "risk must lie between 0 and 1"),
        ({"examples": 0}, ValueError, "examples must be a whole number >= 1"),
        ({"examples": 2.0}, TypeError, "examples must be a whole number"),
        ({"delta": 1}, ValueError, "delta must lie strictly"),
        ({"form": "Markov"}, ValueError, "form must be 'Hoeffding'"),
        ({"variance": 0.1}, ValueError, "form='Chernoff' takes no variance"),
        ({"risk": 0.105, "form": "binomial"}, ValueError, "take 'Chernoff'"),
        ({"risk": 0.105, "form": "Bernstein"}, ValueError, "is not a whole number of errors"),
        ({"risk": 0.105, "form": "empirical Bernstein"}, ValueError, "give the variance"),
        ({"form": "empirical Bernstein", "variance": -1}, ValueError, "variance must be"),
        ({"risk": 0, "examples": 1, "form": "empirical Bernstein"}, ValueError, ">= 2"),
    ],
)
def test_holdout_refuses(changes, error, message):
    options = {"risk": 0.1, "examples": 100} | changes
    with pytest.raises(error, match=message):
        bounds.holdout(options.pop("risk"), **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bounds.kl_inverse(1.1, 0.1), "risk must lie"),
        (lambda: bounds.kl_inverse(0.1, -1), "budget must be"),
        (lambda: bounds.kl_inverse(0.1, math.nan), "budget must be"),
        (lambda: bounds.binary_kl(0.1, 2), "other must lie"),
        (lambda: bounds.binomial_upper(3, 2, 0.1), "errors must be at most examples = 2"),
        (lambda: bounds.binomial_upper(-1, 2, 0.1), "errors must be"),
        (lambda: bounds.binomial_upper(1, 2, 0), "delta must lie"),
    ],
)
def test_inverses_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
