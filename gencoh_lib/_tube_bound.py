"""A bound on the generalisation gap of all networks in a tube, behind gencoh_lib.stagnation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal

from scipy.special import erfc

from gencoh_lib._bound import Bound
from gencoh_lib._numbers import count, nonnegative, positive, share
from gencoh_lib._stay_bound import STAND_IN

#: Integral of sqrt(ln(3/u)) over [0, 1], the entropy of a ball: 1.4157.
_ENTROPY = math.sqrt(math.log(3)) + 1.5 * math.sqrt(math.pi) * float(erfc(math.sqrt(math.log(3))))

Form = Literal["entropy", "perturbation", "best"]


def parameter_lipschitz(
    spectral_norms: Sequence[float], *, input_norm: float, radius: float = 0.0
) -> float:
    r"""How fast the output of a network can change with its parameters.

    Parameters
    ----------
    spectral_norms : sequence of float
        [L] spectral norm of the matrix of each layer.
    input_norm : float
        :math:`B_x`: no input is longer.
    radius : float
        The constant holds within this distance of the parameters: every norm is enlarged by it.

    Returns
    -------
    float
        :math:`\Lambda`.

    Raises
    ------
    ValueError
        If there is no layer or a number is out of range.

    Notes
    -----
    For fully connected layers without biases and activations that are 1-Lipschitz with s(0) = 0,
    such as ReLU and tanh, if :math:`s_l` bounds the spectral norm of layer l in both networks,

    .. math:: \lVert f_\theta(x) - f_{\theta'}(x)\rVert \le \Lambda \lVert\theta-\theta'\rVert,
        \qquad \Lambda = B_x \Bigl(\prod_l s_l\Bigr) \sqrt{\sum_l s_l^{-2}}:

    change one layer at a time, then Cauchy-Schwarz. Derived here (stand-in; the text of Imaizumi
    and Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> round(parameter_lipschitz([2.435, 3.244], input_norm=4.745), 2)
    19.25
    """
    if not len(spectral_norms):
        raise ValueError("spectral_norms is empty: there is no layer")
    enlarged = [nonnegative("spectral_norms", s) + nonnegative("radius", radius)
                for s in spectral_norms]  # fmt: skip
    rest = [math.prod(enlarged[:i] + enlarged[i + 1 :]) for i in range(len(enlarged))]
    return nonnegative("input_norm", input_norm) * math.hypot(*rest)


def tube_bound(
    *,
    spectral_norms: Sequence[float],
    input_norm: float,
    lipschitz_loss: float,
    flat_dimension: int,
    length: float,
    thickness: float,
    examples: int,
    tubes: int = 1,
    delta: float = 0.05,
    loss_range: float = 1.0,
    form: Form = "entropy",
) -> Bound:
    r"""Bound on the generalisation gap of all networks in a tube at once.

    Parameters
    ----------
    spectral_norms : sequence of float
        [L] spectral norms of the layers at the centre of the tube; they are enlarged by the size
        of the tube.
    input_norm : float
        :math:`B_x`: no input is longer.
    lipschitz_loss : float
        :math:`L_\varphi`: Lipschitz constant of the loss in the outputs; :math:`\sqrt2/\gamma` for
        the ramp loss at margin :math:`\gamma`.
    flat_dimension : int
        p, the dimension of the piece; the number D of all parameters makes the tube a ball.
    length : float
        R, how far the tube goes along the piece.
    thickness : float
        r, how far across it. A tube that does not contain the run says nothing about it.
    examples : int
        n.
    tubes : int
        K, how many tubes were fixed before the data was seen.
    delta : float
        d, the probability that the bound may fail.
    loss_range : float
        b: losses lie between 0 and this.
    form : str
        ``"entropy"`` counts the p directions; ``"perturbation"`` counts none and lets the loss
        change by its Lipschitz constant; ``"best"`` takes the smaller, which does not depend on
        the data either.

    Returns
    -------
    Bound
        With the terms ``entropy`` and ``thickness``, or ``perturbation``, and ``concentration``.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or the form unknown.

    Notes
    -----
    With probability 1 - d, for all K tubes and all :math:`\theta` in them,

    .. math:: |R - R_n| \le 24 J L_\varphi\Lambda R\sqrt{\tfrac pn} + 2L_\varphi\Lambda r
        + b\sqrt{\frac{\ln(2K/d)}{2n}}, \qquad J = \int_0^1\!\sqrt{\ln(3/u)}\,du = 1.4157,

    where the first two terms may be replaced by
    :math:`2L_\varphi\Lambda\sqrt{R^2+r^2}`. :math:`\Lambda` is :func:`parameter_lipschitz` with
    the norms enlarged by :math:`\sqrt{R^2+r^2}`. Symmetrisation, Dudley's integral with the
    constant 12 and McDiarmid's inequality. Derived here (stand-in; the text of Imaizumi and
    Schmidt-Hieber was not available to us).

    Examples
    --------
    >>> bound = tube_bound(spectral_norms=[2.435, 3.244], input_norm=4.745, examples=500,
    ...                    lipschitz_loss=2**0.5 / 1.204, flat_dimension=592, length=0.4,
    ...                    thickness=0, form="perturbation")
    >>> round(bound.value, 1), bound.vacuous
    (20.6, True)
    """
    p, n = count("flat_dimension", flat_dimension, 0), count("examples", examples)
    reach = nonnegative("length", length) if p else 0.0
    size = math.hypot(reach, nonnegative("thickness", thickness))
    slope = positive("lipschitz_loss", lipschitz_loss) * parameter_lipschitz(
        spectral_norms, input_norm=input_norm, radius=size
    )
    confidence = math.log(2 * count("tubes", tubes) / share("delta", delta))
    parts = {
        "entropy": 24 * _ENTROPY * slope * reach * math.sqrt(p / n),
        "thickness": 2 * slope * thickness,
    }
    perturbation = {"perturbation": 2 * slope * size}
    if form == "best":
        form = "entropy" if sum(parts.values()) < perturbation["perturbation"] else "perturbation"
    if form == "perturbation":
        parts = perturbation
    elif form != "entropy":
        raise ValueError(f"form must be 'entropy', 'perturbation' or 'best', got {form!r}")
    terms = parts | {
        "concentration": positive("loss_range", loss_range) * math.sqrt(confidence / (2 * n))
    }
    return Bound(
        value=math.fsum(terms.values()),
        terms=MappingProxyType(terms),
        formula=" + ".join(terms),
        assumptions=(
            f"{n} independent examples; {tubes} tube(s) fixed before they were seen",
            "the run ends in the tube",
            f"losses lie between 0 and {loss_range:g}, {lipschitz_loss:g}-Lipschitz in the outputs",
            f"fully connected layers without biases, 1-Lipschitz activations that are 0 at 0, "
            f"inputs at most {input_norm:g} long",
        ),
        trivial=float(loss_range),
        source=STAND_IN,
    )
