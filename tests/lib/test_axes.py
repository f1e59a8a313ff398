"""Where the examples are, proved from the graph: held against what really flows, loss by loss.

A claim says: entry f of the gradient that flows into this node depends on loss (f // stride) % m
alone. So with a one for loss i and zeros for all others, what flows must vanish at every entry that
is somebody else's. The test looks at all claims on all nodes at once.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gencoh_lib import _axes, _graph

M, T, D = 4, 6, 8
Y = torch.arange(M) % 3


def base(generator_seed: int = 0, shape: tuple[int, ...] = (M, T, D)) -> Tensor:
    """A leaf-made tensor with the examples first."""
    generator = torch.Generator().manual_seed(generator_seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.tanh(x.requires_grad_())


def claims_hold(losses: Tensor) -> dict:
    """Check every claim against one backward pass a loss; return the claims."""
    graph, m = _graph.nodes(losses), len(losses)
    claims = _axes.example_strides(graph, losses)
    flows: dict = {}

    def watch(node):
        return lambda gradients: flows.__setitem__(node, gradients[0])

    handles = [node.register_prehook(watch(node)) for node in claims]
    for i in range(m):
        flows.clear()
        seed = torch.eye(m, dtype=losses.dtype)[i]
        torch.autograd.backward(losses, seed, retain_graph=True)
        for node, gradient in flows.items():
            if gradient is not None:
                owner = (torch.arange(gradient.numel()) // claims[node]) % m
                others = gradient.reshape(-1)[owner != i]
                assert not bool(others.abs().max() > 0), (node.name(), claims[node], i)
    for handle in handles:
        handle.remove()
    return claims


def summed(t: Tensor, dim: int = 0) -> Tensor:
    """[m] losses: the sum of squares of what belongs to each position along ``dim``."""
    return t.square().movedim(dim, 0).flatten(1).sum(1)


IMAGE = (M, T, 8, 8)
KEEPS = {  # from the base to losses, by every operation in the table
    "permute": lambda h: summed(h.permute(2, 0, 1), 1),
    "transpose": lambda h: summed(h.transpose(-1, 0), -1),
    "t": lambda h: summed(h[:, 0].t(), 1),
    "movedim": lambda h: summed(h.movedim(0, -1), -1),
    "reshape after a transpose": lambda h: summed(
        h.transpose(0, 1).reshape(T * M, D).view(T, M, D), 1
    ),
    "heads": lambda h: summed(
        h.view(M, T, 2, 4).permute(2, 0, 1, 3).reshape(2 * M, T, 4).view(2, M, T, 4), 1
    ),
    "heads, time first": lambda h: summed(
        h.transpose(0, 1).reshape(T, M * 2, 4).transpose(0, 1).reshape(M, 2, T, 4)
    ),
    "squeeze and unsqueeze": lambda h: summed(h.unsqueeze(1).squeeze(1)[:, None].squeeze()),
    "select": lambda h: summed(h[:, 0] + h.select(-1, 2)[:, :1]),
    "slice": lambda h: summed(h[:, 1:4, ::2]),
    "unbind": lambda h: summed(h.unbind(1)[1]),
    "split": lambda h: summed(torch.cat(h.split([2, 4], 1)[::-1], 1)),
    "chunk": lambda h: summed(h.chunk(2, -1)[1]),
    "stack": lambda h: summed(torch.stack([h, h.flip(2)], 1)),
    "expand": lambda h: summed(h[:, None].expand(M, 3, T, D)),
    "repeat": lambda h: summed(h.repeat(1, 2, 3)),
    "sum": lambda h: summed(h.sum((1, -1))[:, None]),
    "mean, kept": lambda h: summed(h.mean(1, keepdim=True)),
    "logsumexp": lambda h: summed(h.logsumexp(2)),
    "norm": lambda h: summed(h.norm(dim=2)),
    "var": lambda h: summed(h.var(1)),
    "max": lambda h: summed(h.max(1)[0] + h.amax(1)),
    "cumsum": lambda h: summed(h.cumsum(1)),
    "softmax": lambda h: summed(h.softmax(-1) + h.log_softmax(1)),
    "batched product": lambda h: summed(h @ h.mT),
    "product with a matrix": lambda h: summed((h @ h[0, 0].detach().diag()) @ h.mT),
    "columns": lambda h: summed(torch.eye(D, dtype=h.dtype) @ h[:, 0].T, 1),
    "baddbmm": lambda h: summed(torch.baddbmm(h[:, :, :6], h, h.mT)),
    "einsum": lambda h: summed(torch.einsum("bij,bkj->bik", h, h)),
    "where": lambda h: summed(torch.where(h > 0, h, h.exp())),
    "spread": lambda h: summed(h + h[:, :1] * h[..., :1]),
    "scales of an example": lambda h: summed(h * h.mean((1, 2), keepdim=True)),
    "maximum": lambda h: summed(torch.maximum(h, -2 * h)),
    "masked": lambda h: summed(h.masked_fill(h > 0, 1.0)),
    "gather": lambda h: summed(h.gather(1, torch.zeros(M, 2, D, dtype=torch.long))),
    "index select": lambda h: summed(h.index_select(1, torch.tensor([3, 0, 3]))),
    "roll": lambda h: summed(h.roll(1, 1)),
    "glu": lambda h: summed(F.glu(h, 1)),
    "unfold": lambda h: summed(h.unfold(1, 3, 2)),
    "pad": lambda h: summed(F.pad(h, (1, 1, 2, 0))),
    "rms norm": lambda h: summed(F.rms_norm(h, (D,))),
    "layer norm": lambda h: summed(F.layer_norm(h, (T, D))[:, :, :3]),
    "dropout": lambda h: summed(F.dropout(h, 0.5)),
    "gelu": lambda h: summed(F.gelu(h) + F.silu(h) + F.softplus(h) + F.leaky_relu(h)),
    "mse": lambda h: F.mse_loss(h, h.detach().roll(1, 0), reduction="none").mean((1, 2)),
    "bce": lambda h: F.binary_cross_entropy_with_logits(
        h, torch.full_like(h, 0.3), reduction="none"
    ).mean((1, 2)),
    "huber": lambda h: F.huber_loss(h, 2 * h.detach(), reduction="none").mean((1, 2)),
    "smooth labels": lambda h: F.cross_entropy(h[:, 0], Y, reduction="none", label_smoothing=0.1),
    "soft labels": lambda h: F.cross_entropy(
        h[:, 0], torch.full((M, D), 1 / D, dtype=h.dtype), reduction="none"
    ),
    "classes over positions": lambda h: F.cross_entropy(
        h.transpose(1, 2), torch.zeros(M, T, dtype=torch.long), reduction="none"
    ).mean(1),
    "classes of an image": lambda h: F.cross_entropy(
        h[..., None], torch.zeros(M, D, 1, dtype=torch.long), reduction="none"
    ).mean((1, 2)),
}  # fmt: skip
KEEPS_IMAGES = {
    "max pool": lambda h: summed(F.max_pool2d(h, 2)),
    "max pool in one dimension": lambda h: summed(F.max_pool1d(h.flatten(2), 2)),
    "average pool": lambda h: summed(F.avg_pool2d(h, 3, 1) ** 2),
    "adaptive pools": lambda h: summed(F.adaptive_avg_pool2d(h, 3) + F.adaptive_max_pool2d(h, 3)),
    "global pool": lambda h: summed(F.adaptive_avg_pool2d(h, 1)),
    "max pool in three dimensions": lambda h: summed(F.max_pool3d(h, 2)),
    "reflect": lambda h: summed(F.pad(h, (1, 1, 1, 1), mode="reflect")),
    "replicate": lambda h: summed(F.pad(h, (1, 1, 1, 1), mode="replicate")),
    "resize": lambda h: summed(F.interpolate(h, scale_factor=2, mode="bilinear")),
    "convolution": lambda h: summed(F.conv2d(h, torch.ones(3, T, 3, 3, dtype=h.dtype), groups=1)),
    "convolution as a batch of one": lambda h: summed(
        F.conv2d(h, torch.ones(T, 1, 3, 3, dtype=h.dtype), groups=T)
    ),
    "up": lambda h: summed(F.conv_transpose2d(h, torch.ones(T, 2, 2, 2, dtype=h.dtype), stride=2)),
    "group norm": lambda h: summed(F.group_norm(h, 2)[:, :2]),
    "instance norm": lambda h: summed(F.instance_norm(h)[:, :, 1:]),
    "batch norm with running statistics": lambda h: summed(
        F.batch_norm(h, torch.zeros(T).double(), torch.ones(T).double())
    ),
    "attention": lambda h: summed(
        F.scaled_dot_product_attention(h, h.flip(2), h, is_causal=True)
    ),
    "attention with a mask": lambda h: summed(
        F.scaled_dot_product_attention(h, h, h, attn_mask=torch.zeros(8, 8).double())
    ),
    "shuffles": lambda h: summed(F.channel_shuffle(F.pixel_unshuffle(h, 2), 2)),
}  # fmt: skip


def leaves(losses):
    return [n for n in _graph.nodes(losses) if not n.next_functions]


@pytest.mark.parametrize("name", [*KEEPS, *KEEPS_IMAGES])
def test_what_keeps_examples_apart_is_followed_down_to_the_leaves_and_truly_does(name):
    shape, make = (IMAGE, KEEPS_IMAGES[name]) if name in KEEPS_IMAGES else ((M, T, D), KEEPS[name])
    losses = make(base(shape=shape))
    assert set(leaves(losses)) <= set(claims_hold(losses))


MIXES = {
    "roll": lambda h: summed(h.roll(1, 0)),
    "roll of everything": lambda h: summed(h.roll(1)),
    "flip": lambda h: summed(h.flip(0)),
    "mean of the batch": lambda h: summed(h - h.mean(0)),
    "softmax over the batch": lambda h: summed(h.softmax(0)),
    "cumsum over the batch": lambda h: summed(h.cumsum(0)),
    "normalised by the batch": lambda h: summed(F.layer_norm(h, (M, T, D))),
    "product of the batch": lambda h: summed(h[:, 0] @ h[:, 0].T),
    "attention between examples": lambda h: summed(
        F.scaled_dot_product_attention(*[h.transpose(0, 1)] * 3), 1
    ),
    "rows by index": lambda h: summed(h[torch.tensor([1, 0, 3, 2])]),
    "shifted by a pad": lambda h: summed(F.pad(h[:-1], (0, 0, 0, 0, 1, 0))),
    "cut across": lambda h: summed(h.reshape(T, M, D), 1),
    "stacked twice": lambda h: summed(torch.cat([h[:2], h[:2]])),
    "neighbours' losses": lambda h: summed(h) - summed(h).roll(1),
    "all losses": lambda h: summed(h) - summed(h).mean(),
    "a sum of pairs": lambda h: summed(h.view(2, 2, T, D).sum(1).repeat_interleave(2, 0)),
    "pooled over examples": lambda h: summed(F.avg_pool1d(h.permute(1, 2, 0), 3, 1, 1), 2),
    "reduced to a number": lambda h: summed(h) * h.sum(),
    "max over examples": lambda h: summed(h + h.amax(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXES)
def test_nothing_is_claimed_where_examples_mix(name):
    losses = MIXES[name](base())
    claims = claims_hold(losses)
    assert not set(leaves(losses)) & set(claims)


def test_two_uses_that_lie_differently_are_not_claimed():
    h = base(shape=(M, M, D))
    losses = summed(h) + summed(h, 1)  # square on purpose: only the strides tell them apart
    claims = claims_hold(losses)
    assert not set(leaves(losses)) & set(claims)


def test_batch_statistics_are_not_claimed():
    h = base(shape=(M, T))
    losses = summed(F.batch_norm(h, None, None, training=True))
    assert not set(leaves(losses)) & set(_axes.example_strides(_graph.nodes(losses), losses))


def test_an_attribute_that_torch_no_longer_has_ends_the_claim(monkeypatch):
    losses = summed(base().permute(2, 0, 1), 1)
    known = _axes._passage

    def passage(name):
        return (lambda way: way.node._saved_gone) if "Permute" in name else known(name)

    monkeypatch.setattr(_axes, "_passage", passage)
    assert not set(leaves(losses)) & set(claims_hold(losses))


MOVES = st.sampled_from(["permute", "merge", "split", "multiply", "sum", "linear", "mix", "add"])


@settings(deadline=None, max_examples=150, derandomize=True)
@given(m=st.integers(2, 4), moves=st.lists(MOVES, max_size=6), seed=st.integers(0, 10**6))
def test_claims_hold_along_random_walks_through_shapes(m, moves, seed):
    generator = torch.Generator().manual_seed(seed)
    h = base(seed, (m, 2, 4))
    dim = 0  # where the examples are, or None when they no longer fill a dimension

    def draw(n):
        return int(torch.randint(n, (), generator=generator))

    for move in moves:
        if move == "permute":
            order = torch.randperm(h.dim(), generator=generator).tolist()
            h, dim = h.permute(order), order.index(dim) if dim is not None else None
        elif move == "merge" and h.dim() > 2:
            at = draw(h.dim() - 1)
            if dim in (at, at + 1):
                dim = None
            elif dim is not None and dim > at:
                dim -= 1
            h = h.reshape(*h.shape[:at], -1, *h.shape[at + 2 :])
        elif move == "split" and h.shape[-1] % 2 == 0:
            h = h.unflatten(-1, (-1, 2))
            dim = None if dim == h.dim() - 2 else dim
        elif move == "multiply" and h.dim() >= 3:
            h = h @ h.mT
            if dim == h.dim() - 1:
                dim = None
        elif move == "sum" and h.dim() > 2:
            at = draw(h.dim())
            if at != dim:
                h = h.sum(at)
                dim = dim - 1 if dim is not None and dim > at else dim
        elif move == "linear":
            h = torch.tanh(h @ torch.ones(h.shape[-1], 4, dtype=h.dtype))
            dim = None if dim == h.dim() - 1 else dim
        elif move == "add":
            h = h + h.mean(-1, keepdim=True)
        elif move == "mix":
            h = h + 0.1 * h.roll(1, draw(h.dim()))
    size = h.numel() // m
    losses = summed(h, dim) if dim is not None and h.shape[dim] == m else None
    if losses is None and h.numel() % m == 0 and size:
        losses = h.reshape(m, -1).square().sum(1)
    if losses is not None and len(losses) == m:
        claims_hold(losses)


class Attention(nn.Module):
    """Attention as it is written out in many a repository."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.fused = nn.Linear(D, 3 * D), nn.Linear(D, D), fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(M, T, 3, 2, D // 2).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(M, T, D))


@pytest.mark.parametrize(
    "model",
    [
        lambda: Attention(True),
        lambda: Attention(False),
        lambda: nn.TransformerEncoderLayer(D, 2, 16, batch_first=True),
        lambda: nn.TransformerEncoderLayer(D, 2, 16, batch_first=False),
    ],
)
def test_transformers_are_proved_throughout(model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = model().double()
    x = base().detach()
    first = not getattr(getattr(layer, "self_attn", None), "batch_first", True)
    out = layer(x.transpose(0, 1) if first else x)
    losses = F.cross_entropy(out.mean(0 if first else 1), Y, reduction="none")
    claims = claims_hold(losses)
    weights = {id(p) for p in layer.parameters()}
    for node in _graph.nodes(losses):
        uses = [c for c, _ in node.next_functions if id(getattr(c, "variable", None)) in weights]
        assert node in claims or not uses or node.name() == "TBackward0", node.name()
