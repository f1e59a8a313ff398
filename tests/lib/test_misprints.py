"""Each misprint that the course lists: what is printed fails, what the course says instead holds.

The page "Misprints found" names these tests. Those of the sparsity-aware bounds stand beside the
tests of the functions: test_sparse_norms, test_sparse_radius, test_gaussian_perturbation,
test_sparsity_bound and test_sparsity_search.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus


def network(weights, biases, activation, x):
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = w @ x + b[:, None]
        x = activation(x) if layer < len(weights) - 1 else x
    return x


def without_biases(weights, biases, activation, x, carried):
    """Biases as columns; each layer is told that its constant input has the value ``carried``."""
    x = torch.cat([x, torch.ones(1, x.shape[1], dtype=x.dtype)])
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        constant = 1.0 if layer == 0 else carried
        matrix = torch.cat([w, b[:, None] / constant], dim=1)
        if layer == len(weights) - 1:
            return matrix @ x
        row = torch.zeros(1, matrix.shape[1], dtype=x.dtype)
        row[0, -1] = 1 / constant
        x = activation(torch.cat([matrix, row]) @ x)
    raise AssertionError("a network has a last layer")


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh, torch.sigmoid, softplus])
@pytest.mark.parametrize("widths", [(2, 3, 1), (3, 5, 4, 2)])
def test_absorbing_biases_as_printed_needs_an_activation_that_keeps_one(activation, widths):
    generator = torch.Generator().manual_seed(0)
    shapes = list(itertools.pairwise(widths))
    weights = [torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in shapes]
    biases = [torch.randn(b, generator=generator, dtype=torch.float64) for _, b in shapes]
    x = torch.randn(widths[0], 100, generator=generator, dtype=torch.float64)
    meant = network(weights, biases, activation, x)
    at_one = float(activation(torch.tensor(1.0, dtype=torch.float64)))

    corrected = without_biases(weights, biases, activation, x, carried=at_one)
    assert torch.allclose(corrected, meant, rtol=1e-9, atol=1e-12)

    as_printed = without_biases(weights, biases, activation, x, carried=1.0)
    right = torch.allclose(as_printed, meant, rtol=1e-9, atol=1e-12)
    assert right == (activation is torch.relu)
    if not right:
        assert (as_printed - meant).abs().max() > 0.05


@pytest.mark.parametrize("seed", range(10))
def test_twenty_points_are_interpolated_from_degree_nineteen_on(seed):
    # Features 1, z, ..., z^d are d + 1 coefficients. Legendre polynomials span the same functions
    # and keep the numbers in hand.
    rng = np.random.default_rng(seed)
    z, y = rng.uniform(-0.5, 0.5, 20), rng.normal(size=20)

    def residual(degree):
        features = np.polynomial.legendre.legvander(2 * z, degree)
        fit = np.linalg.lstsq(features, y, rcond=None)[0]
        return ((features @ fit - y) ** 2).mean()

    assert residual(19) < 1e-12
    assert residual(18) > 1e-9
