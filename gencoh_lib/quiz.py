"""Multiple choice with a reason for every option.

:func:`quiz` makes real form controls with labels: radio buttons, or checkboxes where several
options are right. The reader chooses, presses Check, and reads why that option is right or wrong.
Without JavaScript, and on paper, the answers stand in a fold below.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from gencoh_lib import front_end

__all__ = ["Option", "Quiz", "quiz"]

_VERDICT = {True: "Right.", False: "Not this one."}


@dataclass(frozen=True)
class Option:
    """One option of a quiz.

    Attributes
    ----------
    text
        What the reader may choose.
    right
        Whether it is right to choose it.
    reason
        Why.

    Examples
    --------
    >>> Option("2", True, "Twice 2 is 4.").right
    True
    """

    text: str
    right: bool
    reason: str


@dataclass(frozen=True, repr=False)
class Quiz:
    """A question with its options; show it by ending a cell with it.

    Attributes
    ----------
    question
        What is asked.
    options
        What may be chosen.
    title
        A word or two above the question.

    Examples
    --------
    >>> asked = Quiz("Is it even?", (Option("4", True, "2 + 2."), Option("6", True, "3 + 3.")))
    >>> asked.several
    True
    """

    question: str
    options: tuple[Option, ...]
    title: str | None = None

    @property
    def several(self) -> bool:
        """Whether more than one option is right."""
        return sum(option.right for option in self.options) > 1

    def __repr__(self) -> str:
        lines = [f"{self.title}: {self.question}" if self.title else self.question]
        lines += [
            f"  {letter}) {option.text}"
            for letter, option in zip(ascii_lowercase, self.options, strict=False)
        ]
        lines.append("Answers")
        for letter, option in zip(ascii_lowercase, self.options, strict=False):
            said = f"{letter}) {_VERDICT[option.right]} {option.reason}"
            lines.append(textwrap.fill(said, 100, initial_indent="  ", subsequent_indent="     "))
        return "\n".join(lines)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        if front_end.current() == "text":
            return {"text/plain": repr(self)}
        return {
            "text/html": front_end.html_block("quiz", self._body()),
            "text/plain": repr(self),
        }

    def _body(self) -> str:
        kind = "checkbox" if self.several else "radio"
        above = " · ".join(
            filter(None, [self.title, "Choose all that are right" if self.several else None])
        )
        small = f"<small>{html.escape(above)}</small>" if above else ""
        options = "\n".join(
            f'<label class="gencoh-option"><input type="{kind}" name="choice" value="{k}">'
            f"{_text(option.text)}</label>"
            for k, option in enumerate(self.options)
        )
        answers = "\n".join(map(_answer, self.options))
        # method="dialog": without JavaScript, Enter must not send the form and load the page again.
        return f"""<form method="dialog" autocomplete="off">
<fieldset>
<legend>{small}{_text(self.question)}</legend>
{options}
</fieldset>
<button type="submit" class="gencoh-check" hidden>Check</button>
<div class="gencoh-feedback" role="status"></div>
</form>
<details>
<summary>All answers, with their reasons</summary>
<ul>
{answers}
</ul>
</details>"""


def quiz(
    question: str, options: Iterable[tuple[str, bool, str]], *, title: str | None = None
) -> Quiz:
    r"""A multiple-choice question, with a reason for every option.

    All texts are plain, and shown as they are; formulas in ``\( \)`` are set by MathJax.

    Parameters
    ----------
    question
        What is asked.
    options
        Two or more tuples (text, whether it is right, reason). The reason is shown to the reader
        who chose the option; with several right options the reader may choose several.
    title
        A word or two above the question, e.g. "Predict".

    Returns
    -------
    Quiz
        Shown by ending the cell with it.

    Raises
    ------
    TypeError
        If an option is not such a tuple, or a text is no text.
    ValueError
        If a text or a reason is empty, two options read the same, there are fewer than two or more
        than 26, or none is right.

    Examples
    --------
    >>> quiz("What is half of 4?", [("2", True, "Twice 2 is 4."), ("1", False, "Twice 1 is 2.")])
    What is half of 4?
      a) 2
      b) 1
    Answers
      a) Right. Twice 2 is 4.
      b) Not this one. Twice 1 is 2.
    """
    _check_text(question, "question")
    if title is not None:
        _check_text(title, "title")
    checked = tuple(_option(k, given) for k, given in enumerate(options, start=1))
    if not 2 <= len(checked) <= len(ascii_lowercase):
        raise ValueError(f"options has {len(checked)} of them: give 2 to {len(ascii_lowercase)}.")
    if len({option.text for option in checked}) < len(checked):
        raise ValueError("options holds two that read the same: leave one out.")
    if not any(option.right for option in checked):
        raise ValueError("options holds no right one: mark one, (text, True, reason).")
    return Quiz(question, checked, title)


def _option(number: int, given: object) -> Option:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 3:
        raise TypeError(f"option {number} is {given!r}: give (text, whether it is right, reason).")
    text, right, reason = given
    _check_text(text, f"the text of option {number}")
    if not isinstance(right, bool):
        raise TypeError(f"option {number} is right: {right!r}. Say True or False.")
    _check_text(reason, f"the reason of option {number}")
    return Option(text, right, reason)


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a text, not {type(text).__name__}.")
    if not text.strip():
        raise ValueError(f"{name} is empty: write it, the reader learns from it.")


def _text(text: str, classes: str = "") -> str:
    """Escaped text; MathJax looks only at the elements that are marked for it."""
    classes = f"{classes} tex2jax_process".strip() if r"\(" in text else classes
    attribute = f' class="{classes}"' if classes else ""
    return f"<span{attribute}>{html.escape(text)}</span>"


def _answer(option: Option) -> str:
    right, icon = ("yes", "✓") if option.right else ("no", "✗")
    return (
        f'<li data-right="{right}" class="gencoh-{"right" if option.right else "wrong"}">'
        f"{_text(option.text)}"
        f'<strong><span aria-hidden="true">{icon}</span> {_VERDICT[option.right]}</strong> '
        f"{_text(option.reason, 'gencoh-reason')}</li>"
    )
