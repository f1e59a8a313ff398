"""Make ``.venv-bench`` with the pinned rivals: ``python3 -m benchmarks.environment [--cuda]``.

Standard library only. Does nothing when nothing changed, as tools/environment.py, on which it
leans: PyTorch comes as a CPU build where there is one, unless ``--cuda`` asks for pip's own choice.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tools.environment import cpu_index, venv_python

__all__ = ["main", "make"]

ROOT = Path(__file__).resolve().parent.parent


def make(root: Path, *, cuda: bool) -> int:
    """Install ``benchmarks/requirements.txt``; give the status of the first step that failed."""
    requirements, venv = root / "benchmarks/requirements.txt", root / ".venv-bench"
    stamp = venv / "installed.sha256"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode() + b"%d" % cuda)
    if stamp.exists() and stamp.read_text() == wanted.hexdigest():
        return 0
    stamp.unlink(missing_ok=True)
    python = venv_python(venv)
    pip = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
    index = None if cuda else cpu_index(sys.platform, os.environ.get("PIP_NO_INDEX", ""))
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(venv)],
        [*pip, *(["--extra-index-url", index] if index else [])],
    ):
        status = subprocess.run(command).returncode
        if status:
            print(f"error: {command[2]} could not make {venv.name} (see above)", file=sys.stderr)
            return status
    stamp.write_text(wanted.hexdigest())
    return 0


def main() -> int:
    """Make the environment of the benchmarks."""
    return make(ROOT, cuda="--cuda" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
