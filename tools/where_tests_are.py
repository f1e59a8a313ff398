"""Where a test stands, by the name that pytest gives it: ``tests/lib/test_x.py::test_name``."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["locate"]


def locate(reference: str, root: Path) -> tuple[str, int]:
    """Return the file of a test, relative to the root, and its line, read without importing it.

    Raises
    ------
    LookupError
        If the reference is not written as ``file.py::test_name``, or there is no such file or test.

    Examples
    --------
    >>> locate("tests/lib", Path())
    Traceback (most recent call last):
    LookupError: tests/lib: write a test as tests/lib/test_x.py::test_name
    """
    file, separator, name = reference.partition("::")
    if not separator or not file.startswith("tests/") or not name.startswith("test_"):
        raise LookupError(f"{reference}: write a test as tests/lib/test_x.py::test_name")
    path = root / file
    if not path.is_file():
        raise LookupError(f"{reference}: there is no file {file}")
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=file).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return file, node.lineno
    raise LookupError(f"{reference}: {file} has no test {name}")
