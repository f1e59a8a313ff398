"""Constants of the two-phase theorems on a finite population, behind :mod:`gencoh_lib.paths`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gencoh_lib._dataset import listing
from gencoh_lib._gap import Population, pairs, targets_for
from gencoh_lib._network_graph import evaluate, layer_of
from gencoh_lib._path_kernel import check_outputs, kernel
from gencoh_lib._tracing import trace


@dataclass(frozen=True, repr=False)
class PathConstants:
    r"""What Theorems 8 and 9 assume about the distribution, on a finite population.

    Attributes
    ----------
    spectral_range, spectral_variance : float
        :math:`C_{zz} = \lambda_{\max}(E[zz^\top])`, which no
        :math:`\lambda_{\max}(E[zz^\top] - z_i z_i^\top)` exceeds, and
        :math:`\gamma^2_{zz} = \lVert E[\lVert z\rVert^2 zz^\top] - E[zz^\top]^2 \rVert_2`.
    cross_range, cross_variance : float
        :math:`C_{yz}, \gamma^2_{yz}`: no less than the largest distance from its mean, and the
        variance, of any product of a target and a path feature, from the inputs alone.
    label_range, label_variance : float
        The same of :math:`\lVert y\rVert^2`, exactly.
    feature_norm : float
        :math:`C_\sigma`, the root of the mean of :math:`\lVert z\rVert^2`.
    population : int
        Number of examples, equally likely.

    Examples
    --------
    >>> from gencoh_lib import models
    >>> found = path_constants(models.mlp([1, 1], bias=False, seed=0),
    ...                        (torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])))
    >>> found.spectral_range, found.spectral_variance, found.label_variance
    (5.0, 16.0, 0.0)
    """

    spectral_range: float
    spectral_variance: float
    cross_range: float
    cross_variance: float
    label_range: float
    label_variance: float
    feature_norm: float
    population: int

    def __repr__(self) -> str:
        """Return a small table."""
        return listing(
            f"constants over a population of {self.population}",
            {
                "path features, C_zz and variance": f"{self.spectral_range:.4g}, "
                f"{self.spectral_variance:.4g}",
                "targets by features, C_yz and variance": f"{self.cross_range:.4g}, "
                f"{self.cross_variance:.4g}",
                "targets, C_y and variance": f"{self.label_range:.4g}, {self.label_variance:.4g}",
                "root mean squared path features": f"{self.feature_norm:.4g}",
            },
        )

    @property
    def squared_loss(self) -> dict[str, float]:
        """The six constants as keywords of :func:`gencoh_lib.bounds.two_phase_squared`."""
        names = ("spectral", "cross", "label")
        return {
            f"{name}_{what}": getattr(self, f"{name}_{what}")
            for name in names
            for what in ("range", "variance")
        }


def path_constants(model: nn.Module, population: Population) -> PathConstants:
    """Constants of the two-phase theorems, for a network whose gates are fixed.

    Parameters
    ----------
    model : torch.nn.Module
        A :class:`TwoPhase` network, or any that :mod:`gencoh_lib.paths` covers; only its gates
        matter.
    population : Dataset or pair of Tensor
        All examples of the distribution, equally likely, as for :func:`gap_decomposition`.

    Returns
    -------
    PathConstants

    Raises
    ------
    UnsupportedLayerError
        If a layer is not covered, or the outputs do not see the same paths.
    ValueError
        If the population does not fit the model.

    Notes
    -----
    Assumption 1 of Kawaguchi, Kaelbling and Bengio (2019, v5). That these are constants of the
    population, from the path kernel and without path space, is derived in the course.

    Examples
    --------
    >>> from gencoh_lib import data, models
    >>> digits = data.load("digits").take(range(300))
    >>> constants = path_constants(models.mlp([64, 4, 10], seed=0), digits)
    >>> constants.label_range, constants.cross_range
    (0.0, 1.0)
    """
    x, labels = pairs(population)
    network = trace(model, x)
    check_outputs(network)
    y = targets_for(labels, network.outputs)
    _, gates = evaluate(network, x)
    rows = x.detach().to("cpu", torch.float64).flatten(1)
    gram = kernel(network, x.detach().to("cpu", torch.float64), gates)
    squared = gram.diagonal()
    kappa, u = torch.linalg.eigh(gram)
    z = u * kappa.clamp(min=0).sqrt()  # path features, in coordinates of their span
    mean = z.T @ z / len(z)
    variance = z.T @ (squared[:, None] * z) / len(z) - mean @ mean
    has_bias = any(
        layer_of(s).bias is not None for s in network.steps if s.kind in ("linear", "conv")
    )
    starts = torch.cat([rows, torch.ones(len(x), 1, dtype=torch.float64)], 1) if has_bias else rows
    length = y.square().sum(1)
    return PathConstants(
        spectral_range=_largest(mean),
        spectral_variance=_largest(variance),
        cross_range=_range(starts, y),
        cross_variance=float((y.square().T @ starts.square() / len(x)).max()),
        label_range=float((length - length.mean()).abs().max()),
        label_variance=float(length.var(correction=0)),
        feature_norm=math.sqrt(float(squared.mean())),
        population=len(x),
    )


def _largest(matrix: Tensor) -> float:
    return max(0.0, float(torch.linalg.eigvalsh(matrix)[-1]))


def _range(starts: Tensor, y: Tensor) -> float:
    """Largest length of an interval with 0 that holds every product of a target and an input.

    A path feature is its input or 0, so products of it with a target stay in the same interval.
    """
    spans = []
    for column in y.T:
        products = column[:, None] * starts
        spans.append((products.amax(0).clamp(min=0) - products.amin(0).clamp(max=0)).max())
    return float(torch.stack(spans).max())
