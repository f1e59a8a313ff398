"""The models that are timed, each with a batch of random inputs and random labels.

Random labels keep coherence low, so that the mean of ||g_i||^2 is far from ||mean g||^2 and a
method cannot be right about one by being wrong about the other. GroupNorm and LayerNorm stand
where BatchNorm would: under batch statistics an example has no gradient of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TASKS", "Problem", "Task"]

CLASSES = 10


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and one batch: ``x`` [m, ...], labels ``y`` [m]."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def losses(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Loss of each example from `start` up to `stop`: [m]."""
        outputs = self.model(self.x[start:stop])
        return F.cross_entropy(widened(outputs), self.y[start:stop], reduction="none")

    def double(self) -> Problem:
        """The same numbers in float64; uses up the model."""
        x = self.x.double() if self.x.is_floating_point() else self.x
        return replace(self, model=self.model.double(), x=x)


def widened(outputs: Tensor) -> Tensor:
    """Half-precision outputs in float32, where a loss is taken in practice; others as they are."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


@dataclass(frozen=True)
class Task:
    """What to build: :meth:`problem` makes the same one every time."""

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of one input
    batch: int
    vocabulary: int | None = None  # inputs are then whole numbers below it
    dtype: torch.dtype = torch.float32

    def problem(self, device: str = "cpu", batch: int | None = None) -> Problem:
        """Build the model and draw a batch, the task's own size unless told."""
        shape = (batch or self.batch, *self.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.build()
            if self.vocabulary is None:
                x = torch.randn(shape).to(self.dtype)
            else:
                x = torch.randint(self.vocabulary, shape)
            y = torch.randint(CLASSES, shape[:1])
        return Problem(model.to(device, self.dtype), x.to(device), y.to(device))


def mlp() -> nn.Module:
    """784-512-512-10 with ReLU."""
    return nn.Sequential(
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )


def cnn() -> nn.Module:
    """Two 3x3 convolutions with pooling, then one linear layer, for 3x32x32 images."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, CLASSES),
    )


class Residual(nn.Module):
    """relu(body(x) + shortcut(x)), the shortcut a 1x1 convolution where shapes differ."""

    def __init__(self, body: nn.Module, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body, self.relu = body, nn.ReLU()
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else normed(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[m, inside, h, w] to [m, outside, h / stride, w / stride]."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def normed(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, then GroupNorm in 32 groups."""
    convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(32, outside))


def basic(inside: int, width: int, stride: int) -> nn.Module:
    """The block of ResNet-18: two 3x3 convolutions."""
    body = nn.Sequential(normed(inside, width, 3, stride), nn.ReLU(), normed(width, width, 3))
    return Residual(body, inside, width, stride)


def bottleneck(inside: int, width: int, stride: int) -> nn.Module:
    """The block of ResNet-50: 1x1, 3x3, 1x1 to four times the width."""
    body = nn.Sequential(
        normed(inside, width, 1),
        nn.ReLU(),
        normed(width, width, 3, stride),
        nn.ReLU(),
        normed(width, 4 * width, 1),
    )
    return Residual(body, inside, 4 * width, stride)


def resnet18() -> nn.Module:
    """ResNet-18 with the stem that small images get: one 3x3 convolution, no pooling."""
    stages = [basic(64, 64, 1), basic(64, 64, 1)]
    for width in (128, 256, 512):
        stages += [basic(width // 2, width, 2), basic(width, width, 1)]
    stem = [normed(3, 64, 3), nn.ReLU()]
    return nn.Sequential(*stem, *stages, *head(512))


def resnet50() -> nn.Module:
    """ResNet-50 with the stem for 3x224x224 images."""
    stages, inside = [], 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(depth):
            stages.append(bottleneck(inside, width, 2 if block == 0 and width > 64 else 1))
            inside = 4 * width
    stem = [normed(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *stages, *head(inside))


def head(channels: int) -> list[nn.Module]:
    """The mean over pixels, then one linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


class Attention(nn.Module):
    """Self-attention over [m, T, width]: written out, or fused and causal."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[m, T, width] to [m, T, width]."""
        m, steps, width = x.shape
        split = self.qkv(x).view(m, steps, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each [m, heads, T, width / heads]
        if self.causal:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(m, steps, width))
        return out


class Block(nn.Module):
    """A transformer block, norms first."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.up, self.gelu, self.down = (
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[m, T, width] to [m, T, width]."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.down(self.gelu(self.up(self.norm2(x))))
        return out


class Transformer(nn.Module):
    """Tokens [m, T] to classes [m, 10]: embedding, blocks, the mean over positions, a head."""

    def __init__(self, width: int, heads: int, blocks: int, causal: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal) for _ in range(blocks)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """[m, T] to [m, 10]."""
        out: Tensor = self.head(self.blocks(self.embedding(tokens)).mean(1))
        return out


VOCABULARY = 1000


def transformer() -> nn.Module:
    """Two blocks of width 128 with 4 heads; attention written out."""
    return Transformer(128, 4, 2)


def gpt2_block() -> nn.Module:
    """One block of GPT-2's size, 768 wide with 12 heads, causal and fused attention."""
    return Transformer(768, 12, 1, causal=True)


def _gpt2(dtype: torch.dtype) -> Task:
    precision = "bf16" if dtype is torch.bfloat16 else "fp32"
    title = f"GPT-2-size block, width 768, T=1024, {precision}"
    return Task(title, gpt2_block, (1024,), 16, VOCABULARY, dtype)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "mlp": Task("MLP 784-512-512-10", mlp, (784,), 256),
        "cnn": Task("CNN, two convolutions, 3x32x32", cnn, (3, 32, 32), 128),
        "resnet18": Task("ResNet-18 with GroupNorm, 3x32x32", resnet18, (3, 32, 32), 32),
        "transformer": Task(
            "Transformer, 2 blocks of width 128, T=64", transformer, (64,), 32, VOCABULARY
        ),
        "resnet50": Task("ResNet-50 with GroupNorm, 3x224x224", resnet50, (3, 224, 224), 64),
        "gpt2-fp32": _gpt2(torch.float32),
        "gpt2-bf16": _gpt2(torch.bfloat16),
    }
)
