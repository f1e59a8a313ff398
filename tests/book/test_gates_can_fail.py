"""Every gate on the built book is fed what it must refuse, and says what is wrong.

A check that cannot fail proves nothing: here are the broken claim, page, notebook, slider and quiz.
The rules themselves have finer tests in tests/tools.
"""

import jupytext
import nbformat
import pytest
from jupyter_cache import get_cache

from gencoh_lib import explore, plots, quiz
from tools import browser_checks, claims, executed_notebooks, page_checks, prose_numbers

# --- claims and numbers -----------------------------------------------------------------------


def test_a_claim_that_no_test_carries_fails():
    found = claims.in_page('<div class="proof theorem exact" id="thm-new"></div>', "intro")
    assert claims.disagreements(found, {}) == [
        'intro: thm-new is exact, but no test carries claim("thm-new", kind="exact").'
    ]


def test_a_test_of_a_claim_that_went_fails():
    tests = {"thm-old": [claims.ClaimTest("tests/test_a.py", 7, "test_old", "exact")]}
    assert claims.disagreements([], tests) == [
        "tests/test_a.py:7: test_old carries thm-old, which no chapter claims."
    ]


def test_a_typed_result_fails():
    html = "<article><p>The network reaches 97.3 % on the test set.</p></article>"
    assert prose_numbers.typed(html) == ['97.3 % in "The network reaches 97.3 % on the test set."']


# --- pages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, problem",
    [
        ('<img src="a.png">', "no alt text"),
        ('<img src="a.png" alt="">', "says too little"),
        ('<img src="a.png" alt="figure">', "says too little"),
        ('<img src="a.png" alt="../_images/0f3a.png">', "is a file path"),
        ('<img src="a.png" alt="plots/0f3a">', "is a file path"),
    ],
)
def test_a_picture_that_says_nothing_fails(image, problem):
    assert problem in page_checks.alt_text(f"<article>{image}</article>")[0]


def test_a_described_picture_passes():
    html = '<article><img src="a.png" alt="Loss against step, train/test: both fall."></article>'
    assert page_checks.alt_text(html) == []


def test_broken_links_and_anchors_fail(tmp_path):
    page = tmp_path / "a.html"
    page.write_text(
        '<a href="gone.html">x</a> <a href="#gone">x</a> <a href="b.html#there">x</a>'
        '<a href="b.html#gone">x</a> <a href="../outside.html">x</a> <img src="gone.png">'
        '<a href="https://example.org/x">x</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    assert page_checks.broken_links(page, tmp_path) == [
        "#gone leads to no anchor of a.html.",
        "../outside.html leads out of the site.",
        "b.html#gone leads to no anchor of b.html.",
        "gone.html leads to no file.",
        "gone.png leads to no file.",
    ]


def test_a_heavy_page_fails_also_by_its_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(b"0" * 900)
    page = tmp_path / "a.html"
    page.write_text('<article><img src="a.png"></article>')
    assert page_checks.oversize(page, 1000) == []
    assert "at most 0.0 MB" in page_checks.oversize(page, 900)[0]


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        '<img src="http://example.org/x.png">',
    ],
)
def test_a_third_party_in_the_source_fails(tag):
    assert "is fetched from" in page_checks.third_party(tag)[0]


REPOSITORY = {"repository": "https://github.com/o/r", "branch": "main", "notebooks": "nb"}
LAUNCH = (
    '<a href="https://mybinder.org/v2/gh/o/r/nb?urlpath=lab/tree/a.ipynb">Binder</a>'
    '<a href="https://colab.research.google.com/github/o/r/blob/nb/a.ipynb">Colab</a>'
    '<a href="https://github.com/o/r/edit/main/a.md">edit</a>'
)


def test_right_launch_links_pass():
    assert page_checks.launch(LAUNCH, "a", **REPOSITORY) == []


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("a.ipynb", "a.md", "the launch link should be"),
        ("r/nb?", "r/main?", "the launch link should be"),
        ("blob/nb", "blob/main", "the launch link should be"),
        ("edit/main", "edit/nb", "no edit link"),
        ('">Binder', '.off">Binder', "the launch link should be"),
    ],
)
def test_a_launch_link_to_the_wrong_place_fails(old, new, problem):
    problems = page_checks.launch(LAUNCH.replace(old, new), "a", **REPOSITORY)
    assert any(problem in one for one in problems)


def test_symbols_that_are_undocumented_or_taught_nowhere_fail():
    page = (
        '<dl><dt id="lib.a.f"></dt><dd><p class="taught-in">x</p></dd>'
        '<dt id="lib.a.g"></dt><dd></dd></dl>'
    )
    problems = page_checks.taught({"a": ["f", "g", "h"], "b": ["x"]}, {"a": page, "c": ""}, "lib")
    assert problems == [
        "api/c documents no module of lib.",
        "lib.a.g is taught nowhere: no page of the course refers to it.",
        "lib.a.h is public but not documented in api/a.",
        "lib.b has no page in the API reference (_toc.yml).",
    ]


def test_a_public_module_without_all_fails(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"a\.py has no __all__"):
        page_checks.public_symbols(tmp_path)


# --- notebooks --------------------------------------------------------------------------------


def notebook(*outputs, count=1, tags=()):
    cell = nbformat.v4.new_code_cell("print(1)", execution_count=count, outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    return nbformat.v4.new_notebook(cells=[cell])


PRINTED = nbformat.v4.new_output("stream", text="1\n")
PICTURE = nbformat.v4.new_output("display_data", data={"image/png": ""})


def test_a_notebook_with_real_outputs_passes():
    assert executed_notebooks.vacuous(notebook(PRINTED)) == []


@pytest.mark.parametrize(
    "empty, problem",
    [
        (notebook(PRINTED, count=None), "cell 1 was never executed: print"),
        (notebook(), "no cell has an output"),
        (notebook(PICTURE), "no cell has an output"),
        (notebook(PRINTED, tags=["nbval-ignore-output"]), "no cell has an output"),
        (nbformat.v4.new_notebook(), "no cell has an output"),
    ],
)
def test_a_notebook_that_would_compare_nothing_fails(empty, problem):
    assert problem in executed_notebooks.vacuous(empty)[0]


def test_a_page_that_was_never_run_fails(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\n```{code-cell} ipython3\nprint(1)\n```\n")
    get_cache(str(tmp_path / "_build" / ".jupyter_cache"))
    problems = executed_notebooks.write(["a"], tmp_path, tmp_path / "out")
    assert problems == ["a: the cache holds no run of these cells; build the book first."]


@pytest.mark.parametrize("line", ["import os", "print(" + "1 + " * 20 + "1)", "print(gone)"])
def test_code_that_ruff_refuses_fails(tmp_path, line):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    jupytext.write(page, tmp_path / "a.ipynb")
    assert executed_notebooks.lint(tmp_path) == []
    page.cells.append(nbformat.v4.new_code_cell(line))
    jupytext.write(page, tmp_path / "a.ipynb")
    assert executed_notebooks.lint(tmp_path) == ["the code of a chapter does not pass ruff."]


def test_nothing_to_compare_fails(tmp_path):
    assert "no notebook with cells" in executed_notebooks.compare(tmp_path)[0]


@pytest.fixture
def run_again(tmp_path):
    """Compare a notebook whose one cell printed the given text; return the problems."""

    def compare(said, tags=()):
        book = notebook(nbformat.v4.new_output("stream", text=said), tags=tags)
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        jupytext.write(book, tmp_path / "a.ipynb")
        return executed_notebooks.compare(tmp_path)

    return compare


def test_a_cell_that_prints_the_same_again_passes(run_again):
    assert run_again("1\n") == []


def test_a_cell_that_prints_something_else_fails(run_again):
    assert run_again("2\n") == ["cells print something else when they run again."]


def test_a_cell_that_is_skipped_fails(run_again):
    assert run_again("1\n", tags=["nbval-skip"]) == ["nbval compared 0 cells of 1."]


# --- the browser ------------------------------------------------------------------------------

HEAD = '<!doctype html><html lang="en" data-theme="dark"><title>t</title><main><h1>t</h1><article>'


@pytest.fixture
def look(browser, serve):
    """Open HTML and return what a check says, and what the visit noted."""

    def at(html, check=lambda page: [], **options):
        with browser_checks.visit(browser, serve(HEAD + html), **options) as opened:
            return check(opened.page) + opened.problems

    return at


@pytest.mark.parametrize(
    "html, problem",
    [
        ("<script>console.error('it broke')</script>", "console error: it broke"),
        ("<script>gone()</script>", "script error: gone is not defined"),
        ("<img src='gone.png' alt='gone'>", "404 for"),
        ("<img src='https://example.org/x.png' alt='x'>", "third-party request: https://example"),
        ("<script>fetch('https://example.org/x')</script>", "third-party request: https://example"),
    ],
)
def test_errors_and_third_parties_are_noted(look, html, problem):
    assert any(
        one.startswith(problem) for one in look(html, lambda page: page.wait_for_timeout(50) or [])
    )


def test_a_sound_page_has_nothing_to_note(look):
    assert look("<p>Text.</p>", browser_checks.accessibility) == []


@pytest.mark.parametrize(
    "html, rule",
    [
        ("<img src='data:,'>", "image-alt"),
        ("<input type=range>", "label"),
        ("<p style='color:#999;background:#fff'>pale</p>", "color-contrast"),
        ("<button aria-label='Find'>Search</button>", "label-content-name-mismatch"),
    ],
)
def test_what_some_readers_cannot_use_fails(look, html, rule):
    assert any(rule in one for one in look(html, browser_checks.accessibility))


def test_what_is_wider_than_a_phone_fails_and_is_named(look):
    phone = {"viewport": browser_checks.PHONE}
    wide = "<div id=culprit style='width:600px'>x</div>"
    assert "culprit" in look(wide, browser_checks.too_wide, **phone)[0]
    held = f"<div style='overflow-x:auto'>{wide}</div>"
    assert look(held, browser_checks.too_wide, **phone) == []


PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


@pytest.mark.parametrize("style", ["filter:brightness(.8);background:#fff", "background:#ccc", ""])
def test_a_dimmed_or_transparent_picture_fails(look, style):
    html = f"<img src='{PIXEL}' alt='A pixel.' style='{style}'>"
    problems = look(html, browser_checks.dimmed_pictures)
    assert problems == ["picture is not an opaque white card in the dark: A pixel."]


@pytest.fixture
def sliders(monkeypatch):
    """HTML of a real slider block."""
    monkeypatch.setenv("GENCOH_FRONT_END", "static")

    def draw(power, scale):
        fig, ax = plots.figure(alt=f"Line chart of {scale} times x to the power {power}.")
        ax.plot([0, 0.5, 1], [0, scale * 0.5**power, scale])
        return fig

    block = explore.sliders(draw, power=[1, 2, 3], scale=[1, 2])
    return block._repr_mimebundle_()["text/html"]


def test_a_real_slider_block_passes_with_and_without_javascript(look, sliders):
    assert look(sliders, browser_checks.drive_sliders) == []
    assert look(sliders, browser_checks.without_script, java_script_enabled=False) == []


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("image.src =", "image.dataset.src =", "the picture does not follow slider 1"),
        ("image.alt = alt", "image.alt = ''", "the picture has no alt text"),
        ("readout.textContent = said", "readout.textContent = 'no'", "the table says"),
        (".hidden = false", ".hidden = true", "its sliders stay hidden"),
        ('play.addEventListener("click"', 'play.addEventListener("nothing"', "the play button"),
        ("values[k].textContent = data", "values[k].dataset.t = data", "announces"),
        ('input.setAttribute("aria-valuetext"', 'input.setAttribute("data-x"', "announces"),
        ("<label>", "<div>", "has no label"),
    ],
)
def test_a_broken_slider_fails(look, sliders, old, new, problem):
    assert old in sliders
    broken = sliders.replace(old, new)
    assert any(problem in one for one in look(broken, browser_checks.drive_sliders))


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("<details open>", "<details>", "no table of read-outs"),
        ('class="gencoh-controls" hidden', 'class="gencoh-controls"', "cannot move are shown"),
        ("<img ", "<img hidden ", "no first frame"),
    ],
)
def test_a_slider_that_needs_javascript_fails(look, sliders, old, new, problem):
    assert old in sliders
    broken = look(
        sliders.replace(old, new), browser_checks.without_script, java_script_enabled=False
    )
    assert any(problem in one for one in broken)


@pytest.fixture
def question(monkeypatch):
    """HTML of a real quiz."""
    monkeypatch.setenv("GENCOH_FRONT_END", "static")
    block = quiz.quiz("Half of 4?", [("2", True, "Twice 2 is 4."), ("1", False, "1 is a quarter.")])
    return block._repr_mimebundle_()["text/html"]


def test_a_real_quiz_passes_with_and_without_javascript(look, question):
    assert look(question, browser_checks.drive_quizzes) == []
    assert look(question, browser_checks.without_script, java_script_enabled=False) == []


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ('addEventListener("submit"', 'addEventListener("nothing"', "without its reason"),
        ('data-right="no"', 'data-right="yes"', "is not called"),
        (".hidden = false", ".hidden = true", "no button to check"),
        ("1 is a quarter.", "", "without its reason"),
        ("Choose an answer first.", "", "says nothing when nothing was chosen"),
    ],
)
def test_a_broken_quiz_fails(look, question, old, new, problem):
    assert old in question
    html = question.replace(old, new)
    if old.startswith("data-right"):
        html = question.replace('=== "yes"', '=== "no"')
    assert any(problem in one for one in look(html, browser_checks.drive_quizzes))


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("<summary>", "<summary hidden>", "no answers to unfold"),
        ("1 is a quarter.", "", "a reason stays hidden"),
        ('class="gencoh-check" hidden', 'class="gencoh-check"', "a button that does nothing"),
    ],
)
def test_a_quiz_that_needs_javascript_fails(look, question, old, new, problem):
    assert old in question
    broken = look(
        question.replace(old, new), browser_checks.without_script, java_script_enabled=False
    )
    assert any(problem in one for one in broken)
