"""The quiz: real controls, a reason for each option, and no text that can become markup."""

import pytest
from bs4 import BeautifulSoup

from gencoh_lib.quiz import Option, quiz

ONE = [
    ("The shared one", True, r"Four examples push it: \(4 > 1\)."),
    ("The own ones", False, "One <example> pushes each & no more."),
]
TWO = [("alpha", True, "A ratio."), ("m-coherence", True, "m alpha."), ("norm", False, "Scales.")]


def soup(asked):
    return BeautifulSoup(asked._repr_mimebundle_()["text/html"], "html.parser")


@pytest.fixture(autouse=True)
def static(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "static")


@pytest.mark.parametrize(("options", "kind"), [(ONE, "radio"), (TWO, "checkbox")])
def test_options_are_labelled_controls_in_a_named_group(options, kind):
    page = soup(quiz("Which?", options))
    assert page.fieldset.legend.text.endswith("Which?")
    labels = page.find_all("label")
    assert [label.text for label in labels] == [text for text, _, _ in options]
    assert [label.input["type"] for label in labels] == [kind] * len(options)
    assert page.form.find("button", type="submit").text == "Check"
    assert page.form.find(role="status").text == ""


def test_without_javascript_every_answer_stands_in_the_fold_and_no_dead_button():
    page = soup(quiz("Which?", ONE))
    assert page.find("button").has_attr("hidden")
    items = page.details.find_all("li")
    assert [item["data-right"] for item in items] == ["yes", "no"]
    for item, (text, right, reason) in zip(items, ONE, strict=True):
        assert text in item.text
        assert reason in item.text
        assert ("Right." if right else "Not this one.") in item.text


def test_enter_does_not_send_the_form_anywhere():
    assert soup(quiz("Which?", ONE)).form["method"] == "dialog"


def test_text_is_never_markup():
    page = soup(quiz("Is <b> & 'bold'?", ONE, title="<i>"))
    assert not page.find_all(["b", "i", "example"])
    assert "Is <b> & 'bold'?" in page.legend.text


def test_only_texts_with_formulas_are_given_to_mathjax():
    marked = soup(quiz(r"Is \(x > 0\)?", ONE)).find_all(class_="tex2jax_process")
    assert [span.text for span in marked] == [r"Is \(x > 0\)?", ONE[0][2]]


def test_same_question_gives_the_same_html_and_another_another():
    assert str(soup(quiz("Which?", ONE))) == str(soup(quiz("Which?", ONE)))
    blocks = [soup(quiz(q, ONE)).find(class_="gencoh") for q in ("Which?", "What?")]
    assert len({block["data-block"] for block in blocks}) == 2


def test_terminal_gets_question_and_answers(monkeypatch):
    monkeypatch.setenv("GENCOH_FRONT_END", "text")
    asked = quiz("Which?", TWO, title="Predict")
    assert asked._repr_mimebundle_() == {"text/plain": repr(asked)}
    assert repr(asked).splitlines() == [
        "Predict: Which?", "  a) alpha", "  b) m-coherence", "  c) norm", "Answers",
        "  a) Right. A ratio.", "  b) Right. m alpha.", "  c) Not this one. Scales.",
    ]  # fmt: skip


def test_options_are_kept_as_given():
    assert quiz("Which?", iter(ONE)).options[0] == Option(*ONE[0])
    assert not quiz("Which?", ONE).several
    assert quiz("Which?", TWO).several


@pytest.mark.parametrize(
    ("question", "options", "error", "message"),
    [
        ("", ONE, ValueError, "question is empty"),
        (None, ONE, TypeError, "question must be a text, not NoneType"),
        ("Which?", ONE[:1], ValueError, "options has 1 of them"),
        ("Which?", [*ONE, ONE[0]], ValueError, "two that read the same"),
        ("Which?", [*ONE[1:], ("x", False, "No.")], ValueError, "no right one: mark one"),
        ("Which?", [*ONE, ("x", False)], TypeError, r"option 3 is \('x', False\): give \(text"),
        ("Which?", [*ONE, "abc"], TypeError, "option 3 is 'abc'"),
        ("Which?", [*ONE, ("x", False, " ")], ValueError, "the reason of option 3 is empty"),
        ("Which?", [*ONE, ("x", False, None)], TypeError, "the reason of option 3 must be a text"),
        ("Which?", [*ONE, ("", False, "No.")], ValueError, "the text of option 3 is empty"),
        ("Which?", [*ONE, ("x", 1, "No.")], TypeError, "option 3 is right: 1. Say True or False"),
    ],
)
def test_faults_are_named(question, options, error, message):
    with pytest.raises(error, match=message):
        quiz(question, options)


def test_empty_title_is_named():
    with pytest.raises(ValueError, match="title is empty"):
        quiz("Which?", ONE, title=" ")
