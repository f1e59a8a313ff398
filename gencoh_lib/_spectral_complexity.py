"""Complexities without the number of parameters, behind :mod:`gencoh_lib.stagnation`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gencoh_lib._dataset import listing
from gencoh_lib._numbers import count, nonnegative, positive


@dataclass(frozen=True, repr=False)
class SpectralComplexity:
    """A norm of a network about reference matrices, without its constants.

    Attributes
    ----------
    value : float
        R_A.
    product : float
        Product of the spectral norms.
    distances : tuple of float
        [L] sum over the rows of the 2-norm of the layer minus its reference.
    spectral_norms : tuple of float
        [L].
    width : int
        The largest dimension of a layer, input and output included.
    """

    value: float
    product: float
    distances: tuple[float, ...]
    spectral_norms: tuple[float, ...]
    width: int

    def main_term(self, *, data_norm: float, margin: float, examples: int) -> float:
        r"""Main term of the bound, up to a constant that the paper hides.

        Parameters
        ----------
        data_norm : float
            :math:`\lVert X\rVert_F`, root of the sum of the squared norms of all inputs.
        margin : float
            :math:`\gamma`.
        examples : int
            n.

        Returns
        -------
        float
            :math:`\lVert X\rVert_F R_A \ln(W)/(\gamma n)`: compare two of them, and do not read
            one as a bound.
        """
        scale = nonnegative("data_norm", data_norm) * math.log(self.width)
        return scale * self.value / (positive("margin", margin) * count("examples", examples))

    def __repr__(self) -> str:
        rows = {
            "R_A": f"{self.value:.4g}",
            "spectral norms": ", ".join(f"{s:.4g}" for s in self.spectral_norms),
            "distances": ", ".join(f"{d:.4g}" for d in self.distances),
        }
        return listing(f"spectral complexity of {len(self.distances)} layers", rows)


def spectral_complexity(
    weights: Sequence[Tensor], references: Sequence[Tensor] | None = None
) -> SpectralComplexity:
    r"""Spectral complexity of a network about reference matrices, such as the centre of a tube.

    Parameters
    ----------
    weights : sequence of Tensor
        [outputs, inputs] matrix of each layer, from the input on; activations are 1-Lipschitz.
    references : sequence of Tensor, optional
        Matrices of the same shapes, fixed before the data was seen; by default zero.

    Returns
    -------
    SpectralComplexity

    Raises
    ------
    TypeError, ValueError
        If there is no layer, or a shape does not fit.

    Notes
    -----
    .. math:: R_A = \Bigl(\prod_i \lVert A_i\rVert\Bigr)
        \Bigl(\sum_i \frac{\lVert A_i^\top - M_i^\top\rVert_{2,1}^{2/3}}
        {\lVert A_i\rVert^{2/3}}\Bigr)^{3/2}

    Bartlett, Foster and Telgarsky (2017, arXiv:1706.08498, eq. 1.2), for 1-Lipschitz activations;
    the (2, 1) norm of the transpose is the sum of the 2-norms of the rows. With references at the
    centre of a tube it is linear in the distance from it.

    Examples
    --------
    >>> import torch
    >>> round(spectral_complexity([torch.eye(2), 2 * torch.eye(2)]).value, 6)  # 2^(7/2)
    11.313708
    """
    matrices = [_matrix(w) for w in weights]
    if not matrices:
        raise ValueError("weights is empty: there is no layer")
    fixed = (
        [torch.zeros_like(w) for w in matrices]
        if references is None
        else [_matrix(r) for r in references]
    )
    if [w.shape for w in matrices] != [r.shape for r in fixed]:
        raise ValueError("references must have the shapes of the weights, layer by layer")
    norms = [float(torch.linalg.matrix_norm(w, 2)) for w in matrices]
    pairs = zip(matrices, fixed, strict=True)
    distances = [float(torch.linalg.vector_norm(w - r, dim=1).sum()) for w, r in pairs]
    product = math.prod(norms)
    # The product goes under the sum, where a layer of norm 0 divides nothing.
    others = [math.prod(norms[:i] + norms[i + 1 :]) for i in range(len(norms))]
    parts = [(d * rest) ** (2 / 3) for d, rest in zip(distances, others, strict=True)]
    value = math.fsum(parts) ** 1.5
    return SpectralComplexity(
        value=value,
        product=product,
        distances=tuple(distances),
        spectral_norms=tuple(norms),
        width=max(max(w.shape) for w in matrices),
    )


def linearised_complexity(
    variances: Tensor, gradient_moments: Tensor, *, examples: int, q: float = 1.0
) -> float:
    r"""Rademacher complexity of the linearised loss on the ellipsoid that SGD fills: a diagnostic.

    Parameters
    ----------
    variances : Tensor
        [k] stationary variances :math:`v_i` along the eigenvectors of the Hessian.
    gradient_moments : Tensor
        [k] mean squares :math:`s_i` of the per-example gradients along them.
    examples : int
        n.
    q : float
        Radius of the ellipsoid :math:`\sum a_i^2/v_i \le q^2`.

    Returns
    -------
    float
        :math:`q\sqrt{\sum_i v_i s_i/n}`.

    Raises
    ------
    TypeError, ValueError
        If the shapes differ or a number is out of range.

    Notes
    -----
    A heuristic and no bound: the loss is linearised, and the ellipsoid depends on the data.
    Derived here (stand-in; the text of Imaizumi and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> import torch
    >>> linearised_complexity(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.0]), examples=100)
    0.1
    """
    if variances.shape != gradient_moments.shape or variances.ndim != 1:
        raise ValueError(
            f"variances {tuple(variances.shape)} and gradient_moments "
            f"{tuple(gradient_moments.shape)} must both be of shape [k]"
        )
    energy = float((variances.double() * gradient_moments.double()).sum())
    if not 0 <= energy < math.inf:
        raise ValueError("variances and gradient_moments must be finite and not negative")
    return positive("q", q) * math.sqrt(energy / count("examples", examples))


def _matrix(weight: Tensor) -> Tensor:
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise TypeError("weights and references must be matrices [outputs, inputs]")
    return weight.detach().double()
