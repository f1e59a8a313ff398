"""Sphinx extension of the course: claims, given numbers, links from the API back to the chapters.

* A claim (see :mod:`tools.claims`) gets one visible line: its kind in words and links to its tests.
* ``{given}`0.05 | the usual level``` marks a typed number with the reason why no cell computes it.
* ``{test}`tests/lib/test_x.py::test_name``` links to that test's line; no such test is a warning.
* Every symbol of the API reference lists the chapters that mention it ("Taught in").

What other packages write and should not, :mod:`tools.sphinx_mend` mends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from tools import claims
from tools.where_tests_are import locate

__all__ = ["GivenRole", "Mention", "TestRole", "setup"]

logger = logging.getLogger(__name__)
TESTS = "tests"


class Given(nodes.Inline, nodes.TextElement):
    """A number typed by hand, with the reason why in ``title``."""


class GivenRole(SphinxRole):
    """Role ``{given}`number | reason```."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Parse ``number | reason``; a missing reason is an error at that line."""
        number, _, reason = (part.strip() for part in self.text.partition("|"))
        if not number or not reason:
            message = self.inliner.reporter.error(
                f"given: write `number | why no cell computes it`, not `{self.text}`.",
                line=self.lineno,
            )
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        return [Given(self.rawtext, number, classes=["given"], title=reason)], []


def visit_given(translator: Any, node: Given) -> None:
    """Open the span; docutils would drop the title."""
    translator.body.append(translator.starttag(node, "span", "", title=node["title"]))


def depart_given(translator: Any, node: Given) -> None:
    """Close the span."""
    translator.body.append("</span>")


class TestLink(nodes.Inline, nodes.TextElement):
    """A reference to a test, until it is known at which line that stands."""


class TestRole(SphinxRole):
    """Role ``{test}`tests/lib/test_x.py::test_name```."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Leave the place; :func:`resolve_page` makes the link."""
        node = TestLink(self.rawtext, reference=self.text.strip())
        self.set_source_info(node)
        return [node], []


@dataclass(frozen=True)
class Mention:
    """A reference to a Python symbol on a page, as it was written, and the section it stands in."""

    target: str
    module: str | None
    cls: str | None
    role: str
    section: str


def _store(env: BuildEnvironment, name: str) -> dict[str, Any]:
    """Return a table of this extension, page -> data; it is pickled with the environment."""
    tables: dict[str, dict[str, Any]] = env.__dict__.setdefault("course_tables", {})
    return tables.setdefault(name, {})


def is_api(docname: str) -> bool:
    """Say whether a page belongs to the API reference rather than to the course."""
    return docname.startswith("api/")


def read_page(app: Sphinx, doctree: nodes.document) -> None:
    """Note the claims of a page and the symbols that it mentions."""
    docname = app.env.docname
    labels = _store(app.env, "claims")[docname] = {}
    for node in _claim_nodes(doctree):
        kinds = [name for name in node["classes"] if name in claims.KINDS]
        if len(kinds) != 1:
            logger.warning(
                "claim %s needs exactly one :class: of %s",
                node["ids"][0],
                ", ".join(claims.KINDS),
                location=node,
            )
            continue
        labels[node["ids"][0]] = kinds[0]
    _store(app.env, "tests")[docname] = [
        str(node["reference"]) for node in doctree.findall(TestLink)
    ]
    if not is_api(docname):
        _store(app.env, "mentions")[docname] = list(_mentions(doctree))


def _claim_nodes(doctree: nodes.document) -> Iterable[nodes.Element]:
    for node in doctree.findall(nodes.Element):
        if "realtype" in node and node["realtype"] not in claims.NO_CLAIM:
            yield node


def _mentions(doctree: nodes.document) -> Iterable[Mention]:
    for node in doctree.findall(addnodes.pending_xref):
        if node.get("refdomain") != "py":
            continue
        section: nodes.Node | None = node
        # The body of a theorem is a section too, but one without a name.
        while section is not None and not (isinstance(section, nodes.section) and section["names"]):
            section = section.parent
        anchor = section["ids"][0] if section is not None else ""
        yield Mention(
            node["reftarget"], node.get("py:module"), node.get("py:class"), node["reftype"], anchor
        )


def forget_page(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop what was noted about a page that changed or went."""
    for table in ("claims", "mentions", "tests"):
        _store(env, table).pop(docname, None)


def merge_pages(
    app: Sphinx, env: BuildEnvironment, docnames: Sequence[str], other: BuildEnvironment
) -> None:
    """Take over what a parallel reader noted."""
    for table in ("claims", "mentions", "tests"):
        _store(env, table).update(
            {name: data for name, data in _store(other, table).items() if name in docnames}
        )


def pages_to_rewrite(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Name the pages whose links changed although their own source did not.

    The API page of a symbol changes with the chapters; the page of a claim with the tests.
    """
    seen = _store(env, "seen")
    tests = claims.in_tests(Path(app.srcdir) / TESTS, Path(app.srcdir))
    linked = {one for links in _store(env, "tests").values() for one in links}
    lines = {one: _line_of(one, Path(app.srcdir)) for one in sorted(linked)}
    now = {"taught": repr(_taught_in(env)), "tests": repr((tests, lines))}
    changed = {name for name, value in now.items() if seen.get(name) != value}
    seen.update(now)
    pages = {
        page for table in ("claims", "tests") for page, found in _store(env, table).items() if found
    }
    api = {page for page in env.found_docs if is_api(page)}
    return sorted(
        (pages if "tests" in changed else set()) | (api if "taught" in changed else set())
    )


def _taught_in(env: BuildEnvironment) -> dict[str, list[tuple[str, str]]]:
    """Return symbol -> (page, section) of its first mention on each page, in the book's order.

    A mention of a method counts for its class too.
    """
    domain = env.get_domain("py")
    assert isinstance(domain, PythonDomain)
    mentions = _store(env, "mentions")
    ordered = [page for page in _reading_order(env) if page in mentions]
    taught: dict[str, dict[str, str]] = {}
    for page in ordered:
        for mention in mentions[page]:
            found = domain.find_obj(
                env, mention.module, mention.cls, mention.target, mention.role, 1
            )
            for full_name, entry in found[:1]:
                parts = full_name.split(".")
                names = (
                    {full_name} if entry.objtype == "module" else {full_name, ".".join(parts[:3])}
                )
                for name in names:
                    taught.setdefault(name, {}).setdefault(page, mention.section)
    return {name: list(pages.items()) for name, pages in sorted(taught.items())}


def _reading_order(env: BuildEnvironment) -> list[str]:
    """Return the pages in the order of the table of contents."""
    order: list[str] = []

    def walk(page: str) -> None:
        if page not in order:
            order.append(page)
            for child in env.toctree_includes.get(page, []):
                walk(child)

    walk(env.config.root_doc)
    return order


def _line_of(reference: str, root: Path) -> tuple[str, int] | None:
    try:
        return locate(reference, root)
    except LookupError:  # resolve_page complains, at the place of the reference
        return None


def _link_tests(app: Sphinx, doctree: nodes.document) -> None:
    for node in list(doctree.findall(TestLink)):
        name = node["reference"].rpartition("::")[2]
        try:
            file, line = locate(node["reference"], Path(app.srcdir))
        except LookupError as error:
            logger.warning("test: %s", error.args[0], location=node)
            node.replace_self(nodes.literal("", name))
            continue
        link = f"{_repository(app)}/{file}#L{line}"
        node.replace_self(
            nodes.reference("", "", nodes.literal("", name), refuri=link, internal=False)
        )


def _repository(app: Sphinx) -> str:
    options = app.config.html_theme_options
    return f"{options['repository_url']}/blob/{options['repository_branch']}"


def resolve_page(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Add what depends on other files: links to tests, the lines under claims and symbols."""
    _link_tests(app, doctree)
    if is_api(docname):
        _add_taught_in(app, doctree, docname)
        return
    kinds = _store(app.env, "claims").get(docname, {})
    if not kinds:
        return
    tests = claims.in_tests(Path(app.srcdir) / TESTS, Path(app.srcdir))
    for node in list(_claim_nodes(doctree)):
        label = node["ids"][0]
        if label in kinds:
            node += _claim_line(kinds[label], tests.get(label, []), _repository(app))


def _claim_line(kind: str, tests: Iterable[claims.ClaimTest], source: str) -> nodes.paragraph:
    """Return the visible line: the kind in words, then a link for each test."""
    line = nodes.paragraph("", claims.KINDS[kind], classes=["claim-kind", f"claim-{kind}"])
    for position, test in enumerate(tests):
        line += nodes.Text(": " if position == 0 else ", ")
        line += nodes.reference(
            "", test.name, refuri=f"{source}/{test.file}#L{test.line}", internal=False
        )
    line += nodes.Text(".")
    return line


def _add_taught_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    taught = _taught_in(app.env)
    for desc in doctree.findall(addnodes.desc):
        if desc.get("domain") != "py":
            continue
        signature, content = desc[0], desc[-1]
        name = ".".join(filter(None, (signature.get("module"), signature.get("fullname"))))
        if name not in taught or not isinstance(content, addnodes.desc_content):
            continue
        line = nodes.paragraph("", "Taught in: ", classes=["taught-in"])
        for position, (page, section) in enumerate(taught[name]):
            if position:
                line += nodes.Text(", ")
            uri = app.builder.get_relative_uri(docname, page) + (f"#{section}" if section else "")
            title = app.env.titles[page].astext()
            line += nodes.reference("", title, refuri=uri, internal=True)
        content += line


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything above."""
    app.add_node(Given, html=(visit_given, depart_given))
    app.add_role("given", GivenRole())
    app.add_role("test", TestRole())
    app.setup_extension("tools.sphinx_mend")
    app.connect("doctree-read", read_page)
    app.connect("env-purge-doc", forget_page)
    app.connect("env-merge-info", merge_pages)
    app.connect("env-updated", pages_to_rewrite)
    app.connect("doctree-resolved", resolve_page)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True}
