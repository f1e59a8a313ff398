"""A number typed into prose is found; one that is computed, counted or explained is not.

The rule: any decimal, percentage or integer of 100 and more, outside mathematics, code, citations
and definitions, comes from a cell or is marked with a reason.
"""

import pytest

from tools.prose_numbers import Marked, marked, typed


def page(body):
    return f'<nav>1.5</nav><article class="bd-article">{body}</article><footer>2026</footer>'


@pytest.mark.parametrize(
    "sentence, number",
    [
        ("It reached 0.97 at last.", "0.97"),
        ("It reached 97% of them.", "97%"),
        ("Only 5 % were wrong.", "5 %"),
        ("Only 5\u00a0% were wrong.", "5 %"),
        ("Only 5 per cent were wrong.", "5 per cent"),
        ("We took 500 digits.", "500"),
        ("We took 1,797 digits.", "1,797"),
        ("A rate of 1e-3 is small.", "1e-3"),
        ("<em>0</em>.5 in two tags", "0.5"),
        ("A 64-128-10 network", "128"),
        ("minus -0.25 it was", "0.25"),
        ("In Figure 1.4 it is 0.9.", "0.9"),
        ("the risk of a table 0.9 of the time", "0.9"),
        ("in section 3 % of it", "3 %"),
    ],
)
def test_a_typed_number_is_found_with_its_neighbours(sentence, number):
    found = typed(page(f"<p>{sentence}</p>"))
    assert len(found) == 1
    assert found[0].startswith(f'{number} in "')


@pytest.mark.parametrize(
    "body",
    [
        "<p>Four examples, 10 classes and 99 steps.</p>",
        '<p>It is <span class="pasted-text">0.97</span>.</p>',
        '<p>It is <span class="given" title="the usual level">0.05</span>.</p>',
        r'<p><span class="math notranslate">\(0.5 m\)</span> and <code>lr=0.5</code></p>',
        '<pre>accuracy 0.97</pre><div class="cell"><p>0.97</p></div>',
        '<p><span class="bibtex-citation">Chatterjee [<a href="#x">2020</a>]</span></p>',
        '<div class="proof definition admonition"><p>Let m be 1000.</p></div>',
        '<p class="admonition-title"><span class="caption-number">Theorem 1.2 </span></p>',
        '<p>By <a class="reference internal" href="#thm-x">Theorem 1.2</a>.</p>',
        '<p>By <a class="reference internal" href="#eq-x">(1.2)</a>.</p>',
        "<p>MNIST10k, x86 and v2.</p>",
        "<p>Lemma 1.1 in section 1.2, Figure 1.4, and equation (1.4) of the survey.</p>",
    ],
)
def test_what_the_rule_exempts_is_left_alone(body):
    assert typed(page(body)) == []


def test_a_number_in_the_text_of_an_ordinary_link_is_found():
    assert typed(page('<p><a class="reference internal" href="#a">it took 3.5 s</a></p>'))


def test_marked_numbers_are_listed_with_their_reason():
    html = page('<p><span class="given" title="the usual level">0.05</span></p>')
    assert marked(html) == [Marked("0.05", "the usual level")]
