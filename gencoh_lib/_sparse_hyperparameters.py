"""Levels, norms and perturbations of every layer, behind :mod:`gencoh_lib.sparsity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from torch import Tensor

from gencoh_lib._sparse_network import check_chain
from gencoh_lib._sparse_norm_bounds import WeightNorms
from gencoh_lib._sparse_norms import level_of
from gencoh_lib._whole import wholes

NormBound = Literal["babel", "minimum"]


@dataclass(frozen=True, repr=False)
class Hyperparameters:
    r"""What has to be fixed before the sample is seen: levels, norms, perturbations.

    The layers are k = 1, ..., K + 1, of which K are hidden.

    Attributes
    ----------
    levels : tuple of int
        K sparsity levels :math:`s_k`, the number of units that are **inactive**; 0 is dense.
    row_norms : tuple of float
        K + 1 bounds :math:`\xi_k > 0` on :math:`\lVert W_k \rVert_{(d_k - 1,\, s_{k-1})}`.
    babel : tuple of float
        K bounds :math:`\eta_k \ge 0` on the reduced Babel function
        :math:`\mu_{s_k,s_{k-1}}(W_k)`; what counts is that :math:`\xi_k\sqrt{1 + \eta_k}` bounds
        :math:`\lVert W_k \rVert_{(s_k,\,s_{k-1})}`.
    perturbations : tuple of float
        K + 1 relative perturbations of the weights, :math:`\varepsilon_k \ge 0`.
    input_norm : float
        Bound :math:`M_X > 0` on the 2-norm of every input.

    Raises
    ------
    TypeError
        If a level is no whole number.
    ValueError
        If the numbers of layers do not agree, or a number is out of range.

    Notes
    -----
    Table 1 of Muthukumar and Sulam (2023); the derived quantities are those of their Table 2.

    Examples
    --------
    >>> Hyperparameters((19,), (2.0, 1.0), (0.0,), (0.1, 0.1), input_norm=1.0)
    hyper-parameters: 1 hidden layer, inputs of norm at most 1
      layer    level  row norm     Babel  perturbation  output scale    growth
      1           19         2         0           0.1             2       0.1
      output                 1                     0.1             2      0.21
    """

    levels: tuple[int, ...]
    row_norms: tuple[float, ...]
    babel: tuple[float, ...]
    perturbations: tuple[float, ...]
    input_norm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(wholes("levels", self.levels)))
        hidden = len(self.levels)
        if min(self.levels, default=0) < 0:
            raise ValueError(f"levels must not be negative, got {self.levels}")
        for name, count in (
            ("row_norms", hidden + 1), ("babel", hidden), ("perturbations", hidden + 1),
        ):  # fmt: skip
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != count:
                raise ValueError(
                    f"{name} must have {count} numbers, since levels name {hidden} hidden "
                    f"layers; got {len(values)}"
                )
            if not all(math.isfinite(value) and value >= 0 for value in values):
                raise ValueError(f"{name} must be finite and not negative, got {values}")
        if not min(self.row_norms) > 0:
            raise ValueError(
                f"row_norms must be positive, got {self.row_norms}; a weight of zeros has no scale "
                "to perturb it by, so give it a positive bound by hand"
            )
        if not 0 < self.input_norm < math.inf:
            raise ValueError(f"input_norm must be positive and finite, got {self.input_norm}")

    @classmethod
    def of(
        cls,
        weights: Sequence[Tensor | WeightNorms],
        levels: Sequence[int],
        perturbations: Sequence[float] | float,
        *,
        input_norm: float,
        norm: NormBound = "babel",
    ) -> Hyperparameters:
        r"""Tightest norms for given weights at given levels.

        Parameters
        ----------
        weights : sequence of Tensor
            K + 1 weights, [d_k, d_{k-1}].
        levels : sequence of int
            K sparsity levels.
        perturbations : sequence of float or float
            K + 1 relative perturbations, or one for all layers.
        input_norm : float
            Bound on the 2-norm of every input.
        norm : str
            ``"babel"``, the paper's; or ``"minimum"``, which takes the smallest bound on the norm
            that :func:`sparse_norm_bounds` knows (derived in the course).

        Returns
        -------
        Hyperparameters
            They depend on the weights; a bound that uses them has to pay for that, see the bound.

        Raises
        ------
        TypeError, ValueError
            If shapes, levels or perturbations do not fit, or `norm` is unknown.

        Examples
        --------
        >>> import torch
        >>> W = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> Hyperparameters.of([W, W], [1], 0.1, input_norm=1.0).row_norms
        (1.4142135623730951, 1.0)
        """
        if norm not in ("babel", "minimum"):
            raise ValueError(f"norm must be 'babel' or 'minimum', got {norm!r}")
        norms = [w if isinstance(w, WeightNorms) else WeightNorms(w) for w in weights]
        check_chain([one.weight for one in norms])
        chosen = wholes("levels", levels)
        check_levels(chosen, [tuple(one.weight.shape) for one in norms])
        column_levels = [0, *chosen]
        row_norms = [float(n.row_norms[s]) for n, s in zip(norms, column_levels, strict=True)]
        babel = []
        for one, out, into in zip(norms, chosen, column_levels, strict=False):
            if norm == "babel":
                babel.append(float(one.babel(into)[out]))
            else:
                babel.append(one.at(out, into).effective_mu)
        if isinstance(perturbations, int | float):
            perturbations = [perturbations] * len(norms)
        return cls(tuple(chosen), tuple(row_norms), tuple(babel), tuple(perturbations), input_norm)

    @property
    def norms(self) -> tuple[float, ...]:
        r"""K bounds :math:`\xi_k \sqrt{1 + \eta_k}` on the sparse norms of the hidden layers."""
        return tuple(
            xi * math.sqrt(1 + eta) for xi, eta in zip(self.row_norms, self.babel, strict=False)
        )

    @property
    def output_scales(self) -> tuple[float, ...]:
        r"""K + 2 bounds on what each layer puts out, :math:`\zeta_0, \dots, \zeta_{K+1}`.

        :math:`\zeta_0 = M_X`, :math:`\zeta_k = \xi_k\sqrt{1+\eta_k}\,\zeta_{k-1}` and, in the
        maximum norm, :math:`\zeta_{K+1} = \xi_{K+1}\zeta_K`.
        """
        factors = (*self.norms, self.row_norms[-1])
        return tuple(accumulate(factors, lambda zeta, w: w * zeta, initial=float(self.input_norm)))

    @property
    def growth(self) -> tuple[float, ...]:
        r"""K + 1 relative changes :math:`\gamma_k = \prod_{n \le k}(1+\varepsilon_n) - 1`."""
        return tuple(math.expm1(total) for total in accumulate(map(math.log1p, self.perturbations)))

    def column_level(self, k: int) -> int:
        """Level of the units that weight k, counted from 0, reads."""
        return self.levels[k - 1] if k else 0

    def check_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise a ValueError if weights of these shapes do not fit."""
        check_levels(self.levels, shapes)

    def __repr__(self) -> str:
        """Return a small table."""
        hidden = len(self.levels)
        lines = [
            f"hyper-parameters: {hidden} hidden layer{'' if hidden == 1 else 's'}, inputs of norm "
            f"at most {self.input_norm:g}",
            "  layer    level  row norm     Babel  perturbation  output scale    growth",
        ]
        for k in range(hidden + 1):
            own = k < hidden
            lines.append(
                f"  {k + 1 if own else 'output':<6}{self.levels[k] if own else '':>8}"
                f"{self.row_norms[k]:10.4g}{f'{self.babel[k]:.4g}' if own else '':>10}"
                f"{self.perturbations[k]:14.4g}{self.output_scales[k + 1]:14.4g}"
                f"{self.growth[k]:10.4g}"
            )
        return "\n".join(lines)


def check_levels(levels: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise a ValueError if there is not one level below the width for each hidden layer."""
    if len(levels) != len(shapes) - 1:
        raise ValueError(
            f"{len(shapes)} weights have {len(shapes) - 1} hidden layers; got {len(levels)} levels"
        )
    for k, (level, shape) in enumerate(zip(levels, shapes, strict=False)):
        level_of(f"levels[{k}]", level, shape[0])
