"""Checks of built pages: pure functions from HTML to a list of problems, one line each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

from tools import launch_links

__all__ = [
    "LARGEST_PAGE",
    "alt_text",
    "broken_links",
    "launch",
    "oversize",
    "public_symbols",
    "taught",
    "third_party",
]

LARGEST_PAGE = 3_000_000
_SHORTEST_ALT = 10
_PATH = re.compile(r"(^|/)_(images|static)/|^\S*/\S*$|\.(png|svg|jpe?g|gif|webp)$", re.IGNORECASE)


def alt_text(html: str) -> list[str]:
    """Report pictures of the article that have no description, or a file path for one.

    >>> alt_text('<article><img src="a.png" alt="_images/a.png"></article>')
    ['a.png: its alt text is a file path: _images/a.png']
    """
    problems = []
    for image in BeautifulSoup(html, "html.parser").select("article img"):
        name = str(image.get("src", ""))[:60]
        alt = image.get("alt")
        if alt is None:
            problems.append(f"{name}: no alt text.")
        elif _PATH.search(str(alt).strip()):
            problems.append(f"{name}: its alt text is a file path: {alt}")
        elif len(str(alt).strip()) < _SHORTEST_ALT:
            problems.append(f"{name}: its alt text says too little: {str(alt)!r}")
    return problems


def third_party(html: str) -> list[str]:
    """Report everything that the page would fetch from another host.

    >>> third_party('<script src="https://cdn.example/x.js"></script>')
    ['<script> is fetched from https://cdn.example/x.js']
    """
    fetched = "script[src], img[src], iframe[src], source[src], video[src], link[href]"
    harmless = {"canonical", "search", "next", "prev", "index", "author", "license"}
    problems = []
    for node in BeautifulSoup(html, "html.parser").select(fetched):
        address = str(node.get("src") or node.get("href"))
        if re.match(r"(https?:)?//", address) and not harmless & set(node.get("rel") or ()):
            problems.append(f"<{node.name}> is fetched from {address}")
    return problems


def broken_links(page: Path, site: Path) -> list[str]:
    """Report links, pictures and scripts of a page that lead to no file or anchor of the site."""
    problems = []
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    for node in soup.select("a[href], img[src], link[href], script[src]"):
        address = str(node.get("href") or node.get("src"))
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or address in ("", "#"):
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.is_relative_to(site.resolve()):
            problems.append(f"{address} leads out of the site.")
        elif not target.is_file():
            problems.append(f"{address} leads to no file.")
        elif target.suffix == ".html" and not _has_anchor(target, unquote(parts.fragment)):
            problems.append(f"{address} leads to no anchor of {target.name}.")
    return sorted(set(problems))


def _has_anchor(page: Path, anchor: str) -> bool:
    return not anchor or anchor in _anchors(page, page.stat().st_mtime_ns)


@cache
def _anchors(page: Path, changed: int) -> frozenset[str]:
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    named = {str(node["name"]) for node in soup.select("a[name]")}
    return frozenset(named | {str(node["id"]) for node in soup.select("[id]")})


def oversize(page: Path, largest: int = LARGEST_PAGE) -> list[str]:
    """Report a page that, with its pictures, is larger than ``largest`` bytes."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    sources = {str(image["src"]) for image in soup.select("article img[src]")}
    pictures = [page.parent / unquote(name) for name in sources if not urlsplit(name).scheme]
    size = sum(path.stat().st_size for path in (page, *pictures) if path.is_file())
    if size <= largest:
        return []
    return [f"{size / 1e6:.1f} MB with its pictures; at most {largest / 1e6:.1f} MB are allowed."]


def launch(html: str, page: str, *, repository: str, branch: str, notebooks: str) -> list[str]:
    """Report launch, edit and source links of a notebook page that lead to the wrong branch.

    Binder and Colab need the notebook on the published branch; editing stays with the source.
    """
    owner = urlsplit(repository).path.strip("/")
    wanted = {
        "mybinder.org": f"https://mybinder.org/v2/gh/{owner}/{notebooks}"
        f"?urlpath=lab/tree/{page}.ipynb",
        "colab.research.google.com": "https://colab.research.google.com/github/"
        f"{owner}/blob/{notebooks}/{page}.ipynb",
    }
    addresses = [str(a["href"]) for a in BeautifulSoup(html, "html.parser").select("a[href]")]
    problems = []
    for host, address in wanted.items():
        found = {one for one in addresses if urlsplit(one).hostname == host}
        if found != {address}:
            problems.append(f"the launch link should be {address}; found {sorted(found)}")
    edit = f"{repository}/edit/{branch}/{page}.md"
    if edit not in addresses:
        problems.append(f"no edit link to {edit}")
    astray = [
        one for one in addresses if f"/{notebooks}/" in one and not launch_links.is_launch(one)
    ]
    return problems + [f"{one} is no launch link but leads to the notebooks" for one in astray]


def public_symbols(package: Path) -> dict[str, list[str]]:
    """Return module -> names in ``__all__`` for each public module, read without importing it.

    Raises
    ------
    ValueError
        If a public module has no literal ``__all__``.
    """
    symbols: dict[str, list[str]] = {}
    for path in sorted(package.glob("[!_]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                symbols[path.stem] = [str(name) for name in ast.literal_eval(node.value)]
        if path.stem not in symbols:
            raise ValueError(f"{path.name} has no __all__: say which of its names are public.")
    return symbols


def taught(
    symbols: Mapping[str, Iterable[str]], pages: Mapping[str, str], package: str
) -> list[str]:
    """Report public symbols that the API reference lacks, or that no chapter mentions.

    ``pages`` is module -> HTML of its page; ``symbols`` comes from :func:`public_symbols`.
    """
    problems = []
    for module in sorted(set(pages) - set(symbols)):
        problems.append(f"api/{module} documents no module of {package}.")
    for module, names in symbols.items():
        if module not in pages:
            problems.append(f"{package}.{module} has no page in the API reference (_toc.yml).")
            continue
        soup = BeautifulSoup(pages[module], "html.parser")
        for name in names:
            full = f"{package}.{module}.{name}"
            term = soup.find("dt", id=full)
            if term is None:
                problems.append(f"{full} is public but not documented in api/{module}.")
                continue
            description = term.find_next_sibling("dd")
            if description is None or not description.find(
                "p", class_="taught-in", recursive=False
            ):
                problems.append(f"{full} is taught nowhere: no page of the course refers to it.")
    return problems
