"""All comparators on one trained network: one table, honest about what it does not know."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from gencoh_lib import bounds, data, models, training
from gencoh_lib._weights import margins, weights_of_mlp

F64 = torch.float64


@pytest.fixture(scope="module")
def digits():
    """Trained on 1,200 digits of unit length; the other 597 are held out."""
    whole = data.load("digits")
    whole = replace(whole, x=whole.x / whole.x.norm(dim=1, keepdim=True))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    train, held = whole.take(order[:1200]), whole.take(order[1200:])
    net = models.mlp([64, 30, 10], bias=False, seed=0)
    training.train(net, train, steps=600, learning_rate=0.5, batch_size=100)
    return net, train, held


@pytest.fixture(scope="module")
def table(digits):
    net, train, held = digits
    return bounds.compare(net, train, holdout=held, radius=1.0)


NAMES = {
    "finite class of 32-bit weights",
    "growth function",
    "VC dimension, order",
    "Berner et al., Theorem 2.1",
    "Neyshabur-Tomioka-Srebro",
    "Golowich-Rakhlin-Shamir",
    "Golowich-Rakhlin-Shamir, order",
    "Bartlett-Foster-Telgarsky, order",
    "Bartlett-Foster-Telgarsky, derived constants",
    "Neyshabur-Bhojanapalli-Srebro",
    "Neyshabur-Bhojanapalli-Srebro, order",
    "PAC-Bayes, McAllester, noisy network",
    "PAC-Bayes, kl-inverse, noisy network",
    "hold-out, Hoeffding",
    "hold-out, Chernoff",
    "hold-out, binomial",
    "hold-out, Bernstein",
    "hold-out, empirical Bernstein",
}


def test_every_comparator_is_there_and_recombines(table):
    assert set(table.bounds) == NAMES
    for name, bound in table.bounds.items():
        again = eval(bound.formula, {}, dict(bound.terms))
        assert again == pytest.approx(bound.value, rel=1e-12), name
        assert bound.order_only == name.endswith("order")
        assert bound.trivial == 1
        assert bound.source
        assert table[name] is bound


def test_on_trained_digits_only_what_was_held_out_says_something(table):
    telling = {name for name, bound in table.bounds.items() if bound.value < 0.9}
    assert telling == {name for name in NAMES if name.startswith("hold-out")}
    assert table.training_error < 0.05
    assert table["hold-out, binomial"].value < 0.1


def test_the_table_prints_what_kind_each_number_is(table):
    lines = repr(table).splitlines()
    assert "of 1200 training examples; 597 held out" in lines[0]
    rows = {line[:44].strip(): line[44:].split() for line in lines if line[:44].strip() in NAMES}
    assert set(rows) == NAMES
    assert all(len(line) <= 78 for line in lines)
    for name, (*_, kind) in rows.items():
        bound = table[name]
        wanted = "only" if bound.order_only else "vacuous" if bound.vacuous else "bound"
        assert kind == wanted
    assert list(rows) == list(table.ranked)
    orders = [table[name].order_only for name in table.ranked]
    assert orders == sorted(orders)  # last, and among themselves by value
    for group in (False, True):
        values = [table[name].value for name in table.ranked if table[name].order_only == group]
        assert values == sorted(values)
    assert "not all at" in repr(table)


def test_each_row_is_the_function_of_its_name(digits, table):
    net, train, _ = digits
    w = [p.detach().double() for p in net.parameters()]
    x = train.x.double()
    logits = (x @ w[0].T).relu() @ w[1].T
    right = logits.gather(1, train.y[:, None])[:, 0]
    found = right - logits.scatter(1, train.y[:, None], -math.inf).amax(1)
    assert torch.allclose(margins(weights_of_mlp(net), train), found)
    assert table.training_error == float((found <= 0).double().mean())
    gamma = float(found[found > 0].quantile(0.2))
    assert table.margin == pytest.approx(gamma, rel=1e-12)
    loss = float((found < gamma).double().mean())
    assert table.margin_loss == pytest.approx(loss, abs=1e-9)
    radius = max(1.0, float(x.norm(dim=1).max()))
    ball = {"radius": radius, "margin": gamma, "examples": 1200}
    cloud = {"data_norm": float(x.norm()), "margin": gamma, "examples": 1200}
    weights = sum(a.numel() for a in w)
    wanted = {
        "finite class of 32-bit weights": bounds.finite_class(
            table.training_error, log_size=32 * weights * math.log(2), examples=1200
        ),
        "Berner et al., Theorem 2.1": bounds.norm_margin(loss, w, form="survey", **ball),
        "Golowich-Rakhlin-Shamir": bounds.norm_margin(loss, w, **ball),
        "Golowich-Rakhlin-Shamir, order": bounds.golowich_order(w, **ball),
        "Bartlett-Foster-Telgarsky, order": bounds.spectral_margin_order(w, **cloud),
        "Bartlett-Foster-Telgarsky, derived constants": bounds.spectral_margin(loss, w, **cloud),
        "Neyshabur-Bhojanapalli-Srebro": bounds.pac_bayes_spectral(loss, w, **ball),
        "Neyshabur-Bhojanapalli-Srebro, order": bounds.pac_bayes_spectral_order(w, **ball),
        "PAC-Bayes, kl-inverse, noisy network": bounds.gaussian_pac_bayes(w, train),
        "VC dimension, order": bounds.vc_order(
            dimension=weights * 2 * math.log(weights) + weights * 4, examples=1200
        ),
    }
    for name, bound in wanted.items():
        assert table[name].value == pytest.approx(bound.value, rel=1e-9), name


def test_a_margin_a_prior_and_further_bounds(digits):
    net, train, _ = digits
    start = models.mlp([64, 30, 10], bias=False, seed=0)
    mine = bounds.holdout(0, examples=10)
    found = bounds.compare(net, train, margin=0.5, prior=start, others={"sparsity-aware": mine})
    assert found["sparsity-aware"] is mine
    assert found.margin == 0.5
    assert found.held_out == 0
    assert not any(name.startswith("hold-out") for name in found.bounds)
    plain = bounds.compare(net, train, margin=0.5)
    for name in ("PAC-Bayes, McAllester, noisy network", "Bartlett-Foster-Telgarsky, order"):
        assert found[name].value < plain[name].value
    assert bounds.compare(net, train, margin=0.5).bounds.keys() == plain.bounds.keys()


def test_a_prior_network_makes_the_noisy_bound_say_something(digits):
    # trained on the first half, fine-tuned not at all: a loose hold-out bound
    net, _, held = digits
    found = bounds.compare(net, held, prior=net)
    assert found["PAC-Bayes, kl-inverse, noisy network"].value < 0.25
    assert not found["PAC-Bayes, McAllester, noisy network"].vacuous


def test_the_model_is_only_read_and_the_result_is_frozen(digits):
    net, train, held = digits
    before = [p.clone() for p in net.parameters()]
    state = torch.get_rng_state()
    net.train()
    one = bounds.compare(net, train, holdout=held, seed=3)
    two = bounds.compare(net, train, holdout=held, seed=3)
    assert {n: b.value for n, b in one.bounds.items()} == {
        n: b.value for n, b in two.bounds.items()
    }
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    with pytest.raises(FrozenInstanceError):
        one.margin = 1.0
    with pytest.raises(TypeError):
        one.bounds["mine"] = one["growth function"]
    with pytest.raises(KeyError, match=r"no bound .*sparsity.*; there are .*finite class"):
        one["sparsity"]


def test_units_in_another_order_give_the_same_table(digits):
    net, train, held = digits
    other = models.mlp([64, 30, 10], bias=False, seed=1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        other[0].weight.copy_(net[0].weight[order])
        other[2].weight.copy_(net[2].weight[:, order])
    one, two = (bounds.compare(m, train, holdout=held) for m in (net, other))
    for name in NAMES:
        tolerance = 0.2 if "noisy" in name else 1e-6  # the noise falls on other units
        assert two[name].value == pytest.approx(one[name].value, rel=tolerance), name


def test_rescaling_layers_moves_what_depends_on_the_prior_and_nothing_else(digits):
    net, train, held = digits
    other = models.mlp([64, 30, 10], bias=False, seed=1)
    with torch.no_grad():
        other[0].weight.copy_(4 * net[0].weight)
        other[2].weight.copy_(net[2].weight / 4)
    one, two = (bounds.compare(m, train, holdout=held) for m in (net, other))
    for name in NAMES - {"PAC-Bayes, McAllester, noisy network"}:
        if "noisy" not in name:
            assert two[name].value == pytest.approx(one[name].value, rel=1e-6), name
    name = "PAC-Bayes, McAllester, noisy network"
    assert two[name].value > 1.05 * one[name].value


def test_precision_counts_in_the_finite_class(digits):
    net, train, _ = digits
    name = "finite class of {}-bit weights".format
    single = bounds.compare(net, train)[name(32)]
    double = bounds.compare(models.mlp([64, 30, 10], bias=False, seed=0, dtype=F64), train)
    assert double[name(64)].terms["log_size"] == 2 * single.terms["log_size"]


# What is refused


def small(**changes):
    given = {"x": torch.eye(3), "y": torch.tensor([0, 1, 1]), "classes": 2} | changes
    return data.Dataset("small", source="here", **given)


class Odd(nn.Module):
    """No chain."""


def linear(a, b, bias=False):
    return nn.Linear(a, b, bias=bias)


@pytest.mark.parametrize(
    "model, message",
    [
        (models.mlp([3, 4, 2], seed=0), r"layer 'layer1' \(Linear\) has a bias.*bias=False"),
        (
            models.mlp([3, 4, 2], bias=False, activation=nn.Tanh, seed=0),
            r"layer 'act1' \(Tanh\) is neither",
        ),
        (models.cnn((1, 4, 4), channels=(2,), seed=0), r"layer 'image' \(Unflatten\) is neither"),
        (nn.Sequential(linear(3, 4), linear(4, 2)), r"layer '1' \(Linear\) follows a Linear"),
        (nn.Sequential(nn.ReLU(), linear(3, 2)), r"layer '0' \(ReLU\) has no Linear"),
        (nn.Sequential(linear(3, 2), nn.ReLU()), "must end with a Linear layer"),
        (nn.Sequential(), "must end with a Linear layer"),
        (nn.Sequential(nn.Sequential(linear(3, 4), nn.ReLU()), Odd()), r"layer '1' \(Odd\)"),
        (nn.Sequential(nn.Sequential(nn.Dropout()), linear(3, 2)), r"layer '0.0' \(Dropout\)"),
        (Odd(), r"layer 'Odd' \(Odd\) is neither"),
        (models.mlp([3, 4, 2], bias=False, initialisation="zeros", seed=0), "layer 1 are all zero"),
    ],
)
def test_other_networks_are_refused_by_the_name_of_the_layer(model, message):
    with pytest.raises(ValueError, match=message):
        bounds.compare(model, small())


def test_nested_chains_and_single_layers_are_read():
    nested = nn.Sequential(nn.Sequential(linear(3, 4), nn.ReLU()), linear(4, 2))
    assert [tuple(w.shape) for w in weights_of_mlp(nested)] == [(4, 3), (2, 4)]
    assert len(weights_of_mlp(linear(3, 2))) == 1


GOOD = linear(3, 2)
with torch.no_grad():
    GOOD.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 1]]))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: bounds.compare("net", small()), TypeError, "model must be a torch.nn.Module"),
        (lambda: bounds.compare(GOOD, torch.eye(3)), TypeError, "train must be a Dataset"),
        (
            lambda: bounds.compare(GOOD, small(), holdout=torch.eye(3)),
            TypeError,
            "holdout must be a Dataset",
        ),
        (
            lambda: bounds.compare(GOOD, small(x=torch.ones(3, 5))),
            ValueError,
            "train has 5 inputs, but the model takes 3",
        ),
        (
            lambda: bounds.compare(GOOD, small(), holdout=small(x=torch.ones(3, 5))),
            ValueError,
            "holdout has 5 inputs",
        ),
        (
            lambda: bounds.compare(GOOD, small(y=torch.zeros(3), classes=0)),
            ValueError,
            "between 2 classes and the 2 outputs",
        ),
        (lambda: bounds.compare(GOOD, small(classes=3)), ValueError, "the 2 outputs of the model"),
        (
            lambda: bounds.compare(GOOD, small(y=torch.tensor([1, 0, 0]))),
            ValueError,
            "no training example has a positive margin",
        ),
        (lambda: bounds.compare(GOOD, small(), margin=-1), ValueError, "margin must be"),
        (lambda: bounds.compare(GOOD, small(), radius=0.5), ValueError, "radius = 0.5 does not"),
        (lambda: bounds.compare(GOOD, small(), radius=0), ValueError, "radius must be"),
        (
            lambda: bounds.compare(GOOD, small(x=torch.zeros(3, 3))),
            ValueError,
            "longest training input must be",
        ),
        (lambda: bounds.compare(GOOD, small(), delta=0), ValueError, "delta must lie"),
        (
            lambda: bounds.compare(GOOD, small(), prior=models.mlp([3, 4, 2], bias=False, seed=0)),
            ValueError,
            r"prior must have the widths of the model, \[3, 2\]; got \[3, 4, 2\]",
        ),
        (
            lambda: bounds.compare(GOOD, small(), others={"mine": 0.3}),
            TypeError,
            r"others\['mine'\] must be a Bound",
        ),
        (
            lambda: bounds.compare(
                GOOD, small(), others={"growth function": bounds.holdout(0, examples=9)}
            ),
            ValueError,
            "name of a comparator",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
