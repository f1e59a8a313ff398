"""Curvature: products against dense second derivatives, spectra against dense ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gencoh_lib import curvature, data, models
from gencoh_lib.curvature import Operator


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(drawn).Q
    matrix = basis * values.double() @ basis.T
    return (matrix + matrix.T) / 2


def naive_hessian(loss_of: object, parameters: list[Tensor]) -> Tensor:
    """Row by row, by differentiating each entry of the gradient."""
    loss = loss_of()  # type: ignore[operator]
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    rows = []
    for entry in torch.cat([part.reshape(-1) for part in first]):
        parts = torch.autograd.grad(
            entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    return torch.stack(rows)


def tanh_net(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    return model, x, torch.randint(3, (7,), generator=generator)


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.GELU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(12, 3),
        ).double()  # fmt: skip
        return model, torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(x, x, x)[0].mean(1))


def attention() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(4, 3, 4, dtype=torch.float64)
        return Attention().double(), x, torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("build", [tanh_net, cnn, attention])
def test_hessian_products_are_those_of_the_dense_matrix(build) -> None:
    model, x, y = build()
    parameters = dict(model.named_parameters())

    def loss() -> Tensor:
        return F.cross_entropy(model(x), y)

    operator = curvature.hessian(loss(), parameters)
    dense = naive_hessian(loss, list(parameters.values()))
    assert operator.size == len(dense)
    torch.testing.assert_close(operator.dense(), dense, rtol=1e-9, atol=1e-12)
    one = torch.randn(len(dense), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(operator(one), dense @ one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("build", [tanh_net, cnn, attention])
def test_gauss_newton_products_are_those_of_jacobians(build) -> None:
    model, x, y = build()
    parameters = dict(model.named_parameters())
    outputs = model(x)
    loss = F.cross_entropy(outputs, y)
    rows = [
        torch.cat([p.reshape(-1) for p in torch.autograd.grad(
            entry, list(parameters.values()), retain_graph=True, allow_unused=True,
            materialize_grads=True,
        )])
        for entry in outputs.reshape(-1)
    ]  # fmt: skip
    jacobian = torch.stack(rows).reshape(len(x), 3, -1)
    p = outputs.detach().softmax(1)
    middle = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / len(x)
    dense = torch.einsum("ika,ikl,ilb->ab", jacobian, middle, jacobian)
    operator = curvature.gauss_newton(loss, outputs, parameters)
    torch.testing.assert_close(operator.dense(), dense, rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(operator.dense()).min() > -1e-12


def test_hessian_and_gauss_newton_agree_where_the_outputs_are_linear() -> None:
    x = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = models.mlp([4, 2], seed=0).double()
    parameters = dict(model.named_parameters())
    outputs = model(x)
    loss = F.mse_loss(outputs, y)
    one, other = (
        curvature.hessian(loss, parameters),
        curvature.gauss_newton(loss, outputs, parameters),
    )
    torch.testing.assert_close(one.dense(), other.dense(), rtol=1e-12, atol=1e-12)
    weight = next(i for i, (name, _) in enumerate(parameters.items()) if "weight" in name)
    assert weight == 0
    torch.testing.assert_close(one.dense()[:4, :4], x.T @ x / 9, rtol=1e-12, atol=1e-12)


def test_at_interpolation_the_hessian_is_gauss_newton() -> None:
    """Where every residual vanishes the second term of the Hessian does too."""
    model, x, _ = tanh_net()
    outputs = model(x)
    parameters = dict(model.named_parameters())
    loss = F.mse_loss(outputs, outputs.detach())
    one = curvature.hessian(loss, parameters).dense()
    other = curvature.gauss_newton(loss, outputs, parameters).dense()
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    away = F.mse_loss(model(x), outputs.detach() + 1)
    assert not torch.allclose(curvature.hessian(away, parameters).dense(), other, atol=1e-3)


def test_unused_and_linear_parameters_have_rows_of_zeros() -> None:
    used, linear, idle = (torch.tensor([v, 1.0], requires_grad=True) for v in (2.0, 3.0, 4.0))
    loss = (used**3).sum() + 5 * linear.sum()
    operator = curvature.hessian(loss, {"used": used, "linear": linear, "idle": idle})
    assert operator.dense().diagonal().tolist() == [12.0, 6.0, 0.0, 0.0, 0.0, 0.0]
    flat = curvature.hessian((5 * linear).sum(), {"linear": linear})
    assert flat(torch.ones(2)).tolist() == [0.0, 0.0]


def test_gauss_newton_of_a_linear_loss_vanishes() -> None:
    w = torch.tensor([2.0, 1.0], requires_grad=True)
    outputs = w**2
    assert curvature.gauss_newton(outputs.sum(), outputs, {"w": w}).dense().tolist() == [[0, 0]] * 2


def test_the_model_comes_back_and_the_loss_can_still_be_used() -> None:
    model, x, y = tanh_net()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    loss = F.cross_entropy(model(x), y)
    curvature.hessian(loss, dict(model.named_parameters())).dense()
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    loss.backward()  # its graph is still there
    assert all(p.grad is not None for p in model.parameters())


def test_mean_of_minibatches_is_the_full_batch() -> None:
    model, x, y = tanh_net()
    parameters = dict(model.named_parameters())
    parts = [
        curvature.hessian(F.cross_entropy(model(x[a:b]), y[a:b]), parameters)
        for a, b in ((0, 5), (5, 7))
    ]
    whole = curvature.hessian(F.cross_entropy(model(x), y), parameters)
    mean = curvature.mean_operator(parts, weights=[5, 2])
    torch.testing.assert_close(mean.dense(), whole.dense(), rtol=1e-9, atol=1e-13)


def test_an_operation_that_cannot_be_batched_goes_one_by_one() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            assert type(grad) is Tensor
            if torch._C._functorch.is_batchedtensor(grad):
                raise RuntimeError("Batching rule not implemented")
            return 3 * x**2 * grad

    w = torch.tensor([1.0, 2.0], requires_grad=True)
    operator = curvature.hessian(Cube.apply(w).sum(), {"w": w})
    assert operator.dense().tolist() == [[6.0, 0.0], [0.0, 12.0]]


# -- errors ------------------------------------------------------------------------------------


def test_what_has_no_curvature_is_refused() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    named = {"w": w}
    with pytest.raises(TypeError, match=r"loss must be a torch\.Tensor, got float"):
        curvature.hessian(1.0, named)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one number, got shape \(2,\): take its mean"):
        curvature.hessian(w**2, named)
    with pytest.raises(ValueError, match="loss has no graph"):
        curvature.hessian((w**2).sum().detach(), named)
    with pytest.raises(ValueError, match="loss is nan"):
        curvature.hessian((w * math.nan).sum(), named)
    other = torch.ones(1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="several dtypes"):
        curvature.hessian((w**2).sum() + other.sum(), {"w": w, "other": other})
    with pytest.raises(ValueError, match="frozen"):
        curvature.hessian((w**2).sum(), {"w": torch.ones(2)})
    with pytest.raises(ValueError, match="outputs must be the tensor"):
        curvature.gauss_newton((w**2).sum(), torch.ones(2), named)
    with pytest.raises(ValueError, match="does not depend on outputs"):
        curvature.gauss_newton((w**2).sum(), w**2, named)
    outputs = torch.ones(2, requires_grad=True) ** 2
    with pytest.raises(ValueError, match="outputs depend on none"):
        curvature.gauss_newton(outputs.square().sum(), outputs, named)
    operator = curvature.hessian((w**2).sum(), named)
    with pytest.raises(ValueError, match=r"takes vectors of length 2, got \(3,\)"):
        operator(torch.ones(3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        operator(torch.tensor([math.nan, 0.0]))


def test_fused_attention_without_a_second_derivative_names_the_remedy() -> None:
    q = torch.randn(1, 1, 3, 4, requires_grad=True)

    def attend() -> Tensor:
        return F.scaled_dot_product_attention(q, q, q).square().sum()

    with pytest.raises(ValueError, match=r"no second derivative.*SDPBackend\.MATH"):
        curvature.hessian(attend(), {"q": q}).dense()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = curvature.hessian(attend(), {"q": q}).dense()
    assert found.shape == (12, 12)


def test_reentrant_checkpoints_are_refused() -> None:
    from torch.utils.checkpoint import checkpoint

    w = torch.tensor([1.0, 2.0], requires_grad=True)
    x = torch.ones(2, requires_grad=True)
    kept = checkpoint(lambda z: (z * w) ** 2, x, use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        curvature.hessian(kept.sum() + (w**2).sum(), {"w": w})


def test_compiled_models_are_refused_with_the_remedy() -> None:
    model, x, y = tanh_net()
    compiled = torch.compile(model, backend="aot_eager")
    with pytest.raises(ValueError, match="_orig_mod"):
        curvature.hessian(F.cross_entropy(compiled(x), y), dict(model.named_parameters())).dense()


def test_matrices_are_checked() -> None:
    with pytest.raises(ValueError, match="must be square"):
        Operator.of_matrix(torch.ones(2, 3))
    with pytest.raises(ValueError, match="not symmetric"):
        Operator.of_matrix(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="dense matrix is formed up to"):
        Operator(lambda rows: rows, size=10**6).dense()
    one = Operator.of_matrix(torch.eye(2))
    with pytest.raises(ValueError, match="no operators"):
        curvature.mean_operator([])
    with pytest.raises(ValueError, match=r"sizes \[2, 3\]"):
        curvature.mean_operator([one, Operator.of_matrix(torch.eye(3))])
    with pytest.raises(ValueError, match="1 positive numbers"):
        curvature.mean_operator([one], weights=[-1])


# -- Lanczos -----------------------------------------------------------------------------------


def test_lanczos_relation_and_orthogonality_hold_after_convergence() -> None:
    """Where the short recurrence alone would lose orthogonality: one eigenvalue far out."""
    values = torch.cat([torch.linspace(0, 1, 199), torch.tensor([100.0])])
    matrix = symmetric(values)
    space = curvature.lanczos(Operator.of_matrix(matrix), 60, seed=3)
    q = space.basis
    torch.testing.assert_close(q @ q.T, torch.eye(60, dtype=q.dtype), rtol=0, atol=1e-12)
    t = torch.diag(space.diagonal)
    t += torch.diag(space.off_diagonal, 1) + torch.diag(space.off_diagonal, -1)
    left = q @ matrix - t @ q
    assert left[:-1].abs().max() < 1e-11 * 100
    assert float(left[-1].norm()) == pytest.approx(space.remainder, rel=1e-9)
    # Without reorthogonalisation the same steps do lose it.
    rows, off = [q[0]], 0.0
    before = torch.zeros_like(q[0])
    for _ in range(59):
        w = matrix @ rows[-1] - off * before
        w = w - (w @ rows[-1]) * rows[-1]
        before, off = rows[-1], float(w.norm())
        rows.append(w / off)
    short = torch.stack(rows)
    assert (short @ short.T - torch.eye(60, dtype=q.dtype)).abs().max() > 1e-3


def test_lanczos_stops_where_the_space_is_invariant() -> None:
    matrix = symmetric(torch.tensor([2.0] * 10 + [5.0] * 10))
    space = curvature.lanczos(Operator.of_matrix(matrix), 15)
    assert space.exhausted
    assert len(space.basis) == 2
    torch.testing.assert_close(space.ritz()[0], torch.tensor([2.0, 5.0]).double())
    zero = curvature.lanczos(Operator.of_matrix(torch.zeros(4, 4)), 3)
    assert zero.exhausted
    assert zero.ritz()[0].tolist() == [0.0]


def test_bad_starts_and_steps_are_refused() -> None:
    operator = Operator.of_matrix(torch.eye(3))
    with pytest.raises(ValueError, match="zero vector"):
        curvature.lanczos(operator, 2, start=torch.zeros(3))
    with pytest.raises(ValueError, match=r"length 3, got \(2,\)"):
        curvature.lanczos(operator, 2, start=torch.ones(2))
    with pytest.raises(ValueError, match="steps must be"):
        curvature.lanczos(operator, 0)
    with pytest.raises(TypeError, match="steps must be a whole number"):
        curvature.lanczos(operator, 2.5)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 12),
    top=st.integers(0, 4),
    bottom=st.integers(0, 4),
    repeat=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_eigenpairs_of_random_matrices_with_repeated_eigenvalues(
    size: int, top: int, bottom: int, repeat: int, seed: int
) -> None:
    drawn = np.random.default_rng(seed).integers(-3, 4, size=size)
    values = torch.tensor(np.repeat(drawn, repeat), dtype=torch.float64)
    if not 1 <= top + bottom <= len(values):
        return
    matrix = symmetric(values, seed)
    found = curvature.eigenpairs(Operator.of_matrix(matrix), top=top, bottom=bottom, seed=seed)
    ordered = values.sort(descending=True).values
    wanted = torch.cat([ordered[:top], ordered[len(ordered) - bottom :]])
    assert found.converged
    torch.testing.assert_close(found.values, wanted, rtol=0, atol=1e-7)
    assert found.residuals.max() < 1e-6
    gram = found.vectors @ found.vectors.T
    torch.testing.assert_close(gram, torch.eye(top + bottom).double(), rtol=0, atol=1e-8)


def test_eigenpairs_of_a_network_match_the_dense_spectrum() -> None:
    digits = data.load("digits").take(range(60))
    model = models.mlp([64, 8, 10], seed=0).double()
    loss = F.cross_entropy(model(digits.x.double()), digits.y)
    operator = curvature.hessian(loss, dict(model.named_parameters()))
    dense = torch.linalg.eigvalsh(operator.dense()).flip(0)
    found = curvature.eigenpairs(operator, top=6, bottom=3)
    assert found.converged
    wanted = torch.cat([dense[:6], dense[-3:]])
    torch.testing.assert_close(found.values, wanted, rtol=1e-7, atol=1e-9)
    assert dense[-1] < 0  # a Hessian away from a minimum: both signs
    assert found.products < operator.size / 2


def test_too_few_products_say_so_and_stay_inside() -> None:
    matrix = symmetric(torch.linspace(0, 1, 300))
    found = curvature.eigenpairs(Operator.of_matrix(matrix), top=2, max_products=10)
    assert not found.converged
    assert "NOT converged" in repr(found)
    assert float(found.values[0]) < 1
    assert found.residuals.max() > 1e-4
    assert found.products <= 10


def test_single_precision_operators_converge_to_their_own_precision() -> None:
    matrix = symmetric(torch.tensor([4.0, 4.0, 2.0] + [1.0] * 40)).float()
    found = curvature.eigenpairs(Operator.of_matrix(matrix), top=3)
    assert found.converged
    torch.testing.assert_close(
        found.values, torch.tensor([4.0, 4.0, 2.0]).double(), atol=1e-3, rtol=0
    )


def test_what_cannot_be_asked_of_eigenpairs_is_refused() -> None:
    operator = Operator.of_matrix(torch.eye(3))
    for arguments in ({"top": 0}, {"top": 3, "bottom": 1}, {"top": -1, "bottom": 2}):
        with pytest.raises(ValueError, match="add up to between 1 and the size 3"):
            curvature.eigenpairs(operator, **arguments)
    with pytest.raises(ValueError, match="tolerance must be"):
        curvature.eigenpairs(operator, tolerance=0)
    with pytest.raises(ValueError, match="max_products must be above 1"):
        curvature.eigenpairs(operator, max_products=1)


# -- the whole spectrum ------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_quadrature_is_exact_up_to_degree_two_s_minus_one(steps: int) -> None:
    values = torch.linspace(-1, 2, 30, dtype=torch.float64)
    matrix = symmetric(values, 4)
    generator = torch.Generator().manual_seed(9)
    z = (torch.randint(2, (30,), generator=generator) * 2 - 1).double() / math.sqrt(30)
    density = curvature.spectral_density(Operator.of_matrix(matrix), probes=1, steps=steps, seed=9)
    power = torch.eye(30, dtype=torch.float64)
    for degree in range(2 * steps + 1):
        exact = float(z @ power @ z)
        found = density.mean_of(lambda nodes, degree=degree: nodes**degree).value
        if degree < 2 * steps:
            assert found == pytest.approx(exact, rel=1e-9, abs=1e-12)
        else:  # and not beyond
            assert abs(found - exact) > 1e-6
        power = power @ matrix


def test_spectral_density_of_a_known_spectrum_within_its_standard_errors() -> None:
    values = torch.cat([torch.zeros(300), torch.linspace(0.5, 1.5, 95), torch.full((5,), 10.0)])
    operator = Operator.of_matrix(symmetric(values, 1))
    density = curvature.spectral_density(operator, probes=30, steps=40, seed=0)
    for function, exact in (
        (lambda nodes: nodes, values.mean()),
        (lambda nodes: nodes**2, (values**2).mean()),
        (lambda nodes: torch.exp(-nodes), torch.exp(-values).mean()),
    ):
        found = density.mean_of(function)
        assert found.draws == 30
        assert abs(found.value - float(exact)) < 4 * found.standard_error
    above = density.share_above(5)
    assert abs(above.value - 5 / 400) < 4 * above.standard_error
    points = np.linspace(-3, 13, 801)
    curve, error = density.smoothed(points, 0.3)
    exact_curve = (
        np.exp(-(((points[:, None] - values.numpy()) / 0.3) ** 2) / 2) / (0.3 * np.sqrt(2 * np.pi))
    ).mean(1)
    assert np.trapezoid(curve, points) == pytest.approx(1, abs=1e-6)
    peaks = exact_curve > 1e-3
    assert np.all(np.abs(curve - exact_curve)[peaks] < 4.5 * error[peaks] + 1e-3)


def test_trace_is_unbiased_with_the_variance_of_the_formula() -> None:
    matrix = symmetric(torch.linspace(0, 1, 20), 2)
    operator = Operator.of_matrix(matrix)
    variance = 2 * float((matrix**2).sum() - (matrix.diagonal() ** 2).sum())
    found = curvature.trace(operator, probes=4000, seed=1)
    assert abs(found.value - 10) < 4 * math.sqrt(variance / 4000)
    assert found.standard_error == pytest.approx(math.sqrt(variance / 4000), rel=0.1)
    assert math.isnan(curvature.trace(operator, probes=1).standard_error)


def test_draws_repeat_with_the_seed_and_leave_the_global_state_alone() -> None:
    operator = Operator.of_matrix(symmetric(torch.linspace(0, 1, 20)))
    state = torch.get_rng_state()
    one, two, other = (curvature.trace(operator, seed=seed).value for seed in (1, 1, 2))
    assert one == two != other
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_asked_of_the_density_is_refused() -> None:
    operator = Operator.of_matrix(torch.eye(3))
    with pytest.raises(ValueError, match="probes must be"):
        curvature.spectral_density(operator, probes=0)
    with pytest.raises(ValueError, match="steps must be"):
        curvature.spectral_density(operator, steps=0)
    with pytest.raises(ValueError, match="probes must be"):
        curvature.trace(operator, probes=0)
    with pytest.raises(ValueError, match="width must be"):
        curvature.spectral_density(operator).smoothed([0.0], 0)


def test_results_print_what_a_student_needs() -> None:
    operator = Operator.of_matrix(torch.diag(torch.tensor([3.0, 1.0]).double()))
    assert repr(operator) == "matrix, 2 x 2, torch.float64"
    assert (
        repr(curvature.lanczos(operator, 5)) == "Krylov space of 2 steps in 2 dimensions, invariant"
    )
    assert "converged" in repr(curvature.eigenpairs(operator))
    shown = repr(curvature.spectral_density(operator, probes=2))
    assert "spectral density of 2 eigenvalues" in shown
    assert "nodes from 1 to 3" in shown
