"""Numbers that somebody typed into prose.

A decimal, a percentage or an integer of 100 and more must come from a cell (``glue``) or be marked
with the reason why it cannot (role ``given``). Mathematics, code, citations, definitions, captions'
numbers and references to numbered things, here or in a source ("Lemma 1.1"), are exempt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bs4 import BeautifulSoup, Tag

__all__ = ["Marked", "marked", "typed"]

_EXEMPT = ", ".join(
    (
        "pre, code, script, style, noscript, .math, .cell, .output",
        ".pasted-text, .given",
        ".bibtex-citation, .citation, .footnote, .footnote-reference",
        ".proof.definition, .caption-number, .section-number, .eqno",
        ".headerlink, .claim-kind, .taught-in, .toctree-wrapper",
    )
)
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<digits>\d{1,3}(?:[,\u2009\u202f]\d{3})+|\d+)(?P<decimals>\.\d+)?"
    r"(?P<power>[eE][-+]?\d+)?(?P<percent>\s?(?:%|per\s?cent\b))?(?!\w)"
)
#: "Theorem 1.2", "(3.1)", "Fig. 2.4": numbers that Sphinx counts.
_COUNTED = re.compile(r"[A-Za-z. ]*\(?\d+(\.\d+)*\)?")
#: "Lemma 1.1 of the survey", "equation (1.4)": numbers that a source counts.
_OF_A_SOURCE = re.compile(
    r"\b(?:Theorem|Lemma|Proposition|Corollary|Definition|Remark|Example|Algorithm|Figure|Table|"
    r"[Ss]ection|[Cc]hapter|[Aa]ppendix|[Ee]quation)s?\s\(?$"
)
_SMALLEST_INTEGER = 100


@dataclass(frozen=True)
class Marked:
    """A number marked as given, with its reason."""

    number: str
    reason: str


def typed(html: str) -> list[str]:
    """Return each typed number of a built page with the words around it.

    >>> typed("<article><p>It reached 93 % after 20 steps.</p></article>")
    ['93 % in "It reached 93 % after 20 steps."']
    """
    article = _article(html)
    for exempt in article.select(_EXEMPT):
        # A space keeps "the" and "curve" apart in "the <code>x</code> curve".
        exempt.replace_with(" ")
    for link in article.select("a.reference.internal[href*='#']"):
        if _COUNTED.fullmatch(link.get_text().strip()):
            link.replace_with(" ")
    # Inline tags do not end a number: "<em>0</em>.5" is one.
    for inline in article.select("em, strong, span, a, b, i, sup, sub"):
        inline.unwrap()
    article.smooth()
    found = []
    for text in article.find_all(string=True):
        line = " ".join(text.split())
        for match in _NUMBER.finditer(line):
            integer = int(re.sub(r"\D", "", match["digits"]))
            small = integer < _SMALLEST_INTEGER
            if not (match["power"] or match["percent"]) and _OF_A_SOURCE.search(
                line[: match.start()]
            ):
                continue
            if small and not (match["decimals"] or match["power"] or match["percent"]):
                continue
            around = line[max(0, match.start() - 30) : match.end() + 30].strip()
            found.append(f'{match[0]} in "{around}"')
    return found


def marked(html: str) -> list[Marked]:
    """Return the numbers of a page that are marked as given.

    >>> marked('<article><span class="given" title="usual level">0.05</span></article>')
    [Marked(number='0.05', reason='usual level')]
    """
    return [
        Marked(node.get_text(), str(node.get("title", "")))
        for node in _article(html).select("span.given")
    ]


def _article(html: str) -> Tag:
    soup = BeautifulSoup(html, "html.parser")
    return soup.select_one("article") or soup
