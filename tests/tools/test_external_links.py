"""External links are collected from built pages and asked; a dead one is named with its page."""

import http.server
import threading

import pytest

from tools import external_links


@pytest.fixture
def server():
    """A server that answers with the status that the path names; it notes what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(int(self.path.strip("/")))
            self.end_headers()

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


def test_links_are_collected_once_with_all_their_pages(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.html").write_text(
            '<a href="https://example.org/x#L1">x</a><a href="https://example.org/x#L2">x</a>'
            '<a href="local.html">y</a><a href="#z">z</a><a href="mailto:a@b.c">m</a>'
            '<a href="https://github.com/o/r/issues/new?title=a">issue</a>'
            '<a href="https://mybinder.org/v2/gh/o/r/n?urlpath=lab">Binder</a>'
        )
    pages = sorted(tmp_path.glob("*.html"))
    assert external_links.collect(pages) == {"https://example.org/x": ["a", "b"]}


@pytest.mark.parametrize("status", [200, 403, 429])
def test_a_server_that_answers_or_keeps_programs_out_is_alive(server, status):
    assert external_links.ask(f"{server[0]}/{status}") is None


@pytest.mark.parametrize("status", [404, 410, 500])
def test_a_dead_link_is_asked_again_and_then_named(server, status):
    home, asked = server
    assert external_links.ask(f"{home}/{status}", pause=0) == f"answers {status}"
    assert len(asked) == 3


def test_a_host_that_is_not_there_is_named():
    assert "cannot be reached" in external_links.ask("http://127.0.0.1:9/x", tries=1)


def test_each_dead_link_is_listed_with_its_page():
    links = {"https://a.org": ["intro"], "https://b.org": ["intro", "set-up"]}
    answers = {"https://a.org": None, "https://b.org": "answers 404"}
    assert external_links.dead(links, answers.get) == ("intro, set-up: https://b.org answers 404",)


def test_a_book_without_links_fails_rather_than_passing_unasked(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(external_links.book, "HTML", tmp_path)
    assert external_links.main() == 1
    assert "no external link" in capsys.readouterr().out
