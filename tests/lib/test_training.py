"""Training: the loop does what is written, again and again, and leaves no trace but the weights.

Oracles: gradient descent on the toy set in closed form, and a loop of six lines in this file.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gencoh_lib import coherence, data, models, training
from gencoh_lib.data import Dataset
from gencoh_lib.training import Evaluate, Evaluation, History, evaluate, train


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "static")


@pytest.fixture(scope="module")
def digits():
    return data.split(data.load("digits"), [200], seed=0)[0]


@pytest.fixture(scope="module")
def toy():
    return data.coherence_toy(1.0, dtype=torch.float64)


def line(dtype=torch.float64):
    return models.mlp([6, 1], bias=False, initialisation="zeros", seed=0, dtype=dtype)


def network(seed=0):
    return models.mlp([64, 16, 10], seed=seed)


def dropout(seed=0):
    model = network(seed)
    model.append(nn.Dropout(0.3))
    return model


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def toy_run(toy, model=None, **keywords):
    model = line() if model is None else model
    settings = {"steps": 10, "learning_rate": 0.1, "loss": training.half_squared_error}
    return train(model, toy.train, **settings | keywords)


# --- losses ----------------------------------------------------------------------------------


def test_cross_entropy_is_minus_the_log_of_the_probability():
    outputs = torch.randn(5, 3, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1, 1, 0])
    expected = [-math.log(outputs[i].softmax(0)[targets[i]]) for i in range(5)]
    assert training.cross_entropy(outputs, targets).tolist() == pytest.approx(expected)


def test_half_squared_error_takes_columns_and_vectors():
    targets = torch.tensor([1.0, -1.0])
    for outputs in (torch.tensor([3.0, -1.0]), torch.tensor([[3.0], [-1.0]])):
        assert training.half_squared_error(outputs, targets).tolist() == [2, 0]


def test_losses_refuse_to_broadcast():
    with pytest.raises(ValueError, match=r"outputs \[m\] or \[m, 1\].*got \(3, 2\) and \(3,\)"):
        training.half_squared_error(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"got \(1,\) and \(3,\)"):
        training.half_squared_error(torch.zeros(1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"needs outputs \[m, classes\].*got \(3,\) and \(3,\)"):
        training.cross_entropy(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(2,\)"):
        training.cross_entropy(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


# --- the loop does what is written -----------------------------------------------------------


def test_toy_set_follows_its_closed_form(toy):
    probes = {
        "train": Evaluate(toy.train, training.half_squared_error),
        "test": Evaluate(toy.test, training.half_squared_error),
        "w": lambda model: model.layer1.weight.detach().flatten().clone(),
    }
    history = toy_run(toy, steps=300, probes=probes, at=range(300))
    for name, formula in (("train.loss", toy.train_loss), ("test.loss", toy.test_loss)):
        expected = [formula(0.1, step) for step in history.steps]
        np.testing.assert_allclose(history.series(name), expected, rtol=1e-9, atol=1e-14)
    final = history.series("w")[-1]
    np.testing.assert_allclose(final, [0.2, 0.2, 0.2, 0.2, 0, 0.8], atol=1e-9)


@pytest.mark.parametrize("batch_size", [None, 64])
def test_loop_equals_its_naive_twin(digits, batch_size):
    model, twin = network(), network()
    train(model, digits, steps=7, learning_rate=0.3, batch_size=batch_size, seed=4)
    generator, order = torch.Generator().manual_seed(4), []
    for _ in range(7):
        if batch_size is None:
            chosen = range(200)
        else:
            order = order or list(torch.randperm(200, generator=generator).split(64))
            chosen = order.pop(0).tolist()
        loss = F.cross_entropy(twin(digits.x[chosen]), digits.y[chosen])
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= 0.3 * gradient
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-5, atol=1e-7)


@given(m=st.integers(1, 12), batch_size=st.integers(1, 12), epochs=st.integers(1, 3))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_every_epoch_sees_every_example_once(m, batch_size, epochs):
    batch_size = min(batch_size, m)
    whole = Dataset("count", torch.arange(m).float()[:, None], torch.zeros(m), 0, "here")
    seen = []

    def loss(outputs, targets):
        seen.append(outputs.detach().flatten())
        return outputs.flatten() * 0

    model = models.mlp([1, 1], bias=False, seed=0)
    nn.init.ones_(model.layer1.weight)
    steps = epochs * math.ceil(m / batch_size)
    train(model, whole, steps=steps, learning_rate=0.1, batch_size=batch_size, loss=loss, probes={})
    assert {len(batch) for batch in seen[:-1]} <= {batch_size, m % batch_size}
    for epoch in torch.cat(seen).view(epochs, m):
        assert sorted(epoch.tolist()) == list(range(m))


def test_epochs_are_in_different_orders(digits):
    batches = training._batches(50, 50, seed=0)
    assert not torch.equal(next(batches), next(batches))


def test_learning_rate_may_depend_on_the_step(toy):
    # Steps that alternate between 0.2 and nothing: half as many steps of 0.2.
    model = line()
    toy_run(toy, model, steps=10, learning_rate=lambda step: 0.2 if step % 2 == 0 else 0.0)
    twin = line()
    toy_run(toy, twin, steps=5, learning_rate=0.2)
    assert torch.equal(weights(model), weights(twin))


def test_optimizer_is_used_with_the_given_learning_rate(toy):
    model = line()
    toy_run(toy, model, steps=1, learning_rate=0.01, optimizer=torch.optim.Adam)
    # The first step of Adam is the learning rate times the sign of the gradient.
    expected = [0.01, 0.01, 0.01, 0.01, 0, 0.01]
    assert weights(model).abs().tolist() == pytest.approx(expected, abs=1e-8)


def test_frozen_parameters_stay(digits):
    model = network()
    model.layer1.requires_grad_(False)
    before = model.layer1.weight.clone(), model.layer2.weight.clone()
    train(model, digits, steps=3, learning_rate=0.1)
    assert torch.equal(before[0], model.layer1.weight)
    assert not torch.equal(before[1], model.layer2.weight)
    assert not model.layer1.weight.requires_grad


def test_no_steps_only_probe(toy):
    model = line()
    history = toy_run(toy, model, steps=0)
    assert history.steps == (0,)
    assert history.series("train.loss").tolist() == [0.5]
    assert not weights(model).any()


def test_works_where_gradients_are_switched_off(toy):
    with torch.no_grad():
        history = toy_run(toy)
    assert history.series("train.loss")[-1] == pytest.approx(toy.train_loss(0.1, 10))


# --- probes ----------------------------------------------------------------------------------


def test_probes_run_before_the_update_of_their_step_and_after_the_last(toy):
    probes = {"w": lambda model: model.layer1.weight[0, 5].item()}
    history = toy_run(toy, steps=6, probes=probes, at=np.array([4, 0, 4]))
    every = toy_run(toy, steps=6, probes=probes, at=range(7))
    assert repr(history.steps) == "(0, 4, 6)"  # plain integers, whatever was given
    assert history.series("w").tolist() == every.series("w")[[0, 4, 6]].tolist()
    assert history.series("w")[0] == 0


def test_default_probe_evaluates_the_training_set(digits):
    model = network()
    history = train(model, digits, steps=50, learning_rate=0.3)
    assert list(history.records) == ["train"]
    assert history.steps == training.log_steps(50, 20)
    assert history.records["train"][-1] == evaluate(model, digits)


def test_probes_see_eval_mode_and_gradients_and_training_sees_train_mode(digits):
    model, seen = dropout(), []
    model[0].register_forward_pre_hook(lambda module, inputs: seen.append(module.training))

    def probe(model):
        assert torch.is_grad_enabled()
        return [module.training for module in model.modules()]

    history = train(model, digits, steps=2, learning_rate=0.1, probes={"modes": probe}, at=[0, 1])
    assert seen == [True, True]
    assert not history.series("modes").any()


def meddling(model):
    """A probe that draws random numbers, backpropagates and changes every setting it can."""
    torch.rand(3)
    model.train()
    model(torch.ones(2, 64)).sum().backward()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    return 0.0


def test_probes_do_not_change_the_run(digits):
    runs = []
    for probes, at in (({}, []), ({"meddling": meddling}, range(5)), ({"meddling": meddling}, [3])):
        model = dropout()
        train(model, digits, steps=5, learning_rate=0.1, batch_size=50, probes=probes, at=at)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_probes_find_the_settings_of_the_run_whatever_the_one_before_did(digits):
    def settings(model):
        return [model.training, torch.is_grad_enabled(), torch.get_num_threads(), torch.rand(1)]

    first = {"a": settings, "meddling": meddling, "b": settings}
    history = train(dropout(), digits, steps=2, learning_rate=0.1, probes=first, at=[0, 1])
    assert history.records["a"] == history.records["b"]
    assert history.records["a"][0][:3] == [False, True, 1]


def test_threads_of_the_run_outlast_a_probe(digits):
    seen = []

    def loss(outputs, targets):
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))
        return training.cross_entropy(outputs, targets)

    probes = {"meddling": meddling}
    train(network(), digits, steps=3, learning_rate=0.1, probes=probes, at=range(3), loss=loss)
    assert seen == [(1, True)] * 3


def test_error_in_a_probe_says_which_and_when(toy):
    def broken(model):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no") as caught:
        toy_run(toy, probes={"broken": broken}, at=[3], description="the toy")
    assert caught.value.__notes__ == ["in the probe 'broken', at step 3 of the toy"]


# --- the same again --------------------------------------------------------------------------


@pytest.mark.parametrize("build", [network, dropout])
def test_two_runs_are_bit_equal_whatever_the_global_seed(digits, build):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build()
        history = train(model, digits, steps=30, learning_rate=0.2, batch_size=32, seed=9)
        runs.append((weights(model), history.series("train.loss")))
    assert torch.equal(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("change", [{"batch_size": 32}, {}], ids=["batches", "dropout"])
def test_another_seed_is_another_run(digits, change):
    runs = []
    for seed in (1, 2):
        model = dropout()
        train(model, digits, steps=3, learning_rate=0.2, seed=seed, **change)
        runs.append(weights(model))
    assert not torch.equal(*runs)


# --- everything is put back ------------------------------------------------------------------


def interrupt(model):
    raise KeyboardInterrupt


def fail(model):
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ({}, None),
        ({"probes": {"p": interrupt}, "at": [2]}, KeyboardInterrupt),
        ({"probes": {"p": fail}, "at": [2]}, RuntimeError),
        ({"learning_rate": lambda step: 1e30}, FloatingPointError),
        ({"optimizer": lambda parameters: 1 / 0}, ZeroDivisionError),
    ],
    ids=["end", "interrupt", "probe", "divergence", "optimizer"],
)
def test_threads_random_state_modes_and_gradients_come_back(digits, ending, error):
    model = dropout()
    model.eval()
    model.layer1.train()
    model.layer1.weight.grad = torch.full_like(model.layer1.weight, 3.0)
    modes = [module.training for module in model.modules()]
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    inside = []
    spy = {"threads": lambda model: inside.append(torch.get_num_threads()), "meddling": meddling}
    arguments = {"steps": 4, "learning_rate": 0.1, "threads": 3, "probes": spy} | ending
    if error is None:
        train(model, digits, **arguments)
        assert set(inside) == {3}
    else:
        with pytest.raises(error):
            train(model, digits, **arguments)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.layer1.weight.grad, torch.full_like(model.layer1.weight, 3.0))
    assert model.layer2.weight.grad is None


# --- refusals --------------------------------------------------------------------------------


def test_divergence_names_the_step_and_the_remedy(toy):
    with pytest.raises(
        FloatingPointError, match=r"loss is (inf|nan) at step \d+.*rate below 1e\+80"
    ):
        toy_run(toy, learning_rate=1e80, probes={})


@pytest.mark.parametrize("probes", [{}, None, {"late": meddling}], ids=["none", "default", "own"])
@pytest.mark.parametrize("steps", [1, 2])
def test_parameter_that_overflows_is_noticed_before_any_probe_sees_it(toy, probes, steps):
    scaled = Dataset("scaled", toy.train.x * 1e10, toy.train.y, 0, "here")
    arguments = {"learning_rate": 1e300, "loss": training.half_squared_error, "at": [1]}
    with pytest.raises(
        FloatingPointError, match=r"a parameter is not finite at step 1: .* below 1e\+300"
    ):
        train(line(), scaled, steps=steps, probes=probes, **arguments)


def test_loss_that_overflows_in_the_last_update_is_noticed_by_the_default_probe(digits):
    with pytest.raises(
        FloatingPointError, match=r"the loss of the probe 'train' is (nan|inf) at step 1: "
    ):
        train(network(), digits, steps=1, learning_rate=1e38)


def test_probe_that_fails_because_the_run_diverged_is_reported_as_divergence(digits):
    with pytest.raises(FloatingPointError, match=r"the loss is not finite at step [123]") as caught:
        train(
            network(),
            digits,
            steps=4,
            learning_rate=1e30,
            probes={"coherence": coherence.Probe(digits.take(range(20)))},
            at=range(4),
        )
    assert isinstance(caught.value.__cause__, ValueError)
    assert "in the probe 'coherence'" in caught.value.__cause__.__notes__[0]


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_learning_rate_is_finite_and_not_negative(toy, rate):
    model, called = line(), []
    with pytest.raises(ValueError, match=f"learning_rate must be finite .* got {rate} at step 0"):
        toy_run(toy, model, learning_rate=rate, probes={"p": called.append})
    assert not called
    assert not weights(model).any()
    with pytest.raises(ValueError, match=f"learning_rate must be finite .* got {rate} at step 3"):
        toy_run(toy, model, learning_rate=lambda step: rate if step == 3 else 0.1)


def test_nan_in_the_data_is_noticed_at_once(toy):
    broken = toy.train.take(range(4))
    broken.x[2, 1] = math.nan
    with pytest.raises(
        FloatingPointError, match=r"loss is nan at step 0.*look for NaN in the data"
    ):
        train(
            line(), broken, steps=2, learning_rate=0.1, loss=training.half_squared_error, probes={}
        )


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must lie between 1 and the 200 examples .* got 0"),
        ({"batch_size": 201}, "got 201; None takes all"),
        ({"at": [-1, 3, 9]}, r"at must lie between 0 and steps = 5, got \[-1, 9\]"),
        ({"probes": {"a.b": meddling}}, r"name of a probe must not be empty or hold a dot.*a\.b"),
        ({"probes": {"": meddling}}, "name of a probe must not be empty"),
        ({"loss": F.cross_entropy}, r"shape \[200\], got \(\); .* pass reduction='none'"),
    ],
)
def test_impossible_arguments_are_refused_before_the_first_update(digits, keywords, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        train(model, digits, **{"steps": 5, "learning_rate": 0.1} | keywords)
    assert torch.equal(weights(model), weights(network()))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"steps": 3.0}, r"steps must be a whole number, got 3\.0"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"threads": 1.5}, "threads must be a whole number, got 1.5"),
        ({"batch_size": 10.5}, r"batch_size must be a whole number, got 10\.5"),
        ({"at": [1.5]}, r"at must be a list of whole numbers, got \[1\.5\]"),
        ({"at": 3}, "at must be a list of whole numbers, got 3"),
    ],
)
def test_what_is_not_a_whole_number_is_refused(digits, keywords, message):
    model = network()
    with pytest.raises(TypeError, match=message):
        train(model, digits, **{"steps": 5, "learning_rate": 0.1} | keywords)
    assert torch.equal(weights(model), weights(network()))


@pytest.mark.parametrize(
    "use",
    [lambda *a: train(*a, steps=1, learning_rate=0.1, probes={}), evaluate],
    ids=["train", "evaluate"],
)
def test_another_type_in_the_model_than_in_the_data_is_explained(digits, use):
    model = models.mlp([64, 10], seed=0, dtype=torch.float64)
    with pytest.raises(RuntimeError) as caught:
        use(model, digits)
    (note,) = caught.value.__notes__
    assert "the inputs are torch.float32, but the model has parameters of torch.float64" in note
    assert "model.to(torch.float32)" in note
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        use(models.mlp([32, 10], seed=0), digits)  # the types agree, so nothing to add
    assert not hasattr(caught.value, "__notes__")


def test_model_without_anything_to_train_is_refused(digits):
    model = network().requires_grad_(False)
    for nothing in (model, nn.Flatten()):
        with pytest.raises(ValueError, match=r"nothing to train; call model\.requires_grad_"):
            train(nothing, digits, steps=1, learning_rate=0.1)


# --- evaluate --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 64, 200, 4096])
def test_evaluation_does_not_depend_on_the_batch_size(digits, batch_size):
    model = network()
    outputs = model(digits.x).detach()
    result = evaluate(model, digits, batch_size=batch_size)
    assert result.loss == pytest.approx(float(F.cross_entropy(outputs, digits.y)), rel=1e-6)
    assert result.accuracy == int((outputs.argmax(1) == digits.y).sum()) / 200
    assert result.examples == 200


def test_evaluation_is_in_eval_mode_and_puts_modes_back(digits):
    model = dropout()
    model.layer2.eval()
    modes = [module.training for module in model.modules()]
    assert evaluate(model, digits) == evaluate(network(), digits)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError, match=r"one number an example, shape \[200\], got \(\)"):
        evaluate(model, digits, loss=F.cross_entropy)
    assert [module.training for module in model.modules()] == modes


def test_evaluation_refuses_impossible_batch_sizes(digits):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(network(), digits, batch_size=0)
    with pytest.raises(TypeError, match=r"batch_size must be a whole number, got 0\.5"):
        evaluate(network(), digits, batch_size=0.5)


def test_regression_has_no_accuracy(toy):
    result = evaluate(line(), toy.train, loss=training.half_squared_error)
    assert result.loss == 0.5
    assert math.isnan(result.accuracy)
    assert repr(result) == "Evaluation on 4 examples\n  loss      0.5"


def test_evaluation_prints_itself():
    text = repr(Evaluation(loss=0.25, accuracy=0.9, examples=10))
    assert text == "Evaluation on 10 examples\n  loss      0.25\n  accuracy  0.9"


# --- log_steps -------------------------------------------------------------------------------


@given(steps=st.integers(0, 10**6), points=st.integers(2, 60))
@settings(derandomize=True)
def test_log_steps_increase_from_0_to_the_last(steps, points):
    chosen = training.log_steps(steps, points)
    assert chosen[0] == 0
    assert chosen[-1] == steps
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) <= max(points, 3)
    assert all(type(step) is int for step in chosen)


def test_log_steps_are_logarithmic():
    assert training.log_steps(10**4, 6) == (0, 1, 10, 100, 1000, 10_000)
    assert training.log_steps(0, 9) == (0,)


def test_log_steps_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        training.log_steps(-1, 5)
    with pytest.raises(ValueError, match="points must be at least 2, got 1"):
        training.log_steps(10, 1)
    with pytest.raises(TypeError, match=r"steps must be a whole number, got 10\.5"):
        training.log_steps(10.5, 3)
    with pytest.raises(TypeError, match=r"points must be a whole number, got 3\.5"):
        training.log_steps(10, 3.5)


# --- History ---------------------------------------------------------------------------------


@pytest.fixture
def history():
    def measured(step):
        blocks = {"layer1": SimpleNamespace(alpha=step / 10), "layer1.weight": 7.0}
        return SimpleNamespace(blocks=blocks, interval=(step - 1.0, step + 1.0), vector=[step] * 3)

    steps = (0, 5, 10)
    return History(
        steps,
        {
            "train": tuple(Evaluation(1 / (1 + s), s / 10, 50) for s in steps),
            "test": tuple(Evaluation(2 / (1 + s), s / 20, 50) for s in steps),
            "norm": tuple(torch.tensor(float(s)) for s in steps),
            "deep": tuple(measured(s) for s in steps),
            "counts": tuple({"a": s, "b.c": 2 * s} for s in steps),
            "note": ("hello",) * 3,
        },
        "a test",
    )


def test_series_follow_attributes_keys_and_positions(history):
    assert history.series("train.accuracy").tolist() == [0, 0.5, 1]
    assert history.series("norm").tolist() == [0, 5, 10]
    assert history.series("counts.a").tolist() == [0, 5, 10]
    assert history.series("counts.b.c").tolist() == [0, 10, 20]
    assert history.series("deep.blocks.layer1.alpha").tolist() == [0, 0.5, 1]
    assert history.series("deep.blocks.layer1.weight").tolist() == [7, 7, 7]
    assert history.series("deep.interval.1").tolist() == [1, 6, 11]
    assert history.series("deep.vector").shape == (3, 3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trian.loss", "no 'trian' in the history; it holds train, test.*Did you mean 'train'"),
        ("train.acc", "no 'acc' in the history, train; it holds loss, accuracy, examples"),
        ("counts.z", "no 'z' in the history, counts; it holds a, b.c"),
        ("deep.interval.2", "no '2' in the history, deep, interval; it holds 0, 1"),
        ("deep._private", "no '_private' in the history, deep"),
    ],
)
def test_path_that_leads_nowhere_says_where_it_could_go(history, path, message):
    with pytest.raises(KeyError, match=message):
        history.series(path)


def test_series_of_what_is_not_a_number_is_refused(history):
    with pytest.raises(TypeError, match=r"'train' leads to Evaluation.*it holds loss, accuracy"):
        history.series("train")
    with pytest.raises(TypeError, match="'note' leads to str, which is neither a number"):
        history.series("note")
    ragged = History((0, 1), {"v": (torch.zeros(2), torch.zeros(3))})
    with pytest.raises(TypeError, match="array of the same shape at every step"):
        ragged.series("v")


def test_path_names_keys_that_are_not_strings_as_they_print():
    history = History((0, 1), {"norm": ({0: 1.0, (1, 2): 5.0}, {0: 2.0, (1, 2): 6.0})})
    assert history.series("norm.0").tolist() == [1, 2]
    assert repr(history).splitlines()[1].split(maxsplit=2) == ["step", "norm.0", "norm.(1, 2)"]


def test_series_takes_the_number_types_of_torch_that_numpy_lacks():
    values = tuple(torch.tensor(v, dtype=torch.bfloat16) for v in (0.5, 1.5))
    assert History((0, 1), {"norm": values}).series("norm").tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    "values",
    [
        ({"a": 1.0}, {"b": 2.0}),
        ({"a": 1.0}, {"a": "much"}),
        (1.0, None),
        (None, 1.0),
        (1j, 2j),
        (torch.tensor(1j), torch.tensor(2j)),
        ({"": 1.0}, {"": 2.0}),
        (1.0, torch.ones(2)),
    ],
    ids=repr,
)
def test_what_is_not_a_number_at_every_step_has_no_column(values):
    history = History((0, 1), {"odd": values, "even": (2.0, 4.0)})
    assert repr(history).splitlines()[1].split() == ["step", "even"]
    assert [ax.get_ylabel() for ax in history.plot().axes] == ["even"]


def test_series_that_changes_its_type_names_both():
    with pytest.raises(TypeError, match="'v' leads to float or NoneType, which is neither"):
        History((0, 1), {"v": (1.0, None)}).series("v")


def test_history_without_steps_or_with_missing_entries_is_refused():
    with pytest.raises(ValueError, match="one step at least"):
        History((), {})
    with pytest.raises(ValueError, match="probe 'norm' has 1 entries for 2 steps"):
        History((0, 1), {"norm": (1.0,)})


def test_history_prints_a_table(history):
    lines = repr(history).splitlines()
    assert lines[0] == "History of a test, 10 steps"
    assert lines[1].split() == [
        *["step", "train.loss", "train.accuracy", "test.loss", "test.accuracy"],
        *["norm", "counts.a", "counts.b.c"],
    ]
    assert lines[3].split() == ["5", "0.1667", "0.5", "0.3333", "0.25", "5", "5", "10"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_long_history_prints_twelve_rows_with_the_first_and_the_last():
    long = History(tuple(range(100)), {"loss": tuple(float(s) for s in range(100))}, "long")
    lines = repr(long).splitlines()
    assert lines[0] == "History of long, 99 steps (12 of 100 rows)"
    assert len(lines) == 2 + 12
    assert lines[2].split() == ["0", "0"]
    assert lines[-1].split() == ["99", "99"]


def test_column_without_any_number_is_not_printed(toy):
    assert "accuracy" not in repr(toy_run(toy))


def test_history_without_probes_prints_its_steps(toy):
    history = toy_run(toy, probes={})
    assert repr(history).splitlines()[1].split() == ["step"]
    with pytest.raises(ValueError, match="no numbers to draw"):
        history.plot()


def test_records_cannot_be_changed(toy):
    with pytest.raises(TypeError, match="does not support item assignment"):
        toy_run(toy).records["train"] = ()


def test_plot_draws_the_numbers_and_groups_them_by_last_name(history):
    figure = history.plot("train.loss", "test.loss", "norm")
    loss, norm = figure.axes
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "norm"]
    assert [line.get_label() for line in loss.lines] == ["train", "test"]
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), history.series("test.loss"))
    np.testing.assert_array_equal(loss.lines[1].get_xdata(), history.steps)
    assert loss.get_legend() is not None
    assert norm.get_legend() is None


def test_plot_describes_itself_with_the_numbers(history):
    alt = history.plot("train.loss").alt
    assert "from step 0 to step 10" in alt
    assert "train.loss goes from 1 to 0.0909" in alt
    assert history.plot("norm", alt="A description of my own, as I like it").alt.startswith("A des")


def test_plot_draws_the_columns_of_the_table_by_default_one_above_the_other(history):
    labels = [ax.get_ylabel() for ax in history.plot().axes]
    assert labels == ["loss", "accuracy", "norm", "a", "c"]


def test_log_scale_keeps_step_0(history):
    (ax,) = history.plot("norm", xscale="log").axes
    assert ax.get_xscale() == "symlog"
    low, _ = ax.get_xlim()
    assert low <= 0


def test_plot_refuses_an_unknown_scale(history):
    with pytest.raises(ValueError, match="xscale must be 'linear' or 'log', got 'lin'"):
        history.plot("norm", xscale="lin")


def test_plot_refuses_arrays(history):
    with pytest.raises(
        ValueError, match=r"'deep.vector' holds arrays of shape \(3,\), not numbers"
    ):
        history.plot("deep.vector")
