"""The rule for convolutions, in one to three dimensions, grouped, dilated and transposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from gencoh_lib._rules import Arrange, Flow, Rule, Use, squares_by_pairs, total


class Convolution(Rule):
    r"""A linear map of patches: :math:`g = \sum_t b_t u_t^\top` over positions t, u a patch.

    Early layers, with many positions and few channels, form g in chunks: by matrix products with
    the patches where these or the positions are few, else by one convolution for the whole chunk.
    Late layers sum :math:`(u_t\cdot u_{t'})(b_t\cdot b_{t'})`, with the inner products of patches
    made of shifted windows of the inner products of *pixels*, which are fewer by the size of the
    kernel.
    """

    kinds = ("ConvolutionBackward0",)

    def __init__(self, use: Use, byte_budget: int) -> None:
        super().__init__(use, byte_budget)
        node, dimensions = use.node, len(use.output) - 2
        # one number may stand for all dimensions, as it does where the padding is "valid"
        self.stride, self.padding, self.dilation = (
            tuple(saved) * (dimensions // len(saved))
            for saved in (node._saved_stride, node._saved_padding, node._saved_dilation)
        )

    @classmethod
    def fits(cls, use: Use) -> bool:
        return not use.transposed and use.slot in (1, 2)

    def fuses(self, applications: int) -> bool:
        return self.use.slot == 2 or not self._by_pairs(applications)

    def norms(self, flow: Flow, arrange: Arrange) -> Tensor:
        if self.use.slot == 2:
            return self.squares_of(total(flow.rows.flatten(3).sum(3)))
        x, b = arrange(self.node._saved_input), flow.rows
        m, t = x.shape[:2]
        if self._by_pairs(t):
            x = _padded(x[:, 0], self.padding)
            return squares_by_pairs(x, b[:, 0].flatten(2).mT, self._pixels, self.byte_budget)
        shape, itemsize = self.use.parameter.shape, x.element_size()
        if self._by_patches(t):
            x = _padded(x[:, 0], self.padding)
            b = b[:, 0].flatten(2)
            size = (shape.numel() + shape[1:].numel() * b.shape[2]) * itemsize
            norms = self.summed_squares(m, size, lambda part: self._patches(x[part]) @ b[part].mT)
            assert self.sum is not None
            self.sum = self.sum.T.reshape(shape)
            return norms
        if self.node._saved_transposed:
            x, b = b, x  # the gradient plays the input, and the input the gradient
        return self.summed_squares(
            m, t * shape.numel() * itemsize, lambda part: self._convolved(x[part], b[part])
        )

    def _convolved(self, x: Tensor, b: Tensor) -> Tensor:
        """Gradients of a few examples; x is [c, T, inside, *size], b [c, T, outside, *out].

        Every application becomes a group of its own in one wide convolution.
        """
        shape = self.use.parameter.shape
        n = x.shape[0] * x.shape[1]
        every: tuple[Callable[..., Tensor], ...] = (conv1d_weight, conv2d_weight, conv3d_weight)
        formed = every[len(shape) - 3](
            x.flatten(0, 2)[None],
            [n * shape[0], *shape[1:]],
            b.flatten(0, 2)[None],
            self.stride,
            self.padding,
            self.dilation,
            n * self.node._saved_groups,
        )
        return total(formed.view(*x.shape[:2], *shape))

    def _patches(self, x: Tensor) -> Tensor:
        """[c, inside, *size], padded, to patches [c, inside * window, positions]."""
        kernel, out = self.use.parameter.shape[2:], self.use.output[2:]
        x = x.contiguous()
        first, channel, *steps = x.stride()
        within = (step * d for step, d in zip(steps, self.dilation, strict=True))
        between = (step * s for step, s in zip(steps, self.stride, strict=True))
        patches = x.as_strided(
            (*x.shape[:2], *kernel, *out), (first, channel, *within, *between), x.storage_offset()
        )
        return patches.reshape(len(x), -1, out.numel())

    def _pixels(self, x: Tensor) -> Tensor:
        """[c, inside, *size], padded, to the inner products of patches, [c, T, T]."""
        size, out = x.shape[2:], self.use.output[2:]
        pixels = x.flatten(2)
        products = (pixels.mT @ pixels).view(len(x), *size, *size)
        patches = torch.zeros((), dtype=x.dtype, device=x.device)
        kernel = self.use.parameter.shape[2:]
        for offset in torch.cartesian_prod(*map(torch.arange, kernel)).view(-1, len(out)).tolist():
            window = tuple(
                slice(o * d, o * d + (n - 1) * s + 1, s)
                for o, d, n, s in zip(offset, self.dilation, out, self.stride, strict=True)
            )
            patches = patches + products[(slice(None), *window, *window)]
        return patches.reshape(len(x), out.numel(), -1)

    # Which way is the cheapest was measured on a CPU; all give the same.

    def _by_pairs(self, applications: int) -> bool:
        """Compare the multiply-adds of pairs of positions with those of the gradient itself."""
        if applications > 1 or self.node._saved_transposed or self.node._saved_groups > 1:
            return False
        p, c, *kernel = self.use.parameter.shape
        sizes = zip(self.node._saved_input.shape[2:], self.padding, strict=True)
        pixels = math.prod(size + 2 * padding for size, padding in sizes)
        positions, window = math.prod(self.use.output[2:]), math.prod(kernel)
        by_pairs = c * pixels**2 + (p + 8 * window) * positions**2
        return bool(4 * by_pairs < positions * p * c * window)

    def _by_patches(self, applications: int) -> bool:
        if applications > 1 or self.node._saved_transposed or self.node._saved_groups > 1:
            return False
        patch, positions = self.use.parameter.shape[1:].numel(), self.use.output[2:].numel()
        return patch < 64 or 8 * positions < patch


def _padded(x: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(x, [side for width in reversed(padding) for side in (width, width)])
