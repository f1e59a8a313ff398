"""Sphinx extension that mends what other packages put on a page.

* sphinx-proof and sphinx-exercise give the same id to every block; a folded proof has no title.
* Thebe is loaded though it is switched off.
* Labels of controls differ from their visible text, or are missing; entries of a bibliography have
  a role that their list may not hold.
* Launch buttons point to the source, which neither Binder nor Colab can open.
* autodoc writes a default that is a function in a way that Sphinx cannot parse, and calls it a
  method.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

from tools import book, launch_links

__all__ = ["setup"]

#: Tags as other packages write them -> as assistive technology needs them.
_MENDED = {
    # A label that differs from the visible text cannot be spoken to a voice control.
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # Entries of a bibliography have a deprecated role, which no list may hold.
    'role="doc-biblioentry"': 'role="listitem"',
}


def tell_ids_apart(app: Sphinx, doctree: nodes.document) -> None:
    """Number the ids that sphinx-proof and sphinx-exercise give to every block alike."""
    alike = {"proof", "proof-content", "exercise-content", "solution-content"}
    blocks = [node for node in doctree.findall(nodes.Element) if alike & {*node.get("ids", ())}]
    for number, node in enumerate(blocks):
        if "proof" in node["ids"]:
            node["classes"].append("proof-text")  # sphinx-proof's style goes by the id
            if "dropdown" in node["classes"]:
                _give_title(node)
        node["ids"] = [f"{name}-{number}" if name in alike else name for name in node["ids"]]


def _give_title(proof: nodes.Element) -> None:
    """Give a folded proof a title to unfold it by; without one the fold's script fails."""
    text = next(iter(proof.findall(nodes.Text)), None)
    if text is not None and text.startswith("Proof. "):
        text.parent.replace(text, nodes.Text(text.removeprefix("Proof. ")))
    proof.insert(0, nodes.title("", "Proof"))


def mend_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Mend what the theme and myst-nb put on a page; runs after their own handlers."""
    branch = app.config.html_theme_options.get("repository_branch", "main")
    for group in context.get("header_buttons", ()):
        for button in group.get("buttons", ()):
            if launch_links.is_launch(button.get("url", "")):
                button["url"] = launch_links.to_notebook(
                    button["url"], branch, book.NOTEBOOKS_BRANCH
                )
    for theirs, ours in _MENDED.items():
        context["body"] = context.get("body", "").replace(theirs, ours)
    if "generate_toctree_html" in context:
        tree = context["generate_toctree_html"]
        context["generate_toctree_html"] = lambda *args, **options: _name_toggles(
            str(tree(*args, **options))
        )


def name_defaults(
    app: Sphinx,
    what: str,
    name: str,
    thing: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write a default that is a function by its name: Sphinx cannot parse ``<function f>``."""
    return signature and re.sub(r"<function ([\w.]+)>", r"\1", signature), returns


def skip_defaults(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """Leave out a field of a dataclass whose default is a function: it is not a method."""
    is_default = what == "class" and inspect.isfunction(thing) and "." not in thing.__qualname__
    return True if is_default else None


def _name_toggles(tree: str) -> str:
    """Name each control that unfolds a part of the navigation after the page it belongs to."""
    return re.sub(
        r">([^<>]+)</a><details([^>]*)><summary>",
        r'>\1</a><details\2><summary aria-label="Pages of: \1">',
        tree,
    )


def drop_thebe(app: Sphinx, config: Config) -> None:
    """Unregister sphinx-thebe, which jupyter-book always loads.

    Switched off, it still names a CDN on every page and declares a constant twice, which is an
    error in the reader's console.
    """
    for event, listeners in app.events.listeners.items():
        app.events.listeners[event] = [
            one for one in listeners if one.handler.__module__ != "sphinx_thebe"
        ]
    app.registry.css_files[:] = [
        entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything above."""
    app.connect("config-inited", drop_thebe)
    app.connect("doctree-read", tell_ids_apart)
    app.connect("html-page-context", mend_page, priority=900)  # after the theme's own handlers
    if "sphinx.ext.autodoc" in app.extensions:
        app.connect("autodoc-process-signature", name_defaults)
        app.connect("autodoc-skip-member", skip_defaults)
    return {"version": "1", "parallel_read_safe": True}
