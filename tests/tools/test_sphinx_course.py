"""The Sphinx extension on a book of two pages, also when only a part of it changed.

What a page shows may depend on other files: the line under a claim on the tests, the list under a
symbol of the API on the chapters. A second build must see both.
"""

import io
from textwrap import dedent

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

CHAPTER = """
# A chapter

## A section

The level is {given}`0.05 | the usual one`.

```{prf:theorem} Range
:label: thm-range
:class: exact
It lies between 0 and 1, says {py:func}`~sample.theory.measure`.
```

```{prf:definition} Word
:label: def-word
A definition claims nothing.
```

```{prf:proof}
It is short.
```

````{prf:proof}
:class: dropdown
It is long.
````
"""
API = """
# Reference

```{eval-rst}
.. py:module:: sample.theory

.. py:function:: measure(x)

   Measure it.

.. py:function:: forgotten(x)

   Nobody mentions it.

.. py:class:: Result

   .. py:method:: plot()
```
"""
TEST = """
import pytest

@pytest.mark.claim("thm-range", kind="exact")
def test_it_lies_between_zero_and_one(): ...
"""


class Book:
    """A small book in a folder, built into another."""

    def __init__(self, folder):
        self.folder = folder
        self.write("index.md", "# Start\n\n```{toctree}\nchapters/one\napi/theory\n```\n")
        self.write("chapters/one.md", CHAPTER)
        self.write("api/theory.md", API)
        self.write("tests/test_one.py", TEST)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")

    def build(self):
        """Build what changed; return what Sphinx complained about."""
        complaints = io.StringIO()
        settings = {
            "extensions": [
                "myst_parser",
                "sphinx.ext.autodoc",
                "sphinx_proof",
                "sphinx_thebe",
                "tools.sphinx_course",
            ],
            "html_theme": "sphinx_book_theme",
            "html_theme_options": {
                "repository_url": "https://github.com/o/r",
                "repository_branch": "main",
            },
            "exclude_patterns": ["out"],
        }
        folders = (self.folder, None, self.folder / "out", self.folder / "out" / "doctrees")
        with docutils_namespace():
            app = Sphinx(*folders, "html", settings, status=None, warning=complaints)
            app.build()
        return complaints.getvalue()

    def page(self, name):
        return (self.folder / "out" / f"{name}.html").read_text(encoding="utf-8")


@pytest.fixture
def small(tmp_path):
    return Book(tmp_path)


def test_a_sound_book_builds_without_complaint_and_shows_what_it_should(small):
    assert small.build() == ""
    chapter = small.page("chapters/one")
    assert '<span class="given" title="the usual one">0.05</span>' in chapter
    # One line under the theorem, none under the definition; the link leads to the test's line.
    assert chapter.count('class="claim-kind') == 1
    assert "https://github.com/o/r/blob/main/tests/test_one.py#L5" in chapter
    # Ids that sphinx-proof repeats are told apart, and a folded proof has a title to unfold it by.
    assert 'id="proof"' not in chapter
    assert '<p class="admonition-title">Proof</p>' in chapter
    assert "Proof. It is long" not in chapter


def test_a_symbol_lists_the_section_that_teaches_it(small):
    small.build()
    reference = small.page("api/theory")
    assert reference.count('class="taught-in"') == 1
    assert 'href="../chapters/one.html#a-section">A chapter</a>' in reference


def test_a_new_mention_in_a_chapter_reaches_the_unchanged_reference(small):
    small.build()
    small.write("chapters/one.md", CHAPTER + "\nAnd {py:func}`sample.theory.forgotten`.\n")
    small.build()
    assert small.page("api/theory").count('class="taught-in"') == 2


def test_a_mention_of_a_method_counts_for_its_class(small):
    small.write("chapters/one.md", CHAPTER + "\n{py:meth}`sample.theory.Result.plot` draws.\n")
    small.build()
    # The class and the method each list it, and so does the function.
    assert small.page("api/theory").count('class="taught-in"') == 3


def test_a_moved_test_reaches_the_unchanged_chapter(small):
    small.build()
    small.write("tests/test_one.py", "\n\n\n" + dedent(TEST))
    small.build()
    assert "tests/test_one.py#L8" in small.page("chapters/one")


def test_a_page_that_went_teaches_nothing(small):
    small.build()
    small.write("chapters/one.md", "# A chapter\n")
    small.build()
    assert "taught-in" not in small.page("api/theory")


def test_a_reference_to_a_test_follows_it_when_it_moves(small):
    link = "{test}`tests/test_one.py::test_it_lies_between_zero_and_one`"
    small.write("api/theory.md", f"# Reference\n\nSee {link}.\n")
    assert small.build() == ""
    assert "blob/main/tests/test_one.py#L5" in small.page("api/theory")
    small.write("tests/test_one.py", "\n\n\n" + dedent(TEST))
    small.build()
    assert "blob/main/tests/test_one.py#L8" in small.page("api/theory")


def test_a_reference_to_no_test_is_a_warning_at_its_line(small):
    small.write("chapters/one.md", "# A chapter\n\n{test}`tests/test_one.py::test_gone`\n")
    complaint = small.build()
    assert "tests/test_one.py has no test test_gone" in complaint
    assert "one.md:3" in complaint


@pytest.mark.parametrize("kinds", ["", ":class: proved\n", ":class: exact quoted\n"])
def test_a_claim_without_one_kind_is_a_warning_at_its_place(small, kinds):
    small.write("chapters/one.md", CHAPTER.replace(":class: exact\n", kinds))
    complaint = small.build()
    assert "claim thm-range needs exactly one :class: of exact, rate, quoted" in complaint
    assert "one.md:" in complaint


@pytest.mark.parametrize("text", ["0.05", "0.05 |", "| a reason"])
def test_a_number_without_a_reason_is_an_error_at_its_line(small, text):
    small.write("chapters/one.md", CHAPTER.replace("0.05 | the usual one", text))
    complaint = small.build()
    assert "given: write `number | why no cell computes it`" in complaint
    assert "one.md:6" in complaint


def test_thebe_leaves_no_trace(small):
    small.build()
    assert "thebe" not in small.page("chapters/one").lower()


def test_a_default_that_is_a_function_is_written_by_name_and_is_no_method(small, monkeypatch):
    small.write(
        "sample_defaults.py",
        """
        from dataclasses import dataclass

        def halve(x):
            '''Halve it.'''

        @dataclass
        class Probe:
            '''A probe.'''

            loss: object = halve
        """,
    )
    monkeypatch.syspath_prepend(str(small.folder))
    small.write(
        "api/theory.md",
        "# Reference\n\n```{eval-rst}\n.. automodule:: sample_defaults\n   :members:\n```\n",
    )
    small.write("chapters/one.md", "# A chapter\n")
    assert small.build() == ""
    reference = small.page("api/theory")
    assert "&lt;function" not in reference
    assert 'id="sample_defaults.Probe"' in reference
    assert 'id="sample_defaults.Probe.loss"' not in reference
