"""Explored dimension: what principal components say of a run, and of a walk without structure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencoh_lib.stagnation import effective_dimensions, explored_dimension, random_walk_shares


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def walk():
    return explored_dimension(normals(800, 592, seed=3).cumsum(0))


def test_a_random_walk_looks_low_dimensional(walk):
    # a single draw scatters by sqrt(2/592) of each variance; another one gave .627/.145/.064
    for shares in (walk.shares, walk.null_shares):
        assert shares[:3].tolist() == pytest.approx([0.608, 0.152, 0.068], abs=0.06)
    assert abs(walk.n90 - 6) <= 1
    assert abs(walk.null_n90 - 6) <= 1
    assert walk.participation_ratio == pytest.approx(2.5, abs=0.5)
    assert walk.null_participation_ratio == pytest.approx(2.5, abs=0.5)


def test_its_shares_tend_to_those_of_brownian_motion():
    shares = random_walk_shares(100_000)
    assert shares[:3] == pytest.approx([0.608, 0.152, 0.068], abs=5e-4)
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    assert shares[:5].sum() < 0.9 < shares[:6].sum()  # n90 = 6
    # the limit of many dimensions at finite T: the centred covariance min(s, t)
    t = np.arange(1, 801)
    centring = np.eye(800) - 1 / 800
    kernel = centring @ np.minimum.outer(t, t) @ centring
    exact = np.linalg.eigvalsh(kernel)[::-1][:5] / np.trace(kernel)
    assert exact == pytest.approx(shares[:5], rel=1e-4)
    assert 1 / (shares**2).sum() == pytest.approx(2.5, abs=1e-3)  # 90/36: PR of the limit


def test_several_walks_pooled_break_the_null():
    pooled = explored_dimension(normals(30, 60, 100, seed=1).cumsum(1))
    assert pooled.null_n90 > 20
    assert pooled.chains == 30
    assert "30 chains of 60 positions in 100 dimensions" in repr(pooled)


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 2**31))
@settings(deadline=None)
def test_shares_are_those_of_a_singular_value_decomposition(steps, dimension, seed):
    rows = normals(steps, dimension, seed=seed)
    found = explored_dimension(rows)
    values = np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False) ** 2
    shares = values / values.sum()
    assert found.shares[: len(shares)].tolist() == pytest.approx(shares.tolist(), abs=1e-9)
    assert found.participation_ratio == pytest.approx(1 / (shares**2).sum(), rel=1e-9)
    enough = [j for j in range(1, len(shares) + 1) if shares[:j].sum() >= 0.9 - 1e-12]
    assert found.n90 == enough[0]
    # turning and shifting change nothing
    q = torch.linalg.qr(normals(dimension, dimension, seed=seed + 1)).Q
    turned = explored_dimension(rows @ q + 3)
    assert turned.participation_ratio == pytest.approx(found.participation_ratio, rel=1e-7)


def test_the_share_inside_a_basis_stands_beside_that_of_the_walk():
    rows = normals(400, 50, seed=2)
    rows[:, :5] *= 10
    basis = torch.eye(50, dtype=torch.float64)[:, :5]
    found = explored_dimension(rows, basis=basis)
    assert found.share_in_basis == pytest.approx(500 / 545, abs=0.02)
    assert found.null_share_in_basis < 0.4
    assert "in the basis" in repr(found)
    whole = explored_dimension(rows, basis=torch.eye(50, dtype=torch.float64))
    assert whole.share_in_basis == pytest.approx(1, rel=1e-12)
    assert explored_dimension(rows).share_in_basis is None


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_effective_dimensions_lie_between_one_and_all(values):
    found = effective_dimensions(torch.tensor(values, dtype=torch.float64), 0.5)
    d = len(values)
    assert found.above_threshold == sum(v > 0.5 * max(values) for v in values)
    assert 1 - 1e-9 <= found.stable_rank <= d + 1e-9
    assert 1 - 1e-9 <= found.participation_ratio <= d + 1e-9
    naive = sum(values) ** 2 / sum(v**2 for v in values)
    assert found.participation_ratio == pytest.approx(naive, rel=1e-9)


def test_bad_positions_are_refused():
    with pytest.raises(TypeError, match="positions must be a floating-point tensor"):
        explored_dimension(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="T >= 2"):
        explored_dimension(torch.ones(1, 5))
    with pytest.raises(ValueError, match="the run diverged"):
        explored_dimension(torch.tensor([[1.0], [math.inf]]))
    with pytest.raises(ValueError, match="all positions are the same"):
        explored_dimension(torch.ones(4, 5))
    with pytest.raises(ValueError, match="must be orthonormal"):
        explored_dimension(torch.rand(4, 3), basis=torch.ones(3, 2))
    with pytest.raises(TypeError, match="eigenvalues must be a floating-point tensor"):
        effective_dimensions([1.0])
    with pytest.raises(ValueError, match="finite and of shape"):
        effective_dimensions(torch.ones(2, 2))
    with pytest.raises(ValueError, match="nothing to count"):
        effective_dimensions(-torch.ones(2))
    with pytest.raises(ValueError, match="threshold must lie strictly"):
        effective_dimensions(torch.ones(2), 1.0)
    with pytest.raises(ValueError, match="number must be a whole number >= 1"):
        random_walk_shares(0)
