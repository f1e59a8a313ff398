"""How much Gaussian noise keeps a network near itself, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from torch import Tensor

from gencoh_lib._sparse_hyperparameters import Hyperparameters
from gencoh_lib._sparse_norms import level_of
from gencoh_lib._whole import whole


def log_binomial(n: int, k: int) -> float:
    """Logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _check_failure(failure: float) -> None:
    if not 0 < failure < 1:
        raise ValueError(f"failure must be a probability between 0 and 1, got {failure}")


def noise_scale(
    rows: int,
    columns: int,
    row_level: int,
    column_level: int,
    failure: float,
    *,
    corners: bool = True,
) -> float:
    r"""Sparse norm that a matrix of standard Gaussian entries does not exceed, but rarely.

    Parameters
    ----------
    rows, columns : int
        Shape d_2, d_1 of the matrix.
    row_level, column_level : int
        Numbers s_2 and s_1 of rows and columns struck out.
    failure : float
        Probability that is allowed for a larger norm.
    corners : bool
        Take the smallest value over the levels (s_2, s_1), (s_2, 0), (0, s_1), (0, 0), which is
        the smallest over all levels up to (s_2, s_1); if False, the value as printed.

    Returns
    -------
    float
        :math:`\alpha`, so that a d_2 x d_1 matrix of independent :math:`N(0, \sigma^2)` has
        :math:`\lVert A \rVert_{(s_2,s_1)} \le \sigma\alpha` with probability 1 - `failure`.

    Raises
    ------
    TypeError, ValueError
        If a shape or level is no whole number or out of range, or `failure` no probability.

    Notes
    -----
    .. math::

        \alpha = \sqrt{d_2 - s_2} + \sqrt{d_1 - s_1} + \sqrt{2 \log \tbinom{d_2}{s_2}
        + 2 \log \tbinom{d_1}{s_1} + 2 \log (1 / \delta)}

    Lemma 20 of Muthukumar and Sulam (2023). It grows with the levels before it falls. A sparse
    norm does not exceed that of lower levels (Lemma 17), and alpha is concave in the levels, so
    the smallest valid value sits at a corner: derived in the course.

    Examples
    --------
    >>> round(noise_scale(4, 4, 0, 0, 0.005), 9)
    7.255247261
    """
    d2, d1 = whole("rows", rows), whole("columns", columns)
    s2, s1 = level_of("row_level", row_level, d2), level_of("column_level", column_level, d1)
    _check_failure(failure)

    def alpha(out: int, into: int) -> float:
        supports = log_binomial(d2, out) + log_binomial(d1, into)
        return (
            math.sqrt(d2 - out) + math.sqrt(d1 - into)
            + math.sqrt(2 * (supports - math.log(failure)))
        )  # fmt: skip

    if not corners:
        return alpha(s2, s1)
    return min(alpha(out, into) for out, into in product((0, s2), (0, s1)))


def perturbation_std(
    weights: Sequence[Tensor | tuple[int, int]],
    hyper: Hyperparameters,
    failure: float,
    *,
    paper_exact: bool = False,
    corners: bool = True,
) -> tuple[float, ...]:
    r"""Standard deviations of weight noise that stays in the neighbourhood of a network.

    Parameters
    ----------
    weights : sequence of Tensor or of pairs
        The K + 1 weights [d_k, d_{k-1}], or their shapes.
    hyper : Hyperparameters
        What defines the neighbourhood.
    failure : float
        Probability that is allowed for leaving it.
    paper_exact : bool
        Share `failure` among K + 1 events, as printed. By default it is shared among the
        2 K + 1 events that there are: two for each hidden layer and one for the last.
    corners : bool
        See :func:`noise_scale`.

    Returns
    -------
    tuple of float
        K + 1 values :math:`\sigma_k`.

    Raises
    ------
    ValueError
        If `hyper` does not fit the shapes, or `failure` is no probability.

    Notes
    -----
    With :math:`\alpha_k` at failure :math:`\delta' = \delta / (2K + 1)`,

    .. math::

        \sigma_k = \varepsilon_k \min\left\{
        \frac{\xi_k\sqrt{1+\eta_k}}{\alpha_k(s_k, s_{k-1})},
        \frac{\xi_k}{\alpha_k(d_k - 1, s_{k-1})} \right\},
        \qquad
        \sigma_{K+1} = \frac{\varepsilon_{K+1}\,\xi_{K+1}}{\alpha_{K+1}(d_{K+1} - 1, s_K)}.

    Lemma 12 of Muthukumar and Sulam (2023), whose last line is misprinted (it has
    :math:`\varepsilon_{K+1}` twice and no :math:`\xi_{K+1}`).

    Examples
    --------
    >>> hyper = Hyperparameters((3,), (1.0, 1.0), (0.0,), (0.06, 0.06), 1.0)
    >>> [round(std, 8) for std in perturbation_std([(4, 4), (2, 4)], hyper, 0.01)]
    [0.00886832, 0.01009178]
    """
    shapes = [tuple(w.shape) if isinstance(w, Tensor) else w for w in weights]
    hyper.check_shapes(shapes)
    _check_failure(failure)
    hidden = len(hyper.levels)
    share = failure / (hidden + 1 if paper_exact else 2 * hidden + 1)
    found = []
    for k, (d_out, d_in) in enumerate(shapes):
        into = hyper.column_level(k)
        row = noise_scale(d_out, d_in, d_out - 1, into, share, corners=corners)
        std = hyper.row_norms[k] / row
        if k < hidden:
            whole_norm = noise_scale(d_out, d_in, hyper.levels[k], into, share, corners=corners)
            std = min(std, hyper.norms[k] / whole_norm)
        found.append(hyper.perturbations[k] * std)
    return tuple(found)
