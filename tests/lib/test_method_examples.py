"""Examples in the docstrings of methods whose class a facade renamed.

pytest collects the examples of a module's own functions and classes. A public class that lives in
a private module is collected with its facade, but its methods are not: their globals are those of
the private module.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import gencoh_lib


def examples():
    """Each method with an example, of each public class whose code lives elsewhere."""
    for info in pkgutil.iter_modules(gencoh_lib.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"gencoh_lib.{info.name}")
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not inspect.isclass(thing) or thing.__module__ != module.__name__:
                continue
            for attribute, found in vars(thing).items():
                inner = getattr(found, "__func__", None) or getattr(found, "fget", None) or found
                if not callable(inner) or ">>>" not in (inspect.getdoc(inner) or ""):
                    continue
                if inner.__globals__ is not vars(module):
                    yield pytest.param(module, inner, id=f"{info.name}.{name}.{attribute}")


CASES = list(examples())


def test_there_are_such_methods():
    assert len(CASES) >= 3


@pytest.mark.parametrize(("module", "method"), CASES)
def test_the_example_says_what_happens(module, method):
    scope = dict(vars(module))
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(method), scope, method.__qualname__, None, 0
    )
    assert test.examples
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not result.failed, "".join(report)
