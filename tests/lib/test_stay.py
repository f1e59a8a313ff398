"""Who stayed, and how sure that is: records against a loop, intervals against their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from gencoh_lib.stagnation import proportion, stay_record, trials_needed


@pytest.mark.parametrize(
    "successes, trials, method, low, high",
    [
        (10, 10, "clopper-pearson", 0.6915, 1),
        (10, 10, "wilson", 0.7225, 1),
        (0, 10, "clopper-pearson", 0, 0.3085),
        (31, 32, "clopper-pearson", 0.8378, 0.9992),
        (31, 32, "wilson", 0.8426, 0.9945),
        (27, 32, "clopper-pearson", 0.6721, 0.9472),
        (95, 100, "clopper-pearson", 0.8872, 0.9836),
        (200, 200, "clopper-pearson", 0.9817, 1),
    ],
)
def test_intervals_of_the_table(successes, trials, method, low, high):
    found = proportion(successes, trials, method=method)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5.1e-5)
    assert found.value == successes / trials


@given(st.integers(1, 60), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_solves_the_binomial_tails(trials, data, confidence):
    # P(X >= s | low) = P(X <= s | high) = (1 - confidence) / 2
    s = data.draw(st.integers(0, trials))
    found = proportion(s, trials, confidence=confidence)
    tail = (1 - confidence) / 2
    if s:
        assert binom.sf(s - 1, trials, found.low) == pytest.approx(tail, rel=1e-9)
    if s < trials:
        assert binom.cdf(s, trials, found.high) == pytest.approx(tail, rel=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.integers(1, 60), st.data())
def test_wilson_ends_are_z_standard_errors_away(trials, data):
    s = data.draw(st.integers(1, trials))
    found = proportion(s, trials, method="wilson")
    for p in (found.low, found.high) if s < trials else (found.low,):
        error = math.sqrt(p * (1 - p) / trials)
        assert abs(found.value - p) == pytest.approx(1.959963984540054 * error, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("trials", [5, 32, 200])
def test_clopper_pearson_covers_at_least_as_often_as_it_says_and_wilson_does_not(trials):
    def coverage(p, method):
        intervals = [proportion(s, trials, method=method) for s in range(trials + 1)]
        weights = binom.pmf(np.arange(trials + 1), trials, p)
        return sum(w for w, i in zip(weights, intervals, strict=True) if i.low <= p <= i.high)

    grid = (0.003, 0.02, 0.1, 0.35, 0.5, 0.8, 0.97, 0.999)
    exact = [coverage(p, "clopper-pearson") for p in grid]
    assert min(exact) >= 0.95
    wilson = [coverage(p, "wilson") for p in grid]
    assert min(wilson) < 0.95
    assert np.mean(wilson) <= np.mean(exact)


def test_trials_needed_is_the_rule_of_three():
    assert trials_needed(0.01) == 299
    n = trials_needed(0.05)
    assert 0.95**n <= 0.05 < 0.95 ** (n - 1)
    # certified: the one-sided interval of n successes in n trials starts above 1 - tolerance
    assert proportion(n, n, confidence=0.9).low >= 0.95


def naive_record(row, radius):
    exit_time, inside, longest, current = math.inf, 0, 0, 0
    for t, distance in enumerate(row, start=1):
        if distance <= radius:
            inside, current = inside + 1, current + 1
            longest = max(longest, current)
        else:
            exit_time, current = min(exit_time, t), 0
    return exit_time == math.inf, exit_time, inside / len(row), longest


@given(st.integers(1, 6), st.integers(1, 15), st.integers(0, 2**31), st.floats(0.05, 1))
def test_a_record_is_that_of_a_loop(chains, steps, seed, radius):
    rows = torch.rand(chains, steps, generator=torch.Generator().manual_seed(seed))
    record = stay_record(rows, radius)
    twins = [naive_record(row, torch.tensor(radius)) for row in rows]
    stayed, exits, occupancy, longest = zip(*twins, strict=True)
    assert record.stayed.tolist() == list(stayed)
    assert record.exit_time.tolist() == list(exits)
    assert record.occupancy.tolist() == pytest.approx(list(occupancy), rel=1e-12)
    assert record.longest.tolist() == list(longest)


def test_the_edge_is_inside_and_what_is_not_finite_outside():
    record = stay_record(torch.tensor([[1.0, 1.0], [1.0, math.nan], [math.inf, 0.0]]), 1.0)
    assert record.stayed.tolist() == [True, False, False]
    assert record.exit_time.tolist() == [math.inf, 2, 1]


def test_tables_are_readable():
    text = repr(stay_record(torch.tensor([[0.1, 0.2]]), 0.5))
    assert "1 runs of 2 steps within radius 0.5" in text
    assert "first exit      none" in text
    assert "95% interval [0.6915, 1.0000] (clopper-pearson)" in repr(proportion(10, 10))


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="11 successes in 10 trials"):
        proportion(11, 10)
    with pytest.raises(ValueError, match="trials must be a whole number >= 1"):
        proportion(0, 0)
    with pytest.raises(TypeError, match="successes must be a whole number"):
        proportion(1.0, 2)
    with pytest.raises(ValueError, match="confidence must lie strictly between"):
        proportion(1, 2, confidence=1)
    with pytest.raises(ValueError, match="'clopper-pearson' or 'wilson', got 'wald'"):
        proportion(1, 2, method="wald")
    with pytest.raises(ValueError, match="tolerance must lie strictly"):
        trials_needed(0)
    with pytest.raises(TypeError, match="distances must be a Tensor"):
        stay_record([0.1], 1)
    with pytest.raises(ValueError, match=r"shape \[chains, T\], got \(1, 1, 1\)"):
        stay_record(torch.ones(1, 1, 1), 1)
    with pytest.raises(ValueError, match=r"shape \[chains, T\], got \(0,\)"):
        stay_record(torch.ones(0), 1)
    with pytest.raises(ValueError, match="radius must be a finite number > 0"):
        stay_record(torch.ones(3), -1)
