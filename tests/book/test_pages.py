"""What every built page promises, read from its HTML.

Each test asks one function of tools/ for a list of problems; test_gates_can_fail.py feeds the same
functions broken pages.
"""

from urllib.parse import urlsplit

import pytest

from tools import book, claims, page_checks, prose_numbers

PAGES = book.pages()
COURSE = [page for page in PAGES if page == "intro" or page.startswith("chapters/")]
NOTEBOOKS = [page for page in PAGES if book.source(page).exists() and book.has_cells(page)]
GENERATED = ("genindex", "search", "py-modindex")
every_page = pytest.mark.parametrize("page", PAGES)
course_page = pytest.mark.parametrize("page", COURSE)


def html_of(site, page):
    return book.html_page(page, site).read_text(encoding="utf-8")


@every_page
def test_every_picture_says_what_it_shows(site, page):
    assert page_checks.alt_text(html_of(site, page)) == []


@pytest.mark.parametrize("page", [*PAGES, *GENERATED])
def test_every_internal_link_leads_somewhere(site, page):
    assert page_checks.broken_links(book.html_page(page, site), site) == []


@pytest.mark.parametrize("page", [*PAGES, *GENERATED])
def test_a_page_fetches_nothing_from_a_third_party(site, page):
    assert page_checks.third_party(html_of(site, page)) == []


@every_page
def test_a_page_stays_under_three_megabytes(site, page):
    assert page_checks.oversize(book.html_page(page, site)) == []


@course_page
def test_no_number_in_prose_was_typed_without_a_reason(site, page):
    html = html_of(site, page)
    for one in prose_numbers.marked(html):
        print(f"{page}: {one.number} is given: {one.reason}")
    assert prose_numbers.typed(html) == []


def test_claims_of_the_chapters_and_of_the_tests_are_the_same(site):
    found = [claim for page in COURSE for claim in claims.in_page(html_of(site, page), page)]
    assert found, "no chapter makes a claim: the check would prove nothing"
    tests = claims.in_tests(book.ROOT / "tests", book.ROOT)
    assert claims.disagreements(found, tests) == []


@course_page
def test_every_claim_shows_what_stands_behind_it(site, page):
    html = html_of(site, page)
    lines = html.count('class="claim-kind ')
    assert lines == len(claims.in_page(html, page))


def test_every_public_symbol_is_documented_and_taught(site):
    symbols = page_checks.public_symbols(book.ROOT / "gencoh_lib")
    pages = {
        page.removeprefix("api/"): html_of(site, page)
        for page in PAGES
        if page.startswith("api/") and page != "api/index"
    }
    assert page_checks.taught(symbols, pages, "gencoh_lib") == []


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_launch_buttons_open_the_published_notebook_and_edit_links_the_source(site, page):
    repository = book.config()["repository"]
    assert (
        page_checks.launch(
            html_of(site, page),
            page,
            repository=repository["url"],
            branch=repository["branch"],
            notebooks=book.NOTEBOOKS_BRANCH,
        )
        == []
    )


def test_there_are_notebooks_to_launch():
    assert NOTEBOOKS


def test_owner_and_address_of_the_repository_stand_in_one_place():
    owner = urlsplit(book.config()["repository"]["url"]).path.strip("/")
    files = [path for path in book.tracked_files() if path.suffix != ".npz"]
    naming = [path.name for path in files if owner in path.read_text(encoding="utf-8")]
    assert naming == ["_config.yml"]
