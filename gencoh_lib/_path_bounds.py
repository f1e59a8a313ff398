"""Bounds by a validation set and for two-phase training, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from typing import Literal

from gencoh_lib._bound import Bound, assembled, check_delta, count, nonnegative

_PAPER = "Kawaguchi, Kaelbling and Bengio (2019, v5)"


def validation(
    validation_risk: float,
    *,
    examples: int,
    candidates: float,
    delta: float = 0.05,
    variance: float | None = None,
    span: float = 1.0,
    form: Literal["root", "relaxed", "self-bounding"] = "root",
) -> Bound:
    r"""Bound on the risk of a model that was chosen by its error on a validation set.

    Parameters
    ----------
    validation_risk : float
        Mean loss of the chosen model on the validation set.
    examples : int
        :math:`m_{val}`, drawn independently from the distribution.
    candidates : float
        :math:`|F_{val}|`, the number of models that *could* have been chosen: fixed before the
        validation set is looked at.
    delta : float
        Probability that the bound may fail.
    variance : float, optional
        :math:`\gamma^2`, no smaller than the variance of the loss of any candidate; by default
        ``span**2 / 4``, which no variance of such a loss exceeds.
    span : float
        C: losses lie between 0 and this, so that none is further from its mean; 1 for the 0-1
        loss.
    form : str
        ``"root"``: the solution of the quadratic equation in Bernstein's inequality;
        ``"relaxed"``: that of the paper, with :math:`\sqrt{a+b} \le \sqrt a + \sqrt b`;
        ``"self-bounding"``: for the 0-1 loss, each model with its own variance R(1 - R).

    Returns
    -------
    Bound
        On the risk itself, with the trivial value ``span``.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or a variance is given to the self-bounding form.

    Notes
    -----
    With :math:`\ell = \ln(|F_{val}|/\delta)/m_{val}` and probability at least :math:`1-\delta`,
    for all candidates at once,

    .. math:: R \le R_{val} + \tfrac{C\ell}{3} + \sqrt{(C\ell/3)^2 + 2\gamma^2\ell}
        \le R_{val} + \tfrac{2C\ell}{3} + \sqrt{2\gamma^2\ell}.

    The relaxed form is Kawaguchi, Kaelbling and Bengio (2019, v5, Proposition 5); the root and
    the self-bounding form are derived in the course. A small variance is an assumption and not
    free: for the 0-1 loss it is R(1 - R).

    Examples
    --------
    >>> bound = validation(0, examples=10_000, candidates=1e9, delta=0.1, variance=1,
    ...                    form="relaxed")
    >>> round(bound.value, 6)
    0.069396
    """
    examples = count("examples", examples)
    check_delta(delta)
    if not (math.isfinite(candidates) and candidates >= 1):
        raise ValueError(f"candidates must be a finite number >= 1, got {candidates}")
    if not (math.isfinite(span) and span > 0):
        raise ValueError(f"span must be a positive number, got {span}")
    if not 0 <= validation_risk <= span:
        raise ValueError(
            f"validation_risk must lie between 0 and span = {span:g}, got {validation_risk}"
        )
    terms = {
        "validation_risk": float(validation_risk),
        "rate": math.log(candidates / delta) / examples,
    }
    assumptions = [
        f"{examples} validation examples, independent and from the distribution of the risk",
        f"the {candidates:g} candidates do not depend on the validation set; all that could have "
        "been chosen count",
    ]
    if form == "self-bounding":
        if variance is not None or span != 1:
            raise ValueError(
                "the self-bounding form is for the 0-1 loss and finds the variance itself: leave "
                "variance and span out"
            )
        formula = (
            "(validation_risk + 4 * rate / 3 + ((validation_risk + 4 * rate / 3)**2 - (1 + 2 * "
            "rate) * (validation_risk**2 + 2 * validation_risk * rate / 3))**0.5) / (1 + 2 * rate)"
        )
        assumptions.append("the loss is 0 or 1, so that its variance is R(1 - R)")
        source = "derived in the course from Bernstein's inequality"
    else:
        variance = span**2 / 4 if variance is None else variance
        if not 0 <= variance < math.inf:
            raise ValueError(f"variance must be finite and >= 0, got {variance}")
        terms |= {"variance": float(variance), "span": float(span)}
        assumptions.append(
            f"losses lie between 0 and {span:g}, and for every candidate their variance is at most "
            f"{variance:g}"
        )
        if form == "root":
            formula = (
                "validation_risk + span * rate / 3 + ((span * rate / 3)**2 "
                "+ 2 * variance * rate)**0.5"
            )
            source = f"{_PAPER}, Proposition 5, before the last step of its proof"
        elif form == "relaxed":
            formula = "validation_risk + 2 * span * rate / 3 + (2 * variance * rate)**0.5"
            source = f"{_PAPER}, Proposition 5"
        else:
            raise ValueError(f"form must be 'root', 'relaxed' or 'self-bounding', got {form!r}")
    return assembled(formula, terms, assumptions, trivial=span, source=source)


def two_phase_squared(
    *,
    squared_norm: float,
    absolute_norm: float,
    spectral_range: float,
    spectral_variance: float,
    cross_range: float,
    cross_variance: float,
    label_range: float,
    label_variance: float,
    examples: int,
    paths: float,
    outputs: int,
    delta: float = 0.05,
    trivial: float = 1.0,
) -> Bound:
    r"""Bound on the gap of two-phase training under squared loss, constants corrected.

    Parameters
    ----------
    squared_norm, absolute_norm : float
        :math:`\sum_k \lVert\bar w_k\rVert_2^2` and :math:`\sum_k \lVert\bar w_k\rVert_1` of the
        trained network, from :func:`gencoh_lib.paths.path_norms`.
    spectral_range, spectral_variance : float
        :math:`C_{zz}, \gamma_{zz}^2`.
    cross_range, cross_variance : float
        :math:`C_{yz}, \gamma_{yz}^2`.
    label_range, label_variance : float
        :math:`C_y, \gamma_y^2`; all six from :func:`gencoh_lib.paths.path_constants`.
    examples : int
        :math:`m_\sigma`, the examples that the gates have not seen.
    paths : float
        :math:`d_z`, the number of paths.
    outputs : int
        :math:`d_y`.
    delta : float
        Probability that the bound may fail.
    trivial : float
        What the gap cannot exceed anyway, or is not worth exceeding: 1 is the squared loss of
        predicting 0 for every one-hot label.

    Returns
    -------
    Bound
        On the risk minus the mean loss over the examples that the gates have not seen.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    .. math:: R - R_{S \setminus S_{\alpha m}} \le \beta_1 \sum_k \lVert\bar w_k\rVert_2^2
        + 2 \beta_2 \sum_k \lVert\bar w_k\rVert_1 + \beta_3, \qquad
        \beta = \frac{2C\,\ell}{3 m_\sigma} + \sqrt{\frac{2\gamma^2 \ell}{m_\sigma}},

    with :math:`\ell` equal to :math:`\ln(3d_z/\delta)`, :math:`\ln(6 d_y d_z/\delta)` and
    :math:`\ln(3/\delta)`. Kawaguchi, Kaelbling and Bengio (2019, v5, Theorem 8), as its proof has
    it: the printed statement exchanges the two norms, which makes it false, and loses the factor
    2 under one root.

    Examples
    --------
    >>> bound = two_phase_squared(
    ...     squared_norm=1, absolute_norm=1, spectral_range=1, spectral_variance=1, cross_range=0,
    ...     cross_variance=0, label_range=0, label_variance=0, examples=600, paths=10, outputs=1)
    >>> round(bound.terms["beta_1"], 4)
    0.1531
    """
    examples, outputs = count("examples", examples), count("outputs", outputs)
    check_delta(delta)
    if not (math.isfinite(paths) and paths >= 1):
        raise ValueError(f"paths must be a finite number >= 1, got {paths}")
    given = {
        "squared_norm": squared_norm, "absolute_norm": absolute_norm,
        "spectral_range": spectral_range, "spectral_variance": spectral_variance,
        "cross_range": cross_range, "cross_variance": cross_variance,
        "label_range": label_range, "label_variance": label_variance,
    }  # fmt: skip
    for name, value in given.items():
        nonnegative(name, value)
    if not trivial > 0:
        raise ValueError(f"trivial must be a positive number, got {trivial}")

    def bernstein(largest: float, variance: float, events: float) -> float:
        rate = math.log(events / delta) / examples
        return 2 * largest * rate / 3 + math.sqrt(2 * variance * rate)

    terms = {
        "beta_1": bernstein(spectral_range, spectral_variance, 3 * paths),
        "squared_norm": float(squared_norm),
        "beta_2": bernstein(cross_range, cross_variance, 6 * outputs * paths),
        "absolute_norm": float(absolute_norm),
        "beta_3": bernstein(label_range, label_variance, 3),
    }
    return assembled(
        "beta_1 * squared_norm + 2 * beta_2 * absolute_norm + beta_3",
        terms,
        [
            f"{examples} examples that the gates have not seen, independent",
            "the gates are fixed before; the weights may depend on all examples",
            "the six constants hold for the distribution, not only for the sample",
        ],
        trivial=trivial,
        source=f"{_PAPER}, Theorem 8; norms and constants corrected as in its proof",
    )


def two_phase_margin(
    margin_loss: float,
    *,
    feature_norm: float,
    path_norm: float,
    margin: float,
    examples: int,
    outputs: int,
    delta: float = 0.05,
) -> Bound:
    r"""Bound on the error of two-phase training by its margins.

    Parameters
    ----------
    margin_loss : float
        Mean ramp loss at the margin, see :func:`gencoh_lib.paths.ramp_loss`, over the examples
        that the gates have not seen.
    feature_norm : float
        :math:`C_\sigma`, with :math:`E\lVert z\rVert^2 \le C_\sigma^2`.
    path_norm : float
        :math:`C_w`, no less than any :math:`\lVert\bar w_k\rVert_2`, and fixed beforehand.
    margin : float
        :math:`\rho`, fixed beforehand.
    examples : int
        :math:`m_\sigma`, the examples that the gates have not seen.
    outputs : int
        :math:`d_y`.
    delta : float
        Probability that the bound may fail.

    Returns
    -------
    Bound
        On the probability of a wrong class, with the trivial value 1.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    Notes
    -----
    .. math:: R \le R^{(\rho)} + \frac{2 d_y^2 C_\sigma C_w}{\rho\sqrt{m_\sigma}}
        + \sqrt{\frac{\ln(1/\delta)}{2 m_\sigma}}

    Kawaguchi, Kaelbling and Bengio (2019, v5, Theorem 9), without the factor
    :math:`(1-\alpha)^{-1/2}` that is printed and that its proof does not need.

    Examples
    --------
    >>> two_phase_margin(0, feature_norm=10.4, path_norm=16.3, margin=1, examples=700,
    ...                  outputs=2).vacuous
    True
    """
    examples, outputs = count("examples", examples), count("outputs", outputs)
    check_delta(delta)
    nonnegative("feature_norm", feature_norm)
    nonnegative("path_norm", path_norm)
    if not 0 <= margin_loss <= 1:
        raise ValueError(f"margin_loss must lie between 0 and 1, got {margin_loss}")
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be a positive number, got {margin}")
    terms = {
        "margin_loss": float(margin_loss),
        "complexity": 2 * outputs**2 * feature_norm * path_norm / (margin * math.sqrt(examples)),
        "confidence": math.sqrt(math.log(1 / delta) / (2 * examples)),
    }
    return assembled(
        "margin_loss + complexity + confidence",
        terms,
        [
            f"{examples} examples that the gates have not seen, independent",
            f"path norms of at most {path_norm:g}, root mean squared path features of at most "
            f"{feature_norm:g}, and the margin {margin:g} were fixed before the data was seen",
        ],
        trivial=1.0,
        source=f"{_PAPER}, Theorem 9, without a redundant factor",
    )
