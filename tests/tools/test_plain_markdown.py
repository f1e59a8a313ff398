"""Chapters in words that every notebook viewer shows.

Colab shows a theorem written as a directive as a block of code, and a role as backticks. Each form
that the chapters use is rewritten; what is code stays as it is, to the character.
"""

import pytest

from tools.plain_markdown import citations, labels, to_plain


def test_a_theorem_becomes_a_quotation_with_its_title():
    source = "```{prf:theorem} Range\n:label: thm-range\n:class: exact\n\nIt lies\nin between.\n```"
    assert to_plain(source) == "> **Theorem (Range)**\n>\n> It lies\n> in between."


def test_blocks_nest():
    source = "::::{admonition} Outer\n:::{note}\nInner.\n:::\nRest.\n::::"
    assert to_plain(source) == "> **Outer**\n>\n> > **Note**\n> >\n> > Inner.\n> Rest."


@pytest.mark.parametrize(
    "source",
    [
        "```{dropdown} Proof\nStep one.\n```",
        "```{prf:proof}\n:class: dropdown\nStep one.\n```",
    ],
)
def test_what_is_folded_stays_folded(source):
    expected = "<details><summary>Proof</summary>\n\nStep one.\n\n</details>"
    assert to_plain(source) == expected


def test_display_mathematics_becomes_dollars():
    assert to_plain("```{math}\n:label: eq-a\na = b\n```") == "$$\na = b\n$$"


def test_a_picture_keeps_its_alternative_text():
    source = "```{figure} ../_static/a.svg\n:alt: Two arrows.\nThe caption.\n```"
    assert to_plain(source) == "![Two arrows.](../_static/a.svg)\n\nThe caption."


def test_code_stays_to_the_character():
    source = "```python\nx = {}  # {py:func}`a.b`\n% not a comment\n```"
    assert to_plain(source) == source


def test_lists_that_the_page_builds_are_left_out():
    assert to_plain("Sources:\n```{bibliography}\n:all:\n```") == "Sources:"


def test_targets_and_comments_vanish():
    assert to_plain("(sec-a)=\n% a remark for authors\nText.") == "Text."


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("{py:func}`~gencoh_lib.data.load`", "`load`"),
        ("{py:mod}`gencoh_lib.data`", "`gencoh_lib.data`"),
        ("{py:func}`loads it <gencoh_lib.data.load>`", "loads it"),
        ("{given}`0.05 | the usual level`", "0.05"),
        ("{glue:text}`toy-ratio:.1f`", "⟨toy-ratio⟩"),
        ("{math}`x^2`", "$x^2$"),
        ("{doc}`the notation <notation>`", "the notation"),
        ("{prf:ref}`thm-a`", "Theorem (A)"),
        ("{prf:ref}`thm-unknown`", "thm-unknown"),
        ("{cite:t}`k1,k2`", "Doe (2022); k2"),
        ("{cite:p}`k1,k2`", "(Doe, 2022; k2)"),
        ("`{not} a role`", "`{not} a role`"),
    ],
)
def test_a_role_becomes_words(role, words):
    assert to_plain(f"Look: {role}.", {"thm-a": "Theorem (A)"}, {"k1": "Doe (2022)"}) == (
        f"Look: {words}."
    )


def test_a_role_may_run_over_a_line_end():
    assert to_plain("{doc}`two\nwords <page>`.") == "two\nwords."


def test_labels_are_named_after_kind_and_title():
    source = "```{prf:lemma}\n:label: lem-a\n```\n\n:::{exercise}\n:label: ex-a\n:::"
    assert labels(source) == {"lem-a": "Lemma", "ex-a": "Exercise"}


def test_one_two_and_many_authors():
    bib = "\n".join(
        f"@article{{k{n},\n  author = {{{' and '.join(names)}}},\n  year = {{2020}}\n}}"
        for n, names in enumerate([["Doe, J."], ["Doe, J.", "R. van Roe"], ["Doe, J."] * 3])
    )
    assert citations(bib) == {
        "k0": "Doe (2020)",
        "k1": "Doe and Roe (2020)",
        "k2": "Doe et al. (2020)",
    }
