"""Models: the architecture is what was asked for, and the seed alone decides the weights.

The oracle of the forward pass is the same network written with matrix products; that of the
initialisations is their mean, variance and range.
"""

import math
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from gencoh_lib import models

BUILDERS = {
    "mlp": lambda **keywords: models.mlp([16, 8, 3], **keywords),
    "cnn": lambda **keywords: models.cnn((1, 4, 4), channels=(2, 3), classes=3, **keywords),
}


def names(network):
    return [name for name, _ in network.named_children()]


def parameters(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


# --- architecture ----------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5), bias=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_mlp_has_the_widths_that_were_asked_for(sizes, bias):
    network = models.mlp(sizes, bias=bias, seed=0)
    count = sum((a + bias) * b for a, b in pairwise(sizes))
    assert sum(p.numel() for p in network.parameters()) == count
    assert network(torch.zeros(7, sizes[0])).shape == (7, sizes[-1])


def test_layers_have_names():
    assert names(models.mlp([4, 3, 2, 1], seed=0)) == ["layer1", "act1", "layer2", "act2", "layer3"]
    assert names(models.cnn((1, 8, 8), seed=0)) == (
        ["image", "conv1", "act1", "pool1", "conv2", "act2", "pool2", "flat", "output"]
    )


def test_mlp_is_matrix_products_and_activations():
    network = models.mlp([5, 4, 3], activation=nn.Tanh, seed=1, dtype=torch.float64)
    nn.init.normal_(network.layer1.bias)
    x = torch.randn(6, 5, dtype=torch.float64)
    hidden = torch.tanh(x @ network.layer1.weight.T + network.layer1.bias)
    torch.testing.assert_close(network(x), hidden @ network.layer2.weight.T)


def test_cnn_is_correlation_activation_and_maximum():
    # A naive twin of one stage, pixel by pixel, on a picture that is not square.
    network = models.cnn((2, 4, 6), channels=(3,), classes=2, seed=2, dtype=torch.float64)
    x = torch.randn(2 * 4 * 6, dtype=torch.float64)
    picture = nn.functional.pad(x.view(2, 4, 6), (1, 1, 1, 1))
    stage = torch.zeros(3, 4, 6, dtype=torch.float64)
    for c in range(3):
        for i in range(4):
            for j in range(6):
                patch = picture[:, i : i + 3, j : j + 3]
                stage[c, i, j] = (patch * network.conv1.weight[c]).sum().clamp(min=0)
    pooled = stage.view(3, 2, 2, 3, 2).amax(dim=(2, 4)).flatten()
    torch.testing.assert_close(network(x[None])[0], network.output.weight @ pooled)


@pytest.mark.parametrize("height", [4, 5, 7])
def test_cnn_rounds_odd_sizes_down(height):
    network = models.cnn((1, height, 8), channels=(2, 2), seed=0)
    assert network(torch.zeros(3, height * 8)).shape == (3, 10)


def test_linear_model_without_bias_starts_at_zero():
    line = models.mlp([6, 1], bias=False, initialisation="zeros", seed=0)
    assert line(torch.randn(4, 6)).tolist() == [[0]] * 4
    assert len(list(line.parameters())) == 1


# --- initialisation --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(200, 300), 200, 300),
        (nn.Conv1d(50, 60, 5), 250, 300),
        (nn.Conv2d(20, 30, 3), 180, 270),
        (nn.Conv3d(10, 20, 3), 270, 540),
        (nn.Conv2d(60, 120, 3, groups=6), 90, 180),
        (nn.Conv2d(600, 600, 3, groups=600), 9, 9),
    ],
    ids=["linear", "conv1d", "conv2d", "conv3d", "grouped", "depthwise"],
)
def test_variances_are_those_of_the_papers(layer, fan_in, fan_out):
    n = layer.weight.numel()
    models.initialise(layer, "he", seed=0)
    he = layer.weight.detach().clone()
    # The variance of n normal draws has relative standard error sqrt(2/n).
    assert abs(float(he.var()) * fan_in / 2 - 1) < 4 * math.sqrt(2 / n)
    assert abs(float(he.mean())) < 4 * math.sqrt(2 / fan_in / n)
    assert abs(he).max() > 3 * math.sqrt(2 / fan_in)  # normal, so beyond three sigma

    models.initialise(layer, "xavier", seed=0)
    xavier = layer.weight.detach().clone()
    limit = math.sqrt(6 / (fan_in + fan_out))
    assert abs(float(xavier.var()) * (fan_in + fan_out) / 2 - 1) < 4 * math.sqrt(0.8 / n)
    assert 0.99 * limit < abs(xavier).max() <= limit

    models.initialise(layer, "zeros", seed=0)
    assert not layer.weight.any()
    assert not layer.bias.any()


@pytest.mark.parametrize("how", ["he", "xavier", "zeros"])
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_biases_start_at_zero(build, how):
    network = build(initialisation=how, seed=0)
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_seed_decides_the_weights(build):
    assert torch.equal(parameters(build(seed=5)), parameters(build(seed=5)))
    assert not torch.equal(parameters(build(seed=5)), parameters(build(seed=6)))


def test_layers_of_one_network_differ():
    network = models.mlp([4, 4, 4], seed=0)
    assert not torch.equal(network.layer1.weight, network.layer2.weight)


@pytest.mark.parametrize("how", ["he", "xavier", "zeros"])
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_global_random_state_is_neither_used_nor_changed(build, how):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = parameters(build(initialisation=how, seed=0))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(one, parameters(build(initialisation=how, seed=0)))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_parameters_have_the_type_that_was_asked_for(build):
    assert {p.dtype for p in build(seed=0).parameters()} == {torch.float32}
    assert {p.dtype for p in build(seed=0, dtype=torch.float64).parameters()} == {torch.float64}


def test_initialise_leaves_other_layers_alone():
    norm = nn.BatchNorm1d(3)
    nn.init.constant_(norm.weight, 7.0)
    models.initialise(nn.Sequential(nn.Linear(3, 3), norm), seed=0)
    assert norm.weight.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (nn.ConvTranspose2d(2, 2, 3), "'bad' .ConvTranspose2d. is a transposed convolution"),
        (parametrizations.weight_norm(nn.Linear(3, 3)), "'bad' .* from other parameters"),
        (parametrizations.orthogonal(nn.Conv1d(3, 3, 1)), "'bad' .* from other parameters"),
        (prune.random_unstructured(nn.Linear(3, 3), "weight", 1), "'bad' .* parametrise or prune"),
        (prune.random_unstructured(nn.Linear(3, 3), "bias", 1), "'bad' .* weight or bias"),
    ],
    ids=["transposed", "weight_norm", "orthogonal", "pruned", "pruned bias"],
)
def test_initialise_refuses_layers_that_it_would_miss_and_changes_nothing(bad, reason):
    network = nn.Sequential(OrderedDict(good=nn.Linear(3, 3), bad=bad))
    before = parameters(network)
    with pytest.raises(ValueError, match=f"layer {reason}"):
        models.initialise(network, seed=0)
    assert torch.equal(before, parameters(network))


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [[], [64], [64, 0], [64, -1, 10], [64, 1.5], [64, "10"], [64, True], 64, "64"]
)
def test_mlp_refuses_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="sizes must be 2 or more whole numbers, each at least 1"):
        models.mlp(sizes, seed=0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"image_shape": (8, 8)}, r"image_shape must be 3 or more whole numbers.*got \(8, 8\)"),
        ({"image_shape": (1, 1, 8, 8)}, r"image_shape must be \(channels, height, width\)"),
        ({"image_shape": (0, 8, 8)}, "each at least 1"),
        ({"channels": ()}, "channels must be 1 or more whole numbers"),
        ({"classes": 2.5}, r"classes must be 1 or more whole numbers.*got \[2\.5\]"),
        ({"channels": 3}, "channels must be 1 or more whole numbers, each at least 1; got 3"),
        ({"classes": 0}, "classes must be 1 or more whole numbers"),
        ({"channels": (2, 2, 2, 2)}, "8 x 8 picture vanishes when 4 stages .* at most 3 channels"),
    ],
)
def test_cnn_refuses_impossible_shapes(keywords, message):
    with pytest.raises(ValueError, match=message):
        models.cnn(**{"image_shape": (1, 8, 8), "seed": 0} | keywords)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_unknown_initialisation_is_refused_with_the_nearest_name(build):
    with pytest.raises(ValueError, match=r"no initialisation 'xaver'.*Did you mean 'xavier'"):
        build(initialisation="xaver", seed=0)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_seed_that_is_no_whole_number_is_refused(build):
    with pytest.raises(TypeError, match="seed must be a whole number, got None"):
        build(seed=None)


def test_sizes_may_come_from_numpy():
    network = models.mlp(np.array([4, 3]), seed=np.int64(0))
    assert torch.equal(parameters(network), parameters(models.mlp([4, 3], seed=0)))
    assert repr(network.layer1) == "Linear(in_features=4, out_features=3, bias=True)"
    pictures = models.cnn(np.array([1, 8, 8]), channels=np.array([2]), seed=0)
    assert pictures(torch.zeros(3, 64)).shape == (3, 10)
