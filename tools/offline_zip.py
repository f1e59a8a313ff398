"""Pack the built site into one zip that reads without a server or the internet."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from tools import book

__all__ = ["main", "pack"]

#: Sphinx's own notes; a reader has no use for them.
_LEFT_OUT = (".buildinfo", "objects.inv", ".nojekyll")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(site: Path, target: Path) -> int:
    """Write every file of ``site`` into the zip ``target``, below one folder; return their number.

    The same site gives the same bytes.

    Raises
    ------
    FileNotFoundError
        If there is no built site.
    """
    if not (site / "index.html").exists():
        raise FileNotFoundError(f"{site} holds no built book: run make book first.")
    files = sorted(p for p in site.rglob("*") if p.is_file() and p.name not in _LEFT_OUT)
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w") as archive:
        for path in files:
            name = f"{target.stem}/{path.relative_to(site).as_posix()}"
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    part.replace(target)
    return len(files)


def main() -> int:
    """Pack the book and say where the zip is and how to read it."""
    name = book.config()["title"].lower().replace(" ", "-")
    target = book.BUILD / f"{name}.zip"
    try:
        count = pack(book.HTML, target)
    except FileNotFoundError as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    size = target.stat().st_size / 1e6
    print(f"{target}: {count} files, {size:.1f} MB. Unpack it and open {name}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
