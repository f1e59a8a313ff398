"""The rules for the scale and the shift of normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor

from gencoh_lib._rules import Arrange, Flow, Rule, Use, total


class LayerNorm(Rule):
    r"""Scale of the normalised input, :math:`g = \sum_t b_t \hat a_t`, and shift."""

    kinds = ("NativeLayerNormBackward0",)

    @classmethod
    def fits(cls, use: Use) -> bool:
        return not use.transposed and use.slot in (1, 2)

    @property
    def row(self) -> tuple[int, ...]:
        return tuple(self.use.parameter.shape)

    def fuses(self, applications: int) -> bool:
        return True

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        if self.use.slot == 2:
            self.sum = flow.total.sum(0)
            return flow.squares
        node = self.node
        normalised = (node._saved_input - node._saved_result1).mul_(node._saved_result2)
        return self.squares_of(total(arrange(self.rows(normalised)) * flow.rows))


class ChannelNorm(Rule):
    """GroupNorm, and BatchNorm in eval: scale of the normalised input, and shift, by channel."""

    kinds = ("NativeGroupNormBackward0", "NativeBatchNormBackward0", "CudnnBatchNormBackward0")

    @classmethod
    def fits(cls, use: Use) -> bool:
        if use.transposed or use.slot not in (1, 2):
            return False
        return "BatchNorm" not in use.node.name() or not use.node._saved_training

    def fuses(self, applications: int) -> bool:
        return True

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        b = flow.rows.flatten(3) if flow.rows.dim() > 3 else flow.rows[..., None]
        if self.use.slot == 2:
            return self.squares_of(total(b.sum(-1)))
        return self.squares_of(total(self._scaled(arrange, b)))

    def _scaled(self, arrange: Arrange, b: Tensor) -> Tensor:
        """[m, T, channels]: products with the normalised input, summed over positions."""
        saved = self.node._saved_input
        x = arrange(saved.flatten(2) if saved.dim() > 2 else saved[..., None])
        mean, scale = (arrange(t) for t in self._moments(saved))
        step = max(1, self.byte_budget // (x[0].numel() * x.element_size()))
        chunks = zip(x.split(step), mean[..., None].split(step), b.split(step), strict=True)
        summed = [(a - middle).mul_(flowing).sum(-1) for a, middle, flowing in chunks]
        return torch.cat(summed) * scale

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and reciprocal deviation that each row was normalised by, both [R, channels]."""
        node, channels = self.node, x.shape[1]
        if node.name() == "NativeGroupNormBackward0":
            one, other = node._saved_result1, node._saved_result2
            each = channels // one.shape[1]
            return one.repeat_interleave(each, 1), other.repeat_interleave(each, 1)
        eps = node._saved_eps if node.name()[0] == "N" else node._saved_epsilon
        scale = (node._saved_running_var + eps).rsqrt()
        return node._saved_running_mean.expand(len(x), -1), scale.expand(len(x), -1)
