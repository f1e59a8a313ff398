"""Noise that weights may carry: the scale of sparse norms, and the standard deviations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gencoh_lib import sparsity

F64 = torch.float64
HADAMARD = torch.eye(4, dtype=F64) - 0.5
CLASSES = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]], dtype=F64)
ONE = [HADAMARD, CLASSES]
TWO = [HADAMARD, HADAMARD, CLASSES]


def alpha_by_definition(d2, d1, s2, s1, failure):
    """Lemma 20, with binomial coefficients as whole numbers."""
    supports = math.log(math.comb(d2, s2)) + math.log(math.comb(d1, s1))
    return (
        math.sqrt(d2 - s2) + math.sqrt(d1 - s1)
        + math.sqrt(2 * supports + 2 * math.log(1 / failure))
    )  # fmt: skip


def printed(*arguments):
    return sparsity.noise_scale(*arguments, corners=False)


# Oracles


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((4, 4, 0, 0, 0.005), 7.255247261),
        ((100, 784, 50, 0, 1 / 200), 47.077912444),
        ((10, 100, 9, 50, 0.005), 20.268177643),
        ((4, 5, 1, 2, 0.1), 6.9257),
    ],
)
def test_alpha_of_the_lemma(arguments, expected):
    digits = 4 if expected == 6.9257 else 9
    assert printed(*arguments) == pytest.approx(expected, abs=10**-digits)
    assert printed(*arguments) == pytest.approx(alpha_by_definition(*arguments), rel=1e-12)


@pytest.mark.parametrize(
    "weights, levels, eps, failure, paper_exact, expected",
    [
        (ONE, (3,), 0.06, 0.01, True, (0.00901389, 0.01027170)),
        (ONE, (0,), 0.06, 0.01, True, (0.00826988, 0.01313178)),
        (ONE, (3,), 0.06, 0.01, False, (0.00886832, 0.01009178)),
    ],
)
def test_standard_deviations_of_closed_form_networks(
    weights, levels, eps, failure, paper_exact, expected
):
    hyper = sparsity.Hyperparameters.of(weights, levels, eps, input_norm=1.0)
    found = sparsity.perturbation_std(
        weights, hyper, failure, paper_exact=paper_exact, corners=False
    )
    assert found == pytest.approx(expected, abs=5.1e-9)


def test_divergences_from_a_prior_at_zero_with_these_standard_deviations():
    # KL_k = ||W_k||_F^2 / (2 sigma_k^2), as the closed forms have it
    cases = [
        (ONE, (3,), 0.06, True, (24615.32926862, 18955.93470976)),
        (ONE, (0,), 0.06, True, (29243.67379144, 11597.98602373)),
        (ONE, (3,), 0.06, False, (25430.04475476, 19637.87961947)),
        (TWO, (3, 3), 0.03, True, (101720.17901904, 332642.00566286, 78551.51847787)),
        (TWO, (0, 0), 0.03, True, (120950.2988, 120950.2988, 48061.0691)),
    ]
    for weights, levels, eps, paper_exact, expected in cases:
        hyper = sparsity.Hyperparameters.of(weights, levels, eps, input_norm=1.0)
        stds = sparsity.perturbation_std(
            weights, hyper, 0.01, paper_exact=paper_exact, corners=False
        )
        found = [float(w.square().sum()) / (2 * s**2) for w, s in zip(weights, stds, strict=True)]
        assert found == pytest.approx(expected, rel=1e-9)


# When sparsity shrinks the scale

AT = 1 / (2 * math.sqrt(55_000))  # failure 1 / sqrt(m) over K + 1 = 2 layers, m = 55,000 images


def first_level(d2, d1, column_level=lambda s2: 0):
    """Smallest level at which alpha is below that of the dense matrix."""
    dense = printed(d2, d1, 0, 0, AT)
    return next(s for s in range(1, d2) if printed(d2, d1, s, column_level(s), AT) < dense)


@pytest.mark.parametrize(
    "level, ratio", [(10, 1.109), (25, 1.147), (50, 1.136), (75, 1.059), (90, 0.957), (99, 0.81)]
)
def test_alpha_grows_with_the_level_before_it_falls(level, ratio):
    found = printed(100, 784, level, 0, AT) / printed(100, 784, 0, 0, AT)
    assert found == pytest.approx(ratio, abs=6e-4)


def test_sparsity_beats_the_dense_scale_only_when_most_units_are_off():
    assert first_level(100, 784) == 85
    assert first_level(1000, 784) == 904
    # where as many columns are struck out as rows
    assert first_level(100, 100, lambda s: s) == 80
    assert first_level(1000, 1000, lambda s: s) == 843


def test_the_smallest_valid_scale_sits_at_a_corner_of_the_levels():
    rng, strict = np.random.default_rng(0), 0
    for _ in range(300):
        d2, d1 = rng.integers(1, 16, 2)
        s2, s1 = rng.integers(d2), rng.integers(d1)
        failure = float(10.0 ** rng.uniform(-6, -0.01))
        box = min(
            alpha_by_definition(int(d2), int(d1), a, b, failure)
            for a, b in itertools.product(range(s2 + 1), range(s1 + 1))
        )
        found = sparsity.noise_scale(d2, d1, s2, s1, failure)
        assert found == pytest.approx(box, rel=1e-12)
        assert found <= printed(d2, d1, s2, s1, failure) * (1 + 1e-12)
        strict += found < 0.999 * printed(d2, d1, s2, s1, failure)
    assert 50 < strict < 300


@given(
    st.integers(1, 2000), st.integers(1, 2000), st.floats(0, 1), st.floats(0, 1),
    st.floats(1e-12, 0.999),
)  # fmt: skip
def test_the_scale_is_symmetric_never_above_dense_and_falls_with_the_failure(
    d2, d1, out, into, failure
):
    s2, s1 = int(out * (d2 - 1)), int(into * (d1 - 1))
    found = sparsity.noise_scale(d2, d1, s2, s1, failure)
    assert found == pytest.approx(sparsity.noise_scale(d1, d2, s1, s2, failure), rel=1e-12)
    dense = printed(d2, d1, 0, 0, failure)
    assert found <= dense * (1 + 1e-12)
    assert sparsity.noise_scale(d2, d1, s2, s1, failure / 2) > found
    assert printed(d2, d1, s2, s1, failure) == pytest.approx(
        alpha_by_definition(d2, d1, s2, s1, failure), rel=1e-9
    )


# Monte Carlo


def sparse_norms(matrices, s2, s1):
    """[n] exact sparse norms of [n, d2, d1]."""
    _, d2, d1 = matrices.shape
    rows = torch.tensor(list(itertools.combinations(range(d2), d2 - s2)))
    columns = torch.tensor(list(itertools.combinations(range(d1), d1 - s1)))
    submatrices = matrices[:, rows][:, :, :, columns].transpose(2, 3)
    return torch.linalg.matrix_norm(submatrices, 2).amax((1, 2))


def test_gaussian_matrices_stay_below_the_scale():
    # Lemma 20 with exact norms: 4,000 draws, 10 % may exceed it, and none does
    draws = torch.randn(4000, 4, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    norms = sparse_norms(draws, 1, 2)
    assert float(norms.mean()) == pytest.approx(3.27, abs=0.03)
    for corners in (False, True):
        scale = sparsity.noise_scale(4, 5, 1, 2, 0.1, corners=corners)
        share = float((norms > scale).double().mean())
        assert share <= 0.1 + 4 * math.sqrt(0.1 * 0.9 / 4000)
        assert share == 0
    assert sparse_norms(draws[:50], 1, 2)[7] == pytest.approx(
        sparsity.sparse_norm(draws[7], 1, 2), rel=1e-12
    )


def test_the_scale_of_one_entry_is_not_far_from_its_quantile():
    # nothing to choose and nothing to rotate: here the lemma is loose by the two roots alone
    draws = torch.randn(20_000, generator=torch.Generator().manual_seed(1), dtype=F64).abs()
    for failure in (0.5, 0.1, 0.01):
        scale = sparsity.noise_scale(1, 1, 0, 0, failure)
        assert float((draws > scale).double().mean()) <= failure
        assert float((draws > scale - 2).double().mean()) > 0


def networks(weights, stds, count, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield [
            w + std * torch.randn(w.shape, generator=generator, dtype=F64)
            for w, std in zip(weights, stds, strict=True)
        ]


@pytest.mark.parametrize("weights, levels", [(ONE, (3,)), (ONE, (1,)), (TWO, (3, 2))])
@pytest.mark.parametrize("options", [{}, {"paper_exact": True, "corners": False}])
def test_noise_of_this_size_stays_in_the_neighbourhood(weights, levels, options):
    # Lemma 12, with exact norms
    hyper = sparsity.Hyperparameters.of(weights, levels, 0.1, input_norm=1.0)
    stds = sparsity.perturbation_std(weights, hyper, 0.2, **options)
    inside = [
        sparsity.in_neighbourhood(weights, other, hyper, exact=True)
        for other in networks(weights, stds, 250, seed=2)
    ]
    assert np.mean(inside) >= 0.8
    # ten times as much does not stay
    assert not any(
        sparsity.in_neighbourhood(weights, other, hyper, exact=True)
        for other in networks(weights, [10 * std for std in stds], 20, seed=3)
    )


# Standard deviations


def stds_by_definition(shapes, hyper, share):
    """Lemma 12 as printed but for its last line, at a given share of the failure."""
    levels, found = (0, *hyper.levels), []
    for k, (d_out, d_in) in enumerate(shapes):
        row = alpha_by_definition(d_out, d_in, d_out - 1, levels[k], share)
        std = hyper.row_norms[k] / row
        if k + 1 < len(shapes):
            omega = hyper.row_norms[k] * math.sqrt(1 + hyper.babel[k])
            std = min(
                std, omega / alpha_by_definition(d_out, d_in, levels[k + 1], levels[k], share)
            )
        found.append(hyper.perturbations[k] * std)
    return found


def random_cases():
    rng = np.random.default_rng(4)
    for _ in range(40):
        widths = [int(d) for d in rng.integers(3, 12, rng.integers(2, 5))]
        shapes = [(b, a) for a, b in itertools.pairwise(widths)]
        weights = [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]
        levels = [int(rng.integers(b)) for b, _ in shapes[:-1]]
        eps = rng.random(len(shapes)).tolist()
        yield shapes, weights, sparsity.Hyperparameters.of(weights, levels, eps, input_norm=1.0)


def test_standard_deviations_follow_the_lemma():
    for shapes, weights, hyper in random_cases():
        layers = len(shapes)
        strict = sparsity.perturbation_std(weights, hyper, 0.1, corners=False)
        exact = sparsity.perturbation_std(weights, hyper, 0.1, corners=False, paper_exact=True)
        share = 0.1 / (2 * layers - 1)
        assert strict == pytest.approx(stds_by_definition(shapes, hyper, share), rel=1e-9)
        assert exact == pytest.approx(stds_by_definition(shapes, hyper, 0.1 / layers), rel=1e-9)
        assert all(a <= b for a, b in zip(strict, exact, strict=True))
        corners = sparsity.perturbation_std(shapes, hyper, 0.1)  # shapes do as well
        assert all(a <= b * (1 + 1e-12) for a, b in zip(strict, corners, strict=True))


def test_the_standard_deviations_of_theorem_11_are_smaller():
    for shapes, weights, hyper in random_cases():
        layers, m = len(shapes), 10_000
        if layers == 1:
            continue  # the theorem is about hidden layers
        levels = (0, *hyper.levels)
        effective_width = max(
            ((d_out - levels[k + 1]) * math.log(d_out) + (d_in - levels[k]) * math.log(d_in)) / 2
            for k, (d_out, d_in) in enumerate(shapes[:-1])
        )
        root = math.sqrt(2 * effective_width + math.log(2 * layers * math.sqrt(m)))
        theorem_13 = sparsity.perturbation_std(
            weights, hyper, 1 / math.sqrt(m), paper_exact=True, corners=False
        )
        for k in range(layers - 1):
            theorem_11 = hyper.perturbations[k] * hyper.row_norms[k] / (4 * root)
            assert theorem_11 <= theorem_13[k] * (1 + 1e-12)


def test_standard_deviations_are_proportional_to_perturbations_and_weights():
    hyper = sparsity.Hyperparameters.of(TWO, [3, 1], 0.1, input_norm=1.0)
    start = sparsity.perturbation_std(TWO, hyper, 0.05)
    twice = sparsity.Hyperparameters.of(TWO, [3, 1], 0.2, input_norm=1.0)
    assert sparsity.perturbation_std(TWO, twice, 0.05) == pytest.approx([2 * s for s in start])
    scaled = [3 * w for w in TWO]
    larger = sparsity.Hyperparameters.of(scaled, [3, 1], 0.1, input_norm=7.0)
    assert sparsity.perturbation_std(scaled, larger, 0.05) == pytest.approx([3 * s for s in start])
    still = sparsity.Hyperparameters.of(TWO, [3, 1], 0.0, input_norm=1.0)
    assert sparsity.perturbation_std(TWO, still, 0.05) == (0, 0, 0)


# Misprints


def test_misprint_the_last_standard_deviation_has_no_norm_in_it():
    """Page 21 prints eps_{K+1} squared over alpha; one of the two is xi_{K+1}.

    With weights that are small beside eps, noise as printed leaves the neighbourhood every time.
    """
    weights = [HADAMARD, 0.01 * CLASSES]
    hyper = sparsity.Hyperparameters.of(weights, [3], 0.5, input_norm=1.0)
    corrected = sparsity.perturbation_std(weights, hyper, 0.2, paper_exact=True, corners=False)
    as_printed = 0.5 * 0.5 / alpha_by_definition(2, 4, 1, 3, 0.1)
    assert corrected[-1] == pytest.approx(as_printed * 0.01 / 0.5, rel=1e-9)
    inside = [
        np.mean([
            sparsity.in_neighbourhood(weights, other, hyper, exact=True)
            for other in networks(weights, [corrected[0], last], 50, seed=5)
        ])
        for last in (corrected[-1], as_printed)
    ]  # fmt: skip
    assert inside == [1, 0]


def test_misprint_lemma_12_shares_its_failure_among_fewer_events_than_there_are():
    """Page 21 shares delta among K + 1 events; each hidden layer has two, so they are 2 K + 1."""
    hyper = sparsity.Hyperparameters.of(TWO, [3, 2], 0.1, input_norm=1.0)
    strict = sparsity.perturbation_std(TWO, hyper, 0.2)
    as_printed = sparsity.perturbation_std(TWO, hyper, 0.2, paper_exact=True)
    conditions = sum(2 if k < 2 else 1 for k in range(3))
    assert conditions * (0.2 / 3) > 0.2  # what K + 1 shares promise together
    assert strict == pytest.approx(
        sparsity.perturbation_std(TWO, hyper, 0.2 * 3 / conditions, paper_exact=True), rel=1e-12
    )
    assert all(a < b for a, b in zip(strict, as_printed, strict=True))


def test_misprint_lemma_19_leaves_the_wrong_number_of_rows():
    """Page 30 prints d_2 - s_1 rows left; there are d_2 - s_2, or the bound is false."""
    d2, d1, s2, s1 = 200, 200, 199, 0
    draws = torch.randn(20, d2, d1, generator=torch.Generator().manual_seed(6), dtype=F64)
    bound = math.sqrt(d2 - s2) + math.sqrt(d1 - s1) + math.sqrt(2 * math.log(1 / 0.01))
    as_printed, corrected = draws[:, : d2 - s1], draws[:, : d2 - s2]
    assert bool((torch.linalg.matrix_norm(as_printed, 2) > 1.2 * bound).all())
    assert bool((torch.linalg.matrix_norm(corrected, 2) <= bound).all())


# What is refused


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((4, 4, 4, 0, 0.1), ValueError, "row_level must be from 0 to 3"),
        ((4, 4, 0, -1, 0.1), ValueError, "column_level must be from 0 to 3"),
        ((4.0, 4, 0, 0, 0.1), TypeError, "rows must be a whole number"),
        ((4, 4, 0, 0, 0.0), ValueError, "failure must be a probability between 0 and 1, got 0"),
        ((4, 4, 0, 0, 1.0), ValueError, "failure"),
        ((4, 4, 0, 0, math.nan), ValueError, "failure"),
    ],
)
def test_scales_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        sparsity.noise_scale(*arguments)


def test_standard_deviations_are_checked():
    hyper = sparsity.Hyperparameters.of(ONE, [3], 0.1, input_norm=1.0)
    with pytest.raises(ValueError, match="3 weights have 2 hidden layers; got 1 levels"):
        sparsity.perturbation_std(TWO, hyper, 0.1)
    with pytest.raises(ValueError, match=r"levels\[0\] must be from 0 to 2"):
        sparsity.perturbation_std([(3, 4), (2, 3)], hyper, 0.1)
    with pytest.raises(ValueError, match="failure must be a probability"):
        sparsity.perturbation_std(ONE, hyper, 2.0)
