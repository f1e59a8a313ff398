"""Stability of what is inactive, as statements that can be checked, and that of one layer.

Behind :mod:`gencoh_lib.sparsity`. A statement says at which inputs its hypotheses are met, and at
which its conclusions hold. Comparisons allow for rounding, conclusions more than hypotheses, so
that what lies on the boundary counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gencoh_lib._sparse_network import inputs_of
from gencoh_lib._sparse_norm_bounds import WeightNorms
from gencoh_lib._sparse_norms import level_of, matrix_of, sparse_norm
from gencoh_lib._sparse_radius import layer_inactive_set, layer_radius

HYPOTHESIS = 1e-12  # relative to the weights, the inputs and the normaliser of radii
CONCLUSION = 1e-11  # relative to the largest output that a layer may have
_SLACK = 1 + HYPOTHESIS


@dataclass(frozen=True, eq=False, repr=False)
class Statement:
    """A statement "if ... then ..." at each input.

    Attributes
    ----------
    name : str
        Which statement it is.
    hypotheses : Tensor
        [m] boolean, where everything that the statement supposes is true.
    conclusions : Tensor
        [m] boolean, where everything that it concludes is true.

    Examples
    --------
    >>> import torch
    >>> Statement("an example", torch.tensor([True, False]), torch.tensor([True, False]))
    an example: supposed at 1 of 2, concluded at 1 of these: holds
    """

    name: str
    hypotheses: Tensor
    conclusions: Tensor

    @property
    def holds(self) -> Tensor:
        """[m] boolean: the conclusions are true, or the hypotheses are not."""
        return ~self.hypotheses | self.conclusions

    def __repr__(self) -> str:
        """Return one line."""
        both = int((self.hypotheses & self.conclusions).sum())
        verdict = "holds" if bool(self.holds.all()) else "FAILS"
        return (
            f"{self.name}: supposed at {int(self.hypotheses.sum())} of {self.hypotheses.numel()}, "
            f"concluded at {both} of these: {verdict}"
        )


def deep(radius: Tensor, change: float) -> Tensor:
    """Radius of at least a change; a change of 0 asks for a radius above 0."""
    return (radius >= change - HYPOTHESIS) & (radius > 0)


def at_most(value: Tensor, bound: Tensor | float, scale: float) -> Tensor:
    """Value not above a bound, up to rounding at this scale."""
    return value <= bound + CONCLUSION * scale


def off(pre: Tensor, chosen: Tensor, scale: float) -> Tensor:
    """[m]: every chosen unit has a pre-activation of at most 0, up to rounding."""
    return ((pre <= CONCLUSION * scale) | ~chosen).all(dim=1)


def difference(first: Tensor, second: Tensor) -> Tensor:
    """|first - second| of radii, 0 where both are infinite."""
    return torch.where(first == second, torch.zeros_like(first), (first - second).abs())


@dataclass(frozen=True, eq=False, repr=False)
class LayerStability:
    """The three parts of Lemma 4 at each of m inputs of one layer.

    Attributes
    ----------
    size, index_sets, radius : Statement
        The parts: how large outputs are; which units stay off and how far outputs move; how far
        the radius moves.

    Examples
    --------
    >>> import torch
    >>> W, x = torch.eye(3) - 0.5, torch.eye(3)
    >>> layer_stability(
    ...     W, 1.09 * W, x, x, row_level=2, input_norm=1.0, weight_change=0.1, input_change=0.0
    ... )
    Lemma 4, size: supposed at 3 of 3, concluded at 3 of these: holds
    Lemma 4, index sets: supposed at 3 of 3, concluded at 3 of these: holds
    Lemma 4, radius: supposed at 3 of 3, concluded at 3 of these: holds
    """

    size: Statement
    index_sets: Statement
    radius: Statement

    @property
    def holds(self) -> Tensor:
        """[m] boolean: all three parts hold."""
        return self.size.holds & self.index_sets.holds & self.radius.holds

    def __repr__(self) -> str:
        """Return one line a part."""
        return "\n".join(map(repr, (self.size, self.index_sets, self.radius)))


def layer_stability(
    weight: Tensor,
    perturbed: Tensor,
    x: Tensor,
    perturbed_x: Tensor,
    *,
    row_level: int,
    column_level: int = 0,
    input_norm: float,
    weight_change: float,
    input_change: float,
    row_norm: float | None = None,
    babel: float | None = None,
    exact: bool = False,
) -> LayerStability:
    r"""Lemma 4: what stays inactive in one layer when its weight and its input change.

    Parameters
    ----------
    weight, perturbed : Tensor
        [d_1, d_0] weight W and its perturbation.
    x, perturbed_x : Tensor
        [m, d_0] inputs and their perturbations.
    row_level, column_level : int
        Sparsity levels :math:`s_1` of the outputs and :math:`s_0` of the inputs.
    input_norm : float
        Bound :math:`\zeta_0` on the 2-norm of x.
    weight_change, input_change : float
        Relative changes :math:`\varepsilon_1` and :math:`\varepsilon_0`.
    row_norm, babel : float, optional
        Bounds :math:`\xi_1` and :math:`\eta_1`; by default the tightest for `weight`.
    exact : bool
        Compute the sparse norm of the change by listing submatrices; by default it is bounded.

    Returns
    -------
    LayerStability
        With :math:`T(a, b) = (1 + a)(1 + b) - 1`, at inputs with :math:`\lVert x \rVert_2 \le
        \zeta_0` and s_0 zeros: (1) if :math:`r > 0` the units in I are off and outputs at most
        :math:`\xi_1\sqrt{1+\eta_1}\zeta_0` long; (2) if the changes are at most
        :math:`\varepsilon_0\zeta_0` and :math:`\varepsilon_1`, and
        :math:`r \ge T(\varepsilon_0, \varepsilon_1)`, the units in I are off at x, at
        :math:`\hat x`, and at :math:`\hat x` under the perturbed weight, and outputs move by at
        most :math:`T \xi_1\sqrt{1+\eta_1}\zeta_0`; (3) the radius, whatever it is, moves by at
        most :math:`T(a, b)` with :math:`a = \lVert\hat x - x\rVert_2/\zeta_0` and
        :math:`b = \lVert\hat W - W\rVert_{(d_1-1,s_0)}/\xi_1`.

    Raises
    ------
    TypeError, ValueError
        If shapes, types or levels do not fit, a bound or a change is out of range, or `exact`
        asks for too many submatrices.

    Notes
    -----
    Lemma 4 of Muthukumar and Sulam (2023). Parts 2 and 3 also suppose that the change of the
    input is 0 in s_0 coordinates, as printed; they need not be those in which x is 0, since in

    .. math::

        \hat w^\top \hat x - w^\top x = w^\top(\hat x - x) + (\hat w - w)^\top x
        + (\hat w - w)^\top(\hat x - x)

    each product is bounded on a support of its own.

    Examples
    --------
    >>> import torch
    >>> W, x = torch.eye(3) - 0.5, torch.eye(3)
    >>> result = layer_stability(
    ...     W, 1.09 * W, x, x, row_level=2, input_norm=1.0, weight_change=0.1, input_change=0.0
    ... )
    >>> int(result.index_sets.hypotheses.sum()), bool(result.holds.all())
    (3, True)
    """
    w, w_hat = matrix_of(weight), matrix_of(perturbed, "perturbed")
    rows, rows_hat = inputs_of([w], x), inputs_of([w], perturbed_x)
    if w.shape != w_hat.shape or rows.shape != rows_hat.shape:
        raise ValueError(
            f"perturbed is {tuple(w_hat.shape)} and weight {tuple(w.shape)}, perturbed_x "
            f"{tuple(rows_hat.shape)} and x {tuple(rows.shape)}; each pair must agree"
        )
    out = level_of("row_level", row_level, len(w))
    into = level_of("column_level", column_level, w.shape[1])
    own, change = WeightNorms(w), WeightNorms(w_hat - w)
    xi = float(own.row_norms[into]) if row_norm is None else row_norm
    eta = float(own.babel(into)[out]) if babel is None else babel
    _check_sizes(xi, eta, input_norm, weight_change, input_change)
    omega = xi * math.sqrt(1 + eta)
    scale, largest = xi * input_norm, omega * input_norm  # of pre-activations, of outputs

    member = own.row_norms[into] <= xi * _SLACK and own.at(out, into).value <= omega * _SLACK
    row_change = float(change.row_norms[into]) / xi
    norm = sparse_norm(change.weight, out, into) if exact else change.at(out, into).value
    near = max(row_change, norm / omega) <= weight_change + HYPOTHESIS
    moved = (rows_hat - rows).norm(dim=1) / input_norm
    supposed = (rows.norm(dim=1) <= input_norm * _SLACK) & ((rows == 0).sum(1) >= into) & member
    both = supposed & ((rows == rows_hat).sum(1) >= into)

    pre, pre_x, pre_both = rows @ w.T, rows_hat @ w.T, rows_hat @ w_hat.T
    chosen = layer_inactive_set(pre, out)
    radius, radius_hat = (layer_radius(h, out, scale) for h in (pre, pre_both))
    total = (1 + input_change) * (1 + weight_change) - 1
    close = near & (moved <= input_change + HYPOTHESIS) & deep(radius, total)
    stay = off(pre, chosen, scale) & off(pre_x, chosen, scale) & off(pre_both, chosen, scale)
    shift = (pre_both.relu() - pre.relu()).norm(dim=1)
    short = off(pre, chosen, scale) & at_most(pre.relu().norm(dim=1), largest, largest)
    still = at_most(difference(radius, radius_hat), (1 + moved) * (1 + row_change) - 1, 1.0)
    return LayerStability(
        size=Statement("Lemma 4, size", supposed & (radius > 0), short),
        index_sets=Statement(
            "Lemma 4, index sets", both & close, stay & at_most(shift, total * largest, largest)
        ),
        radius=Statement("Lemma 4, radius", both, still),
    )


def _check_sizes(
    row_norm: float, babel: float, input_norm: float, weight_change: float, input_change: float
) -> None:
    for name, value in (("row_norm", row_norm), ("input_norm", input_norm)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, since it divides; got {value}")
    for name, value in (
        ("babel", babel), ("weight_change", weight_change), ("input_change", input_change),
    ):  # fmt: skip
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")
