"""Downloads: the target is whole and verified or not there, whatever the server does.

Every test talks to a server of its own on the loopback interface, which can be told to break off,
to ignore Range, to lie about it, to stall or to send something else. A guard refuses any other
address.
"""

import hashlib
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gencoh_lib import download
from gencoh_lib.download import DownloadError, fetch

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes: several chunks, none of them aligned
IMPOSSIBLE_HOST = "a..b"  # an empty label: refused before anybody is asked for the address
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; the other attributes say how it misbehaves, `ranges` what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cut_after = None  # bytes of the body before the connection is closed
        self.stall = None  # an event that the server waits for after the cut
        self.pause = 0  # seconds in the middle of the body
        self.honours_range = True
        self.shift = 0  # a range starts this many bytes after the one that was asked for
        self.status = None
        self.length = None  # what to announce instead of the truth
        self.transfer = "length"  # or "chunked", or "close": the end of the connection is the end
        self.ranges = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/folder/digits.bin"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        self.close_connection = True
        if server.status is not None:
            self.send_error(server.status)
            return
        start = 0
        if asked and server.honours_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + server.shift
            if start >= len(server.content):
                self.send_error(416)
                return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if server.transfer == "length":
            self.send_header("Content-Length", server.length or str(len(body)))
        if server.transfer == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = body if server.cut_after is None else body[: server.cut_after]
        if server.transfer == "chunked":
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
            if server.cut_after is None:
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(sent[: len(sent) // 2])
            self.wfile.flush()
            time.sleep(server.pause)
            self.wfile.write(sent[len(sent) // 2 :])
        if server.stall is not None:
            self.wfile.flush()
            server.stall.wait(10)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Fail loudly if a test would reach for any host that exists, or go through a proxy."""
    connect = socket.create_connection

    def guarded(address, *arguments, **keywords):
        assert address[0] in {"127.0.0.1", IMPOSSIBLE_HOST}, f"a test asked for {address[0]}"
        return connect(address, *arguments, **keywords)

    monkeypatch.setattr(socket, "create_connection", guarded)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("GENCOH_FRONT_END", "static")


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "digits.bin"


def part_of(target):
    return target.with_name("digits.bin.part")


def half_done(target, content=CONTENT[:100_000]):
    target.parent.mkdir()
    part_of(target).write_bytes(content)


def assert_done(target):
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]  # no part, no lock


@pytest.mark.parametrize("transfer", ["length", "chunked", "close"])
def test_file_arrives_whole_however_it_is_sent(server, target, transfer):
    server.transfer = transfer
    assert fetch(server.url, target, sha256=CHECKSUM) == target
    assert_done(target)
    assert server.ranges == [None]


@pytest.mark.parametrize("length", ["abc", "-5", "1e3"])
def test_length_that_is_no_number_counts_as_none(server, target, length):
    server.length = length
    fetch(server.url, target, sha256=CHECKSUM)
    assert_done(target)


def test_file_that_is_there_is_not_fetched_again(server, target):
    fetch(server.url, target, sha256=CHECKSUM)
    assert fetch(server.url, target, sha256=CHECKSUM.upper()) == target
    assert len(server.ranges) == 1


def test_cut_off_download_leaves_no_target_and_is_resumed(server, target):
    server.cut_after = 100_000
    with pytest.raises(DownloadError, match="cut off after 100,000 of 307,200 bytes") as caught:
        fetch(server.url, target, sha256=CHECKSUM)
    assert "call again to go on from there" in str(caught.value)
    assert str(part_of(target)) in str(caught.value)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:100_000]

    with pytest.raises(DownloadError, match="cut off after 200,000 of 307,200 bytes"):
        fetch(server.url, target, sha256=CHECKSUM)
    server.cut_after = None
    fetch(server.url, target, sha256=CHECKSUM)
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert_done(target)


@given(cuts=st.lists(st.integers(0, 200_000), max_size=4), honours_range=st.booleans())
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_number_of_cuts_ends_in_the_same_file(server, target, cuts, honours_range):
    target.unlink(missing_ok=True)
    server.honours_range = honours_range
    for cut in cuts:
        server.cut_after = cut
        try:
            fetch(server.url, target, sha256=CHECKSUM)
        except DownloadError:
            assert not target.exists()
            assert CONTENT.startswith(part_of(target).read_bytes())
    server.cut_after = None
    fetch(server.url, target, sha256=CHECKSUM)
    assert_done(target)


def test_chunked_transfer_that_breaks_off_is_noticed(server, target):
    server.transfer, server.cut_after = "chunked", 100_000
    with pytest.raises(DownloadError, match="of an unknown number of bytes"):
        fetch(server.url, target, sha256=CHECKSUM)
    assert not target.exists()
    server.cut_after = None
    fetch(server.url, target, sha256=CHECKSUM)
    assert_done(target)


def test_silent_server_is_given_up(server, target):
    server.cut_after, server.stall = 100_000, threading.Event()
    try:
        with pytest.raises(DownloadError, match=r"cut off after .* \(timed out\)"):
            fetch(server.url, target, sha256=CHECKSUM, timeout=0.2)
    finally:
        server.stall.set()
    assert not target.exists()
    assert CONTENT.startswith(part_of(target).read_bytes())


def test_server_that_ignores_range_sends_all_of_it(server, target):
    half_done(target)
    server.honours_range = False
    fetch(server.url, target, sha256=CHECKSUM)
    assert server.ranges == ["bytes=100000-"]
    assert_done(target)


def test_server_that_answers_with_another_range_is_asked_for_all_of_it(server, target):
    half_done(target)
    server.shift = 1
    fetch(server.url, target, sha256=CHECKSUM)
    assert server.ranges == ["bytes=100000-", None]
    assert_done(target)


def test_part_longer_than_the_file_is_started_afresh(server, target):
    half_done(target, CONTENT + b"too much")
    fetch(server.url, target, sha256=CHECKSUM)
    assert server.ranges == ["bytes=307208-", None]
    assert_done(target)


def test_complete_part_needs_no_server(server, target):
    half_done(target, CONTENT)
    fetch(server.url, target, sha256=CHECKSUM)
    assert server.ranges == []
    assert_done(target)


def test_corrupt_download_is_deleted_and_said_to_be(server, target):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(
        DownloadError, match=f"instead of {CHECKSUM}: .* It was deleted; call again"
    ):
        fetch(server.url, target, sha256=CHECKSUM)
    assert not target.exists()
    assert not part_of(target).exists()
    server.content = CONTENT
    fetch(server.url, target, sha256=CHECKSUM)
    assert server.ranges == [None, None]
    assert_done(target)


def test_corrupt_part_is_found_out_and_does_not_stick(server, target):
    half_done(target, b"\0" * 100_000)
    with pytest.raises(DownloadError, match="It was deleted"):
        fetch(server.url, target, sha256=CHECKSUM)
    fetch(server.url, target, sha256=CHECKSUM)
    assert_done(target)


def test_offline_says_what_from_where_and_where_to_put_it(target):
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        url = f"http://{host}/digits.bin"
        with pytest.raises(DownloadError, match=f"cannot reach {host}") as caught:
            fetch(url, target, sha256=CHECKSUM)
    for said in ("refused", f"download {url} by hand", f"save it as {target}", CHECKSUM):
        assert said in str(caught.value)
    assert not target.exists()
    assert not part_of(target).exists()


def test_name_that_no_host_can_have_is_not_reached(target):
    with pytest.raises(DownloadError, match=r"cannot reach a\.\.b .* by hand"):
        fetch(f"http://{IMPOSSIBLE_HOST}/digits.bin", target, sha256=CHECKSUM)


def test_offline_keeps_what_an_earlier_attempt_got(target, monkeypatch):
    half_done(target)

    def no_name_server(request, timeout):
        raise urllib.error.URLError(socket.gaierror("Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", no_name_server)
    with pytest.raises(DownloadError, match=r"cannot reach example\.org \(Name or service"):
        fetch("https://example.org/digits.bin", target, sha256=CHECKSUM)
    assert part_of(target).read_bytes() == CONTENT[:100_000]


@pytest.mark.parametrize("status", [404, 503])
@pytest.mark.parametrize("resuming", [False, True])
def test_answer_of_the_server_is_passed_on(server, target, status, resuming):
    if resuming:
        half_done(target)
    server.status = status
    with pytest.raises(DownloadError, match=f"digits.bin answered {status} .*by hand and save it"):
        fetch(server.url, target, sha256=CHECKSUM)
    assert not target.exists()
    assert part_of(target).exists() == resuming


def test_another_file_in_the_place_is_left_alone(server, target):
    target.parent.mkdir()
    target.write_bytes(b"my own notes")
    with pytest.raises(
        DownloadError, match=r"exists but has SHA-256 .* left alone; delete or rename"
    ):
        fetch(server.url, target, sha256=CHECKSUM)
    assert target.read_bytes() == b"my own notes"
    assert server.ranges == []


def parent_is_a_file(target):
    target.parent.write_bytes(b"")


def target_is_a_folder(target):
    target.mkdir(parents=True)


def part_is_a_folder(target):
    part_of(target).mkdir(parents=True)


@pytest.mark.parametrize("obstacle", [parent_is_a_file, target_is_a_folder, part_is_a_folder])
def test_what_is_in_the_way_is_named_with_the_remedy(server, target, obstacle):
    obstacle(target)
    with pytest.raises(
        DownloadError, match=r"cannot read or write .*folder=.*GENCOH_DATA"
    ) as caught:
        fetch(server.url, target, sha256=CHECKSUM)
    assert str(target) in str(caught.value)
    assert server.ranges == []
    assert not target.is_file()


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_folder_that_cannot_be_written_to_is_named_with_the_remedy(
    server, target, monkeypatch, call
):
    def refused(path, *arguments, **keywords):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(target), call, refused)  # root may write anywhere, so no chmod
    with pytest.raises(DownloadError, match=r"Permission denied.*folder=.*GENCOH_DATA"):
        fetch(server.url, target, sha256=CHECKSUM)
    monkeypatch.undo()
    assert not target.exists()


def test_interrupt_keeps_the_part_and_frees_the_lock(server, target, monkeypatch):
    def interrupted(iterable, *, total, description):
        chunks = iter(iterable)
        yield next(chunks)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, target, sha256=CHECKSUM)
    assert not target.exists()
    kept = part_of(target).stat().st_size
    assert 0 < kept < len(CONTENT)
    fetch(server.url, target, sha256=CHECKSUM)
    assert server.ranges == [None, f"bytes={kept}-"]
    assert_done(target)


def test_two_at_once_take_turns_and_fetch_it_once(server, target):
    server.pause = 0.2  # long enough for the others to arrive while the first is half-way
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(fetch, server.url, target, sha256=CHECKSUM) for _ in range(4)]
        assert {run.result() for run in runs} == {target}
    assert server.ranges == [None]
    assert_done(target)


def test_progress_counts_chunks_and_names_the_file(server, target, monkeypatch):
    seen = {}

    def spy(iterable, *, total, description):
        chunks = list(iterable)
        seen.update(chunks=len(chunks), total=total, description=description)
        return chunks

    monkeypatch.setattr(download, "progress", spy)
    half_done(target)
    fetch(server.url, target, sha256=CHECKSUM)
    assert seen == {"chunks": 4, "total": 4, "description": "downloading digits.bin"}


def test_arguments_are_checked_before_anything_is_done(target):
    with pytest.raises(ValueError, match="url must start with http"):
        fetch("file:///etc/hosts", target, sha256=CHECKSUM)
    with pytest.raises(ValueError, match="sha256 must be 64 hexadecimal digits, got 'abc'"):
        fetch("https://example.org/x", target, sha256="abc")
    assert not target.parent.exists()
