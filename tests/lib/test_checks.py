"""Self-checks: a student's answer of any type gets a message to act on, never a traceback.

The slips are made here the way students make them, with sums and means of per-example values, not
with the factors that the library multiplies by. Hostile objects, whose every method raises, come
from hypothesis.
"""

import enum
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from gencoh_lib import checks
from gencoh_lib.checks import Verdict

STEADY = settings(deadline=None, derandomize=True, max_examples=200)
VALUES = np.array([0.3, 1.7, 2.2, 0.1, 0.9])  # of five examples
M = len(VALUES)


# Verdict


def test_verdict_says_it_in_words_and_is_true_only_when_passed():
    right, wrong = Verdict(True, "alpha is correct."), Verdict(False, "alpha is <small>.")
    assert right
    assert not wrong
    assert repr(right) == "✓ Right. alpha is correct."
    assert repr(wrong) == "✗ Not yet. alpha is <small>."


@pytest.mark.parametrize(("passed", "word"), [(True, "Right."), (False, "Not yet.")])
def test_box_is_announced_and_says_without_colour_what_it_means(passed, word):
    box = BeautifulSoup(Verdict(passed, "a < b & c")._repr_html_(), "html.parser").find("p")
    assert box["role"] == "status"
    assert word in box.text
    assert "a < b & c" in box.text
    assert box.find("span")["aria-hidden"] == "true"


# A number


@pytest.mark.parametrize(
    "answer",
    [0.25, np.float32(0.25), np.array(0.25), torch.tensor(0.25), Fraction(1, 4), Decimal("0.25"),
     torch.tensor(0.25, requires_grad=True), torch.tensor(0.25, dtype=torch.bfloat16)],
)  # fmt: skip
def test_right_number_of_any_numeric_type_passes(answer):
    assert checks.number(answer, 0.25)


def test_tolerance_is_relative_and_absolute_at_zero():
    assert checks.number(1e9 + 1, 1e9)
    assert not checks.number(1.1e-9, 1e-9)
    assert checks.number(1e-7, 0)
    assert not checks.number(1e-5, 0)
    assert checks.number(0.26, 0.25, tolerance=0.1)


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        (-VALUES.mean(), VALUES.mean(), "right but for the sign"),
        (VALUES.sum(), VALUES.mean(), "factor m = 5: did you take a sum where a mean is meant"),
        (VALUES.mean(), VALUES.sum(), "did you take a mean where a sum is meant"),
        (VALUES.mean() / M, VALUES.mean(), "divide by m twice"),
        (VALUES.sum() ** 2, VALUES.mean() ** 2, "too large by m² = 25"),
        (VALUES.mean() ** 2, VALUES.sum() ** 2, "too small by m² = 25"),
        (VALUES.var(ddof=0), VALUES.var(ddof=1), r"divide by m - 1, not by m\."),
        (VALUES.var(ddof=1), VALUES.var(ddof=0), r"divide by m, not by m - 1\."),
        (VALUES.var(), VALUES.std(), "the square of what is asked"),
        (VALUES.std(), VALUES.var(), "the square root of what is asked"),
        (1 / VALUES.mean(), VALUES.mean(), "the reciprocal"),
        (37.0, 0.37, "a fraction is asked, not a percentage"),
        (0.6, 0.3, "twice what is asked"),
        (0.15, 0.3, "half of what is asked"),
        (0.3001, 0.3, "close, but not equal"),
        (0.31, 0.3, r"0.31, which is too large"),
        (0.29, 0.3, r"0.29, which is too small"),
        (3.0, 0, "too large"),
    ],
)
def test_slips_are_recognised(answer, expected, message):
    verdict = checks.number(answer, expected, examples=M, name="alpha")
    assert not verdict
    assert verdict.message.startswith("alpha ")
    assert re.search(message, verdict.message)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "still to be found"),
        (..., "still to be found"),
        (NotImplemented, "still to be found"),
        (True, "a truth value"),
        (np.bool_(True), "a truth value"),
        (np.array(True), "a truth value"),
        (torch.tensor(True), "a truth value"),
        (np.ma.array(0.25, mask=True), "a masked array"),
        ("0.25", "a text"),
        (b"0.25", "a text"),
        (0.25 + 0j, "complex"),
        (torch.tensor(0.25 + 0j), "complex"),
        (lambda: 0.25, "a function, not its value"),
        (float, "a function, not its value"),
        ({"alpha": 0.25}, "a dict, not an array"),
        ({0.25}, "a set, not an array"),
        ([0.25], "shape [1]: take the one number out"),
        (torch.full((M,), 0.25), f"shape [{M}], one entry an example"),
        (np.zeros((2, 3)), "shape [2, 3], but a single number"),
        ([[1], [2, 3]], "of type list, which cannot be read"),
        (np.array(["a"]), "of type ndarray, which holds no numbers"),
        (np.datetime64("2020-01-01"), "holds no numbers"),
        (float("nan"), "is NaN"),
        (-float("inf"), "is infinite"),
        (10**400, "of type int, which cannot be read"),
        (torch.tensor(0.25, device="meta"), "of type Tensor, which cannot be read"),
        (object(), "of type object"),
    ],
)
def test_what_is_no_number_is_called_by_its_name(answer, message):
    verdict = checks.number(answer, 0.25, examples=M)
    assert not verdict
    assert message in verdict.message


def test_slip_that_overflows_explains_nothing():
    assert checks.number(3, 1e300).message == "answer is 3, which is too small."


def test_mistakes_of_the_exercise_come_before_the_usual_ones():
    verdict = checks.number(-0.25, 0.25, mistakes={"You took the loss, not its gradient.": -0.25})
    assert verdict == Verdict(False, "You took the loss, not its gradient.")


def test_message_does_not_give_the_answer_away():
    assert "0.123" not in checks.number(0.7, 0.123456).message


@pytest.mark.parametrize("expected", [float("nan"), "0.25", None, [0.25, 0.5]])
def test_fault_of_the_exercise_is_an_error(expected):
    with pytest.raises(ValueError, match="expected"):
        checks.number(0.25, expected)


def test_fault_in_mistakes_or_tolerance_is_an_error_even_for_a_right_answer():
    with pytest.raises(ValueError, match="mistakes holds nan"):
        checks.number(0.25, 0.25, mistakes={"x": float("nan")})
    with pytest.raises(ValueError, match="tolerance is 0"):
        checks.number(0.25, 0.25, tolerance=0)


@STEADY
@given(st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6), st.integers(2, 500))
def test_right_passes_and_every_multiple_fails(expected, m):
    assert checks.number(expected, expected, examples=m)
    for factor in (-1, m, 1 / m, 2, 0):
        assert not checks.number(expected * factor, expected, examples=m)


# An array

G = np.array([[1.0, -2.0], [3.0, 5.0]])


@pytest.mark.parametrize("answer", [G, G.tolist(), torch.tensor(G), torch.tensor(G).float()])
def test_right_array_passes(answer):
    assert checks.array(answer, torch.tensor(G))


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        (G.T, G, "right values transposed"),
        (-G, G, "right but for the sign: it"),
        (np.abs(G), G, "sign of some entries"),
        (G[::-1], G, "in another order"),
        (G * M, G, "factor m = 5"),
        (G / M, G, "mean where a sum is meant"),
        (G + np.array([[0, 0], [0, 1]]), G, "wrong in 1 of 4 entries; the first is at [1, 1]"),
        (G**2, np.abs(G), "take the square root of them"),
        (1 / G, G, "reciprocal"),
        (3.0, G, "is a single number, but an array of shape [2, 2]"),
        (np.ones((3, 2)), np.ones((2, 3)), "transposed, swap the axes"),
        (np.ones((4, 1)), np.ones(4), "only axes of length 1 differ, use .reshape(4)"),
        (np.ones((M, 2)), np.ones(2), "reduce it over the examples, axis 0"),
        (np.ones(2), np.ones((M, 2)), "keep one entry an example"),
        (np.ones(3), np.ones(4), "has shape [3], but [4] is asked."),
        ([1.0, np.nan, np.inf], np.ones(3), "not finite in 2 entries, of which some are NaN"),
        ([1.0, ..., 2.0], np.ones(3), "still holds ... or None"),
        ([True, True], np.ones(2), "made of truth values, not numbers"),
        (torch.ones(2, dtype=torch.bool), np.ones(2), "made of truth values, not numbers"),
        (np.ma.array([1.0, 1.0], mask=[0, 1]), np.ones(2), "a masked array"),
        (None, G, "still to be found"),
    ],
)
def test_slips_in_arrays_are_recognised(answer, expected, message):
    verdict = checks.array(answer, expected, examples=M, name="gradients")
    assert not verdict
    assert message in verdict.message


def test_truth_values_are_compared_where_they_are_asked():
    expected = torch.tensor([True, False, True])
    assert checks.array([True, False, True], expected)
    assert "wrong in 1 of 3" in checks.array([True, True, True], expected).message
    assert checks.function(lambda x: x > 1, lambda x: x > 1, CASES, name="large")
    assert checks.number(torch.tensor(True), True)


def test_wrong_arrays_of_the_exercise_are_recognised():
    assert checks.array(G + 1, G, mistakes={"Do not add one.": G + 1}).message == "Do not add one."


def test_answer_is_left_as_it_was():
    answer = torch.tensor(G, requires_grad=True)
    checks.array(answer, G)
    assert answer.requires_grad
    assert answer.dtype == torch.float64


# A function

CASES = [(torch.tensor([1.0, 1.0]),), (torch.tensor([1.0, 2.0, 6.0]),)]


def mean(x):
    return x.mean()


def test_right_function_passes_all_cases():
    verdict = checks.function(lambda x: x.sum() / len(x), mean, CASES, examples=len)
    assert verdict == Verdict(True, "mean is correct in 2 cases.")


def raises_strangely(x):
    class StrangeError(Exception):
        def __str__(self):
            raise self

    raise StrangeError


def not_written(x):
    raise NotImplementedError


def leaves(x):
    raise SystemExit(3)


def closes(x):
    raise GeneratorExit


def forgets_to_return(x):
    x.mean()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (..., "mean is still to be written"),
        (None, "mean is still to be written"),
        (3.0, "mean must be a function, not float: pass the function itself"),
        (lambda x: x.sum(), "case 1 of 2 (a tensor of shape [2]): the result is too large by the"),
        (lambda x: x[0], "case 2 of 2 (a tensor of shape [3]): the result is"),
        (lambda x: x[7], "it raised IndexError: index 7 is out of bounds"),
        (lambda x, y: x, "it cannot be called with 1 argument: look at its def line"),
        (lambda x: x, "the result has shape [2], one entry an example"),
        (raises_strangely, "it raised StrangeError."),
        (not_written, "it is still to be written: it raises NotImplementedError"),
        (leaves, "it raised SystemExit: 3."),
        (closes, "it raised GeneratorExit."),
        (forgets_to_return, "it returns nothing: does it end with return?"),
        (lambda x: mean, "the result is a function, not its value"),
    ],
)
def test_faults_of_a_function_are_named_with_the_case(answer, message):
    verdict = checks.function(answer, mean, CASES, examples=len)
    assert not verdict
    assert message in verdict.message


def test_error_inside_a_function_that_takes_the_arguments_is_not_taken_for_a_wrong_signature():
    def wrong_type(x):
        return len(3)

    assert "raised TypeError: object of type 'int'" in (
        checks.function(wrong_type, mean, CASES).message
    )


def test_built_in_functions_without_signature_are_called():
    assert checks.function(max, lambda a, b: max(a, b), [(1, 2), (5, 3)], name="greatest")


def test_function_that_changes_its_arguments_harms_nothing():
    def destroys(x):
        result = x.mean()
        x.zero_()
        return result

    cases = [(torch.tensor([1.0, 3.0]),), (torch.tensor([2.0, 4.0]),)]
    assert checks.function(destroys, mean, cases)
    assert torch.equal(cases[0][0], torch.tensor([1.0, 3.0]))

    def empties(x):
        total = sum(x)
        x.clear()
        return total

    assert checks.function(empties, sum, [([1.0, 2.0],)], name="total")


def test_arguments_that_autograd_has_computed_may_be_given():
    x = torch.tensor([1.0, 2.0], requires_grad=True) * 2
    assert checks.function(lambda t: t.mean(), mean, [(x,)])


def test_the_reader_may_interrupt():
    def interrupted(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checks.function(interrupted, mean, CASES)
    with pytest.raises(KeyboardInterrupt):
        checks.number(hostile(["__array__"], KeyboardInterrupt), 1.0)


def test_faults_of_the_exercise_around_a_function_are_errors():
    with pytest.raises(ValueError, match="cases is empty"):
        checks.function(mean, mean, [])
    with pytest.raises(ValueError, match="the result of reference holds nan"):
        checks.function(mean, lambda x: float("nan"), CASES)


# Anything at all


def hostile(names, kind):
    """Object whose methods of those names raise an error of that kind."""

    def method(name):
        def raising(*_, **__):
            raise kind(name)

        return property(raising) if name == "__class__" else raising

    return type("Hostile", (), {name: method(name) for name in names})()


SPECIAL = [
    "__array__", "__bool__", "__class__", "__eq__", "__float__", "__format__", "__getattr__",
    "__getattribute__", "__getitem__", "__hash__", "__index__", "__int__", "__iter__", "__len__",
    "__repr__", "__str__", "__call__", "__complex__", "__array_interface__", "__array_struct__",
    "__signature__", "__torch_function__", "__buffer__", "__dlpack__", "__deepcopy__",
]  # fmt: skip


class Odd(BaseException):
    pass


ERRORS = [
    ValueError, TypeError, RecursionError, MemoryError, SystemExit, NotImplementedError,
    GeneratorExit, Odd,
]  # fmt: skip


def inside_an_array(thing):
    array = np.empty(2, dtype=object)
    array[0] = thing
    return array


class Colour(enum.Enum):
    RED = 1


hostile_objects = st.builds(
    hostile, st.lists(st.sampled_from(SPECIAL), unique=True), st.sampled_from(ERRORS)
)
plain_objects = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
    | st.binary() | st.fractions() | st.decimals() | st.dates()
    | st.sampled_from([
        ..., NotImplemented, object, object(), type, Colour, Colour.RED, len, np, torch, range(5),
        slice(3), memoryview(b"ab"), iter([1]), Ellipsis, torch.nn.Linear(1, 1), Exception("x"),
        np.ma.masked, np.ma.array([1, 2], mask=[0, 1]), np.array(None), np.zeros(0),
        np.zeros((0, 3)), np.zeros(2, dtype="i4,f8"), np.array(["a"]), torch.zeros(0),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.cfloat),
    ])
)  # fmt: skip
anything = st.recursive(
    plain_objects | hostile_objects,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(
        st.text(max_size=2), inner, max_size=2
    ) | inner.map(inside_an_array),
    max_leaves=4,
)  # fmt: skip


@STEADY
@given(anything)
def test_no_answer_of_any_type_makes_a_check_raise(answer):
    for verdict in (
        checks.number(answer, 0.123, examples=5),
        checks.array(answer, G, examples=2),
        checks.function(answer, mean, CASES, examples=len),
        checks.function(lambda x: answer, mean, CASES, examples=len),
    ):
        assert type(verdict) is Verdict
        assert type(verdict.message) is str
        assert repr(verdict)
        assert verdict._repr_html_()


@STEADY
@given(anything)
def test_nothing_strange_is_ever_right(answer):
    # 0.123 to a relative 1e-6 is not among what hypothesis draws, but guard against luck.
    try:
        lucky = abs(float(answer) - 0.123) < 1e-6
    except BaseException:
        lucky = False
    assert lucky or not checks.number(answer, 0.123)


def test_a_name_that_a_metaclass_hides_is_found():
    class Meta(type):
        def __getattribute__(cls, name):
            raise RuntimeError(name)

    answer = Meta("Odd", (), {})()
    assert "of type Odd" in checks.number(answer, 1.0).message


def test_a_function_that_makes_a_known_slip_is_told_which():
    slips = {"That is the sum, not the mean.": lambda x: sum(x)}
    verdict = checks.function(sum, lambda x: sum(x) / len(x), [([1.0, 4.0],)], mistakes=slips)
    assert not verdict.passed
    assert "That is the sum" in verdict.message
