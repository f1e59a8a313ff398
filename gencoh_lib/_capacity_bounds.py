"""Bounds that count what a class can do, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gencoh_lib._bound import Bound, assembled, check_delta, count, fraction, nonnegative
from gencoh_lib._whole import wholes

_SURVEY = "Berner, Grohs, Kutyniok and Petersen (2021, v2)"


def finite_class(
    empirical_risk: float, *, log_size: float, examples: int, delta: float = 0.05
) -> Bound:
    r"""Bound on the risk of a function chosen from a finite (or weighted countable) class.

    Parameters
    ----------
    empirical_risk : float
        Mean loss of the chosen function on the training sample, losses between 0 and 1.
    log_size : float
        :math:`\ln|F|`; or :math:`\ln(1/p(f))` where each function of a countable class was given
        a weight p(f) beforehand, with weights that sum to at most 1.
    examples : int
        m, the size of the training sample.
    delta : float
        Probability that the bound may fail.

    Returns
    -------
    Bound
        On the risk, for all functions of the class at once.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    .. math:: |R(f) - \hat R(f)| \le \sqrt{\frac{\ln(1/p(f)) + \ln(2/\delta)}{2m}}

    Hoeffding's inequality and a union bound, two-sided: Berner, Grohs, Kutyniok and Petersen
    (2021, Theorem 1.17). The networks of one architecture whose P weights have 32 bits each are
    a finite class with :math:`\ln|F| = 32 P \ln 2`.

    Examples
    --------
    >>> import math
    >>> round(finite_class(0, log_size=math.log(1000), examples=200).value, 6)
    0.162762
    """
    check_delta(delta)
    terms = {
        "empirical_risk": fraction("empirical_risk", empirical_risk),
        "log_size": nonnegative("log_size", log_size),
        "confidence": math.log(2 / delta),
        "examples": count("examples", examples),
    }
    return assembled(
        "empirical_risk + ((log_size + confidence) / (2 * examples))**0.5",
        terms,
        [
            f"{examples} training examples, independent",
            f"the class, of exp({log_size:.4g}) functions (or the weight of the chosen one), was "
            "fixed before the data was seen",
        ],
        source=f"{_SURVEY}, Theorem 1.17: Hoeffding and a union bound",
    )


def growth_function(
    empirical_risk: float, *, log_patterns: float, examples: int, delta: float = 0.05
) -> Bound:
    r"""Bound on the risk by the number of ways in which a class can err on the sample.

    Parameters
    ----------
    empirical_risk : float
        Fraction of the training sample that is classified wrongly.
    log_patterns : float
        Logarithm of the growth function: of the largest number of patterns of right and wrong
        that the class shows on m labelled examples; see :func:`log_relu_patterns`.
    examples : int
        m, the size of the training sample.
    delta : float
        Probability that the bound may fail.

    Returns
    -------
    Bound
        On the probability of a wrong class, for all functions of the class at once.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    .. math:: R \le \hat R + \sqrt{\frac{2 \ln\Pi(m)}{m}} + \sqrt{\frac{\ln(1/\delta)}{2m}}

    McDiarmid's inequality for the supremum, symmetrisation, and Massart's lemma for the losses
    minus one half, whose vectors have length :math:`\sqrt m/2`. Derived in the course in this
    order; it is the textbook form of the theorem of Vapnik and Chervonenkis, with constants.

    Examples
    --------
    >>> import math
    >>> round(growth_function(0.1, log_patterns=math.log(200), examples=1000).value, 6)
    0.241642
    """
    check_delta(delta)
    terms = {
        "empirical_risk": fraction("empirical_risk", empirical_risk),
        "log_patterns": nonnegative("log_patterns", log_patterns),
        "confidence": math.log(1 / delta),
        "examples": count("examples", examples),
    }
    return assembled(
        "empirical_risk + (2 * log_patterns / examples)**0.5 + (confidence / (2 * examples))**0.5",
        terms,
        [
            f"{examples} training examples, independent",
            f"at most exp({log_patterns:.4g}) patterns of right and wrong on as many examples",
        ],
        source="Vapnik and Chervonenkis (1971); these constants derived in the course from "
        "McDiarmid's inequality and Massart's lemma",
    )


def log_relu_patterns(sizes: Sequence[int], examples: int) -> float:
    r"""Logarithm of the number of ways in which ReLU networks can err on a sample, at most.

    Parameters
    ----------
    sizes : sequence of int
        Widths from the input to the output, the last one the number of classes.
    examples : int
        m, the size of the sample.

    Returns
    -------
    float
        A bound on :math:`\ln\Pi(m)` for networks without biases; at most :math:`m\ln 2`.

    Raises
    ------
    TypeError, ValueError
        If fewer than two sizes are given, one is not a positive whole number, or there are fewer
        than two classes.

    Notes
    -----
    On a set of weights for which the gates of the earlier layers do not change, the :math:`m d_k`
    pre-activations of layer k are polynomials of degree k in the :math:`P_k` weights up to it. N
    polynomials of degree D in :math:`P \le N` variables show at most :math:`2(2eND/P)^P` patterns
    of which are positive (Warren, as in Anthony and Bartlett 1999), and at most :math:`2^N` in
    any case. The product over layers counts all gates; in the last layer the differences of the
    right output and the others decide, :math:`m(C-1)` of them. This is the argument of
    Bartlett, Harvey, Liaw and Mehrabian (2019), with the classes added here.

    Examples
    --------
    >>> round(log_relu_patterns([2, 2], 100), 3)  # 4 weights, 100 differences of degree 1
    20.341
    """
    widths = wholes("sizes", sizes)
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"sizes must be at least two positive whole numbers, got {list(sizes)}")
    if widths[-1] < 2:
        raise ValueError(f"the last of the sizes is the number of classes, >= 2, got {widths[-1]}")
    examples = count("examples", examples)
    widths[-1] -= 1  # it is the differences that decide
    total, weights = 0.0, 0
    for degree, (before, after) in enumerate(pairwise(widths), start=1):
        is_last = degree == len(widths) - 1
        weights += before * (after + is_last)
        polynomials = examples * after
        if polynomials < weights:
            total += polynomials * math.log(2)
        else:
            warren = weights * math.log(2 * math.e * polynomials * degree / weights)
            total += min(polynomials * math.log(2), math.log(2) + warren)
    return min(total, examples * math.log(2))


def vc_order(*, dimension: float, examples: int, delta: float = 0.05) -> Bound:
    r"""Order of the gap of a class by its Vapnik-Chervonenkis dimension.

    Parameters
    ----------
    dimension : float
        The dimension, or its order. For P weights in L layers with a piecewise linear
        activation it is of the order of :math:`P L \ln P + P L^2`, and for a fixed depth of
        :math:`P\ln P`.
    examples : int
        m, the size of the training sample.
    delta : float
        Probability that the bound may fail.

    Returns
    -------
    Bound
        Of an order only: the source leaves the constant open.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    .. math:: \sup_f |R(f) - \hat R(f)| \lesssim \sqrt{\frac{\mathrm{VCdim} + \ln(1/\delta)}{m}}

    Berner, Grohs, Kutyniok and Petersen (2021, Theorems 1.18 and 1.19).

    Examples
    --------
    >>> import math
    >>> weights = 1.6e6
    >>> round(vc_order(dimension=weights * math.log(weights), examples=50_000).value, 2)
    21.38
    """
    check_delta(delta)
    terms = {
        "dimension": nonnegative("dimension", dimension),
        "confidence": math.log(1 / delta),
        "examples": count("examples", examples),
    }
    return assembled(
        "((dimension + confidence) / examples)**0.5",
        terms,
        [f"{examples} training examples, independent", "every constant is set to one"],
        source=f"{_SURVEY}, Theorem 1.19, which leaves the constant open",
        order_only=True,
    )
