"""Ordinary layers on which per-example code goes wrong, each in three orders of its losses.

Truth is a loop over examples.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gencoh_lib import per_example
from tests.lib.networks import CASES, build, image

M = 6
Y = torch.arange(M) % 3


ORDERS = {"plain": list(range(M)), "permuted": [3, 1, 0, 5, 2, 4], "sliced": [1, 2, 3]}


def truth(model, x, rows):
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for i in rows:
        loss = F.cross_entropy(model(x[i : i + 1]), Y[i : i + 1])
        gradients = torch.autograd.grad(loss, parameters)
        found.append(torch.stack([g.double().square().sum() for g in gradients]).sum())
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES)
def test_squared_norms_are_right_on_layers_where_others_go_wrong(case, order, dtype):
    model, x = build(case, M)
    rows = ORDERS[order]
    exact = truth(model, x, rows)
    model = model.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    losses = F.cross_entropy(model(x), Y, reduction="none")
    losses = losses if order == "plain" else losses[rows] if order == "permuted" else losses[1:4]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.stack(list(per_example.squared_norms(losses, named).values())).sum(0)
    error, of_loop = ((v - exact).abs() / exact for v in (found, truth(model, x, rows)))
    if dtype == torch.float64:
        assert float(error.max()) <= 1e-12
    else:
        assert float(error.max()) <= max(1e-6, 3 * float(of_loop.max()))


def compiled_losses(model, x):
    return F.cross_entropy(
        torch.compile(model, backend="aot_eager", dynamic=True)(x), Y, reduction="none"
    )


def test_compiled_graphs_are_refused_with_two_remedies_that_work():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # what this one saves on the way belongs to the backward pass, which therefore runs once
        layers = nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3)
        model = nn.Sequential(*layers).double()
        x = torch.randn(M, 5, dtype=torch.float64)
    named = dict(model.named_parameters())
    for measure in (per_example.squared_norms, per_example.gram):
        with pytest.raises(ValueError, match=r"torch\.compile.*_orig_mod.*donated_buffer"):
            measure(compiled_losses(model, x), named)
    original = torch.compile(model, backend="aot_eager")._orig_mod
    eager = F.cross_entropy(original(x), Y, reduction="none")
    torch.compiler.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        again = compiled_losses(model, x)
        for losses in (eager, again):
            found = torch.stack(list(per_example.squared_norms(losses, named).values())).sum(0)
            torch.testing.assert_close(found, truth(model, x, range(M)), rtol=1e-12, atol=0)
    torch.compiler.reset()


def test_batch_norm_in_training_mode_is_refused_by_name():
    model = image(nn.Conv2d(2, 3, 3), 48, nn.BatchNorm2d(3))
    losses = F.cross_entropy(model(torch.randn(M, 2, 6, 6)), Y, reduction="none")
    with pytest.raises(ValueError, match=r"batch-norm layer 'layers\.1'.*model\.eval\(\)"):
        per_example.squared_norms(losses, dict(model.named_parameters()))
