"""Ask every external link of the built book whether it still leads somewhere.

It needs the internet, so it runs weekly and not with the other gates. Links are read from the built
pages, so that those which the build itself writes (to tests, to the source) are asked too.
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urldefrag

from bs4 import BeautifulSoup

from tools import book, launch_links

__all__ = ["ask", "collect", "dead", "main"]

_TIMEOUT = 20.0
_TRIES = 3
#: Answers of publishers who keep programs out: somebody is there.
_ALIVE = {401, 403, 405, 406, 418, 429, 999}


def collect(pages: Iterable[Path]) -> dict[str, list[str]]:
    """Return external address, without fragment -> names of the pages that link to it.

    Launch links are left out: Binder and Colab answer any address with the same program. So are
    the forms for a new issue, one a page.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for page in pages:
        for link in BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select(
            "a[href]"
        ):
            address = urldefrag(str(link["href"])).url
            if launch_links.is_launch(address) or "/issues/new?" in address:
                continue
            if address.startswith(("http://", "https://")):
                found[address].add(page.stem)
    return {address: sorted(names) for address, names in sorted(found.items())}


def ask(address: str, *, tries: int = _TRIES, pause: float = 5.0) -> str | None:
    """Return what is wrong with an address, or ``None``; a failure is tried again."""
    problem: str | None = None
    request = urllib.request.Request(address, headers={"User-Agent": "link check of a course"})
    for attempt in range(tries):
        if attempt:
            time.sleep(pause)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT):
                return None
        except urllib.error.HTTPError as answer:
            if answer.code in _ALIVE:
                return None
            problem = f"answers {answer.code}"
        except (OSError, HTTPException, ValueError) as error:
            problem = f"cannot be reached: {error}"
    return problem


def dead(
    links: dict[str, list[str]], question: Callable[[str], str | None] = ask
) -> tuple[str, ...]:
    """Ask all addresses, some at a time; return a line for each that is dead."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(question, links)
        return tuple(
            f"{', '.join(links[address])}: {address} {problem}"
            for address, problem in zip(links, answers, strict=True)
            if problem
        )


def main() -> int:
    """Ask the links of the built book; no links at all is a failure too."""
    links = collect(sorted(book.HTML.rglob("*.html")))
    problems = dead(links) if links else ("the built book has no external link: was it built?",)
    for problem in problems:
        print(f"error: {problem}")
    print(f"{len(links)} external links, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
