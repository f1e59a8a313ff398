"""Every page in a real Chromium, cut off from every other host.

Two visits: one in light, dark and phone width, in which every slider and quiz is driven by
keyboard, and one without JavaScript.
"""

import pytest

from tools import book, browser_checks

PAGES = [*book.pages(), "genindex", "search", "py-modindex"]
every_page = pytest.mark.parametrize("page", PAGES)


@every_page
def test_a_page_is_sound_in_light_and_dark_driven_and_on_a_phone(browser, address, page):
    with browser_checks.visit(browser, f"{address}/{page}.html") as opened:
        problems = [f"light: {one}" for one in browser_checks.accessibility(opened.page)]
        problems += browser_checks.drive_sliders(opened.page)
        problems += browser_checks.drive_quizzes(opened.page)
        # What the quizzes answered is on the page by now.
        opened.page.emulate_media(color_scheme="dark")
        opened.page.wait_for_selector("html[data-theme=dark]")
        problems += [f"dark: {one}" for one in browser_checks.accessibility(opened.page)]
        problems += browser_checks.dimmed_pictures(opened.page)
        opened.page.set_viewport_size(browser_checks.PHONE)
        problems += browser_checks.too_wide(opened.page)
        problems += opened.problems
    assert problems == []


@every_page
def test_a_page_serves_a_reader_without_javascript(browser, address, page):
    with browser_checks.visit(
        browser, f"{address}/{page}.html", java_script_enabled=False
    ) as opened:
        problems = [*browser_checks.without_script(opened.page), *opened.problems]
        assert opened.page.locator("article h1").first.is_visible() or page not in book.pages()
    assert problems == []


def test_there_are_sliders_and_quizzes_to_drive(site):
    built = "".join(book.html_page(page, site).read_text(encoding="utf-8") for page in book.pages())
    assert 'class="gencoh gencoh-sliders"' in built
    assert 'class="gencoh gencoh-quiz"' in built


def test_formulas_are_set_without_any_other_host(browser, address, site):
    page = next(
        p for p in book.pages() if "math notranslate" in book.html_page(p, site).read_text()
    )
    with browser_checks.visit(browser, f"{address}/{page}.html") as opened:
        formulas = opened.page.locator("article .math")
        assert opened.page.locator("article mjx-container").count() >= formulas.count()
        assert opened.page.locator("article mjx-merror").count() == 0


def test_the_book_reads_offline_from_a_folder(browser, site):
    # The zip is unpacked and opened from disk: formulas and search must work there as well.
    page = next(
        p for p in book.pages() if "math notranslate" in book.html_page(p, site).read_text()
    )
    with browser_checks.visit(browser, book.html_page(page, site).as_uri()) as opened:
        assert opened.page.locator("article mjx-container").count() > 0
        opened.page.goto(f"{(site / 'search.html').as_uri()}?q=coherence")
        opened.page.wait_for_selector("text=/Search finished, found [1-9]/")
        assert opened.page.locator("#search-results li a").count() > 0
        assert opened.problems == []
