"""The two pages that others cite keep their form, and each entry leads to what it names.

Sphinx checks links and anchors when the book is built; here the sources are read, so that an entry
without a test, a page or a verdict fails at once.
"""

import re

import pytest

from tools import book
from tools.where_tests_are import locate

FOLDER = "chapters/reference"
MISPRINT = ("Where", "Printed", "Right", "Why", "Met on", "Shown by")
EXPERIMENT = ("Claim", "Source", "We ran", "Came out", "Verdict", "Where")
VERDICTS = {"reproduces", "in part", "does not", "not tested"}


def entries(page):
    """Return (title, fields) for each entry: a heading of the third level and a definition list."""
    text = book.source(f"{FOLDER}/{page}").read_text("utf-8")
    found = []
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        body = re.split(r"^## ", part, flags=re.M)[0]
        fields = dict(re.findall(r"^(\S[^\n]*)\n: (.*(?:\n  .*)*)$", body, flags=re.M))
        found.append((body.partition("\n")[0], fields))
    return found


MISPRINTS, EXPERIMENTS = entries("misprints-found"), entries("what-reproduces")
each_misprint = pytest.mark.parametrize(("title", "fields"), MISPRINTS)
each_experiment = pytest.mark.parametrize(("title", "fields"), EXPERIMENTS)


def linked_pages(field):
    """Return the pages of the book that a field links to, with the text of their sources."""
    found = {}
    for target in re.findall(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)", field):
        path = (book.ROOT / FOLDER / target).resolve()
        page = path.relative_to(book.ROOT).with_suffix("").as_posix()
        assert page in book.pages(), f"{target} is no page of the book"
        found[page] = path.read_text("utf-8")
    return found


def test_there_are_entries():
    assert MISPRINTS
    assert EXPERIMENTS


@each_misprint
def test_a_misprint_says_all_that_it_has_to(title, fields):
    assert tuple(fields) == MISPRINT
    assert all(text.strip() for text in fields.values())


@each_misprint
def test_a_misprint_names_a_page_that_links_back(title, fields):
    text = book.source(f"{FOLDER}/misprints-found").read_text("utf-8")
    label = re.search(rf"^\((misprint-[\w-]+)\)=\n### {re.escape(title)}$", text, re.M)
    assert label, f"{title}: put a label (misprint-...)= above the heading"
    pages = linked_pages(fields["Met on"])
    assert pages
    assert any(label[1] in source for source in pages.values())


@each_misprint
def test_a_misprint_names_a_test_that_exists(title, fields):
    tests = re.findall(r"\{test\}`([^`]+)`", fields["Shown by"])
    assert tests
    for one in tests:
        locate(one, book.ROOT)


@each_experiment
def test_an_experiment_says_all_that_it_has_to(title, fields):
    assert tuple(fields) == EXPERIMENT
    assert fields["Verdict"] in VERDICTS
    assert linked_pages(fields["Where"])


@each_experiment
def test_an_experiment_says_how_its_claim_is_known(title, fields):
    assert re.search("authors' words|as reported by|[Oo]ur reading", fields["Source"]), title
    assert "{cite:" in fields["Source"] or "Our reading" in fields["Source"]


def test_the_verdicts_are_those_that_the_page_explains():
    text = book.source(f"{FOLDER}/what-reproduces").read_text("utf-8")
    assert set(re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.M)) == VERDICTS


def test_the_table_at_a_glance_lists_every_experiment_with_its_verdict():
    text = book.source(f"{FOLDER}/what-reproduces").read_text("utf-8")
    listed = re.findall(r"^\| \[(.+?)\]\(#[\w-]+\) \| (.+?) \|$", text, re.M)
    assert listed == [(title, fields["Verdict"]) for title, fields in EXPERIMENTS]
