"""Networks as weights, hyper-parameters, sparse local radius, and what stays inactive.

The twins follow the definitions of Muthukumar and Sulam (2023) one input and one unit at a time.
Misprints are tested as such: ``test_misprint_...``.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gencoh_lib import models, sparsity
from gencoh_lib._sparse_norm_bounds import WeightNorms
from gencoh_lib.paths import UnsupportedLayerError

F64 = torch.float64
HADAMARD = torch.eye(4, dtype=F64) - 0.5  # orthogonal
CLASSES = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]], dtype=F64)
ONE = [HADAMARD, CLASSES]
TWO = [HADAMARD, HADAMARD, CLASSES]
EYE = torch.eye(4, dtype=F64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# Oracles


def test_a_closed_form_network_with_one_hidden_layer():
    hyper = sparsity.Hyperparameters.of(ONE, [3], 0.06, input_norm=1.0)
    assert hyper.row_norms == pytest.approx((1, 1), rel=1e-12)
    assert hyper.babel == pytest.approx((0,), abs=1e-12)
    assert hyper.output_scales == pytest.approx((1, 1, 1), rel=1e-12)
    assert hyper.growth == pytest.approx((0.06, 0.1236), rel=1e-12)
    assert sparsity.radii(ONE, EYE, hyper).flatten().tolist() == pytest.approx([0.5] * 4, rel=1e-12)
    assert bool(sparsity.size_statement(ONE, EYE, hyper).hypotheses.all())
    dense = sparsity.Hyperparameters.of(ONE, [0], 0.06, input_norm=1.0)
    assert dense.row_norms == pytest.approx((1, math.sqrt(2)), rel=1e-12)
    assert dense.output_scales[-1] == pytest.approx(math.sqrt(2), rel=1e-12)
    assert bool(sparsity.radii(ONE, EYE, dense).isinf().all())


def test_a_closed_form_network_with_two_hidden_layers():
    hyper = sparsity.Hyperparameters.of(TWO, [3, 3], 0.03, input_norm=1.0)
    assert hyper.row_norms == pytest.approx((1, 0.5, 1), rel=1e-12)
    assert hyper.output_scales == pytest.approx((1, 1, 0.5, 0.5), rel=1e-12)
    assert hyper.growth == pytest.approx((0.03, 0.0609, 0.092727), rel=1e-12)
    radii = sparsity.radii(TWO, EYE, hyper)
    assert radii.shape == (4, 2)
    assert radii.flatten().tolist() == pytest.approx([0.5] * 8, rel=1e-12)
    dense = sparsity.Hyperparameters.of(TWO, [0, 0], 0.03, input_norm=1.0)
    assert dense.output_scales[-1] == pytest.approx(math.sqrt(2), rel=1e-12)


def test_prototypes_have_one_unit_on_and_the_others_as_deep_as_computed():
    weights = [
        torch.eye(20, dtype=F64) - 0.5,
        torch.stack([torch.arange(20) % 2 == c for c in (0, 1)]).double(),
    ]
    x = torch.eye(20, dtype=F64)
    sparse, dense = (
        sparsity.Hyperparameters.of(weights, [s], 0.01, input_norm=1.0) for s in (19, 0)
    )
    assert sparse.output_scales[-1] == pytest.approx(math.sqrt(5), rel=1e-12)
    assert dense.output_scales[-1] == pytest.approx(28.460499, abs=5e-7)
    assert sparse.babel == (0,)
    assert sparsity.radii(weights, x, sparse)[:, 0].tolist() == pytest.approx(
        [0.5 / math.sqrt(5)] * 20, rel=1e-12
    )
    (off,) = sparsity.inactive_sets(weights, x, sparse)
    assert torch.equal(off, ~torch.eye(20, dtype=torch.bool))
    minimum = sparsity.Hyperparameters.of(weights, [0], 0.01, input_norm=1.0, norm="minimum")
    assert minimum.output_scales[-1] == pytest.approx(28.460499, abs=5e-7)  # Babel is tight here


# Twins of the definitions


def radii_by_definition(weights, x, hyper):
    """Definition 8, one input at a time."""
    table = []
    for example in x.numpy():
        h, zeta, found = example, hyper.input_norm, []
        for k, w in enumerate(weights[:-1]):
            xi, level = hyper.row_norms[k], hyper.levels[k]
            u = -(w.numpy() @ h) / (xi * zeta)
            found.append(max(0.0, sorted(u, reverse=True)[level - 1]) if level else math.inf)
            h, zeta = np.maximum(w.numpy() @ h, 0), xi * math.sqrt(1 + hyper.babel[k]) * zeta
        table.append(found)
    return np.array(table)


def network(rng, most=5, hidden=None):
    """Random weights with one to three hidden layers."""
    hidden = int(rng.integers(1, 4)) if hidden is None else hidden
    widths = rng.integers(2, most + 1, hidden + 2)
    return [torch.from_numpy(rng.normal(size=(b, a))) for a, b in itertools.pairwise(widths)]


def unit_inputs(rng, count, size):
    """Inputs of norm at most 1, most of them on the sphere."""
    x = rng.normal(size=(count, size))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[1::3] *= rng.random((len(x[1::3]), 1))
    return torch.from_numpy(x)


def greedy_levels(weights, x, perturbations, norm):
    """Largest levels at which the radii at one input are at least the growth."""
    norms = [WeightNorms(w) for w in weights]
    levels, growth, h, zeta = [], 0.0, x, 1.0
    for k, w in enumerate(weights[:-1]):
        growth = (1 + growth) * (1 + perturbations[k]) - 1
        into = levels[-1] if levels else 0
        xi, pre = float(norms[k].row_norms[into]), w @ h
        levels.append(min(len(w) - 1, int((-pre / (xi * zeta) >= growth).sum())))
        bounds = norms[k].at(levels[-1], into)
        zeta *= bounds.babel if norm == "babel" else max(bounds.value, xi)
        h = pre.relu()
    return levels


@cache
def cases(count=2000, seed=0):
    """Networks with levels that suit their first input, and a perturbation on the boundary.

    The change of each layer is random, or a multiple of the weight, or pushes along the input,
    and is as large as Definition 6 allows, with exact norms.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        weights = network(rng)
        x = unit_inputs(rng, 6, weights[0].shape[1])
        perturbations = (rng.choice([0.003, 0.03, 0.1]) * rng.random(len(weights))).tolist()
        norm = ("babel", "minimum")[number % 2]
        levels = greedy_levels(weights, x[0], perturbations, norm)
        hyper = sparsity.Hyperparameters.of(
            weights, levels, perturbations, input_norm=1.0, norm=norm
        )
        values = sparsity.activations(weights, x[:1])
        perturbed = []
        for k, w in enumerate(weights):
            kind = rng.integers(3)
            change = torch.from_numpy(rng.normal(size=w.shape))
            if kind == 1:
                change = w * rng.choice([-1, 1])
            elif kind == 2:
                signs = torch.from_numpy(rng.choice([-1.0, 1], len(w)))
                change = signs[:, None] * values[k] + 1e-6 * change
            perturbed.append(w + to_the_boundary(change, k, hyper))
        found.append((weights, perturbed, x, hyper))
    return found


def to_the_boundary(change, k, hyper):
    """The change, scaled to the largest that Definition 6 allows."""
    into, allowed = hyper.column_level(k), hyper.perturbations[k]
    scale = hyper.row_norms[k] / float(sparsity.reduced_row_norms(change)[into])
    if k < len(hyper.levels):
        norm = sparsity.sparse_norm(change, hyper.levels[k], into)
        scale = min(scale, hyper.norms[k] / norm)
    return change * (allowed * scale)


def test_radii_agree_with_their_definition_and_lie_between_zero_and_one():
    at_the_end = 0
    for weights, perturbed, x, hyper in cases()[:400]:
        for net in (weights, perturbed):
            found = sparsity.radii(net, x, hyper).numpy()
            expected = radii_by_definition(net, x, hyper)
            assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)
        radii = sparsity.radii(weights, x, hyper)
        # up to 1 where the layers before have their units off, so where their radii are positive
        before = torch.cat([torch.ones(len(x), 1, dtype=torch.bool), radii[:, :-1] > 0], dim=1)
        before = before.cummin(dim=1).values
        finite = radii[before & radii.isfinite()]
        assert bool(((finite >= 0) & (finite <= 1 + 1e-12)).all())
        at_the_end += int((finite > 0).sum())
    assert at_the_end > 700


def test_radii_do_not_grow_with_the_level():
    rng = np.random.default_rng(1)
    for _ in range(50):
        weights = network(rng, hidden=2)
        x = unit_inputs(rng, 5, weights[0].shape[1])
        before = None
        for s in range(len(weights[1])):
            hyper = sparsity.Hyperparameters((0, s), (1, 1, 1), (0, 0), (0, 0, 0), 1.0)
            radii = sparsity.radii(weights, x, hyper)[:, 1]
            assert before is None or bool((radii <= before).all())
            before = radii


def test_inactive_sets_hold_the_deepest_units_and_are_off_where_the_radius_is_positive():
    for weights, _, x, hyper in cases()[:200]:
        radii = sparsity.radii(weights, x, hyper)
        values = sparsity.activations(weights, x)
        for k, chosen in enumerate(sparsity.inactive_sets(weights, x, hyper)):
            pre = values[k] @ weights[k].T
            assert chosen.sum(1).tolist() == [hyper.levels[k]] * len(x)
            deepest = torch.where(chosen, pre, -math.inf).amax(1)
            assert bool((deepest <= torch.where(chosen, math.inf, pre).amin(1)).all())
            positive = radii[:, k] > 0
            assert bool((values[k + 1][positive] * chosen[positive] == 0).all())


def test_the_tightest_hyper_parameters_are_those_of_the_weights():
    for weights, _, _, hyper in cases()[:100]:
        before = (0, *hyper.levels)
        for k, w in enumerate(weights):
            assert hyper.column_level(k) == before[k]
            assert hyper.row_norms[k] == float(sparsity.reduced_row_norms(w)[before[k]])
            if k < len(hyper.levels):
                bounds = sparsity.sparse_norm_bounds(w, hyper.levels[k], before[k])
                exact = sparsity.sparse_norm(w, hyper.levels[k], before[k])
                assert hyper.norms[k] >= exact * (1 - 1e-12)
                assert hyper.babel[k] in (bounds.mu, bounds.effective_mu)
        zeta = [1.0]
        for k in range(len(hyper.levels)):
            zeta.append(hyper.row_norms[k] * math.sqrt(1 + hyper.babel[k]) * zeta[-1])
        zeta.append(hyper.row_norms[-1] * zeta[-1])
        assert hyper.output_scales == pytest.approx(zeta, rel=1e-12)
        gamma = [math.prod(1 + e for e in hyper.perturbations[: k + 1]) - 1
                 for k in range(len(weights))]  # fmt: skip
        assert hyper.growth == pytest.approx(gamma, rel=1e-9)
        assert sparsity.in_class(weights, hyper)


# Propositions 9 and 10, and the radius of a perturbed network


def prop_10_by_definition(weights, perturbed, example, hyper):
    """(supposed, concluded) at one input; None where the deepest units are not unique.

    The norms are known to be in order.
    """
    radii = radii_by_definition(weights, example[None], hyper)[0]
    gamma, zeta = hyper.growth, hyper.output_scales
    supposed = all(r >= g for r, g in zip(radii, gamma, strict=False)) and all(radii > 0)
    h, hh, concluded = example.numpy(), example.numpy(), True
    for k, (w, w_hat) in enumerate(zip(weights, perturbed, strict=True)):
        pre, pre_hat = w.numpy() @ h, w_hat.numpy() @ hh
        if k == len(hyper.levels):
            shift = np.abs(pre_hat - pre).max()
            return supposed, concluded and shift <= zeta[-1] * (gamma[-1] + 1e-11)
        level, ranked = hyper.levels[k], np.sort(pre)
        if level and ranked[level - 1] == ranked[level]:
            return supposed, None
        chosen = np.argsort(pre)[:level]
        concluded &= bool((pre[chosen] <= 0).all() and (pre_hat[chosen] <= 1e-12).all())
        h, hh = np.maximum(pre, 0), np.maximum(pre_hat, 0)
        concluded &= np.linalg.norm(hh - h) <= zeta[k + 1] * (gamma[k] + 1e-11)
    raise AssertionError("a network has a last layer")


def test_propositions_9_and_10_hold_for_networks_on_the_boundary_of_the_neighbourhood():
    supposed = np.zeros(3, dtype=int)
    sparse = 0
    for weights, perturbed, x, hyper in cases():
        size = sparsity.size_statement(weights, x, hyper)
        near = sparsity.sensitivity_statement(weights, perturbed, x, hyper, exact=True)
        radius = sparsity.radius_statement(weights, perturbed, x, hyper, exact=True)
        for number, statement in enumerate((size, near, radius)):
            assert bool(statement.holds.all()), statement
            supposed[number] += int(statement.hypotheses.sum())
        assert bool(near.hypotheses[0])  # the levels were chosen for the first input
        sparse += int(near.hypotheses.sum()) if min(hyper.levels) else 0
    assert (supposed > [8000, 7000, 18_000]).all(), supposed
    assert sparse > 3500


def test_the_predicate_of_proposition_10_agrees_with_a_twin():
    both, compared = [], 0
    for weights, perturbed, x, hyper in cases()[:150]:
        found = sparsity.sensitivity_statement(weights, perturbed, x, hyper, exact=True)
        twin = [prop_10_by_definition(weights, perturbed, example, hyper) for example in x]
        assert found.hypotheses.tolist() == [one for one, _ in twin]
        for conclusion, (_, expected) in zip(found.conclusions.tolist(), twin, strict=True):
            assert expected is None or conclusion == expected
            compared += expected is not None
        both += found.conclusions[~found.hypotheses].tolist()
    assert compared > 600
    assert not all(both)  # without the hypotheses the conclusions are false somewhere


def test_radii_of_a_perturbed_network_do_not_move_further_than_the_growth():
    # the statement behind Theorem 13, with the difference computed here
    moved = []
    for weights, perturbed, x, hyper in cases():
        if min(hyper.levels) == 0:
            continue
        before, after = (sparsity.radii(net, x, hyper) for net in (weights, perturbed))
        gamma = torch.tensor(hyper.growth[:-1], dtype=F64)
        deep = (before >= gamma).cummin(dim=1).values
        supposed = torch.cat([torch.ones(len(x), 1, dtype=torch.bool), deep[:, :-1]], dim=1)
        ratio = ((after - before).abs() / gamma)[supposed]
        assert bool((ratio <= 1 + 1e-9).all())
        moved.append(float(ratio.max()))
    assert max(moved) > 0.9  # and the bound is nearly reached


def test_proposition_10_is_sharp():
    # Identity weights scaled by 1 + eps: outputs move by exactly zeta times gamma
    weights = [torch.eye(3, dtype=F64)] * 3
    hyper = sparsity.Hyperparameters.of(weights, [0, 0], [0.1, 0.2, 0.3], input_norm=1.0)
    perturbed = [(1 + e) * w for e, w in zip(hyper.perturbations, weights, strict=True)]
    x = torch.eye(3, dtype=F64)[:1]
    statement = sparsity.sensitivity_statement(weights, perturbed, x, hyper)
    assert bool(statement.hypotheses.all() & statement.conclusions.all())
    moved = sparsity.activations(perturbed, x)[-1] - sparsity.activations(weights, x)[-1]
    assert float(moved.max()) == pytest.approx(hyper.growth[-1], rel=1e-12)
    # A unit just below the radius that is asked for is switched on
    for depth, stays in ((0.11, True), (0.09, False)):
        weights = [torch.tensor([[1.0], [-depth]], dtype=F64), torch.ones(1, 2, dtype=F64)]
        hyper = sparsity.Hyperparameters.of(weights, [1], 0.1, input_norm=1.0)
        perturbed = [weights[0] + 0.1 * torch.tensor([[0.0], [1.0]], dtype=F64), weights[1]]
        one = torch.ones(1, 1, dtype=F64)
        assert sparsity.in_neighbourhood(weights, perturbed, hyper)
        assert (float(sparsity.activations(perturbed, one)[1][0, 1]) == 0) == stays
        statement = sparsity.sensitivity_statement(weights, perturbed, one, hyper)
        assert (bool(statement.hypotheses), bool(statement.conclusions)) == (stays, stays)


def dropped(change):
    """Statements 9 and 10 at all cases, something having been changed first."""
    found = {9: [], 10: []}
    for weights, perturbed, x, hyper in cases()[:200]:
        net, other, inputs, wanted = change(weights, perturbed, x, hyper)
        found[9].append(sparsity.size_statement(net, inputs, wanted))
        found[10].append(sparsity.sensitivity_statement(net, other, inputs, wanted, exact=True))
    return {
        number: (
            torch.cat([one.hypotheses for one in statements]),
            torch.cat([one.conclusions for one in statements]),
        )
        for number, statements in found.items()
    }


def one_level_more(weights, perturbed, x, hyper):
    levels = [min(len(w) - 1, s + 1) for w, s in zip(weights, hyper.levels, strict=False)]
    wanted = sparsity.Hyperparameters.of(weights, levels, hyper.perturbations, input_norm=1.0)
    return weights, perturbed, x, wanted


@pytest.mark.parametrize(
    "change, numbers",
    [
        (lambda w, p, x, h: (w, p, 3 * x, h), (9, 10)),  # inputs beyond their bound
        (  # the class
            lambda w, p, x, h: (
                [3 * a for a in w],
                [3 * a + (b - a) for a, b in zip(w, p, strict=True)],
                x,
                h,
            ),
            (9, 10),
        ),
        (  # the neighbourhood
            lambda w, p, x, h: (w, [a + 5 * (b - a) for a, b in zip(w, p, strict=True)], x, h),
            (10,),
        ),
        (one_level_more, (9, 10)),  # the radius
    ],
)
def test_each_hypothesis_is_needed_and_the_predicates_see_that_it_is_missing(change, numbers):
    found = dropped(change)
    for number in numbers:
        supposed, concluded = found[number]
        assert bool((~supposed & ~concluded).any())
        assert not bool((supposed & ~concluded).any())


def test_a_statement_that_fails_says_so():
    true, false = torch.tensor([True, True]), torch.tensor([True, False])
    statement = sparsity.Statement("a claim", true, false)
    assert statement.holds.tolist() == [True, False]
    assert repr(statement) == "a claim: supposed at 2 of 2, concluded at 1 of these: FAILS"
    assert "holds" in repr(sparsity.Statement("a claim", false, false))


def test_the_neighbourhood_by_bounds_is_within_the_exact_one():
    found = []
    for weights, perturbed, _, hyper in cases()[:200]:
        certain = sparsity.in_neighbourhood(weights, perturbed, hyper)
        assert sparsity.in_neighbourhood(weights, perturbed, hyper, exact=True)
        found.append(certain)
        outside = [w + 1.001 * (v - w) for w, v in zip(weights, perturbed, strict=True)]
        assert not sparsity.in_neighbourhood(weights, outside, hyper, exact=True)
        assert not sparsity.in_neighbourhood(weights, outside, hyper)
    assert any(found)
    assert not all(found)


def test_a_perturbation_of_zero_asks_for_a_radius_above_zero():
    weights = [torch.tensor([[1.0], [0.0], [-1.0]], dtype=F64), torch.ones(1, 3, dtype=F64)]
    one = torch.ones(1, 1, dtype=F64)
    for level, expected in ((1, True), (2, False)):
        hyper = sparsity.Hyperparameters.of(weights, [level], 0.0, input_norm=1.0)
        assert hyper.growth == (0, 0)
        statement = sparsity.sensitivity_statement(weights, weights, one, hyper)
        assert bool(statement.hypotheses) == expected
        assert bool(statement.conclusions)


# Lemma 4


def layer_cases(count=2000, seed=2):
    rng = np.random.default_rng(seed)
    for number in range(count):
        d1, d0 = rng.integers(2, 6, 2)
        s1, s0 = int(rng.integers(d1)), int(rng.integers(d0))
        w, m = rng.normal(size=(d1, d0)), 4
        # s_0 zeros of the input and s_0 of its change, not always in the same places
        zeros, others = rng.permuted(np.tile(np.arange(d0) < s0, (2, m, 1)), axis=2)
        x = rng.normal(size=(m, d0)) * ~zeros
        move = rng.normal(size=(m, d0)) * ~(zeros if number % 2 else others)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        eps = rng.choice([0.01, 0.1, 0.5], 2)
        move *= eps[0] / np.linalg.norm(move, axis=1, keepdims=True)
        weight, change = torch.from_numpy(w), torch.from_numpy(rng.normal(size=w.shape))
        xi = float(sparsity.reduced_row_norms(weight)[s0])
        omega = sparsity.sparse_norm_bounds(weight, s1, s0).babel
        change *= eps[1] * min(
            xi / float(sparsity.reduced_row_norms(change)[s0]),
            omega / sparsity.sparse_norm(change, s1, s0),
        )
        options = {
            "row_level": s1, "column_level": s0, "input_norm": 1.0,
            "input_change": float(eps[0]), "weight_change": float(eps[1]), "exact": True,
        }  # fmt: skip
        x, move = torch.from_numpy(x), torch.from_numpy(move)
        if number % 3 == 0:  # inputs that make many units inactive
            x, move = -x.abs() * weight.mean(0).sign(), -move
        yield weight, weight + change, x, x + move, options


def test_lemma_4_holds_for_layers_on_the_boundary_of_what_it_allows():
    supposed, sparse = np.zeros(3, dtype=int), 0
    for *arguments, options in layer_cases():
        found = sparsity.layer_stability(*arguments, **options)
        assert bool(found.holds.all()), (found, options)
        parts = (found.size, found.index_sets, found.radius)
        supposed += [int(part.hypotheses.sum()) for part in parts]
        if options["row_level"]:
            sparse += int(found.index_sets.hypotheses.sum())
    assert (supposed > [6000, 4500, 7900]).all(), supposed
    assert sparse > 2000, sparse


@pytest.mark.parametrize("missing", ["weight_change", "input_change", "input_norm"])
def test_lemma_4_needs_its_hypotheses(missing):
    false = 0
    for *arguments, options in layer_cases(count=200):
        smaller = {**options, missing: options[missing] / 4}
        found = sparsity.layer_stability(*arguments, **smaller)
        assert bool(found.holds.all())
        part = found.size if missing == "input_norm" else found.index_sets
        false += int((~part.hypotheses & ~part.conclusions).sum())
    assert false > 0


def test_lemma_4_needs_zeros_in_the_input():
    w, x = torch.tensor([[1.0, 1.0]], dtype=F64), torch.tensor([[0.6, 0.8], [1, 0]], dtype=F64)
    found = sparsity.layer_stability(
        w, w, x, x, row_level=0, column_level=1, input_norm=1.0,
        weight_change=0.0, input_change=0.0,
    )  # fmt: skip
    assert found.size.hypotheses.tolist() == found.size.conclusions.tolist() == [False, True]


def test_lemma_4_needs_zeros_in_the_change_of_the_input():
    # without them a reduced row norm does not bound how far a pre-activation moves
    w = torch.tensor([[-1.0, -1.0], [0.0, 0.0]], dtype=F64)
    x, x_hat = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[0.7, -0.3]], dtype=F64)
    found = sparsity.layer_stability(
        w, w, x, x_hat, row_level=1, column_level=1, input_norm=1.0,
        weight_change=0.0, input_change=0.3 * math.sqrt(2),
    )  # fmt: skip
    assert (bool(found.size.hypotheses), bool(found.radius.hypotheses)) == (True, False)
    assert not bool(found.radius.conclusions)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_norm": 0.0}, "input_norm must be positive and finite"),
        ({"row_norm": math.nan}, "row_norm must be positive and finite"),
        ({"babel": -0.5}, "babel must be finite and not negative"),
        ({"weight_change": math.inf}, "weight_change must be finite"),
        ({"input_change": -1.0}, "input_change must be finite"),
        ({"row_level": 4}, "row_level must be from 0 to 3"),
    ],
)
def test_the_sizes_of_lemma_4_are_checked(change, message):
    sizes = {"row_level": 1, "input_norm": 1.0, "weight_change": 0.1, "input_change": 0.1}
    with pytest.raises(ValueError, match=message):
        sparsity.layer_stability(HADAMARD, HADAMARD, EYE, EYE, **(sizes | change))
    zeros = 0 * HADAMARD
    with pytest.raises(ValueError, match="row_norm must be positive"):
        sparsity.layer_stability(zeros, zeros, EYE, EYE, **sizes)


def test_misprint_table_2_takes_another_order_statistic():
    """Page 7 prints the radius as entry d_k - s_k of the sorted list; Definition 8 has entry s_k.

    With the printed one a positive radius does not say that s_k units are off.
    """
    weights = [torch.tensor([[1.0], [1.0], [1.0], [-1.0]], dtype=F64), torch.ones(1, 4, dtype=F64)]
    one, level = torch.ones(1, 1, dtype=F64), 3
    hyper = sparsity.Hyperparameters.of(weights, [level], 0.1, input_norm=1.0)
    ranked = sorted((-(weights[0] @ one[0])).tolist(), reverse=True)
    printed = max(0.0, ranked[4 - level - 1])
    off = int((sparsity.activations(weights, one)[1] == 0).sum())
    assert printed == 1
    assert off == 1 < level
    assert float(sparsity.radii(weights, one, hyper)) == 0


# Invariances


def quantities(weights, x, hyper):
    return [
        torch.tensor(hyper.babel, dtype=F64),
        sparsity.radii(weights, x, hyper),
        sparsity.activations(weights, x)[-1] / hyper.output_scales[-1],
    ]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.1, 10), st.booleans())
def test_permutations_rotations_and_scales_of_layers_and_inputs_change_nothing(seed, c, minimum):
    rng = np.random.default_rng(seed)
    weights = network(rng, hidden=2)
    x = unit_inputs(rng, 5, weights[0].shape[1])
    levels = [int(rng.integers(len(w))) for w in weights[:-1]]

    def at(net, inputs, input_norm=1.0):
        hyper = sparsity.Hyperparameters.of(
            net, levels, 0.1, input_norm=input_norm, norm="minimum" if minimum else "babel"
        )
        return quantities(net, inputs, hyper)

    start = at(weights, x)
    first, second, last = weights
    p, q = (torch.from_numpy(rng.permutation(len(w))) for w in (first, second))
    rotation = torch.linalg.qr(torch.from_numpy(rng.normal(size=(first.shape[1],) * 2))).Q
    same = [
        at([first[p], second[q][:, p], last[:, q]], x),
        at([first @ rotation, second, last], x @ rotation),
        at([c * first, second / c, 3 * last], x),
    ]
    for other in same:
        for a, b in zip(start, other, strict=True):
            assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)
    scaled = at(weights, c * x, input_norm=c)
    for a, b in zip(start, scaled, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_a_scale_for_each_unit_keeps_the_function_and_changes_the_radii():
    rng = np.random.default_rng(3)
    first, last = network(rng, hidden=1)
    x = unit_inputs(rng, 5, first.shape[1])
    scales = torch.from_numpy(rng.uniform(0.5, 2, len(first)))
    other = [scales[:, None] * first, last / scales]
    found = [sparsity.activations(net, x)[-1] for net in ([first, last], other)]
    assert torch.allclose(*found, rtol=1e-9)
    radii = [
        sparsity.radii(net, x, sparsity.Hyperparameters.of(net, [1], 0.1, input_norm=1.0))
        for net in ([first, last], other)
    ]
    assert not torch.allclose(*radii, rtol=1e-2)


# Reading a module


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(5, 2, bias=False), nn.Linear(6, 5, bias=False)

    def forward(self, x):
        return self.last(F.relu(self.first(torch.flatten(x, 1))))


def same_outputs(model, x):
    weights = sparsity.weight_matrices(model)
    found = sparsity.activations(weights, x)[-1]
    return torch.allclose(found, model.double()(x), rtol=1e-9)


def test_weights_of_modules_of_all_covered_forms_reproduce_their_outputs():
    def plain(a, b):
        return nn.Linear(a, b, bias=False)

    image = draw(3, 2, 3)
    assert same_outputs(Functional(), image)
    nested = nn.Sequential(
        nn.Flatten(), nn.Sequential(plain(6, 4), nn.Dropout(0.5).eval(), nn.ReLU(inplace=True)),
        nn.Identity(), plain(4, 3),
    )  # fmt: skip
    assert same_outputs(nested, image)
    assert same_outputs(models.mlp([6, 7, 5, 4], bias=False, seed=0), image.flatten(1))
    assert same_outputs(plain(6, 2), image.flatten(1))


def test_the_model_is_left_as_it_was_and_the_weights_are_copies():
    model = models.mlp([4, 5, 3], bias=False, seed=0)
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    weights = sparsity.weight_matrices(model)
    assert all(w.dtype == F64 and not w.requires_grad for w in weights)
    weights[0].zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x):
        h = F.relu(self.one(x))
        return self.two(h) + h


class Branching(Skip):
    def forward(self, x):
        return self.two(x) if x.sum() > 0 else self.one(x)


class TwoInputs(Skip):
    def forward(self, x, y):
        return self.two(F.relu(self.one(x)))


class TwoOutputs(Skip):
    def forward(self, x):
        return self.two(F.relu(self.one(x))), x


class Free(Skip):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.two(F.relu(self.one(x) * self.scale))


def linear(bias=False):
    return nn.Linear(4, 4, bias=bias)


def hooked():
    model = nn.Sequential(linear(), nn.ReLU(), linear())
    model[1].register_forward_hook(lambda module, inputs, output: output + 1)
    return model


def parametrized():
    return nn.utils.parametrizations.spectral_norm(linear())


def nan():
    model = nn.Sequential(linear(), nn.ReLU(), linear())
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    return model


@pytest.mark.parametrize(
    "model, message",
    [
        (nn.Sequential(linear(), nn.ReLU(), linear(bias=True)), r"layer '2' \(Linear\) has a bias"),
        (nn.Sequential(linear(), nn.Tanh(), linear()), r"layer '1' \(Tanh\) is not covered"),
        (nn.Sequential(linear(), nn.Dropout(), nn.ReLU(), linear()), r"layer '1'.*model.eval\(\)"),
        (nn.Sequential(linear(), linear()), r"layer '1' \(Linear\).*multiply the two"),
        (nn.Sequential(nn.ReLU(), linear()), r"layer '0' \(ReLU\) comes before every Linear"),
        (nn.Sequential(linear(), nn.ReLU()), "must be that of the last Linear layer"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()), r"layer '0' \(Conv2d\) is not covered"),
        (Skip(), "operation 'add'.*skip connections"),
        (Branching(), "torch.fx cannot trace Branching"),
        (TwoInputs(), "second input 'y'"),
        (TwoOutputs(), "must be that of the last Linear layer"),
        (Free(), "parameter or buffer 'scale' is used outside a layer"),
        (nn.Identity(), "must be that of the last Linear layer"),
        (nn.Sequential(parametrized()), r"layer '0' \(ParametrizedLinear\) is not covered"),
        (parametrized(), r"layer .parametrizations.weight. \(ParametrizationList\)"),
        (hooked(), "differs from that of its weights.*hook"),
    ],
)
def test_other_networks_are_refused_by_the_name_of_the_layer(model, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        sparsity.weight_matrices(model)


def test_what_is_no_module_or_holds_nan_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got list"):
        sparsity.weight_matrices([torch.eye(2)])
    with pytest.raises(ValueError, match=r"weight of layer '2' \(Linear\) holds NaN"):
        sparsity.weight_matrices(nan())


# Bad input


GOOD = {
    "levels": (3,), "row_norms": (1.0, 1.0), "babel": (0.0,),
    "perturbations": (0.1, 0.1), "input_norm": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"levels": (1.5,)}, TypeError, "levels must be a list of whole numbers"),
        ({"levels": (-1,)}, ValueError, "levels must not be negative"),
        ({"levels": (1, 1)}, ValueError, "row_norms must have 3 numbers.*2 hidden layers; got 2"),
        ({"babel": ()}, ValueError, "babel must have 1 numbers"),
        ({"babel": (-0.1,)}, ValueError, "babel must be finite and not negative"),
        ({"perturbations": (0.1, math.nan)}, ValueError, "perturbations must be finite"),
        ({"row_norms": (1.0, 0.0)}, ValueError, "row_norms must be positive.*by hand"),
        ({"input_norm": 0.0}, ValueError, "input_norm must be positive"),
        ({"input_norm": math.inf}, ValueError, "input_norm must be positive"),
    ],
)
def test_hyper_parameters_are_checked(change, error, message):
    with pytest.raises(error, match=message):
        sparsity.Hyperparameters(**(GOOD | change))


def test_hyper_parameters_of_weights_are_checked():
    of = sparsity.Hyperparameters.of
    with pytest.raises(ValueError, match="norm must be 'babel' or 'minimum', got 'exact'"):
        of(ONE, [3], 0.1, input_norm=1.0, norm="exact")
    with pytest.raises(ValueError, match="2 weights have 1 hidden layers; got 2 levels"):
        of(ONE, [3, 1], 0.1, input_norm=1.0)
    with pytest.raises(ValueError, match=r"levels\[0\] must be from 0 to 3"):
        of(ONE, [4], 0.1, input_norm=1.0)
    with pytest.raises(ValueError, match="weights is empty"):
        of([], [], 0.1, input_norm=1.0)
    with pytest.raises(ValueError, match=r"weights\[1\] reads 4 units, weights\[0\] has 2"):
        of([CLASSES, CLASSES], [1], 0.1, input_norm=1.0)
    with pytest.raises(ValueError, match=r"perturbations must have 2 numbers.*got 3"):
        of(ONE, [3], [0.1] * 3, input_norm=1.0)
    with pytest.raises(ValueError, match="weight of zeros"):
        of([0 * HADAMARD, CLASSES], [3], 0.1, input_norm=1.0)


def test_inputs_and_pairs_are_checked():
    hyper = sparsity.Hyperparameters.of(ONE, [3], 0.1, input_norm=1.0)
    for x, message in (
        (torch.ones(4, dtype=F64), r"must be a floating-point tensor \[m, d_0\]"),
        (torch.ones(2, 4, dtype=torch.int64), "int64"),
        (torch.ones(0, 4), "m >= 1"),
        ([1.0], "got list"),
        (torch.ones(2, 3), "3 numbers an example, the first weight reads 4"),
        (torch.full((1, 4), math.nan), "NaN or infinity"),
    ):
        for function in (sparsity.radii, sparsity.inactive_sets, sparsity.size_statement):
            with pytest.raises(ValueError, match=message):
                function(ONE, x, hyper)
    with pytest.raises(ValueError, match="perturbed weights have shapes"):
        sparsity.in_neighbourhood(ONE, [HADAMARD, CLASSES[:1]], hyper)
    with pytest.raises(ValueError, match="3 weights have 2 hidden layers; got 1 levels"):
        sparsity.radii(TWO, EYE, hyper)
    with pytest.raises(ValueError, match="each pair must agree"):
        sparsity.layer_stability(
            HADAMARD, CLASSES, EYE, EYE, row_level=1,
            input_norm=1.0, weight_change=0.1, input_change=0.1,
        )  # fmt: skip


def test_a_network_without_hidden_layers_has_no_radii_and_nothing_to_fear():
    weights = [CLASSES]
    hyper = sparsity.Hyperparameters.of(weights, [], 0.1, input_norm=1.0)
    assert sparsity.radii(weights, EYE, hyper).shape == (4, 0)
    assert sparsity.inactive_sets(weights, EYE, hyper) == ()
    statement = sparsity.sensitivity_statement(weights, [1.1 * CLASSES], EYE, hyper)
    assert bool((statement.hypotheses & statement.conclusions).all())


def test_hyper_parameters_print_and_can_be_replaced():
    hyper = sparsity.Hyperparameters(**GOOD)
    assert "inputs of norm at most 1" in repr(hyper)
    assert dataclasses.replace(hyper, babel=(1.0,)).norms == pytest.approx((math.sqrt(2),))
    assert sparsity.in_class(ONE, dataclasses.replace(hyper, babel=(1.0,)))
    assert not sparsity.in_class(ONE, dataclasses.replace(hyper, row_norms=(1.0, 0.9)))
    assert not sparsity.in_class(ONE, dataclasses.replace(hyper, levels=(0,), row_norms=(0.9, 2)))
