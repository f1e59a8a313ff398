"""Fetch a file over HTTP so that it is whole and verified, or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from gencoh_lib.front_end import progress

__all__ = ["DownloadError", "fetch"]

_CHUNK = 1 << 16  # bytes read, hashed and shown on the progress bar at a time


class DownloadError(OSError):
    """A file could not be fetched; the message says why, what is left on disk and what to do.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "seven.txt").write_bytes(b"8")
    ...     try:
    ...         fetch("https://example.org/seven.txt", Path(folder) / "seven.txt", sha256=64 * "7")
    ...     except DownloadError as error:
    ...         print(str(error).partition("It was ")[2])
    1
    left alone; delete or rename it and call again to download it.
    """


def fetch(url: str, target: Path, *, sha256: str, timeout: float = 30.0) -> Path:
    """Download a file, resuming where an earlier attempt stopped, and verify it.

    The bytes go to ``<target>.part`` and are moved to `target` in one step once their checksum is
    right, so `target` never holds half a file.  A download that is cut off keeps its ``.part``,
    and the next call continues from there where the server allows it.  Two processes that want
    the same file take turns, by an empty ``<target>.lock`` that goes when the file has come.

    Parameters
    ----------
    url : str
        Where the file is: an ``http`` or ``https`` address.
    target : Path
        Where the file shall be; missing folders are made.  If it exists it is verified and
        nothing is downloaded.
    sha256 : str
        The file's SHA-256, 64 hexadecimal digits.
    timeout : float
        Seconds the server may keep silent before the attempt is given up.

    Returns
    -------
    pathlib.Path
        The `target`, holding the verified file.

    Raises
    ------
    DownloadError
        If the server cannot be reached, answers with an error or stops half-way (the part is
        kept); if the bytes do not have the checksum (the part is deleted); if `target` exists
        with another checksum (it is left alone); if the folder cannot be made or written to.
    ValueError
        If the URL is not a web address or `sha256` is not a SHA-256.

    Examples
    --------
    A file that is already there is verified, without the network:

    >>> import hashlib, tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "seven.txt"
    ...     _ = target.write_bytes(b"7")
    ...     checksum = hashlib.sha256(b"7").hexdigest()
    ...     int(fetch("https://example.org/seven.txt", target, sha256=checksum).read_text())
    7
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ValueError(f"url must start with http:// or https://, got {url!r}")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    target, sha256 = Path(target), sha256.lower()
    try:
        if target.exists():
            return _verified(target, sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _beside(target, ".lock")
        # Without turns a second process could go on writing to a part that the first published.
        with FileLock(lock):
            if target.exists():
                _verified(target, sha256)
            else:
                _complete(url, target, sha256=sha256, timeout=timeout)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"cannot read or write {target} or its folder ({error}). Make room there, or choose "
            "another place: with folder= in gencoh_lib.data.load, or by setting GENCOH_DATA."
        ) from error
    # Safe once the target is there: whoever waits for the lock, or makes a new one, finds it.
    with suppress(OSError):  # Windows keeps a file that another process has open
        lock.unlink()
    return target


def _complete(url: str, target: Path, *, sha256: str, timeout: float) -> None:
    """Bring the part to its end, verify it and make it the target."""
    part = _beside(target, ".part")
    if not part.exists() or _checksum(part) != sha256:
        by_hand = f"or download {url} by hand and save it as {target} (SHA-256 {sha256})"
        _receive(url, part, timeout=timeout, by_hand=by_hand)
        received = _checksum(part)
        if received != sha256:
            part.unlink()
            raise DownloadError(
                f"what {url} sent has SHA-256 {received} instead of {sha256}: it was damaged "
                "on the way, or the file has changed at its source. It was deleted; call "
                f"again to start afresh, {by_hand}."
            )
    os.replace(part, target)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(target: Path, sha256: str) -> Path:
    found = _checksum(target)
    if found != sha256:
        raise DownloadError(
            f"{target} exists but has SHA-256 {found} instead of {sha256}: it is another file, or "
            "damaged. It was left alone; delete or rename it and call again to download it."
        )
    return target


def _receive(url: str, part: Path, *, timeout: float, by_hand: str) -> None:
    """Bring `part` up to the length that the server announces, or raise."""
    have = part.stat().st_size if part.exists() else 0
    response = _request(url, have, timeout=timeout, by_hand=by_hand) if have else None
    if response is None:  # nothing to resume, or the server cannot resume there: all of it
        have, response = 0, _request(url, 0, timeout=timeout, by_hand=by_hand)
        assert response is not None  # only a request to resume can be turned down
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        have = 0  # the server ignored the Range header and sends the whole file
    length = response.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() else None
    remedy = f"What arrived is kept in {part}; call again to go on from there, {by_hand}."
    with response, part.open("ab" if have else "wb") as file:
        for chunk in progress(
            _chunks(response, have, announced, remedy=remedy),
            total=ceil(announced / _CHUNK) if announced is not None else None,
            description=f"downloading {urlsplit(url).path.rsplit('/', 1)[-1]}",
        ):
            file.write(chunk)


def _request(
    url: str, start: int, *, timeout: float, by_hand: str
) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `start` on; None if the server cannot continue at that place."""
    request = urllib.request.Request(url, headers={"User-Agent": "gencoh_lib"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise DownloadError(
            f"{url} answered {error.code} {error.reason}. Try again later, {by_hand}."
        ) from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # "a..b" is no host
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"cannot reach {urlsplit(url).netloc} ({reason}). This file is fetched from the "
            f"internet once: connect and call again, {by_hand}."
        ) from error
    if start and response.status == http.HTTPStatus.PARTIAL_CONTENT:
        content_range = response.headers.get("Content-Range", "")
        if not re.match(rf"bytes {start}-", content_range):
            response.close()
            return None
    return response


def _chunks(
    response: http.client.HTTPResponse, have: int, announced: int | None, *, remedy: str
) -> Iterator[bytes]:
    """Yield the body; raise if it ends before the `announced` number of bytes.

    The first `have` bytes of the file are on disk already and count in the message.
    """
    received, failure = 0, None
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            failure = error
            break
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    # A connection that the server closes too early reads as an ordinary end of file: count.
    if failure is not None or (announced is not None and received < announced):
        total = f"{have + announced:,}" if announced is not None else "an unknown number of"
        raise DownloadError(
            f"{response.url} was cut off after {have + received:,} of {total} bytes "
            f"({failure or 'the connection was closed'}). {remedy}"
        ) from failure
