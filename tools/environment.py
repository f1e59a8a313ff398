"""Make ``.venv`` with the pinned environment and the library in it. Standard library only.

``python3 tools/environment.py`` does nothing when nothing changed: a stamp in ``.venv`` holds the
digest of what was installed. On Linux, PyTorch's own index is asked for a CPU build (the default
build pulls gigabytes of CUDA) when it can be reached; otherwise pip's own configuration decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

__all__ = ["CPU_INDEX", "cpu_index", "digest", "main", "pip_commands", "venv_python"]

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class EnvironmentProblem(Exception):
    """What went wrong and what to do, in one line."""


def venv_python(venv: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def digest(root: Path, version: str = sys.version) -> str:
    """Digest all that decides what is installed: the pins, the package's metadata, Python."""
    total = hashlib.sha256(version.encode())
    for name in ("requirements.txt", "pyproject.toml"):
        total.update((root / name).read_bytes())
    return total.hexdigest()


def cpu_index(platform: str, pip_configuration: str, *, timeout: float = 5.0) -> str | None:
    """Return PyTorch's CPU index if it helps here and answers, else ``None``.

    It helps on Linux only, and not where pip is told to stay with other indexes (``no-index``).
    """
    if not platform.startswith("linux") or re.search(
        r"no-index\s*=\s*'?(1|true)", pip_configuration
    ):
        return None
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=timeout) as answer:
            return CPU_INDEX if answer.status == 200 else None
    except (OSError, urllib.error.URLError, ValueError):
        return None


def pip_commands(root: Path, index: str | None) -> list[list[str]]:
    """Return the arguments of the two ``pip install`` runs: the pins, then the library itself.

    The library is installed without its ranges (the pins are there already) and without a build
    environment of its own, so that its build tool is fetched once, in the first run.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    extra = ["--extra-index-url", index] if index else []
    requirements = ["-r", str(root / "requirements.txt"), *project["build-system"]["requires"]]
    return [
        ["install", *extra, *requirements],
        ["install", "--no-deps", "--no-build-isolation", "--editable", str(root)],
    ]


def make(root: Path, venv: Path) -> None:
    """Bring the virtual environment up to date with ``requirements.txt``."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what an older Python runs into
        raise EnvironmentProblem(
            f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}. "
            "Install one and run: make PYTHON=python3.11 env"
        )
    stamp = venv / "installed.sha256"
    wanted = digest(root)
    if stamp.exists() and stamp.read_text() == wanted and _works(venv):
        return
    stamp.unlink(missing_ok=True)
    if venv.exists() and not _runs(venv, "import pip"):
        shutil.rmtree(venv)  # left by an interrupted run, or its Python is gone
    if not venv.exists():
        print(f"Making {venv.name} with {sys.executable}", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True)
        if made.returncode:
            shutil.rmtree(venv, ignore_errors=True)
            raise EnvironmentProblem(
                f"{sys.executable} -m venv failed; on Debian or Ubuntu: apt install python3-venv"
            )
    python = str(venv_python(venv))
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True)
    index = cpu_index(sys.platform, listed.stdout + _pip_environment(os.environ))
    print(f"Installing the pinned packages{f', torch from {index}' if index else ''}", flush=True)
    for command in pip_commands(root, index):
        run = subprocess.run([python, "-m", "pip", *command, "--quiet"])
        if run.returncode:
            raise EnvironmentProblem(
                "pip could not install the environment (see above). Is the package registry in "
                "reach? Run the same command again to go on where it stopped."
            )
    stamp.write_text(wanted)


def _pip_environment(variables: Mapping[str, str]) -> str:
    """Write pip's environment variables the way ``pip config list`` writes the files' values."""
    return "".join(
        f"\n{name.removeprefix('PIP_').lower().replace('_', '-')}='{value}'"
        for name, value in variables.items()
        if name.startswith("PIP_")
    ).lower()


def _runs(venv: Path, code: str) -> bool:
    try:
        done = subprocess.run(
            [str(venv_python(venv)), "-c", code], capture_output=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _works(venv: Path) -> bool:
    """Say whether the interpreter starts; importing torch each time would cost seconds."""
    return _runs(
        venv, "import importlib.util as u, sys; sys.exit(u.find_spec('gencoh_lib') is None)"
    )


def main(root: Path = ROOT) -> int:
    """Make the environment; print one line if that is impossible."""
    try:
        make(root, root / ".venv")
    except EnvironmentProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
