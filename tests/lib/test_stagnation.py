"""The module as a whole: examples of methods run, and stand-ins say that they are."""

from __future__ import annotations

import doctest
import inspect

import pytest

from gencoh_lib import stagnation

CLASSES = [n for n in stagnation.__all__ if inspect.isclass(getattr(stagnation, n))]


@pytest.mark.parametrize("name", CLASSES)
def test_examples_of_methods_run(name):
    # pytest looks for doctests in the module that a method was written in, and there finds none
    finder, names = doctest.DocTestFinder(exclude_empty=True), vars(stagnation).copy()
    for example in finder.find(getattr(stagnation, name), name, module=False, globs=names):
        assert doctest.DocTestRunner().run(example).failed == 0, example.name


@pytest.mark.parametrize(
    "name",
    [
        "stay_bound",
        "stay_bound_isotropic",
        "stay_bound_decaying",
        "stay_bound_drift",
        "tube_bound",
        "stagnation_guarantee",
        "curved_offset",
        "secant_ratio",
        "Tube",
    ],
)
def test_stand_ins_say_whose_they_are(name):
    text = " ".join((getattr(stagnation, name).__doc__ or "").split())
    assert "Derived here (stand-in; the text of Imaizumi and Schmidt-Hieber was not" in text
