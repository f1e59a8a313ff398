"""One browser and one loopback server for all tests of the built book."""

import functools
import http.server
import threading
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from tools import book, browser_checks, chromium


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def serving(folder):
    """Serve a folder on loopback, on a free port; yield its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    # The default of half a second would be waited for at the end of each test.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def site():
    """The built book."""
    if not (book.HTML / "index.html").exists():
        pytest.fail("there is no built book: run make book first", pytrace=False)
    return book.HTML


@pytest.fixture(scope="session")
def address(site):
    with serving(site) as url:
        yield url


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=chromium.find_or_install(), args=browser_checks.LAUNCH_OPTIONS
        )
        yield started
        started.close()


@pytest.fixture
def serve(tmp_path):
    """Serve HTML given as text; return its address."""
    servers = []

    def start(html, name="index.html"):
        (tmp_path / name).write_text(html, encoding="utf-8")
        server = serving(tmp_path)
        servers.append(server)
        return f"{server.__enter__()}/{name}"

    yield start
    for server in servers:
        server.__exit__(None, None, None)
