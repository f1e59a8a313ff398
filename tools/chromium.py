"""Find a Chromium for the browser tests, or install one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["NAMES", "ChromiumMissing", "find", "find_or_install"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


class ChromiumMissing(Exception):
    """No browser was found or could be installed; the message is one line with the remedy."""


def find() -> Path | None:
    """Return a Chromium: the one ``CHROMIUM`` names, one on the path, or playwright's own."""
    named = os.environ.get("CHROMIUM")
    if named:
        if not os.access(named, os.X_OK):
            raise ChromiumMissing(f"CHROMIUM={named} is no program; unset it or name a Chromium.")
        return Path(named)
    for candidate in (*(shutil.which(name) for name in NAMES), MAC, _playwrights_own()):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    return None


def _playwrights_own() -> str | None:
    from playwright.sync_api import Error, sync_playwright

    try:
        with sync_playwright() as driver:
            return driver.chromium.executable_path
    except Error:
        return None


def _ways_to_install() -> Iterator[list[str]]:
    yield [sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"]
    yield [sys.executable, "-m", "playwright", "install", "chromium"]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        yield ["apt-get", "update", "-qq"]
        packages = ["chromium", "fonts-dejavu-core"]
        yield ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]


def _run(command: Sequence[str]) -> int:
    print(f"no Chromium yet: {' '.join(command)}", file=sys.stderr, flush=True)
    try:
        return subprocess.run(command, capture_output=True, timeout=300).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 1


def find_or_install(run: Callable[[Sequence[str]], int] = _run) -> Path:
    """Return a Chromium, installing one if need be.

    Raises
    ------
    ChromiumMissing
        If there is none and none of the ways to install one worked.
    """
    found = find()
    for command in [] if found else _ways_to_install():
        if run(command) == 0:
            found = find()
            if found:
                break
    if not found:
        raise ChromiumMissing(
            "No Chromium found or installable: install one (apt install chromium, or "
            ".venv/bin/playwright install chromium) or set CHROMIUM to its program."
        )
    return found


if __name__ == "__main__":
    try:
        print(find_or_install())
    except ChromiumMissing as missing:
        sys.exit(f"error: {missing}")
