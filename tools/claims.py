"""Claims of the chapters and the tests that carry their labels.

A claim is a theorem, lemma, proposition ... of a chapter. Its kind says what stands behind it:
``exact`` (an identity or inequality, tested), ``rate`` (a constructive instance whose slope is
tested) or ``quoted`` (printed as its source has it, untested). Tests say which claim they check
with ``@pytest.mark.claim("thm-coherence-range", kind="exact")``; they are read from their source,
so that a page can link to a line without importing or running anything.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bs4 import BeautifulSoup

__all__ = [
    "KINDS",
    "NO_CLAIM",
    "TESTED_KINDS",
    "Claim",
    "ClaimTest",
    "disagreements",
    "in_page",
    "in_tests",
]

#: Kind of claim -> what the page says about it.
KINDS = {
    "exact": "Exact: an identity or inequality, tested",
    "rate": "Rate: tested on a constructed instance, to a stated tolerance",
    "quoted": "Quoted from its source: no test",
}
TESTED_KINDS = ("exact", "rate")
#: Numbered environments that assert nothing that could be tested.
NO_CLAIM = frozenset(
    {"definition", "remark", "example", "proof", "algorithm", "notation", "assumption", "axiom"}
)


@dataclass(frozen=True)
class Claim:
    """One claim on a built page: its label, its kinds (one, if all is well), the page, its type."""

    label: str
    kinds: tuple[str, ...]
    page: str
    type: str


@dataclass(frozen=True, order=True)
class ClaimTest:
    """One test that carries a claim's label: file relative to the root, line of the test, name."""

    file: str
    line: int
    name: str
    kind: str


def in_page(html: str, page: str) -> list[Claim]:
    """Find the claims of a built page.

    >>> in_page('<div class="proof theorem exact admonition" id="thm-a"></div>', "intro")
    [Claim(label='thm-a', kinds=('exact',), page='intro', type='theorem')]
    """
    claims = []
    for node in BeautifulSoup(html, "html.parser").select("div.proof[id]"):
        classes = list(node["class"])
        kind_of_environment = classes[classes.index("proof") + 1]
        if kind_of_environment in NO_CLAIM or "proof-text" in classes:
            continue
        kinds = tuple(name for name in classes if name in KINDS)
        claims.append(Claim(str(node["id"]), kinds, page, kind_of_environment))
    return claims


def in_tests(folder: Path, root: Path) -> dict[str, list[ClaimTest]]:
    """Read every ``claim`` marker below ``folder``: label -> the tests that carry it, in order.

    Raises
    ------
    ValueError
        If a marker is not written with two literal strings: it could not be compared.
    """
    found: dict[str, list[ClaimTest]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        file = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                for decorator in node.decorator_list:
                    for label, kind in _markers(decorator, file):
                        found[label].append(ClaimTest(file, node.lineno, node.name, kind))
    return {label: sorted(set(tests)) for label, tests in sorted(found.items())}


def _markers(decorator: ast.expr, file: str) -> Iterable[tuple[str, str]]:
    """Yield label and kind of each claim marker in a decorator, also inside ``pytest.param``."""
    for node in ast.walk(decorator):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not ast.unparse(node.func).endswith("mark.claim"):
            continue
        keywords = {word.arg: word.value for word in node.keywords}
        values = [*node.args, *([keywords["kind"]] if "kind" in keywords else [])]
        texts = [
            v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)
        ]
        if len(values) != 2 or len(texts) != 2:
            raise ValueError(
                f'{file}:{node.lineno}: write the marker as claim("label", kind="exact"), '
                "both as literal strings, so that it can be compared with the page."
            )
        yield texts[0], texts[1]


def disagreements(claims: Iterable[Claim], tests: Mapping[str, Iterable[ClaimTest]]) -> list[str]:
    """Compare claims and tests both ways; return one line for each thing to mend.

    >>> disagreements([Claim("thm-a", ("exact",), "intro", "theorem")], {})
    ['intro: thm-a is exact, but no test carries claim("thm-a", kind="exact").']
    """
    problems = []
    by_label: dict[str, Claim] = {}
    for claim in claims:
        where = f"{claim.page}: {claim.label}"
        if re.fullmatch(rf"{claim.type}-\d+", claim.label):
            problems.append(f"{claim.page}: a {claim.type} has no :label:, so no test can name it.")
            continue
        if len(claim.kinds) != 1:
            problems.append(
                f"{where} needs one :class: of {', '.join(KINDS)}; it has {claim.kinds}."
            )
            continue
        by_label[claim.label] = claim
        kinds_tested = {test.kind for test in tests.get(claim.label, ())}
        kind = claim.kinds[0]
        if kind == "quoted" and kinds_tested:
            problems.append(
                f"{where} is quoted, but a test carries its label: call it exact or rate."
            )
        elif kind in TESTED_KINDS and kind not in kinds_tested:
            carries = f'but no test carries claim("{claim.label}", kind="{kind}")'
            problems.append(f"{where} is {kind}, {carries}.")
    for label, carriers in tests.items():
        for test in carriers:
            where = f"{test.file}:{test.line}: {test.name}"
            if test.kind not in TESTED_KINDS:
                problems.append(f"{where} has kind {test.kind!r}; a test is exact or rate.")
            elif label not in by_label:
                problems.append(f"{where} carries {label}, which no chapter claims.")
            elif by_label[label].kinds[0] in TESTED_KINDS and test.kind != by_label[label].kinds[0]:
                problems.append(
                    f"{where} says {test.kind}, the page says {by_label[label].kinds[0]}."
                )
    return problems
