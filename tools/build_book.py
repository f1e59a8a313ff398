"""Build the book: every cell executed, warnings as errors, nothing stale.

Neither the execution cache nor Sphinx notices all that a page depends on, so two keys are kept:

* the *execution* key (library, pins, Python): outputs in the cache are void when it changes;
* the *site* key (that, the configuration and the extension): pages are made anew when it changes.
  It is written after a success only, because Sphinx reports a warning once and then passes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tools import book

__all__ = ["build", "execution_key", "main", "prepare", "site_key"]


def execution_key(root: Path, version: str = sys.version) -> str:
    """Digest what the outputs of cells depend on beside their own source."""
    library = (path for path in (root / "gencoh_lib").rglob("*") if "__pycache__" not in path.parts)
    return _digest([*library, root / "requirements.txt"], root, version)


def site_key(root: Path, version: str = sys.version) -> str:
    """Digest what every page depends on: its outputs' key, configuration, templates, extension."""
    parts = ("sphinx_course", "sphinx_mend", "claims", "launch_links", "book")
    files = [root / "tools" / f"{name}.py" for name in parts]
    files += [path for name in ("_static", "_templates") for path in (root / name).rglob("*")]
    files += [root / "_config.yml", root / "_toc.yml"]
    return _digest(files, root, execution_key(root, version))


def _digest(files: Iterable[Path], root: Path, start: str) -> str:
    total = hashlib.sha256(start.encode())
    for path in sorted(path for path in files if path.is_file()):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def prepare(root: Path) -> None:
    """Remove from ``_build`` what the keys say is stale."""
    output = root / "_build"
    output.mkdir(exist_ok=True)
    if _differs(output / "execution.key", execution_key(root)):
        shutil.rmtree(output / ".jupyter_cache", ignore_errors=True)
        (output / "execution.key").write_text(execution_key(root))
    if _differs(output / "site.key", site_key(root)):
        for stale in ("html", ".doctrees", "jupyter_execute"):
            shutil.rmtree(output / stale, ignore_errors=True)


def _differs(stored: Path, wanted: str) -> bool:
    return not stored.exists() or stored.read_text() != wanted


def build(root: Path) -> int:
    """Run jupyter-book; return its exit status, 0 only if there was no warning."""
    prepare(root)
    stamp = root / "_build" / "site.key"
    stamp.unlink(missing_ok=True)
    status = _jupyter_book(root)
    if status == 0:
        stamp.write_text(site_key(root))
    return status


def _jupyter_book(root: Path) -> int:
    program = Path(sys.executable).with_name("jupyter-book")
    return subprocess.run(
        [program, "build", "-W", "-n", "--keep-going", str(root)],
        env={**os.environ, **book.EXECUTION_ENVIRONMENT},
    ).returncode


def main() -> int:
    """Build the book here and say where it is."""
    status = build(book.ROOT)
    if status:
        print("error: the book was not built cleanly; the reason stands above.", file=sys.stderr)
        return status
    print(f"The book is in {book.HTML / 'index.html'}\nRead it in a browser with: make serve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
