"""What is checked in a real browser: functions from an open page to a list of problems.

Blocks are found by the classes that the library gives them (``gencoh-sliders``, ``gencoh-quiz``)
and driven the way a reader does, with the keyboard. What a slider shows is compared with the table
of read-outs in the same block, which no script wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Response, Route

__all__ = [
    "LAUNCH_OPTIONS",
    "PHONE",
    "Visit",
    "accessibility",
    "dimmed_pictures",
    "drive_quizzes",
    "drive_sliders",
    "too_wide",
    "visit",
    "without_script",
]

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
#: A browser in a container has no sandbox of its own, and must not phone home.
LAUNCH_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
_SERIOUS = ("serious", "critical")


class Visit:
    """An open page, and what it asked for and complained about since it was opened."""

    def __init__(self, page: Page, home: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self._home = urlsplit(home).netloc
        page.route("**/*", self._keep_home)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._note(f"script error: {error}"))
        page.on("response", self._response)

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _keep_home(self, route: Route, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("data", "blob", "file") or parts.netloc == self._home:
            route.continue_()
            return
        self._note(f"third-party request: {request.url}")
        route.abort()

    def _console(self, message: ConsoleMessage) -> None:
        # What could not be fetched is noted with its address elsewhere.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self._note(f"console error: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self._note(f"{response.status} for {response.url}")


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """Open a page in a fresh context; every other host is cut off, and asking for it noted."""
    context = browser.new_context(**{"viewport": DESKTOP, "service_workers": "block", **options})
    context.set_default_timeout(10_000)
    try:
        opened = Visit(context.new_page(), url)
        opened.page.goto(url, wait_until="load")
        if options.get("java_script_enabled", True):
            opened.page.evaluate("() => window.MathJax?.startup?.promise")
            # Colours that are on their way from light to dark have a contrast of their own.
            opened.page.add_style_tag(content="*, *::before { transition: none !important }")
        yield opened
    finally:
        context.close()


def accessibility(page: Page) -> list[str]:
    """Run axe-core; report serious and critical violations with the elements concerned."""
    options = {"preload": False, "rules": {"label-content-name-mismatch": {"enabled": True}}}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"axe {one['impact']} {one['id']}: {one['help']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in _SERIOUS
        for node in one["nodes"]
    ]


def too_wide(page: Page) -> list[str]:
    """Report sideways scroll, with the elements that stick out."""
    found: list[str] = page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            const hidden = (e) => {
                for (let up = e.parentElement; up; up = up.parentElement)
                    if (getComputedStyle(up).overflowX !== 'visible') return true;
                return false;
            };
            return [...document.querySelectorAll('body *')]
                .filter((e) => e.getBoundingClientRect().right > width + 1 && !hidden(e))
                .map((e) => e.outerHTML.slice(0, 120));
        }"""
    )
    scroll = page.evaluate("document.documentElement.scrollWidth")
    width = page.evaluate("document.documentElement.clientWidth")
    if scroll <= width:
        return []
    return [f"scrolls sideways: {scroll} px wide on {width}: {'; '.join(found[:3])}"]


def dimmed_pictures(page: Page) -> list[str]:
    """Report pictures of the article that are filtered or have no opaque white ground."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('article img:not(.only-dark, .dark-light)')]
            .filter((image) => {
                for (let up = image; up; up = up.parentElement)
                    if (getComputedStyle(up).filter !== 'none') return true;
                return getComputedStyle(image).backgroundColor !== 'rgb(255, 255, 255)';
            })
            .map((image) => image.alt || image.src.slice(0, 80))"""
    )
    return [f"picture is not an opaque white card in the dark: {name}" for name in found]


def drive_sliders(page: Page) -> list[str]:
    """Move every slider over its whole range and play every block; report what does not follow."""
    problems = []
    for number, block in enumerate(page.locator(".gencoh-sliders").all(), 1):
        found = [*_unlabelled(block), *_sweep(page, block), *_play(block)]
        problems += [f"slider block {number}: {problem}" for problem in found]
    return problems


def _unlabelled(block: Locator) -> list[str]:
    names: list[str] = block.locator("input[type=range]").evaluate_all(
        "inputs => inputs.map(i => (i.labels[0]?.textContent ?? i.ariaLabel ?? '').trim())"
    )
    if not names:
        return ["has no slider."]
    return [f"slider {number} has no label." for number, name in enumerate(names, 1) if not name]


def _read_outs(block: Locator) -> dict[tuple[str, ...], str]:
    """Return values of the parameters -> read-out, from the table in the block."""
    rows: list[list[str]] = block.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    return {tuple(cells[:-1]): cells[-1] for cells in rows}


_STATE = """block => ({
    values: [...block.querySelectorAll('input[type=range]')]
        .map(input => input.getAttribute('aria-valuetext')),
    shown: [...block.querySelectorAll('.gencoh-value')].map(node => node.textContent.trim()),
    said: block.querySelector('.gencoh-readout')?.textContent.trim(),
    picture: block.querySelector('img')?.src,
    alt: block.querySelector('img')?.alt,
})"""


def _sweep(page: Page, block: Locator) -> list[str]:
    problems: list[str] = []
    table = _read_outs(block)
    inputs = block.locator("input[type=range]")
    for position in range(inputs.count()):
        slider = inputs.nth(position)
        if not slider.is_visible():
            return ["its sliders stay hidden."]
        slider.focus()
        page.keyboard.press("Home")
        pictures, settings = set(), set()
        for step in range(int(slider.get_attribute("max") or 0) + 1):
            if step:
                page.keyboard.press("ArrowRight")
            state = block.evaluate(_STATE)
            pictures.add(state["picture"])
            settings.add(state["values"][position])
            problems += _mismatch(state, table)
        if len(settings) < 2:
            problems.append(f"slider {position + 1} does not move.")
        elif len(pictures) < 2:
            problems.append(f"the picture does not follow slider {position + 1}.")
        # Left at its end, so that the next slider is tried at another place than the first.
    if not block.locator("img").evaluate("image => image.decode().then(() => true, () => false)"):
        problems.append("its picture cannot be decoded.")
    return list(dict.fromkeys(problems))


def _mismatch(state: dict[str, Any], table: dict[tuple[str, ...], str]) -> list[str]:
    values = tuple(state["values"])
    if list(values) != state["shown"]:
        return [f"announces {values} but shows {state['shown']}."]
    if values not in table:
        return [f"the table has no row for {values}."]
    if table[values] != state["said"]:
        return [f"at {values} it reads {state['said']!r}, the table says {table[values]!r}."]
    if not (state["alt"] or "").strip():
        return [f"at {values} the picture has no alt text."]
    return []


def _play(block: Locator) -> list[str]:
    """Press play from the start; the first slider must move by itself, and stop when told."""
    button = block.locator("button.gencoh-play")
    if button.count() != 1 or not button.is_visible():
        return ["has no play button."]
    lead = block.locator("input[type=range]").first
    lead.focus()
    lead.press("Home")
    before = block.evaluate(_STATE)["said"]
    button.press("Enter")
    playing = button.inner_text()
    moved = int(lead.input_value()) > 0 and block.evaluate(_STATE)["said"] != before
    button.press("Enter")
    problems = [] if moved else ["the play button moves nothing."]
    if button.inner_text() == playing:
        problems.append("the play button does not say whether it plays.")
    return problems


def drive_quizzes(page: Page) -> list[str]:
    """Choose every option of every quiz; report one that is not answered with its own reason."""
    problems = []
    for number, block in enumerate(page.locator(".gencoh-quiz").all(), 1):
        problems += [f"quiz {number}: {problem}" for problem in _choose_each(block)]
    return problems


def _choose_each(block: Locator) -> list[str]:
    button = block.locator("button.gencoh-check")
    choices = block.locator("input[name=choice]")
    answers = block.locator("details li")
    if button.count() != 1 or not button.is_visible():
        return ["has no button to check the answer."]
    if choices.count() < 2 or choices.count() != answers.count():
        return [f"has {choices.count()} options and {answers.count()} answers."]
    feedback = block.locator(".gencoh-feedback[role=status]")
    button.press("Enter")
    problems = [] if _text(feedback) else ["says nothing when nothing was chosen."]
    for position in range(choices.count()):
        choice = choices.nth(position)
        choice.focus()
        choice.press("Space")
        button.press("Enter")
        said, answer = _text(feedback), answers.nth(position)
        right = answer.get_attribute("data-right") == "yes"
        reason = _text(answer.locator(".gencoh-reason"))
        if not reason or reason not in said:
            problems.append(f"option {position + 1} is answered {said!r}, without its reason.")
        if feedback.locator(".gencoh-right" if right else ".gencoh-wrong").count() == 0:
            problems.append(f"option {position + 1} is not called {'right' if right else 'wrong'}.")
        if choice.get_attribute("type") == "checkbox":
            choice.press("Space")
    return problems


def _text(locator: Locator) -> str:
    return " ".join((locator.text_content() or "").split())


def without_script(page: Page) -> list[str]:
    """Report blocks that say nothing to a reader whose browser runs no script."""
    problems = []
    for number, block in enumerate(page.locator(".gencoh-sliders").all(), 1):
        if not block.locator("img").first.is_visible():
            problems.append(f"slider block {number}: no first frame without JavaScript.")
        rows = block.locator("tbody tr")
        if rows.count() < 2 or not rows.first.is_visible():
            problems.append(f"slider block {number}: no table of read-outs without JavaScript.")
        if block.locator("input[type=range]").first.is_visible():
            problems.append(f"slider block {number}: sliders that cannot move are shown.")
    for number, block in enumerate(page.locator(".gencoh-quiz").all(), 1):
        fold = block.locator("details > summary")
        if fold.count() != 1 or not fold.is_visible():
            problems.append(f"quiz {number}: no answers to unfold without JavaScript.")
            continue
        fold.click()
        reasons = block.locator("details li .gencoh-reason")
        if reasons.count() != block.locator("input[name=choice]").count():
            problems.append(f"quiz {number}: an option has no reason without JavaScript.")
        elif not all(_text(one) and one.is_visible() for one in reasons.all()):
            problems.append(f"quiz {number}: a reason stays hidden without JavaScript.")
        if block.locator("button.gencoh-check").is_visible():
            problems.append(f"quiz {number}: a button that does nothing is shown.")
    return problems
