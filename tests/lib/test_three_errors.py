"""The account of an excess risk adds up, and its bound is a bound: on every sample of a problem."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gencoh_lib.learning import FiniteProblem
from gencoh_lib.three_errors import ErrorAccount


def small_problem(seed):
    """A noisy problem, a class of six of its sixteen functions, and a sample."""
    rng = np.random.default_rng(seed)
    problem = FiniteProblem(rng.dirichlet(np.full(8, 0.7)).reshape(4, 2))
    everything = [np.array(f) for f in itertools.product([-1.0, 1.0], repeat=4)]
    chosen = [everything[i] for i in rng.choice(16, size=6, replace=False)]
    return problem, chosen, problem.sample(int(rng.integers(1, 9)), seed=seed)


def account_of(problem, functions, sample, learned):
    best = min(functions, key=problem.risk)
    return ErrorAccount(
        bayes=problem.bayes_risk,
        best=problem.risk(best),
        best_empirical=sample.risk(best),
        least_empirical=min(sample.risk(f) for f in functions),
        learned=problem.risk(learned),
        learned_empirical=sample.risk(learned),
    )


@pytest.mark.claim("thm-three-errors", kind="exact")
@given(st.integers(0, 100_000))
def test_the_parts_add_up_and_the_bound_holds_for_every_function_of_the_class(seed):
    problem, functions, sample = small_problem(seed)
    supremum = max(abs(problem.risk(f) - sample.risk(f)) for f in functions)
    for learned in functions:
        one = account_of(problem, functions, sample, learned)
        total = one.approximation + one.optimization + one.generalization - one.luck
        assert total == pytest.approx(one.excess, rel=1e-9, abs=1e-12)
        assert min(one.approximation, one.optimization, one.luck) >= -1e-12
        assert one.bound(supremum) == pytest.approx(
            one.approximation + one.optimization + 2 * supremum, rel=1e-12
        )
        assert one.excess <= one.bound(supremum) + 1e-12


@pytest.mark.claim("thm-three-errors", kind="exact")
def test_the_factor_two_is_needed():
    # One function looks better than it is, the other worse, each by nearly one: excess 2 sup.
    one = ErrorAccount(
        bayes=0.0, best=0.0, best_empirical=0.5, least_empirical=0.5, learned=1.0,
        learned_empirical=0.5,
    )  # fmt: skip
    assert one.excess == one.bound(0.5) == 1.0


def test_without_a_minimiser_as_reference_the_bound_fails():
    # Dropped hypothesis: measured against f_S itself, the optimisation error of a bad function is
    # nothing, and its excess 1 is more than the bound 0.
    with pytest.raises(ValueError, match="best_empirical = 0 is below least_empirical = 1"):
        ErrorAccount(0.0, 0.0, 0.0, least_empirical=1.0, learned=1.0, learned_empirical=1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"best": 0.05}, "best = 0.05 is below bayes"),
        ({"learned": 0.12}, "learned = 0.12 is below best"),
        ({"learned_empirical": 0.01}, "learned_empirical = 0.01 is below least_empirical"),
        ({"best_empirical": float("nan")}, "best_empirical must be finite"),
    ],
)
def test_numbers_that_cannot_belong_together_are_refused(change, said):
    numbers = {
        "bayes": 0.1, "best": 0.15, "best_empirical": 0.14, "least_empirical": 0.05,
        "learned": 0.3, "learned_empirical": 0.07,
    }  # fmt: skip
    with pytest.raises(ValueError, match=said):
        ErrorAccount(**numbers | change)


def test_a_supremum_that_is_none_is_refused():
    one = ErrorAccount(0.1, 0.15, 0.14, 0.05, 0.3, 0.07)
    with pytest.raises(ValueError, match=r"below a gap of 0\.23"):
        one.bound(0.2)
    with pytest.raises(ValueError, match="no supremum"):
        one.bound(float("nan"))


def test_it_prints_its_sum():
    lines = repr(ErrorAccount(0.1, 0.15, 0.14, 0.05, 0.3, 0.07)).splitlines()
    assert lines[0] == "approximation         0.0500"
    assert lines[-1] == "= excess risk         0.2000"
