"""The rule for convolutions, in one to three dimensions, grouped, dilated and transposed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gencoh_lib._rules import Arrange, Rule, Use, gram_norms, squares, total


class Convolution(Rule):
    r"""A linear map of patches: :math:`g = \sum_t b_t u_t^\top` over positions t, u a patch.

    Early layers, with many positions and few channels, form g. Late layers sum
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
        groups, parts, sums = self.node._saved_groups, [], []
        for x_group, b_group in zip(x.chunk(groups, 2), b.chunk(groups, 2), strict=True):
            parts.append(self._by_patches(x_group, b_group))
            sums.append(self.sum)
        self.sum = sums[0] if groups == 1 else torch.cat([s for s in sums if s is not None])
        return parts[0] if groups == 1 else torch.stack(parts).sum(0)

    def _by_patches(self, x: Tensor, b: Tensor) -> Tensor:
        """Form the gradients; x is [m, T, c, *size], b [m, T, p, *out]."""
        m, t, c = x.shape[:3]
        p, out = b.shape[2], b.shape[3:]
        kernel = self.use.parameter.shape[2:]
        entries, positions = math.prod(kernel) * c, math.prod(out)

        def form(part: slice) -> Tensor:
            u = self._patches(x[part].flatten(0, 1), out)
            n = len(u) // t
            flowing = b[part].flatten(3).transpose(1, 2).reshape(n, p, t * positions)
            return flowing @ u.reshape(n, t * positions, entries)

        each = entries * (t * positions + p)
        result = self.summed_squares(m, each, form, x.element_size())
        assert self.sum is not None
        # channels come last in a patch and first after the output in a weight
        self.sum = self.sum.view(p, *kernel, c).movedim(-1, 1)
        return result

    def _patches(self, x: Tensor, out: Sequence[int]) -> Tensor:
        """[n, c, *size] to [n, positions, kernel * c].

        Channels last, so that the copy moves runs of numbers: twice as fast as F.unfold.
        """
        x = _padded(x, self.node._saved_padding).movedim(1, -1).contiguous()
        first, *steps, last = x.stride()
        strides = (
            first,
            *(s * k for s, k in zip(steps, self.node._saved_stride, strict=True)),
            *(s * k for s, k in zip(steps, self.node._saved_dilation, strict=True)),
            last,
        )
        size = (len(x), *out, *self.use.parameter.shape[2:], x.shape[-1])
        return x.as_strided(size, strides).flatten(1 + len(out)).flatten(1, len(out))

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
        flat, size = x.flatten(2), x.shape[2:]
        pixels = (flat.mT @ flat).view(len(x), *size, *size)
        gram: Tensor | int = 0
        kernel, dilation = self.use.parameter.shape[2:], self.node._saved_dilation
        for offset in torch.cartesian_prod(*map(torch.arange, kernel)).view(-1, dims).tolist():
            window = tuple(
                slice(o * d, o * d + (n - 1) * s + 1, s)
                for o, d, n, s in zip(offset, dilation, out, self.node._saved_stride, strict=True)
            )
            gram = gram + pixels[(slice(None), *window, *window)]
        flowing = b.flatten(2)
        assert isinstance(gram, Tensor)
        return gram_norms(gram.reshape(len(x), -1), flowing.mT @ flowing)


def _padded(x: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(x, [side for width in reversed(padding) for side in (width, width)])
