"""Estimates of coherence from sub-batches and from probes.

For a handful of examples every way to deal them into parts can be enumerated, and then what is
called unbiased is checked to the last digit, the variance behind the standard error included. On
networks both estimators are compared with the exact value over many fixed seeds.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from gencoh_lib import coherence, estimators
from gencoh_lib.coherence import from_gradients
from gencoh_lib.estimators import Estimate, from_probes, from_sub_batches

BOTH = [from_sub_batches, from_probes]


class Rows(nn.Module):
    """A model whose losses have given vectors as their gradients, spread over two parameters."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows
        cut = rows.shape[1] // 2
        self.one = nn.Parameter(rows.new_zeros(cut))
        self.two = nn.Parameter(rows.new_zeros(rows.shape[1] - cut))

    def forward(self) -> Tensor:
        return self.rows @ torch.cat([self.one, self.two])


def estimate(how, rows: Tensor, **options) -> Estimate:
    model = Rows(rows)
    return how(model(), model, **options)


def gaussian(m: int, d: int, *, mean: float = 0.0, seed: int = 0) -> Tensor:
    rows = torch.randn(m, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[:, 0] += mean
    return rows


def uneven(m: int, d: int) -> Tensor:
    """A few gradients hold most of the energy, as where most examples are fitted."""
    return gaussian(m, d, mean=0.7) * torch.linspace(-1.5, 1.5, m).exp()[:, None].double()


def network() -> tuple[Tensor, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(24, 6, dtype=torch.float64), torch.randint(3, (24,))
    return F.cross_entropy(model(x), y, reduction="none"), model


def deals(examples: list[int], size: int) -> Iterator[list[list[int]]]:
    """Every way to deal the examples into parts of one size, up to the order of the parts."""
    if not examples:
        yield []
        return
    first, *others = examples
    for chosen in itertools.combinations(others, size - 1):
        rest = [i for i in others if i not in chosen]
        for more in deals(rest, size):
            yield [[first, *chosen], *more]


def energy_and_variance(result: Estimate, agreement: float) -> tuple[float, float]:
    """The estimate of Q and of its variance, out of a result."""
    energy = agreement / result.m_coherence
    error = result.standard_error * (result.examples - 1)  # of |S|^2/Q
    return energy, (error * energy / result.m_coherence) ** 2


@pytest.mark.parametrize("m, parts, ways", [(8, 4, 105), (10, 5, 945), (12, 4, 15400)])
@pytest.mark.parametrize("make", [uneven, lambda m, d: gaussian(m, d, mean=2.0)])
def test_over_all_deals_the_energy_and_its_variance_are_unbiased_exactly(m, parts, ways, make):
    rows = make(m, 3)
    agreement = float(rows.sum(0).square().sum())
    found = []
    for deal in deals(list(range(m)), m // parts):
        sums = rows[torch.tensor(deal)].sum(1)
        found.append(energy_and_variance(estimators._from_parts(sums @ sums.T, m), agreement))
    energy, variance = np.array(found).T
    assert len(found) == ways
    assert energy.mean() == pytest.approx(float(rows.square().sum()), rel=1e-9)
    assert variance.mean() == pytest.approx(energy.var(), rel=1e-9)
    assert variance.mean() > 0


def test_a_part_for_every_example_is_exact():
    rows = uneven(12, 5)
    exact = from_gradients(rows)
    found = estimate(from_sub_batches, rows, parts=12, seed=3)
    assert found.m_coherence == pytest.approx(exact.m_coherence, rel=1e-12)
    assert found.alpha == pytest.approx(exact.alpha, rel=1e-12)
    assert found.alpha_corrected == pytest.approx(exact.alpha_corrected, rel=1e-12)
    assert found.standard_error == 0


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("make", [uneven, lambda m, d: gaussian(m, d, mean=2.0), gaussian])
def test_over_seeds_the_estimates_scatter_about_the_exact_value_as_they_say(how, make):
    rows = make(24, 6)
    exact = from_gradients(rows)
    results = [estimate(how, rows, seed=seed) for seed in range(400)]
    diversity = np.array([1 / r.m_coherence for r in results])  # unbiased, unlike m_coherence
    error = diversity.std(ddof=1) / math.sqrt(len(results))
    assert abs(diversity.mean() - exact.gradient_diversity) <= 4 * error
    # the squared standard error of 1/m_coherence, against its variance over the seeds
    squared = np.array([(23 * r.standard_error / r.m_coherence**2) ** 2 for r in results])
    deviations = (diversity - diversity.mean()) ** 2
    spread = np.std(squared - deviations, ddof=1) / math.sqrt(len(results))
    assert abs((squared - deviations).mean()) <= 4 * spread
    assert 0.8 < squared.mean() / diversity.var(ddof=1) < 1.25
    # and of alpha_corrected itself: 68 % within one and 95 % within two standard errors, roughly
    scores = np.array(
        [(r.alpha_corrected - exact.alpha_corrected) / r.standard_error for r in results]
    )
    assert 0.5 < np.mean(np.abs(scores) < 1) < 0.8
    assert 0.85 < np.mean(np.abs(scores) < 2) <= 1


@pytest.mark.parametrize("how", BOTH)
def test_on_a_network_both_agree_with_the_exact_coherence(how):
    losses, model = network()
    exact = coherence.measure(losses, model)
    results = [how(losses, model, seed=seed) for seed in range(25)]
    mean = np.mean([1 / r.m_coherence for r in results])
    scatter = math.sqrt(sum((23 * r.standard_error / r.m_coherence**2) ** 2 for r in results)) / 25
    assert abs(mean - exact.gradient_diversity) <= 4 * scatter
    assert results[0].examples == 24


def test_over_samples_numerator_and_denominator_are_unbiased_for_the_distribution():
    # V = N(mu, I_d), |mu| = 1: E|g|^2 = 1 + d and |E g|^2 = 1; the plug-in |S|^2/m^2 is too large
    d, m = 5, 16
    numerator, denominator, plug_in = [], [], []
    for seed in range(3000):
        rows = gaussian(m, d, mean=1.0, seed=seed)
        agreement = float(rows.sum(0).square().sum())
        sums = rows.view(4, 4, d).sum(1)
        result = estimators._from_parts(sums @ sums.T, m)
        energy = agreement / result.m_coherence
        denominator.append(energy / m)
        numerator.append(result.alpha_corrected * energy / m)
        plug_in.append(result.alpha * energy / m)

    def off(values, expected):
        return abs(np.mean(values) - expected) / (np.std(values, ddof=1) / math.sqrt(len(values)))

    assert off(numerator, 1) <= 4
    assert off(denominator, 1 + d) <= 4
    assert off(plug_in, 1) > 10  # the diagonal adds d/m


@pytest.mark.parametrize("how", BOTH)
def test_identical_gradients_give_m_without_error(how):
    found = estimate(how, torch.full((8, 3), 0.5, dtype=torch.float64))
    assert found.m_coherence == pytest.approx(8, rel=1e-12)
    assert found.alpha <= 1
    assert found.alpha_corrected == pytest.approx(1)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_one_direction_with_any_lengths_has_no_error_under_probes():
    found = estimate(from_probes, torch.arange(1.0, 5).double()[:, None] * torch.ones(1, 3))
    assert found.m_coherence == pytest.approx(100 / 30)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_orthogonal_gradients_of_one_length_give_1_whatever_the_deal():
    for seed in range(5):
        found = estimate(from_sub_batches, 3 * torch.eye(12).double(), parts=4, seed=seed)
        assert found.m_coherence == pytest.approx(1)
        assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_a_sum_that_vanishes_gives_0():
    simplex = torch.eye(4).double() - 0.25
    for how, options in ((from_sub_batches, {"parts": 4}), (from_probes, {})):
        found = estimate(how, simplex, **options)
        assert found.m_coherence == pytest.approx(0, abs=1e-12)
        assert found.alpha_corrected == pytest.approx(-1 / 3)
    opposite = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert estimate(from_probes, opposite).m_coherence == 0


@pytest.mark.parametrize("how", BOTH)
def test_gradients_that_vanish_have_no_coherence(how):
    found = estimate(how, torch.zeros(8, 2))
    assert math.isnan(found.alpha)
    assert math.isnan(found.m_coherence)
    assert math.isnan(found.alpha_corrected)
    assert math.isnan(found.standard_error)
    assert "vanishes" in repr(found)


def test_one_example_agrees_with_itself_and_has_no_others():
    found = estimate(from_probes, torch.tensor([[3.0, 4.0]]))
    assert found.alpha == pytest.approx(1)
    assert math.isnan(found.alpha_corrected)
    assert math.isnan(found.standard_error)


matrices = st.integers(1, 4).flatmap(
    lambda d: arrays(np.float64, (8, d), elements=st.integers(-9, 9).map(float)).filter(
        lambda a: a.any()
    )
)


@given(matrices, st.sampled_from(BOTH), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_estimates_stay_in_range_and_ignore_the_scale(x, how, seed):
    rows = torch.from_numpy(x)
    options = {"parts": 4} if how is from_sub_batches else {"probes": 3}
    found = estimate(how, rows, seed=seed, **options)
    if math.isnan(found.alpha):  # every part cancels
        return
    assert 0 <= found.alpha <= 1
    assert 0 <= found.m_coherence <= 8
    assert found.standard_error >= 0
    assert found.m_coherence == pytest.approx(1 + 7 * found.alpha_corrected)
    scaled = estimate(how, -8 * rows, seed=seed, **options)
    assert scaled.alpha == pytest.approx(found.alpha, abs=1e-9)
    assert scaled.standard_error == pytest.approx(found.standard_error, abs=1e-9)


def test_single_precision_gives_the_same_estimate():
    rows = uneven(16, 6)
    wide = estimate(from_sub_batches, rows)
    narrow = estimate(from_sub_batches, rows.float())
    assert narrow.m_coherence == pytest.approx(wide.m_coherence, rel=1e-5)
    assert narrow.standard_error == pytest.approx(wide.standard_error, rel=1e-4)


def test_half_precision_losses_may_add_up_to_more_than_half_precision_holds():
    model = Rows(torch.ones(64, 2, dtype=torch.float16))
    losses = model() + 30000  # the sum of one part is 240 000
    assert from_sub_batches(losses, model).m_coherence == pytest.approx(64)


@pytest.mark.parametrize("how", BOTH)
def test_everything_is_left_as_it_was_and_the_seed_decides(how):
    losses, model = network()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, again, other = (how(losses, model, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with torch.no_grad():
        assert how(losses, model, seed=1) == first
    losses.mean().backward()  # the graph is still there


@pytest.mark.parametrize("how", BOTH)
def test_frozen_parameters_are_left_out(how):
    losses, model = network()
    model[0].requires_grad_(False)
    torch.manual_seed(1)
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.randint(3, (8,))
    losses = F.cross_entropy(model(x), y, reduction="none")
    exact = coherence.measure(losses, model)
    found = how(losses, model, **({"parts": 8} if how is from_sub_batches else {"probes": 800}))
    assert abs(found.alpha_corrected - exact.alpha_corrected) <= max(4 * found.standard_error, 1e-9)


def test_the_result_prints_itself():
    text = repr(estimate(from_sub_batches, uneven(16, 6), seed=1))
    assert text.startswith("coherence of 16 per-example gradients, estimated from 8 sub-batches\n")
    assert len(re.findall(r"\d ± \d", text)) == 3
    assert "of at most 16" in text
    assert "estimated from 5 probes" in repr(estimate(from_probes, uneven(16, 6), probes=5))


@pytest.mark.parametrize("how", BOTH)
def test_what_has_no_per_example_gradients_is_refused(how):
    losses, model = network()
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got dict"):
        how(losses, {})
    with pytest.raises(ValueError, match="no parameters"):
        how(losses, nn.Tanh())
    with pytest.raises(ValueError, match="all 1 parameters of the model are frozen"):
        how(losses, nn.Linear(2, 1, bias=False).requires_grad_(False))
    with pytest.raises(ValueError, match="must be a vector"):
        how(losses.mean(), model)
    with pytest.raises(ValueError, match="depend on none of the given parameters"):
        how(losses, nn.Linear(2, 1))
    norm = nn.BatchNorm1d(6)
    with pytest.raises(ValueError, match="batch-norm"):
        how(norm(torch.randn(8, 6)).sum(1), norm)
    losses.mean().backward()
    with pytest.raises(ValueError, match="freed"):
        how(losses, model)


@pytest.mark.parametrize("how", BOTH)
def test_a_gradient_that_is_not_finite_is_refused(how):
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    x = torch.ones(8, 1)
    x[5] = 0
    with pytest.raises(ValueError, match="NaN or infinity"):
        how(model(x).squeeze(1).sqrt(), model)  # a finite loss with an infinite slope


@pytest.mark.parametrize("parts", [3, 0, -8, 4.0, True])
def test_parts_must_be_a_whole_number_of_at_least_four(parts):
    losses, model = network()
    with pytest.raises(ValueError, match="parts must be a whole number >= 4"):
        from_sub_batches(losses, model, parts=parts)


def test_parts_must_divide_the_examples_and_the_error_says_what_does():
    losses, model = network()
    with pytest.raises(ValueError, match=r"parts=7 does not divide the 24 .* take parts=6"):
        from_sub_batches(losses, model, parts=7)
    with pytest.raises(ValueError, match=r"parts=8 .* the 23 .* parts=23, .* leave 7 of"):
        from_sub_batches(losses[1:], model)
    with pytest.raises(ValueError, match=r"parts=8 .* 3 examples .*measure\(\) is exact"):
        from_sub_batches(losses[:3], model)


@pytest.mark.parametrize("probes", [1, 0, 2.0, True])
def test_probes_must_be_a_whole_number_of_at_least_two(probes):
    losses, model = network()
    with pytest.raises(ValueError, match="probes must be a whole number >= 2"):
        from_probes(losses, model, probes=probes)
