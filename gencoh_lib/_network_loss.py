"""The loss of a network as a function of its flat parameter vector, for many vectors at once.

The public names are those of :mod:`gencoh_lib.stagnation`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gencoh_lib._evaluation import cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]


class NetworkLoss:
    r"""The mean loss of a network on fixed examples, as a function of all its parameters.

    Parameters
    ----------
    model : torch.nn.Module
        Maps [m, ...] to outputs; copied, in eval mode, and stays as it is. Its parameters in
        their order make the flat vector of D numbers.
    x, y : Tensor
        [n, ...] examples and [n, ...] targets.
    loss : callable
        Maps outputs and targets to the losses of the examples, [n].
    weight_decay : float
        w: adds :math:`w\lVert\theta\rVert^2/2`, without which cross-entropy has no minimum.
    dtype : torch.dtype, optional
        Floating-point type to compute in; by default that of the parameters.

    Raises
    ------
    TypeError, ValueError
        If the model is no module or has no parameters, or x and y differ in length.

    Attributes
    ----------
    start : Tensor
        [D] the parameters of the model.
    names : tuple of str
        Names of the parameters.
    shapes : tuple of torch.Size
        Their shapes; for :class:`SpectralClip`.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> digits = data.load("digits").take(range(50))
    >>> net = NetworkLoss(models.mlp([64, 8, 10], bias=False, seed=0), digits.x, digits.y)
    >>> net.dimension, tuple(net.gradient(net.start.repeat(3, 1)).shape)
    (592, (3, 592))
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        loss: Loss = cross_entropy,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        parameters = dict(model.named_parameters())
        if not parameters:
            raise ValueError("the model has no parameters")
        if len(x) != len(y) or not len(x):
            raise ValueError(f"x has {len(x)} examples and y {len(y)} targets: one each, and some")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a finite number >= 0, got {weight_decay}")
        dtype = next(iter(parameters.values())).dtype if dtype is None else dtype
        self._model = copy.deepcopy(model).eval().to(dtype).requires_grad_(False)
        self.x = x.to(dtype) if x.is_floating_point() else x
        self.y = y.to(dtype) if y.is_floating_point() else y
        self.weight_decay = float(weight_decay)
        self._loss = loss
        self.names = tuple(parameters)
        self.shapes = tuple(parameter.shape for parameter in parameters.values())
        self.start = torch.cat([p.detach().to(dtype).flatten() for p in parameters.values()])

    @property
    def dimension(self) -> int:
        """D, the number of parameters."""
        return len(self.start)

    @property
    def examples(self) -> int:
        """n, the number of examples."""
        return len(self.x)

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parameters by name, as views of a flat vector [D]."""
        parts = theta.split([shape.numel() for shape in self.shapes])
        return {
            name: part.view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def weights(self, theta: Tensor | None = None) -> list[Tensor]:
        """Return the weight matrices of a flat vector [D], by default the model's own."""
        named = self.parameters(self.start if theta is None else theta)
        return [part for part in named.values() if part.ndim == 2]

    def outputs(self, theta: Tensor, x: Tensor | None = None) -> Tensor:
        """Outputs [chains, n, ...] at points [chains, D], on other inputs if they are given."""
        inputs = self.x if x is None else x.to(self.x)
        return vmap(lambda one: self._outputs(one, inputs))(self._rows(theta))

    def loss(self, theta: Tensor) -> Tensor:
        """Mean loss with weight decay, [chains], at points [chains, D]; differentiable."""
        return vmap(lambda one: self._objective(one, self.x, self.y))(self._rows(theta))

    def gradient(self, theta: Tensor) -> Tensor:
        """Gradient of :meth:`loss`, [chains, D], at points [chains, D]."""
        return self._slope(theta, lambda leaf: self.loss(leaf))

    def batch_gradient(self, theta: Tensor, indices: Tensor) -> Tensor:
        """Gradient [chains, D] on other examples for each chain, at the positions [chains, B]."""
        x, y = self.x[indices], self.y[indices]
        return self._slope(theta, lambda leaf: vmap(self._objective)(leaf, x, y))

    def per_example(self, theta: Tensor | None = None, *, chunk: int = 256) -> Tensor:
        """Gradients [n, D] of the examples at one point [D]; their mean is :meth:`gradient`.

        Parameters
        ----------
        theta : Tensor, optional
            [D]; by default the model's own parameters.
        chunk : int
            Examples that go through at a time.

        Returns
        -------
        Tensor
            [n, D].
        """
        point = self.start if theta is None else theta
        if point.shape != self.start.shape:
            raise ValueError(f"theta must be of shape [{self.dimension}], got {tuple(point.shape)}")

        def gradients(x: Tensor, y: Tensor) -> Tensor:
            same = point.expand(len(x), -1)
            return self._slope(
                same, lambda leaf: vmap(self._objective)(leaf, x[:, None], y[:, None])
            )

        parts = zip(self.x.split(chunk), self.y.split(chunk), strict=True)
        return torch.cat([gradients(x, y) for x, y in parts])

    def _outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        found = functional_call(self._model, self.parameters(theta), (x,))
        assert isinstance(found, Tensor)
        return found

    def _objective(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        data = self._loss(self._outputs(theta, x), y).mean()
        return data + self.weight_decay / 2 * theta.square().sum() if self.weight_decay else data

    def _rows(self, theta: Tensor) -> Tensor:
        if theta.ndim != 2 or theta.shape[1] != self.dimension:
            raise ValueError(
                f"points must be of shape [chains, {self.dimension}], got {tuple(theta.shape)}"
            )
        return theta

    def _slope(self, theta: Tensor, losses: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            leaf = self._rows(theta).detach().requires_grad_()
            (found,) = torch.autograd.grad(losses(leaf).sum(), leaf)
        return found
