"""Bounds by examples that training never saw, behind :mod:`gencoh_lib.bounds`."""

from __future__ import annotations

import math
from typing import Literal

from gencoh_lib._bound import Bound, assembled, check_delta, count, fraction, nonnegative
from gencoh_lib._kl_inverse import binomial_upper, kl_inverse
from gencoh_lib._path_bounds import validation

HoldoutForm = Literal["Hoeffding", "Chernoff", "binomial", "Bernstein", "empirical Bernstein"]
"""The inequalities that :func:`holdout` knows."""


def holdout(
    risk: float,
    *,
    examples: int,
    delta: float = 0.05,
    form: HoldoutForm = "Chernoff",
    variance: float | None = None,
) -> Bound:
    r"""Bound on the risk of one model by its risk on examples that it has never seen.

    Parameters
    ----------
    risk : float
        :math:`\hat R`, its mean loss on the held-out examples, losses between 0 and 1.
    examples : int
        m, the number of held-out examples.
    delta : float
        Probability that the bound may fail.
    form : str
        ``"Hoeffding"``, ``"Chernoff"`` (the divergence between two coins), ``"binomial"`` (exact
        for the 0-1 loss, Clopper and Pearson 1934), ``"Bernstein"`` (the 0-1 loss, whose variance
        is R(1 - R)), or ``"empirical Bernstein"`` (Maurer and Pontil 2009, Theorem 4).
    variance : float, optional
        For the empirical form: the sample variance of the losses, with m - 1 below; by default
        that of a 0-1 loss.

    Returns
    -------
    Bound
        On the risk itself. Inverses are rounded up, so that rounding cannot make them false.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, the form is unknown, a variance is given to a form that takes
        none, or the risk is not a whole number of errors where the loss has to be 0 or 1.

    Notes
    -----
    With probability at least :math:`1-\delta`, each on its own,

    .. math:: R \le \hat R + \sqrt{\tfrac{\ln(1/\delta)}{2m}}, \quad
        \mathrm{kl}(\hat R\,\|\,R) \le \tfrac{\ln(1/\delta)}{m}, \quad
        P[\mathrm{Bin}(m, R) \le m\hat R] > \delta, \quad
        R \le \hat R + \sqrt{\tfrac{2 V \ln(2/\delta)}{m}} + \tfrac{7\ln(2/\delta)}{3(m-1)}.

    ``"Bernstein"`` is :func:`validation` with one candidate.

    Examples
    --------
    >>> [round(holdout(0.02, examples=1000, form=form).value, 4)
    ...  for form in ("Hoeffding", "Chernoff", "binomial")]
    [0.0587, 0.0328, 0.0289]
    """
    check_delta(delta)
    risk, m = fraction("risk", risk), count("examples", examples)
    if variance is not None and form != "empirical Bernstein":
        raise ValueError(f"form={form!r} takes no variance: leave it out")
    assumptions = [f"{m} held-out examples, independent, which had no part in training or choosing"]
    terms: dict[str, float] = {"risk": risk, "examples": m, "confidence": math.log(1 / delta)}
    if form == "Hoeffding":
        formula = "risk + (confidence / (2 * examples))**0.5"
        return assembled(formula, terms, assumptions, source="Hoeffding (1963)")
    if form == "Chernoff":
        budget = math.nextafter(terms["confidence"] / m * (1 + 2.0**-51), math.inf)
        terms |= {"budget": budget, "largest_risk": kl_inverse(risk, budget)}
        assumptions.append("largest_risk is the largest r with kl(risk || r) <= budget")
        source = "Chernoff's bound, inverted and rounded up"
        return assembled("largest_risk", terms, assumptions, source=source)
    if form == "binomial":
        errors = _errors(risk, m, form)
        terms |= {"errors": errors, "largest_risk": binomial_upper(errors, m, delta)}
        assumptions.append("largest_risk is the largest r with P[Bin(examples, r) <= errors] > "
                           "delta; the loss is 0 or 1")  # fmt: skip
        source = "Clopper and Pearson (1934), rounded up"
        return assembled("largest_risk", terms, assumptions, source=source)
    if form == "Bernstein":
        _errors(risk, m, form)
        return validation(risk, examples=m, candidates=1, delta=delta, form="self-bounding")
    if form != "empirical Bernstein":
        raise ValueError(
            "form must be 'Hoeffding', 'Chernoff', 'binomial', 'Bernstein' or 'empirical "
            f"Bernstein', got {form!r}"
        )
    count("examples", m, least=2)
    if variance is None:
        _errors(risk, m, form)
        variance = risk * (1 - risk) * m / (m - 1)
    terms["confidence"] = math.log(2 / delta)  # half of delta is for the variance
    terms["variance"] = nonnegative("variance", variance)
    formula = (
        "risk + (2 * variance * confidence / examples)**0.5 + 7 * confidence / 3 / (examples - 1)"
    )
    return assembled(formula, terms, assumptions, source="Maurer and Pontil (2009), Theorem 4")


def _errors(risk: float, examples: int, form: str) -> int:
    """Return the number of errors that a risk stands for."""
    errors = round(risk * examples)
    if abs(risk * examples - errors) > 1e-6:
        remedy = "give the variance" if form == "empirical Bernstein" else "take 'Chernoff'"
        raise ValueError(
            f"form={form!r} is for the 0-1 loss, but risk * examples = {risk * examples:g} is not "
            f"a whole number of errors; for another loss {remedy}"
        )
    return errors
