"""Noisy SGD: the chains against loops, the noise against its covariance, tubes against geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gencoh_lib import data, models
from gencoh_lib.stagnation import (
    DecayingSteps,
    FrozenMinibatchNoise,
    IsotropicNoise,
    LinearChain,
    LiveMinibatch,
    NetworkLoss,
    SpectralClip,
    Tube,
    gradient_of,
    noisy_sgd,
    stationary_variances,
)
from gencoh_lib.training import half_squared_error


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


# --- the loop ---


@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.sampled_from([0.1, DecayingSteps(0.3, 4, 0.7), None]),
)
@settings(deadline=None)
def test_chains_follow_the_update_of_a_loop(chains, steps, seed, step_size):
    start = normals(chains, 3, seed=seed)
    step_size = list(np.linspace(0.2, 0.05, steps)) if step_size is None else step_size
    h = torch.tensor([1.0, 2.0, 0.0]).double()

    class Fixed:
        """Noise that the twin can repeat."""

        def __init__(self):
            self.t = 0

        def __call__(self, theta, gradient, generator):
            self.t += 1
            return gradient(theta) + math.sin(self.t)

    def projection(theta):
        return theta.clamp(-1, 1)

    run = noisy_sgd(
        lambda x: h * x, start, steps=steps, step_size=step_size, noise=Fixed(),
        projection=projection, tube=Tube(torch.zeros(3).double(), 1.0), keep=1,
    )  # fmt: skip
    for c in range(chains):
        x = start[c].numpy().copy()
        for t in range(steps):
            eta = step_size if isinstance(step_size, float) else None
            if eta is None:
                eta = step_size(t) if callable(step_size) else step_size[t]
            x = np.clip(x - eta * (h.numpy() * x + math.sin(t + 1)), -1, 1)
            assert run.positions[c, t + 1].numpy() == pytest.approx(x, abs=1e-12)
            assert float(run.distances[c, t + 1]) == pytest.approx(np.linalg.norm(x), abs=1e-12)
    assert torch.equal(run.positions[:, 0], start)
    assert torch.equal(run.positions[:, -1], run.final)


def test_a_bowl_is_the_linear_chain():
    chain = LinearChain(1, 0.1, 1)
    run = noisy_sgd(
        lambda x: x, torch.zeros(1), steps=60, step_size=0.1, chains=20_000,
        noise=IsotropicNoise(1.0), keep=10, seed=2,
    )  # fmt: skip
    assert run.kept_steps == (0, 10, 20, 30, 40, 50, 60)
    x = run.positions[:, :, 0].double()
    for column, t in enumerate(run.kept_steps[1:], start=1):
        v = chain.variance(t)
        assert float(x[:, column].square().mean()) == pytest.approx(
            v, abs=4 * v * math.sqrt(2 / 20_000)
        )
    covariance = float((x[:, 5] * x[:, 6]).mean())
    v = chain.stationary_variance
    assert covariance == pytest.approx(
        chain.autocovariance(10), abs=4 * 1.1 * v / math.sqrt(20_000)
    )


def test_zero_noise_stays_for_ever_and_at_distance_zero():
    run = noisy_sgd(
        lambda x: x, torch.zeros(4), steps=50, step_size=0.1, tube=Tube(torch.zeros(4), 1)
    )
    assert not run.distances.any()
    assert run.stay().stayed.all()


@pytest.mark.parametrize("flat", [0, 10, 1000])
def test_flat_directions_change_nothing(flat):
    # The tube's stay probability ignores them, while the drift along them grows like p T.
    chains, steps, eta = 1500, 100, 0.1
    normal = torch.eye(flat + 1)[:, :1]
    run = noisy_sgd(
        lambda x: x * normal.T, torch.zeros(flat + 1), steps=steps, step_size=eta,
        chains=chains, noise=IsotropicNoise(1.0), seed=7,
        tube=Tube(torch.zeros(flat + 1), 0.8, normal=normal),
    )  # fmt: skip
    exact = 0.977361
    error = math.sqrt(exact * (1 - exact) / chains)
    assert run.stay().probability().value == pytest.approx(exact, abs=4 * error)
    drift = float(run.final[:, 1:].double().square().sum(1).mean())
    expected = flat * steps * eta**2
    assert drift == pytest.approx(
        expected, abs=4 * math.sqrt(2 / chains) * expected / math.sqrt(max(flat, 1))
    )
    if flat == 1000:  # a ball would say that all chains have left
        assert not (torch.linalg.vector_norm(run.final, dim=1) <= 0.8).any()


def test_one_step_on_the_hyperbola():
    # (xy - 1)^2 / 2: E[x'^2 - y'^2] = (x^2 - y^2)(1 - eta^2 g^2) with g = xy - 1
    gradient = gradient_of(lambda t: (t[:, 0] * t[:, 1] - 1) ** 2 / 2)
    start = torch.tensor([3.0, 0.5], dtype=torch.float64)
    run = noisy_sgd(
        gradient, start, steps=1, step_size=0.05, chains=200_000, noise=IsotropicNoise(0.3), seed=5
    )
    difference = run.final[:, 0] ** 2 - run.final[:, 1] ** 2
    error = float(difference.std()) / math.sqrt(200_000)
    exact = (3**2 - 0.5**2) * (1 - 0.05**2 * 0.5**2)
    assert exact == pytest.approx(8.74453125, rel=1e-12)
    assert float(difference.mean()) == pytest.approx(exact, abs=4 * error)


def test_the_flattest_point_draws_the_chain():
    # x^2 (1 + y^2) / 2: an earlier run had var y 2.9, far below a random walk's 30; var x .029
    gradient = gradient_of(lambda t: t[:, 0] ** 2 * (1 + t[:, 1] ** 2) / 2)
    run = noisy_sgd(
        gradient, torch.zeros(2), steps=3000, step_size=0.1, chains=400, noise=IsotropicNoise(1.0)
    )
    x, y = run.final.double().square().mean(0).tolist()
    assert y == pytest.approx(2.9, abs=4 * 2.9 * math.sqrt(3 / 400))
    assert x == pytest.approx(0.029, abs=4 * 0.029 * math.sqrt(6 / 400))


def test_one_seed_gives_one_run_and_the_global_state_stays():
    def run(seed):
        return noisy_sgd(
            lambda x: x, torch.zeros(2), steps=5, step_size=0.1, chains=3,
            noise=IsotropicNoise(1.0), seed=seed,
        ).final  # fmt: skip

    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = run(1)
    assert torch.equal(first, run(1))
    assert not torch.equal(first, run(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_chains_that_diverge_are_counted_and_outside():
    run = noisy_sgd(
        lambda x: 100 * x, torch.ones(1), steps=300, step_size=0.5, tube=Tube(torch.zeros(1), 1)
    )
    assert run.diverged == 1
    assert not run.stay().stayed.any()
    assert "1, 1 diverged" in repr(run)


def test_a_run_without_a_tube_says_what_is_missing():
    run = noisy_sgd(lambda x: x, torch.ones(1), steps=2, step_size=0.5)
    assert run.positions is None
    assert "positions   not" in repr(run)
    with pytest.raises(ValueError, match="pass a tube to noisy_sgd"):
        run.stay()


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"start": [0.0]}, TypeError, "start must be a floating-point tensor"),
        ({"start": torch.zeros(1, 2, 3)}, ValueError, r"shape \[D\] or \[chains, D\]"),
        ({"start": torch.zeros(2, 2), "chains": 3}, ValueError, "start holds 2 chains, chains = 3"),
        ({"steps": 0}, ValueError, "steps must be a whole number >= 1"),
        ({"step_size": -0.1}, ValueError, "finite and >= 0 at every step"),
        ({"step_size": [0.1, 0.1]}, ValueError, "3 steps but step_size of shape"),
        ({"tube": Tube(torch.zeros(3), 1)}, ValueError, "in 3 dimensions, the chains are in 2"),
        ({"gradient": lambda x: x.sum(1)}, ValueError, r"must map \[chains, D\] to \[chains, D\]"),
        ({"gradient": None}, ValueError, "give a gradient, a noise that brings its own"),
        ({"gradient": None, "noise": IsotropicNoise(1)}, ValueError, "adds to a gradient"),
        ({"keep": 0}, ValueError, "keep must be a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(changes, error, words):
    arguments = {"gradient": lambda x: x, "start": torch.zeros(2), "steps": 3, "step_size": 0.1}
    arguments |= changes
    gradient, start = arguments.pop("gradient"), arguments.pop("start")
    with pytest.raises(error, match=words):
        noisy_sgd(gradient, start, **arguments)


def test_the_gradient_of_losses_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="one number each"):
        gradient_of(lambda t: t**2)(torch.ones(2, 3))


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match="first must be"):
        DecayingSteps(0, 1, 1)
    with pytest.raises(ValueError, match="power must be"):
        DecayingSteps(1, 1, -1)


# --- the noise ---


def covariance(draws):
    return draws.T @ draws / len(draws)


@pytest.mark.parametrize("n, d", [(6, 4), (3, 5)])
def test_frozen_noise_has_the_covariance_of_a_batch(n, d):
    g, batch, draws = normals(n, d, seed=1), 3, 100_000
    noise = FrozenMinibatchNoise(g, batch)
    s = torch.cov(g.T, correction=0) / batch
    assert noise.trace == pytest.approx(float(s.trace()), rel=1e-12)
    basis = torch.linalg.qr(normals(d, 2, seed=2)).Q
    assert noise.variances(basis).tolist() == pytest.approx((basis.T @ s @ basis).diag().tolist())
    assert noise.variances().tolist() == pytest.approx(s.diag().tolist())
    assert noise.largest_sigma() ** 2 == pytest.approx(float(torch.linalg.eigvalsh(s)[-1]))
    inside = torch.linalg.eigvalsh(basis.T @ s @ basis)[-1]
    assert noise.largest_sigma(basis) ** 2 == pytest.approx(float(inside))
    mean = torch.arange(d, dtype=torch.float64)
    found = noise(mean.expand(draws, d), lambda t: t, rng()) - mean
    errors = ((s.diag()[:, None] * s.diag() + s**2) / draws).sqrt()
    assert ((covariance(found) - s).abs() <= 4.5 * errors).all()
    assert (found.mean(0).abs() <= 4.5 * (s.diag() / draws).sqrt()).all()


def test_isotropic_noise_of_equal_trace():
    frozen = FrozenMinibatchNoise(normals(6, 4, seed=1), 3)
    noise = IsotropicNoise.matching(frozen)
    assert 4 * noise.sigma**2 == pytest.approx(frozen.trace, rel=1e-12)
    found = noise(torch.zeros(50_000, 4), lambda t: t, rng())
    assert (covariance(found) - noise.sigma**2 * torch.eye(4)).abs().max() < 0.03 * noise.sigma**2


@pytest.mark.parametrize("replacement", [True, False])
def test_live_batches_have_the_right_mean_and_covariance(replacement):
    g, batch, draws = normals(5, 2, seed=1), 3, 100_000
    live = LiveMinibatch(lambda theta, i: theta + g[i].mean(1), 5, batch, replacement=replacement)
    found = live(torch.zeros(draws, 2, dtype=torch.float64), lambda t: t, rng())
    s = torch.cov(g.T, correction=0) / batch * (1 if replacement else (5 - 3) / (5 - 1))
    errors = (s.diag() / draws).sqrt()
    assert ((found.mean(0) - g.mean(0)).abs() <= 4 * errors).all()
    bound = 4 * 1.5 * ((s.diag()[:, None] * s.diag() + s**2) / draws).sqrt()
    assert ((covariance(found - g.mean(0)) - s).abs() <= bound).all()


def test_all_examples_without_replacement_are_no_noise():
    g = normals(4, 2, seed=1)
    live = LiveMinibatch(lambda theta, i: g[i].mean(1), 4, 4, replacement=False)
    found = live(torch.zeros(3, 2, dtype=torch.float64), lambda t: t, rng())
    assert torch.allclose(found, g.mean(0).expand(3, 2), rtol=1e-12)


def test_noise_of_covariance_h_explores_the_range_evenly_and_the_kernel_not_at_all():
    h = torch.tensor([1.0, 0.253, 0.110, 0.0], dtype=torch.float64)
    factor = torch.cat([torch.eye(4), -torch.eye(4)]).double() * (4 * 0.04 * h).sqrt()
    noise = FrozenMinibatchNoise(factor, 1)
    assert noise.variances().tolist() == pytest.approx((0.04 * h).tolist(), abs=1e-12)
    run = noisy_sgd(
        lambda x: h * x, torch.zeros(4).double(), steps=150, step_size=0.5, chains=8000, noise=noise
    )
    v = stationary_variances(h, noise.variances(), 0.5)
    found = run.final.square().mean(0)
    assert found[3] == 0
    assert (found - v).abs().tolist() <= (4 * v * math.sqrt(2 / 8000) + 1e-15).tolist()


def test_noise_says_what_it_is_and_takes_the_type_of_the_chains():
    frozen = FrozenMinibatchNoise(normals(6, 4), 3)
    assert "6 examples, 4 parameters, batch_size=3, trace=" in repr(frozen)
    assert repr(LiveMinibatch(lambda t, i: t, 5, 2)) == (
        "LiveMinibatch(2 of 5 examples, with replacement)"
    )
    found = frozen(torch.zeros(2, 4), lambda t: t, rng())
    assert found.dtype == torch.float32


def test_bad_noise_is_refused():
    with pytest.raises(ValueError, match="sigma must be"):
        IsotropicNoise(-1)
    with pytest.raises(TypeError, match="per_example must be a floating-point tensor"):
        FrozenMinibatchNoise([[1.0]], 1)
    with pytest.raises(ValueError, match=r"finite and of shape \[n, D\]"):
        FrozenMinibatchNoise(torch.tensor([[math.nan]]), 1)
    with pytest.raises(ValueError, match="batch_size must be"):
        FrozenMinibatchNoise(torch.ones(2, 2), 0)
    with pytest.raises(ValueError, match="measured on 2 parameters, the chains have 3"):
        FrozenMinibatchNoise(torch.eye(2), 1)(torch.ones(1, 3), lambda t: t, rng())
    with pytest.raises(ValueError, match="batch_size = 4 of 3 examples without replacement"):
        LiveMinibatch(lambda t, i: t, 3, 4, replacement=False)


# --- tubes ---


@given(st.integers(2, 6), st.data(), st.integers(0, 2**31))
def test_flat_and_normal_bases_describe_the_same_tube(d, draw, seed):
    p = draw.draw(st.integers(1, d - 1))
    q = torch.linalg.qr(normals(d, d, seed=seed)).Q
    centre, theta = normals(d, seed=seed + 1), normals(7, d, seed=seed + 2)
    by_flat = Tube(centre, 1.0, flat=q[:, :p], length=1.5)
    by_normal = Tube(centre, 1.0, normal=q[:, p:], length=1.5)
    for tube in (by_flat, by_normal):
        assert (tube.flat_dimension, tube.codimension, tube.dimension) == (p, d - p, d)
        offset = (theta - centre) @ q
        across = torch.linalg.vector_norm(offset[:, p:], dim=1)
        along = torch.linalg.vector_norm(offset[:, :p], dim=1)
        assert torch.allclose(tube.distance(theta), across, rtol=1e-9)
        assert torch.allclose(tube.along(theta), along, rtol=1e-9)
        assert tube.contains(theta).tolist() == ((across <= 1) & (along <= 1.5)).tolist()
        assert torch.allclose(tube.nearest(theta) + tube.across(theta), theta, rtol=1e-12)
        basis = tube.normal_basis()
        assert torch.allclose(basis @ basis.T, q[:, p:] @ q[:, p:].T, atol=1e-12)


def test_random_points_lie_where_they_should():
    q = torch.linalg.qr(normals(5, 5)).Q
    tube = Tube(normals(5, seed=1), 1.0, flat=q[:, :2])
    points = tube.points(0.7, 500, stretch=2.0, seed=3)
    assert float((tube.distance(points) - 0.7).abs().max()) < 1e-12
    along = tube.along(points)
    assert along.max() <= 2 + 1e-9
    assert along.mean() == pytest.approx(1, abs=4 * 2 / math.sqrt(12 * 500))
    assert not tube.along(tube.points(0.7, 10)).gt(1e-9).any()
    assert torch.equal(points, tube.points(0.7, 500, stretch=2.0, seed=3))


def test_the_core_and_the_ball():
    ball = Tube(torch.zeros(4), 2.0)
    assert ball.codimension == 4
    assert ball.core_radius(0.25) == pytest.approx(math.sqrt(2 * math.sqrt(4 * 0.25)))
    assert torch.equal(ball.normal_basis(), torch.eye(4))
    assert ball.contains(torch.ones(4))
    assert "none: a ball" in repr(ball)
    cut = Tube(torch.zeros(2), 1, flat=torch.eye(2)[:, :1], length=3)
    assert "1, to 3 on each side" in repr(cut)


def test_bad_tubes_are_refused():
    zeros, basis = torch.zeros(3), torch.eye(3)[:, :1]
    with pytest.raises(TypeError, match="centre must be a floating-point tensor"):
        Tube([0.0], 1)
    with pytest.raises(ValueError, match=r"centre must be of shape \[D\]"):
        Tube(torch.zeros(2, 2), 1)
    with pytest.raises(ValueError, match="not both"):
        Tube(zeros, 1, flat=basis, normal=basis)
    with pytest.raises(ValueError, match=r"take torch\.linalg\.qr\(flat\)\.Q"):
        Tube(zeros, 1, flat=2 * basis)
    with pytest.raises(ValueError, match=r"normal must be a tensor \[3, directions\]"):
        Tube(zeros, 1, normal=torch.eye(2))
    with pytest.raises(ValueError, match="radius must be"):
        Tube(zeros, 0)
    with pytest.raises(ValueError, match="length must be"):
        Tube(zeros, 1, length=math.nan)
    with pytest.raises(ValueError, match="nothing across the piece"):
        Tube(zeros, 1, flat=torch.eye(3)).points(1, 2)
    with pytest.raises(ValueError, match="the piece is a point"):
        Tube(zeros, 1).points(1, 2, stretch=1)


# --- projection ---


def test_clipping_is_the_projection_of_every_matrix():
    shapes, bounds = [(3, 2), (4,), (2, 2)], [0.8, 1.5]
    clip = SpectralClip(shapes, bounds)
    theta = normals(20, 14)
    theta[0] *= 0.01  # inside: comes back bit by bit
    found = clip(theta)
    assert torch.equal(found[0], theta[0])
    for before, after in zip(theta, found, strict=True):
        for part, shape, bound in ((slice(0, 6), (3, 2), 0.8), (slice(10, 14), (2, 2), 1.5)):
            u, s, v = np.linalg.svd(before[part].view(shape).numpy(), full_matrices=False)
            twin = u @ np.diag(np.minimum(s, bound)) @ v
            assert after[part].view(shape).numpy() == pytest.approx(twin, abs=1e-12)
        assert torch.equal(after[6:10], before[6:10])
    assert torch.allclose(clip(found), found, atol=1e-12)
    assert torch.equal(clip(theta[:1]), theta[:1])
    # no other point of the ball is nearer
    other = clip(normals(20, 14, seed=9))
    assert ((theta - found).norm(dim=1) <= (theta - other).norm(dim=1) + 1e-12).all()


def test_bad_clips_are_refused():
    with pytest.raises(ValueError, match="no matrix among the shapes"):
        SpectralClip([(4,)], 1.0)
    with pytest.raises(ValueError, match="3 bounds for 1 matrices"):
        SpectralClip([(2, 2)], [1, 2, 3])
    with pytest.raises(ValueError, match="bounds must be a finite number > 0"):
        SpectralClip([(2, 2)], 0)
    with pytest.raises(ValueError, match="hold 4 parameters"):
        SpectralClip([(2, 2)], 1)(torch.ones(1, 5))


# --- networks ---


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").take(range(40))


def network(digits, **changes):
    model = models.mlp([64, 5, 10], activation=torch.nn.Tanh, seed=0, dtype=torch.float64)
    return model, NetworkLoss(model, digits.x, digits.y, **changes)


@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_losses_and_gradients_are_those_of_the_module(digits, decay):
    model, net = network(digits, weight_decay=decay)
    points = net.start + 0.1 * normals(3, net.dimension)
    losses, gradients, outputs = net.loss(points), net.gradient(points), net.outputs(points)
    batch = torch.tensor([[0, 1, 1], [5, 6, 7], [8, 9, 3]])
    on_batch = net.batch_gradient(points, batch)
    for c, point in enumerate(points):
        torch.nn.utils.vector_to_parameters(point, model.parameters())
        out = model(digits.x.double())
        assert torch.allclose(outputs[c], out, rtol=1e-9)
        for rows, found in ((slice(None), gradients[c]), (batch[c], on_batch[c])):
            loss = torch.nn.functional.cross_entropy(out[rows], digits.y[rows])
            loss = loss + decay / 2 * sum(p.square().sum() for p in model.parameters())
            if rows == slice(None):
                assert float(losses[c]) == pytest.approx(loss.item(), rel=1e-9)
            slope = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            assert torch.allclose(found, torch.cat([g.flatten() for g in slope]), rtol=1e-9)


def test_per_example_gradients_average_to_the_gradient(digits):
    _, net = network(digits, weight_decay=0.03)
    found = net.per_example(chunk=7)
    assert found.shape == (40, net.dimension)
    assert torch.allclose(found.mean(0), net.gradient(net.start[None])[0], rtol=1e-9, atol=1e-14)
    one = net.batch_gradient(net.start[None], torch.tensor([[11]]))[0]
    assert torch.allclose(found[11], one, rtol=1e-9, atol=1e-14)


def test_the_model_stays_as_it_was_and_runs_train_a_copy(digits):
    model, net = network(digits)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    live = LiveMinibatch(net.batch_gradient, net.examples, 8)
    run = noisy_sgd(None, net.start, steps=30, step_size=0.5, noise=live, chains=2)
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), before)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert (net.loss(run.final) < net.loss(net.start[None])).all()
    assert [tuple(w.shape) for w in net.weights()] == [(5, 64), (10, 5)]
    assert torch.equal(net.weights(run.final[0])[0].flatten(), run.final[0, : 5 * 64])


def test_regressions_and_other_types(digits):
    x, y = normals(6, 2).float(), normals(6, seed=1).float()
    model = models.mlp([2, 1], seed=0)
    net = NetworkLoss(model, x, y, loss=half_squared_error, dtype=torch.float64)
    assert net.start.dtype == net.y.dtype == torch.float64
    w, b = net.start[:2], net.start[2]
    twin = ((x.double() @ w + b - y.double()) ** 2 / 2).mean()
    assert float(net.loss(net.start[None])[0]) == pytest.approx(float(twin), rel=1e-12)


def test_bad_networks_are_refused(digits):
    model, net = network(digits)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        NetworkLoss(lambda x: x, digits.x, digits.y)
    with pytest.raises(ValueError, match="no parameters"):
        NetworkLoss(torch.nn.Tanh(), digits.x, digits.y)
    with pytest.raises(ValueError, match="40 examples and y 39 targets"):
        NetworkLoss(model, digits.x, digits.y[1:])
    with pytest.raises(ValueError, match="weight_decay must be"):
        NetworkLoss(model, digits.x, digits.y, weight_decay=-1)
    with pytest.raises(ValueError, match=r"points must be of shape \[chains, 385\]"):
        net.loss(net.start)
    with pytest.raises(ValueError, match=r"theta must be of shape \[385\]"):
        net.per_example(torch.ones(3))
