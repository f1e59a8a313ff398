"""Rewrite the MyST Markdown of a chapter as Markdown that any notebook viewer shows.

Colab and Jupyter know neither directives nor roles: a theorem would stand there as a block of
code. Blocks become quotations or folded details, references become words, mathematics becomes
dollars. The online page stays the better one to read; this is for those who run the cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["citations", "labels", "to_plain"]

_OPEN = re.compile(r"^\s*(?P<fence>`{3,}|:{3,})\s*\{(?P<name>[^}]+)\}\s*(?P<argument>.*?)\s*$")
_CODE = re.compile(r"^\s*(?P<fence>`{3,}|~{3,})(?!.*`)")
_OPTION = re.compile(r"^\s*:(?P<key>[\w-]+):\s*(?P<value>.*?)\s*$")
_ROLE = re.compile(r"\{(?P<role>[\w:+-]+)\}(?P<ticks>`+)(?P<text>.+?)(?P=ticks)(?!`)", re.DOTALL)
_EXPLICIT = re.compile(r"^(?P<text>.*?)\s*<(?P<target>[^<>]+)>$", re.DOTALL)
#: Folded on the page, so folded here.
_FOLDED = frozenset({"dropdown", "solution", "hint"})
#: Lists that the page builds from the rest of the book.
_DROPPED = frozenset({"bibliography", "tableofcontents", "toctree", "contents", "index"})


def citations(bibtex: str) -> dict[str, str]:
    r"""Return key -> "Family (year)" for each entry of a BibTeX file.

    >>> citations("@book{k1, author = {L{\\'e}vy, P. and Doob, J. L.}, year = {1950}}")
    {'k1': 'Lévy and Doob (1950)'}
    """
    found = {}
    for entry in re.split(r"^@", bibtex, flags=re.MULTILINE)[1:]:
        key = re.match(r"\w+\{\s*([^,\s]+)", entry)
        author = re.search(r"author\s*=\s*\{((?:[^{}]|\{[^{}]*\})*)\}", entry)
        year = re.search(r"year\s*=\s*\{?(\d{4})", entry)
        if not (key and author and year):
            continue
        families = [_family(name) for name in author[1].split(" and ")]
        who = families[0] + " et al." if len(families) > 2 else " and ".join(families)
        found[key[1]] = f"{who} ({year[1]})"
    return found


def _family(name: str) -> str:
    """Return the family name of "Family, Given" or "Given Family"."""
    family, comma, _ = _untexed(name).partition(",")
    return family if comma else family.split()[-1]


def _untexed(name: str) -> str:
    for tex, sign in ((r"{\k{e}}", "ę"), (r"{\l}", "ł"), (r"\k{e}", "ę"), (r"\l ", "ł")):
        name = name.replace(tex, sign)
    for accent, marks in (("'", "áéíóú"), ('"', "äëïöü"), ("`", "àèìòù")):
        for letter, sign in zip("aeiou", marks, strict=True):
            name = name.replace(rf"{{\{accent}{letter}}}", sign)
    return name.replace("{", "").replace("}", "").strip()


def labels(markdown: str) -> dict[str, str]:
    r"""Return label -> words for every labelled block of a page.

    >>> labels("```{prf:theorem} Range\n:label: thm-range\nIt holds.\n```")
    {'thm-range': 'Theorem (Range)'}
    """
    found = {}
    lines = markdown.splitlines()
    for number, line in enumerate(lines):
        if opening := _OPEN.match(line):
            options, _ = _options(lines[number + 1 :])
            if "label" in options:
                found[options["label"]] = _title(opening["name"], opening["argument"])
    return found


def to_plain(
    markdown: str,
    titles: Mapping[str, str] | None = None,
    cited: Mapping[str, str] | None = None,
) -> str:
    """Return the text of one cell as plain Markdown.

    Parameters
    ----------
    markdown : str
        MyST Markdown.
    titles : mapping of str to str
        What to call a labelled block, from :func:`labels`; an unknown label stays as it is.
    cited : mapping of str to str
        What to call a source, from :func:`citations`; an unknown key stays as it is.

    Returns
    -------
    str
        Markdown without directives, roles, targets and comments.

    Examples
    --------
    >>> to_plain("See {py:func}`~gencoh_lib.data.load` and {given}`0.05 | the usual level`.")
    'See `load` and 0.05.'
    """
    return "\n".join(_blocks(markdown.splitlines(), titles or {}, cited or {}))


def _blocks(
    lines: Sequence[str], titles: Mapping[str, str], cited: Mapping[str, str]
) -> Iterator[str]:
    """Yield the lines, each directive rewritten, each run of prose with its roles in words."""
    prose: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        opening, code = _OPEN.match(line), _CODE.match(line)
        if not (opening or code):
            if not re.match(r"^(\([\w-]+\)=|% .*|%)\s*$", line):
                prose.append(line)
            number += 1
            continue
        yield from _prose(prose, titles, cited)
        prose = []
        fence = opening["fence"] if opening else code["fence"] if code else ""
        end = _closing(lines, number + 1, fence)
        if opening:
            body = lines[number + 1 : end]
            yield from _directive(opening["name"], opening["argument"], body, titles, cited)
        else:
            yield from lines[number : end + 1]
        number = end + 1
    yield from _prose(prose, titles, cited)


def _closing(lines: Sequence[str], start: int, fence: str) -> int:
    """Return the line that closes a fence; a fence left open reaches to the end."""
    for number in range(start, len(lines)):
        text = lines[number].strip()
        if len(text) >= len(fence) and set(text) == {fence[0]}:
            return number
    return len(lines)


def _options(lines: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split the options at the head of a directive from its body."""
    options: dict[str, str] = {}
    for number, line in enumerate(lines):
        option = _OPTION.match(line)
        if option is None:
            return options, list(lines[number:])
        options[option["key"]] = option["value"]
    return options, []


def _title(name: str, argument: str) -> str:
    kind = name.rpartition(":")[2].replace("-", " ").capitalize()
    if kind in ("Admonition", "Dropdown"):
        return argument
    return f"{kind} ({argument})" if argument else kind


def _directive(
    name: str,
    argument: str,
    lines: Sequence[str],
    titles: Mapping[str, str],
    cited: Mapping[str, str],
) -> Iterator[str]:
    options, body = _options(lines)
    while body and not body[0].strip():
        body.pop(0)
    if name in _DROPPED:
        return
    if name == "math":
        yield from ("$$", *body, "$$")
        return
    if name in ("figure", "image"):
        yield f"![{options.get('alt', '')}]({argument})"
        yield from ("", *_blocks(body, titles, cited))
        return
    inner = list(_blocks(body, titles, cited))
    if name.startswith(("solution", "exercise")):  # their argument is a label or a reference
        argument = "" if name.startswith("solution") else argument
    title = _roles(_title(name, argument), titles, cited)
    if name in _FOLDED or "dropdown" in options.get("class", "").split():
        yield from (f"<details><summary>{title}</summary>", "", *inner, "", "</details>")
        return
    yield from (f"> **{title}**", ">", *(f"> {line}".rstrip() for line in inner))


def _prose(
    lines: Sequence[str], titles: Mapping[str, str], cited: Mapping[str, str]
) -> Iterator[str]:
    if lines:
        yield from _roles("\n".join(lines), titles, cited).split("\n")


def _roles(text: str, titles: Mapping[str, str], cited: Mapping[str, str]) -> str:
    return _ROLE.sub(lambda match: _role(match["role"], match["text"], titles, cited), text)


def _role(role: str, text: str, titles: Mapping[str, str], cited: Mapping[str, str]) -> str:
    """Say in words what a role shows on the page."""
    if role.startswith("cite"):
        said = "; ".join(cited.get(key.strip(), key.strip()) for key in text.split(","))
        return "(" + re.sub(r" \((\d+)\)", r", \1", said) + ")" if role == "cite:p" else said
    if role.startswith("glue"):
        return f"⟨{text.split(':')[0]}⟩"
    if role == "given":
        return text.partition("|")[0].strip()
    if role == "math":
        return f"${text}$"
    explicit = _EXPLICIT.match(text)
    if explicit:
        return explicit["text"]
    if role.startswith("py:"):
        return f"`{text.rpartition('.')[2] if text.startswith('~') else text.lstrip('!')}`"
    return titles.get(text, text)
