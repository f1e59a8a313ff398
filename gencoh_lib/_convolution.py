"""The rule for convolutions, in one to three dimensions, grouped, dilated and transposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from gencoh_lib._rules import Arrange, Rule, Use, gram, gram_norms, squares, total


class Convolution(Rule):
    r"""A linear map of patches: :math:`g = \sum_t b_t u_t^\top` over positions t, u a patch.

    Early layers, with many positions and few channels, form g in chunks. Late layers sum
    :math:`(u_t\cdot u_{t'})(b_t\cdot b_{t'})`, with the Gram matrix of patches made of shifted
    windows of the Gram matrix of *pixels*, which is smaller by the size of the kernel.
    """

    kinds = ("ConvolutionBackward0",)

    @classmethod
    def fits(cls, use: Use) -> bool:
        return not use.transposed and use.slot in (1, 2)

    def fuses(self, applications: int) -> bool:
        if self.use.slot == 2:
            return False
        return applications > 1 or self.node._saved_transposed or not self._gram_is_cheaper()

    def norms(self, gradient: Tensor, arrange: Arrange) -> Tensor:
        if self.use.slot == 2:
            return squares(total(gradient.flatten(3).sum(3)))
        x, b = arrange(self.node._saved_input), gradient
        if not self.fuses(x.shape[1]):
            return self._by_pixels(x[:, 0], b[:, 0])
        if self.node._saved_transposed:
            x, b = b, x  # the gradient plays the input, and the input the gradient
        return self._by_gradients(x, b)

    def _by_gradients(self, x: Tensor, b: Tensor) -> Tensor:
        """Form the gradients; x is [m, T, c, *size], b [m, T, p, *out].

        Every application becomes a group of its own in one wide convolution.
        """
        m, t = x.shape[:2]
        shape = self.use.parameter.shape
        every: tuple[Callable[..., Tensor], ...] = (conv1d_weight, conv2d_weight, conv3d_weight)
        weight_gradient = every[len(shape) - 3]
        geometry = (self.node._saved_stride, self.node._saved_padding, self.node._saved_dilation)

        def form(part: slice) -> Tensor:
            inputs, flowing = x[part].flatten(0, 2), b[part].flatten(0, 2)
            n = len(x[part]) * t
            formed = weight_gradient(
                inputs[None],
                [n * shape[0], *shape[1:]],
                flowing[None],
                *geometry,
                n * self.node._saved_groups,
            )
            return total(formed.view(-1, t, *shape))

        return self.summed_squares(m, t * shape.numel(), form, x.element_size())

    def _gram_is_cheaper(self) -> bool:
        """Compare the multiply-adds of the two ways for one example."""
        if self.node._saved_groups > 1:
            return False
        p, c, *kernel = self.use.parameter.shape
        size = self.node._saved_input.shape[2:]
        padding = self.node._saved_padding
        pixels = math.prod(s + 2 * w for s, w in zip(size, padding, strict=True))
        positions = math.prod(self.use.output[2:])
        window = math.prod(kernel)
        by_pixels = c * pixels**2 + (p + 8 * window) * positions**2
        return bool(by_pixels < positions * p * c * window)

    def _by_pixels(self, x: Tensor, b: Tensor) -> Tensor:
        """Sum over pairs of positions; x is [m, c, *size], b [m, p, *out]."""
        out, dims = b.shape[2:], b.dim() - 2
        x = _padded(x, self.node._saved_padding)
        size = x.shape[2:]
        pixels = gram(x.flatten(2).mT).view(len(x), *size, *size)
        patches = torch.zeros((), dtype=pixels.dtype, device=x.device)
        kernel, dilation = self.use.parameter.shape[2:], self.node._saved_dilation
        for offset in torch.cartesian_prod(*map(torch.arange, kernel)).view(-1, dims).tolist():
            window = tuple(
                slice(o * d, o * d + (n - 1) * s + 1, s)
                for o, d, n, s in zip(offset, dilation, out, self.node._saved_stride, strict=True)
            )
            patches = patches + pixels[(slice(None), *window, *window)]
        return gram_norms(patches.reshape(len(x), -1), gram(b.flatten(2).mT))


def _padded(x: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(x, [side for width in reversed(padding) for side in (width, width)])
