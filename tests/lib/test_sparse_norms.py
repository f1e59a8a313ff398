"""Reduced row norms, reduced Babel function, sparse induced norms and their upper bounds.

The naive twins list index sets, as Definitions 1 and 2 of Muthukumar and Sulam (2023) do. Misprints
of their appendix are tested as such: ``test_misprint_...``.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencoh_lib import sparsity
from gencoh_lib._sparse_norm_bounds import WeightNorms

F64 = torch.float64
THREE = torch.tensor([[3.0, 0, 4], [0, 1, 0], [1, 2, 2]], dtype=F64)
HADAMARD = torch.tensor([[1.0, 1], [1, -1]], dtype=F64)


def subsets(size, kept):
    return [list(chosen) for chosen in itertools.combinations(range(size), kept)]


def norm_by_definition(w, s2, s1):
    rows, columns = w.shape
    return max(
        np.linalg.svd(w[np.ix_(j2, j1)], compute_uv=False)[0]
        for j2 in subsets(rows, rows - s2)
        for j1 in subsets(columns, columns - s1)
    )


def row_norm_by_definition(w, s1):
    return max(
        math.sqrt((row[j1] ** 2).sum())
        for row in w
        for j1 in subsets(len(row), len(row) - s1)
    )  # fmt: skip


def babel_by_definition(w, s2, s1, inner=None):
    """Definition 2; ``inner`` is the matrix of inner maxima, if it is known."""
    rows = len(w)
    if s2 == rows - 1:
        return 0.0
    if inner is None:
        inner = inner_maxima(w, s1)
    worst = max(
        sum(inner[i, j] for i in j2 if i != j) for j2 in subsets(rows, rows - s2) for j in j2
    )
    return worst / row_norm_by_definition(w, s1) ** 2


def inner_maxima(w, s1):
    """Largest |inner product| of each pair of rows, over all sets of columns."""
    kept = subsets(w.shape[1], w.shape[1] - s1)
    return np.abs([w[:, j1] @ w[:, j1].T for j1 in kept]).max(axis=0)


def matrices(count, seed, most=5):
    """Random matrices of all kinds: Gaussian, whole numbers (with ties), mostly zeros, one sign."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape = rng.integers(1, most + 1, 2)
        w = rng.normal(size=shape)
        kind = number % 4
        if kind == 1:
            w = rng.integers(-2, 3, shape).astype(float)
        elif kind == 2:
            w *= rng.random(shape) < 0.4
        elif kind == 3:
            w = np.abs(w)
        yield w


def levels_of(w):
    return list(itertools.product(range(w.shape[0]), range(w.shape[1])))


# Oracles


def test_norms_babel_and_bounds_of_a_three_by_three():
    norms = [[5.534382, 5.464986, 4.472136], [5.531860, 5.464986, 4.472136], [5, 5, 4]]
    mu = [[0.52, 0.52, 0.625], [0.44, 0.44, 0.5], [0, 0, 0]]
    bounds = [[6.164414, 6.164414, 5.099020], [6, 6, 4.898979], [5, 5, 4]]
    assert sparsity.reduced_row_norms(THREE).tolist() == [5, 5, 4]
    for s1 in range(3):
        babel = sparsity.reduced_babel(THREE, s1)
        assert babel.tolist() == pytest.approx([row[s1] for row in mu], rel=1e-12)
        for s2 in range(3):
            found = sparsity.sparse_norm_bounds(THREE, s2, s1)
            assert sparsity.sparse_norm(THREE, s2, s1) == pytest.approx(norms[s2][s1], abs=5e-7)
            assert found.babel == pytest.approx(bounds[s2][s1], abs=5e-7)
            assert found.mu == float(babel[s2])


def test_a_matrix_with_orthogonal_rows_that_are_not_when_reduced():
    root = math.sqrt(2)
    found = [[sparsity.sparse_norm(HADAMARD, s2, s1) for s1 in (0, 1)] for s2 in (0, 1)]
    assert found[0] == pytest.approx([root, root], rel=1e-12)
    assert found[1] == pytest.approx([root, 1], rel=1e-12)
    # the Babel function is not monotone in the column level
    assert [sparsity.reduced_babel(HADAMARD, s1).tolist() for s1 in (0, 1)] == [[0, 0], [1, 0]]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_identity_has_norm_one_and_babel_zero_at_every_level(n):
    identity = torch.eye(n)
    for s2, s1 in itertools.product(range(n), repeat=2):
        found = sparsity.sparse_norm_bounds(identity, s2, s1)
        assert (found.row_norm, found.mu, found.babel, found.value) == (1, 0, 1, 1)
        assert sparsity.sparse_norm(identity, s2, s1) == 1


@pytest.mark.parametrize("a, b", [(2, 3), (4, 4), (5, 2), (1, 3)])
def test_on_a_matrix_of_ones_the_babel_bound_is_the_norm(a, b):
    ones = torch.ones(a, b)
    for s2, s1 in itertools.product(range(a), range(b)):
        expected = math.sqrt((a - s2) * (b - s1))
        found = sparsity.sparse_norm_bounds(ones, s2, s1)
        assert found.mu == pytest.approx(a - s2 - 1, rel=1e-12)
        # no rounding lifts it above its range, which grids of it rely on
        assert float(sparsity.reduced_babel(0.1 * ones.double(), s1)[s2]) <= a - s2 - 1
        assert found.babel == pytest.approx(expected, rel=1e-12)
        assert sparsity.sparse_norm(ones, s2, s1) == pytest.approx(expected, rel=1e-12)


def test_prototypes_make_the_babel_bound_tight_and_level_nineteen_removes_it():
    w = torch.eye(20, dtype=F64) - 0.5
    babel = sparsity.reduced_babel(w, 0)
    assert float(babel[0]) == pytest.approx(15.2, rel=1e-12)
    assert float(babel[19]) == 0
    found = sparsity.sparse_norm_bounds(w, 0, 0)
    assert found.row_norm == pytest.approx(math.sqrt(5), rel=1e-12)
    assert found.babel == pytest.approx(9, rel=1e-12)
    assert found.spectral == pytest.approx(9, rel=1e-12)


# The definitions, by listing index sets


def test_babel_agrees_with_its_definition_at_all_levels():
    cases = 0
    for w in matrices(600, seed=0):
        if not w.any():
            continue
        for s1 in range(w.shape[1]):
            found = sparsity.reduced_babel(torch.from_numpy(w), s1)
            inner = inner_maxima(w, s1)
            for s2 in range(w.shape[0]):
                expected = babel_by_definition(w, s2, s1, inner)
                assert float(found[s2]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
                cases += 1
    assert cases > 4000


def test_norms_agree_with_their_definitions_and_stay_below_every_bound():
    # Lemma 18 and the two bounds beside it; the row norm is a bound from below
    cases, which = 0, set()
    for w in matrices(400, seed=1, most=4):
        weight = torch.from_numpy(w)
        rows = sparsity.reduced_row_norms(weight)
        table = WeightNorms(weight)
        for s2, s1 in levels_of(w):
            norm = norm_by_definition(w, s2, s1)
            bounds = table.at(s2, s1)
            assert sparsity.sparse_norm(weight, s2, s1) == pytest.approx(norm, rel=1e-9, abs=1e-12)
            assert float(rows[s1]) == pytest.approx(row_norm_by_definition(w, s1), rel=1e-9)
            slack = 1 + 1e-12
            for bound in (bounds.babel, bounds.spectral, bounds.top_rows, bounds.value):
                assert norm <= bound * slack
            assert bounds.row_norm <= norm * slack
            smallest = min(bounds.babel, bounds.spectral, bounds.top_rows)
            which.add([bounds.babel, bounds.spectral, bounds.top_rows].index(smallest))
            effective = bounds.row_norm * math.sqrt(1 + bounds.effective_mu)
            assert effective == pytest.approx(max(smallest, bounds.row_norm), rel=1e-9)
            assert bounds.effective_mu <= bounds.mu * slack
            cases += 1
    assert cases > 2000
    assert which == {0, 1, 2}  # each of the three is the smallest somewhere


def test_more_zeros_make_a_smaller_norm():
    # Lemma 17, over all pairs of levels that are comparable
    for w in matrices(60, seed=2, most=4):
        norm = {pair: sparsity.sparse_norm(torch.from_numpy(w), *pair) for pair in levels_of(w)}
        for (a, b), (c, d) in itertools.product(norm, repeat=2):
            if a <= c and b <= d:
                assert norm[c, d] <= norm[a, b] * (1 + 1e-12)


def test_the_corners_of_the_levels_are_the_spectral_norm_and_the_largest_entry():
    for w in matrices(40, seed=3):
        weight, (rows, columns) = torch.from_numpy(w), w.shape
        spectral = np.linalg.svd(w, compute_uv=False)[0]
        largest = np.abs(w).max()
        assert sparsity.sparse_norm(weight, 0, 0) == pytest.approx(spectral, rel=1e-12, abs=1e-15)
        single = sparsity.sparse_norm(weight, rows - 1, columns - 1)
        assert single == pytest.approx(largest, rel=1e-12)
        assert float(sparsity.reduced_row_norms(weight)[-1]) == pytest.approx(largest, rel=1e-12)


# Algorithm 1, corrected and as printed


def top(values, k):
    """Sum of the k largest."""
    return float(np.sort(values)[::-1][:k].sum())


def algorithm_1(w, s2, s1, *, printed=()):
    """Algorithm 1 (p. 29), line by line; ``printed`` names the misprints that are kept."""
    rows, columns = w.shape
    a = np.zeros((rows, rows))
    for i in range(rows - 1 if "loop" in printed else rows):
        for j in range(rows):
            if i != j or "diagonal" in printed:
                u = w[i] * w[j]
                positive = top(u, columns - s1)
                negative = top(u if "negative" in printed else -u, columns - s1)
                a[i, j] = max(positive, negative)
    kept = columns - s1 if "row sums" in printed else rows - s2 - 1
    r = np.zeros(columns if "length" in printed else rows)
    for i in range(rows):
        r[i] = top(a[i], kept)
    return r.max() / row_norm_by_definition(w, s1) ** (1 if "power" in printed else 2)


def disagreements(*printed):
    """Share of random cases in which the algorithm differs from Definition 2."""
    wrong = []
    for w in matrices(80, seed=4, most=4):
        if not w.any():
            continue
        for s2, s1 in levels_of(w):
            expected = babel_by_definition(w, s2, s1)
            found = algorithm_1(w, s2, s1, printed=printed)
            wrong.append(abs(found - expected) > 1e-9 * (1 + expected))
    return np.mean(wrong)


def test_algorithm_1_corrected_is_definition_2():
    assert disagreements() == 0


def test_misprint_algorithm_1_has_a_vector_of_the_wrong_length():
    """Page 29 prints ``r = 0`` with one entry for each input; there is one for each row."""
    with pytest.raises(IndexError):
        algorithm_1(np.ones((3, 2)), 0, 0, printed={"length"})
    assert algorithm_1(np.ones((3, 2)), 0, 0) == pytest.approx(2)


def test_misprint_algorithm_1_takes_the_largest_products_twice():
    """Page 29 prints ``negative = TOP-K(u)``; it has to be TOP-K(-u)."""
    assert disagreements("negative") > 0.1
    opposite = np.array([[1.0, 1], [-1, -1]])  # all products are negative
    assert algorithm_1(opposite, 0, 0, printed={"negative"}) <= 0
    assert babel_by_definition(opposite, 0, 0) == algorithm_1(opposite, 0, 0) == pytest.approx(1)


def test_misprint_algorithm_1_sums_as_many_rows_as_there_are_columns_left():
    """Page 29 prints ``r[i] = sum TOP-K(a[i], d1 - s1)``; it is d2 - s2 - 1, diagonal excluded."""
    assert disagreements("row sums") > 0.1
    assert disagreements("diagonal") > 0.1
    assert disagreements("row sums", "diagonal") > 0.1


def test_misprint_algorithm_1_leaves_out_the_last_row():
    """Page 29 prints a loop to d2 - 1; the last row counts as well."""
    assert disagreements("loop") > 0.01
    last = np.array([[1.0, 0], [0, 1], [1, 1]])  # the last row is the one that is close to all
    assert algorithm_1(last, 0, 0, printed={"loop"}) == pytest.approx(0.5)
    assert babel_by_definition(last, 0, 0) == algorithm_1(last, 0, 0) == pytest.approx(1)


def test_misprint_algorithm_1_divides_by_the_norm_instead_of_its_square():
    """Page 29 divides by the largest reduced row norm; Definition 2 by its square."""
    assert disagreements("power") > 0.1
    w = np.array([[2.0, 0], [2, 0]])
    assert algorithm_1(w, 0, 0, printed={"power"}) == pytest.approx(2)  # above d2 - s2 - 1
    assert babel_by_definition(w, 0, 0) == algorithm_1(w, 0, 0) == pytest.approx(1)


def test_misprint_tropps_babel_function_is_that_of_column_level_zero():
    """Page 3 has Tropp's Babel function of the rows at s2 = 0; it is at s1 = 0."""
    rng = np.random.default_rng(5)
    w = rng.normal(size=(5, 4))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    gram = np.abs(w @ w.T)

    def tropp(size):
        return max(
            sum(gram[j, i] for i in others)
            for j in range(5)
            for others in itertools.combinations([i for i in range(5) if i != j], size)
        )

    found = sparsity.reduced_babel(torch.from_numpy(w), 0)
    for s2 in range(5):
        assert float(found[s2]) == pytest.approx(tropp(5 - s2 - 1), rel=1e-9, abs=1e-12)
    for s1 in (1, 2, 3):  # s2 = 0 is not enough
        assert abs(float(sparsity.reduced_babel(torch.from_numpy(w), s1)[0]) - tropp(4)) > 0.01


# Properties


def weights():
    entry = st.floats(-3, 3, allow_nan=False).map(lambda v: round(v, 2))
    return st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
        lambda shape: st.lists(
            entry, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
        ).map(lambda flat: torch.tensor(flat, dtype=F64).reshape(shape))
    )


@settings(max_examples=60)
@given(weights(), st.integers(0, 4), st.integers(0, 10_000), st.floats(0.01, 100))
def test_babel_has_its_range_and_its_invariances(weight, s1, seed, factor):
    s1 = min(s1, weight.shape[1] - 1)
    mu = sparsity.reduced_babel(weight, s1)
    most = torch.arange(len(weight) - 1, -1, -1, dtype=F64)
    assert bool(((mu >= 0) & (mu <= most)).all())
    assert bool((mu.diff() <= 1e-12).all())  # it falls with the row level
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(weight), generator=generator)
    columns = torch.randperm(weight.shape[1], generator=generator)
    signs = 2.0 * torch.randint(0, 2, (weight.shape[1],), generator=generator) - 1
    other = (-factor * weight * signs)[rows][:, columns]
    assert torch.allclose(sparsity.reduced_babel(other, s1), mu, rtol=1e-9, atol=1e-12)
    norms = sparsity.reduced_row_norms(weight)
    assert torch.allclose(sparsity.reduced_row_norms(other), factor * norms, rtol=1e-9)
    assert bool((norms.diff() <= 0).all())


def test_without_struck_columns_a_rotation_of_the_inputs_changes_nothing():
    generator = torch.Generator().manual_seed(6)
    w = torch.randn(6, 5, generator=generator, dtype=F64)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=F64)).Q
    found = [sparsity.reduced_babel(v, 0) for v in (w, w @ rotation)]
    assert torch.allclose(*found, rtol=1e-9)
    assert not torch.allclose(*(sparsity.reduced_babel(v, 2) for v in (w, w @ rotation)), rtol=1e-2)


def test_babel_rises_with_the_column_level_more_often_than_it_falls():
    rises = [
        float(sparsity.reduced_babel(w, s1 + 1)[0] - sparsity.reduced_babel(w, s1)[0]) > 0
        for seed in range(40)
        for w in [torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=F64)]
        for s1 in range(5)
    ]
    assert 0.5 < np.mean(rises) < 1


def test_for_dense_gaussian_weights_the_spectral_norm_is_far_below_the_babel_bound():
    w = torch.randn(100, 100, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = sparsity.sparse_norm_bounds(w, 0, 50)
    assert found.babel > 3 * found.spectral
    assert found.value == found.spectral
    assert sparsity.sparse_norm_bounds(w, 97, 50).value < found.spectral


@pytest.mark.parametrize("s1", [0, 7, 39])
def test_the_byte_budget_bounds_memory_and_changes_nothing(s1):
    w = torch.randn(60, 40, generator=torch.Generator().manual_seed(1), dtype=F64)
    whole = sparsity.reduced_babel(w, s1)
    # torch's own memory is not traced, numpy's is: that of the products
    tracemalloc.start()
    by_row = sparsity.reduced_babel(w, s1, byte_budget=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(whole, by_row)
    assert peak < 60 * 60 * 40 * 8 / 4  # a quarter of all products


def test_float32_and_non_contiguous_weights_are_read_in_float64():
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    for s1 in (0, 3):
        expected = sparsity.reduced_babel(w.double(), s1)
        assert torch.equal(sparsity.reduced_babel(w, s1), expected)
        assert torch.equal(sparsity.reduced_babel(w.T.contiguous().T, s1), expected)
    assert sparsity.reduced_row_norms(w.requires_grad_()).dtype == F64


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_babel_does_not_depend_on_the_scale_even_where_squares_overflow(factor):
    for s1 in range(3):
        found = sparsity.reduced_babel(factor * THREE, s1)
        assert torch.allclose(found, sparsity.reduced_babel(THREE, s1), rtol=1e-9)
    rows = sparsity.reduced_row_norms(factor * THREE)
    assert torch.allclose(rows / factor, torch.tensor([5.0, 5, 4], dtype=F64), rtol=1e-12)
    found = sparsity.sparse_norm_bounds(factor * THREE, 1, 2)
    assert found.value / factor == pytest.approx(4.472136, abs=1e-6)


def test_a_matrix_of_zeros_has_norms_and_babel_of_zero():
    zeros = torch.zeros(3, 4)
    assert sparsity.reduced_row_norms(zeros).tolist() == [0] * 4
    assert sparsity.reduced_babel(zeros, 2).tolist() == [0] * 3
    found = sparsity.sparse_norm_bounds(zeros, 1, 1)
    assert (found.value, found.effective_mu) == (0, 0)


def test_norms_are_computed_once_and_the_table_shows_them():
    norms = WeightNorms(THREE)
    assert norms.babel(1) is norms.babel(1)
    assert norms.top_rows(1) is norms.top_rows(1)
    text = repr(norms.at(1, 2))
    assert "||W||_(1,2) <= 4.47214" in text
    assert "4 * sqrt(1 + 0.5)" in text


# What is refused


@pytest.mark.parametrize(
    "weight, error, message",
    [
        ([[1.0]], TypeError, "must be a floating-point tensor .* got list"),
        (torch.ones(2, 2, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.ones(3), ValueError, r"must be \[rows, columns\].*\(3,\)"),
        (torch.ones(0, 3), ValueError, "not empty"),
        (torch.tensor([[1.0, math.nan]]), ValueError, "NaN or infinity"),
    ],
)
def test_what_is_no_matrix_is_refused(weight, error, message):
    for function in (
        sparsity.reduced_row_norms,
        lambda w: sparsity.reduced_babel(w, 0),
        lambda w: sparsity.sparse_norm(w, 0, 0),
        lambda w: sparsity.sparse_norm_bounds(w, 0, 0),
    ):
        with pytest.raises(error, match=message):
            function(weight)


@pytest.mark.parametrize(
    "level, error, message",
    [(3, ValueError, "from 0 to 2"), (-1, ValueError, "got -1"), (1.0, TypeError, "whole number")],
)
def test_levels_leave_a_row_and_a_column(level, error, message):
    with pytest.raises(error, match=f"column_level.*{message}"):
        sparsity.reduced_babel(THREE, level)
    for function in (sparsity.sparse_norm, sparsity.sparse_norm_bounds):
        with pytest.raises(error, match=f"row_level.*{message}"):
            function(THREE, level, 0)
        with pytest.raises(error, match=f"column_level.*{message}"):
            function(THREE, 0, level)


def test_listing_too_many_submatrices_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"184756 submatrices.*sparse_norm_bounds"):
        sparsity.sparse_norm(torch.ones(20, 2), 10, 0)
    with pytest.raises(ValueError, match="more than most = 5"):
        sparsity.sparse_norm(THREE, 1, 1, most=5)
