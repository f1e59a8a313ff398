"""Every exercise: its published solution passes, and the slips it teaches about are named.

The solutions are taken from the pages, so a solution that goes stale fails here.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from gencoh_lib import exercises

PAGES = sorted(Path(__file__).parents[2].glob("chapters/**/*.md"))
SOLUTION = re.compile(r"\{solution\} (ex-[\w-]+)\n(.*?)\n````", re.S)
ASKED = re.compile(r'exercises\.check\("(ex-[\w-]+)"')
CODE = re.compile(r"```python\n(.*?)```", re.S)


def _lower(x, y):
    a, b, c = 1 + y**2, 2 * x * y, x**2
    return (a + c) / 2 - math.sqrt(((a - c) / 2) ** 2 + b**2)


def _forward(weights, change):
    h = torch.ones(weights[0].shape[1], dtype=torch.float64)
    for w in weights:
        h = change(w) @ h
    return h


def _rate(examples, candidates, delta):
    return math.log(candidates / delta) / examples


def _constant(examples, hidden):
    return 4 * (hidden + 1) / (math.sqrt(examples) - 1)


def _root(examples, hidden, delta):
    return math.sqrt(2 * math.log(2 * examples * (hidden + 1) / delta) / (examples - 1))


def published() -> dict[str, str]:
    """Label of every exercise whose page asks this module, and the text of its solution."""
    texts = [page.read_text("utf-8") for page in PAGES]
    asked = {label for text in texts for label in ASKED.findall(text)}
    solutions = {label: body for text in texts for label, body in SOLUTION.findall(text)}
    return {label: solutions[label] for label in asked}


def test_pages_and_checks_know_the_same_exercises():
    assert set(published()) == set(exercises._EXERCISES)


@pytest.mark.parametrize("label", sorted(published()))
def test_published_code_passes_its_check(label):
    answers = {
        "ex-three-gradients": 2,
        "ex-batch": 1 / 49,
        "ex-uniform-logits": 0,
        "ex-noise-floor": 0.2 * 0.9,
        "ex-bayes-interval": 1 / 3,
        "ex-lunch-risk": 0.5 * (7 / 8) ** 4,
        "ex-winsorized-mean": 7 / 5,
        "ex-rare-feature": 0.099,
        "ex-active-paths": 54,
        "ex-spectrum-signs": 14,
        "ex-babel-by-hand": 3,
        "ex-union-cost": math.log(500 * 500 * 30),
        "ex-tube-radius": 1.746,
        "ex-certify-stay": 299,
    }
    if code := CODE.search(published()[label]):
        scope: dict = {"math": math, "torch": torch}
        exec(code.group(1), scope)
        name = re.search(r"def (\w+)", code.group(1)).group(1)
        answers[label] = scope[name]
    verdict = exercises.check(label, answers[label])
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(
    ("label", "answer", "hint"),
    [
        ("ex-three-gradients", 144 / 50, "adds lengths"),
        ("ex-three-gradients", 2 / 3, "alpha"),
        ("ex-three-gradients", 100, "squared length of the sum"),
        ("ex-batch", 0.4 / 32, "proportional"),
        ("ex-batch", 0.4 / (50 - 49 * 0.4), "number of batches"),
        ("ex-batch", 32 * 0.4 / (1 + 31 * 0.4), "wrong way"),
        ("ex-uniform-logits", 1, "cancel"),
        ("ex-three-gradients", 3, "equal gradients"),
        ("ex-three-gradients", 1, "orthogonal"),
        ("ex-three-gradients", 50, "denominator"),
        ("ex-corrected", lambda g: g.sum(0).square().sum() / g.square().sum() / len(g), "alpha"),
        ("ex-corrected", lambda g: g.sum(0).square().sum() / g.square().sum(), "m-coherence"),
        ("ex-corrected", lambda g: g.sum(0).square().sum() / g.square().sum() - 1, "m - 1"),
        (
            "ex-construct",
            lambda m, target: torch.eye(m),
            "result is 1, which is too large",
        ),
        ("ex-construct", lambda m, target: 2 * torch.eye(m), "lengths"),
        ("ex-construct", lambda m, target: torch.ones(m), r"\[m, p\]"),
        ("ex-construct", lambda m, target: torch.eye(m).bool(), "truth values, not numbers"),
        ("ex-construct", lambda m, target: torch.eye(m).cfloat(), "complex"),
        ("ex-construct", lambda m, target: np.ma.array(np.eye(m), mask=np.eye(m)), "masked"),
        ("ex-construct", lambda m: torch.eye(m), "argument"),
        ("ex-construct", 3, "function"),
        ("ex-noise-floor", 0.2, "comes out the same"),
        ("ex-noise-floor", 0.82, "right"),
        ("ex-bayes-interval", 1 / 4, r"r\(x\) = x"),
        ("ex-bayes-interval", 2 / 3, "half of it"),
        ("ex-lunch-risk", 0.5, "may have been seen"),
        ("ex-lunch-risk", 1 / 4, "come twice"),
        ("ex-lunch-risk", (7 / 8) ** 4, "guesses there are right"),
        ("ex-excess", lambda p, r, f: (p * r.abs() * (r * f < 0)).sum() / 2, "Half"),
        ("ex-excess", lambda p, r, f: (p * (r * f < 0)).sum(), "mass"),
        ("ex-excess", lambda p, r, f: (p * (1 - r * f) / 2).sum(), "whole risk"),
        ("ex-excess", lambda p, r, f: (r.abs() * (r * f < 0)).mean(), "probability"),
        ("ex-biases", lambda w, b, activation: w, "meets 3 numbers, those of x and a 1"),
        (
            "ex-biases",
            lambda w, b, activation: [
                torch.cat([one, other[:, None]], 1) for one, other in zip(w, b, strict=True)
            ],
            "matrix 1 gives 3 numbers, so it does not hand the 1 on",
        ),
        ("ex-biases", lambda w, b, activation: None, "nothing"),
        ("ex-biases", lambda w, b, activation: w[:0], "1 matrices, not 0"),
        ("ex-biases", 3, "function"),
        ("ex-winsorized-mean", 10, "plain mean"),
        ("ex-winsorized-mean", 4 / 3, "trimmed"),
        ("ex-winsorized-mean", 1, "median"),
        ("ex-winsorized-mean", 7, "divide by five"),
        (
            "ex-median-of-three",
            lambda a, b, c: (
                a + b + c - torch.stack([a, b, c]).amin(0) - torch.stack([a, b, c]).amax(0)
            ),
            "case 2 of 3.*forgets small numbers",
        ),
        ("ex-median-of-three", lambda a, b, c: (a + b + c) / 3, "mean of the three"),
        ("ex-median-of-three", lambda a, b, c: torch.maximum(torch.maximum(a, b), c), "greatest"),
        ("ex-median-of-three", lambda a, b, c: torch.minimum(torch.minimum(a, b), c), "least"),
        ("ex-rare-feature", 0.1, "the limit of the ratio"),
        ("ex-rare-feature", 1 - 0.98**5, "one micro-batch"),
        ("ex-rare-feature", 0.02592, "divide by that for the mean"),
        ("ex-rare-feature", 0.26143, "on top"),
        ("ex-rare-feature", 10.08, "wrong way round"),
        ("ex-rare-feature", 0.0961**2 / 0.26143, "three pairs"),
        ("ex-rare-feature", 0.025032 / 0.26143, "all three micro-batches"),
        (
            "ex-decrease-share",
            lambda g, k: g[k].sum(0).square().sum() / g.sum(0).square().sum(),
            "do to each other",
        ),
        ("ex-decrease-share", lambda g, k: k.double().mean(), "number of examples"),
        (
            "ex-decrease-share",
            lambda g, k: g.mean(0) @ g[k].mean(0) / g.mean(0).square().sum(),
            "take sums",
        ),
        (
            "ex-decrease-share",
            lambda g, k: g.sum(0) @ g[~k].sum(0) / g.sum(0).square().sum(),
            "other group",
        ),
        ("ex-tube-radius", 1.287, "one step"),
        ("ex-tube-radius", 7.6127, "square root of v"),
        ("ex-tube-radius", 1.021, "cloud"),
        ("ex-batch-step", lambda b, s, n: s * b / n, "other way round"),
        ("ex-batch-step", lambda b, s, n: s * (n / b) ** 0.5, "no root"),
        ("ex-bent-secant", lambda x, y: (1 + y**2, x**2 * (1 - 3 * y**2)), "determinant"),
        ("ex-bent-secant", lambda x, y: (x**2 * (1 + y**2), _lower(x, y)), "squared length"),
        ("ex-certify-stay", 298, "One more"),
        ("ex-certify-stay", 298.07, "Round up"),
        ("ex-certify-stay", 100, "0.37"),
        ("ex-active-paths", 162, "outputs share"),
        ("ex-active-paths", 6, "how many paths leave a unit"),
        ("ex-active-paths", 18, "input carries"),
        ("ex-active-paths", 270, "only the active"),
        ("ex-path-norm", lambda ws: _forward(ws, torch.square).sum(), "shape"),
        ("ex-path-norm", lambda ws: _forward(ws, abs), "1-norm"),
        ("ex-path-norm", lambda ws: _forward(ws, lambda w: w), "without squares"),
        ("ex-path-norm", lambda ws: _forward(ws, torch.square).sqrt(), "squared norm"),
        ("ex-path-norm", lambda ws: _forward(ws, lambda w: w) ** 2, "square each weight"),
        ("ex-spectrum-signs", 6, "negative"),
        ("ex-spectrum-signs", 13, "different examples"),
        (
            "ex-path-norm",
            lambda ws: (functools.reduce(lambda p, w: w @ p, ws) ** 2).sum(1),
            "multiplies",
        ),
        ("ex-validation-slack", lambda m, f, d: 2 * _rate(m, f, d) / 3, "variance"),
        ("ex-validation-slack", lambda m, f, d: (_rate(m, f, d) / 2) ** 0.5, "Hoeffding"),
        (
            "ex-validation-slack",
            lambda m, f, d: 2 * _rate(m, f, d) / 3 + (_rate(m, f, d) / 2) ** 0.5,
            "relaxed",
        ),
        (
            "ex-validation-slack",
            lambda m, f, d: (
                _rate(m, f, d) / 3 + ((_rate(m, f, d) / 3) ** 2 + 2 * _rate(m, f, d)) ** 0.5
            ),
            "1/4",
        ),
        ("ex-babel-by-hand", 11**0.5, "leaves no row out"),
        ("ex-babel-by-hand", 9, "squared norm"),
        ("ex-babel-by-hand", 7**0.5, "sizes, not signed"),
        ("ex-babel-by-hand", 5**0.5, "row norm alone"),
        ("ex-babel-by-hand", (5 + 4 * 5**0.5) ** 0.5, r"divides by the \*squared"),
        ("ex-babel-by-hand", (4.5 + 16.25**0.5) ** 0.5, "norm itself"),
        (
            "ex-largest-level",
            lambda u, t: (u >= t).sum(1).double().min().expand(len(u)),
            "one an input",
        ),
        ("ex-largest-level", lambda u, t: (u < t).sum(1).double(), "active"),
        ("ex-largest-level", lambda u, t: (u > t).sum(1).double(), "equals the threshold"),
        ("ex-largest-level", lambda u, t: (u >= t).sum(1).double(), "no level d"),
        ("ex-bound-floor", lambda m, k, d: _root(m, k, d) + _constant(m, k), r"K \+ 1 times"),
        ("ex-bound-floor", lambda m, k, d: k * _root(m, k, d) + _constant(m, k), "first root"),
        ("ex-bound-floor", lambda m, k, d: (k + 1) * _root(m, k, d), "constant"),
        ("ex-union-cost", 500 * 500 * 30, "logarithm"),
        ("ex-union-cost", math.log10(500 * 500 * 30), "base 10"),
        ("ex-union-cost", math.log2(500 * 500 * 30), "base 2"),
        ("ex-union-cost", math.log(1030), "multiply"),
        ("ex-union-cost", math.log(500 * 500), "values of epsilon"),
        ("ex-union-cost", math.log(500 * 30), "two layers"),
        ("ex-unit-rows", lambda a, b: b / a.norm(dim=1), "multiplied"),
        ("ex-unit-rows", lambda a, b: b * a.square().sum(1), "squared lengths"),
        ("ex-unit-rows", lambda a, b: b * a.norm(dim=1).max(), "its own length"),
    ],
)
def test_slips_are_named(label, answer, hint):
    verdict = exercises.check(label, answer)
    assert not verdict.passed
    assert re.search(hint, verdict.message), verdict.message


def test_equal_gradients_are_not_taken_for_sums_in_place_of_means():
    def equal(m, target):
        return torch.ones(m, 1)

    message = exercises.check("ex-construct", equal).message
    assert message.endswith("(2, 0.3): the result is 2, which is too large.")


def test_no_exception_of_an_answer_gets_out_of_an_exercise():
    class Odd(BaseException):
        pass

    def raises(m, target):
        raise Odd

    assert "it raised Odd" in exercises.check("ex-construct", raises).message


@pytest.mark.parametrize("label", sorted(published()))
@pytest.mark.parametrize("nothing", [..., None, "later", object(), lambda *_: None])
def test_no_answer_of_any_type_raises(label, nothing):
    verdict = exercises.check(label, nothing)
    assert not verdict.passed
    assert verdict.message


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(ValueError, match=r"no exercise 'ex-bach'; did you mean 'ex-batch'"):
        exercises.check("ex-bach", 1)


@pytest.mark.parametrize("label", [["ex-batch"], 3, None])
def test_what_is_no_label_is_an_unknown_one(label):
    with pytest.raises(ValueError, match="there is no exercise"):
        exercises.check(label, 1)
