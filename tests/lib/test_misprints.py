"""Each misprint that the course lists: what is printed fails, what the course says instead holds.

The page "Misprints found" names these tests.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from gencoh_lib import sparsity


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


# Muthukumar and Sulam (2023). Misprints in algorithms and tables are tested beside the functions:
# test_sparse_norms, test_sparse_radius and test_sparsity_search.


def test_a_margin_subtracts_an_output_and_not_its_index():
    # Page 4 subtracts the argmax over the other classes; it has to be the max.
    outputs, label = np.array([0.9, 0.1, 0.3]), 0
    others = np.delete(outputs, label)
    names = np.delete(np.arange(3), label)
    assert outputs[label] - names[others.argmax()] < 0  # an error, although class 0 wins
    assert outputs[label] - others.max() == pytest.approx(0.6)
    assert int(outputs.argmax()) == label


def test_output_scales_shrink_with_the_level_and_so_does_the_margin_loss():
    # Page 10 says that the margin loss falls as levels rise "since zeta grows"; zeta shrinks.
    weights = [torch.eye(20) - 0.5, torch.eye(2).repeat(1, 10)]
    scales = [
        sparsity.Hyperparameters.of(weights, [level], 0.01, input_norm=1.0).output_scales[-1]
        for level in range(20)
    ]
    assert all(later < before for before, later in itertools.pairwise(scales))
    growth = 1.01**2 - 1
    margins = np.full(20, 0.5)  # at every prototype
    failing = [float((margins < 4 * scale * growth).mean()) for scale in scales]
    assert failing[0] == 1 > 0 == failing[-1]


def test_the_divergence_has_to_count_the_last_layer():
    # Pages 8 and 22 list noise and prior for layers 1 to K. A network that looks up labels in its
    # last layer has no divergence there: first layer and prior are the identity on the inputs.
    rng, m, inputs, delta = np.random.default_rng(0), 4000, 40_000, 0.05
    labels, sample = rng.integers(2, size=inputs), rng.integers(inputs, size=m)
    last = np.zeros((2, inputs))
    last[labels[sample], sample] = 1  # the margin is 1 on the sample
    wrong = last.argmax(0) != labels
    risk, seen = float(wrong.mean()), float(wrong[sample].mean())

    def bound(divergence):  # K = 1, level 0, perturbations so small that no margin fails
        root = np.sqrt((4 * divergence + 2 * np.log(4 * m / delta)) / (m - 1))
        first = np.sqrt(2 * np.log(4 * m / delta) / (m - 1))
        return seen + 8 / (np.sqrt(m) - 1) + root + first

    assert bound(0) < 0.3 < 0.4 < risk
    # the corrected sum has |W - prior|^2 / (2 sigma^2) with sigma <= eps, where eps < 1/4
    assert bound(len(np.unique(sample)) / (2 * 0.25**2)) > risk


def test_the_least_of_the_levels_of_all_examples_may_be_too_high():
    # Page 26 chooses levels for each example, and says that their minimum in each layer leaves no
    # sparse loss. A lower level in the first layer makes the normaliser of the second larger.
    eps, failed, held = 0.01, 0, 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(6, 4), (6, 6), (2, 6)]
        weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        x = x / (x.norm(dim=1, keepdim=True) * (1 + 1e-9))
        for_each = sparsity.effective_activity(weights, x, eps).levels
        least = tuple(for_each.amin(0).tolist())
        common = sparsity.greedy_levels(weights, x, eps)

        def loss(levels, weights=weights, x=x):
            hyper = sparsity.Hyperparameters.of(weights, levels, eps, input_norm=1.0)
            growth = torch.tensor(hyper.growth[:-1], dtype=torch.float64)
            return float((sparsity.radii(weights, x, hyper) < 3 * growth).any(1).double().mean())

        for layer in range(2):  # it does hold for each example by itself
            assert bool((for_each[:, layer] >= least[layer]).all())
        failed += loss(least) > 0
        held += loss(common) == 0
    assert failed > 0
    assert held == 200


def test_shares_of_layers_add_up_to_the_target_with_the_corrected_quantile():
    # Page 26 gives each layer the share 2 alpha / (K (K - 1)); an example that fails in layer n
    # counts in the terms n, ..., K, so the denominator is K (K + 1).
    for hidden in range(1, 6):
        counted = sum(hidden - layer for layer in range(hidden))  # terms per failing example
        assert counted * 2 / (hidden * (hidden + 1)) == pytest.approx(1)
        if hidden > 1:
            assert counted * 2 / (hidden * (hidden - 1)) > 1
    with pytest.raises(ZeroDivisionError):
        2 * 0.1 / (1 * (1 - 1))
