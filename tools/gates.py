"""Run every quality gate, one after the other, whatever fails, and sum up.

``python -m tools.gates`` runs all of them; names as arguments run those only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tools import book

__all__ = ["GATES", "Outcome", "main", "run", "summary"]

_PYTEST = [sys.executable, "-m", "pytest", "-q"]
#: Name -> command, in the order in which they run. The ones after ``book`` look at what it built.
GATES: dict[str, list[str]] = {
    "lint": [sys.executable, "-m", "ruff", "check", "."],
    "types": [sys.executable, "-m", "mypy"],
    "unit": [*_PYTEST, "tests/lib", "tests/tools", "gencoh_lib", "tools"],
    "book": [sys.executable, "-m", "tools.build_book"],
    "nbval": [sys.executable, "-m", "tools.executed_notebooks"],
    "pages": [*_PYTEST, "-s", "tests/book/test_pages.py"],  # -s: it lists the marked numbers
    "browser": [*_PYTEST, "tests/book/test_browser.py", "tests/book/test_gates_can_fail.py"],
}
_LONGEST_LINE = 400


@dataclass(frozen=True)
class Outcome:
    """How one gate ended: name, exit status, seconds."""

    name: str
    status: int
    seconds: float


def _stream(command: Sequence[str]) -> int:
    """Run a command and show its output; a line may hold a picture, so lines are cut."""
    process = subprocess.Popen(
        command,
        cwd=book.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    for line in process.stdout:
        cut = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} [...]\n"
        print(cut, end="", flush=True)
    return process.wait()


def run(
    gates: Mapping[str, Sequence[str]], execute: Callable[[Sequence[str]], int] = _stream
) -> list[Outcome]:
    """Run the gates in order, going on after a failure."""
    outcomes = []
    for name, command in gates.items():
        print(f"\n=== {name} ===", flush=True)
        started = time.perf_counter()
        status = execute(command)
        outcomes.append(Outcome(name, status, time.perf_counter() - started))
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a table of the outcomes; its last line counts them.

    >>> print(summary([Outcome("lint", 0, 1.2), Outcome("book", 1, 63.0)]))
    lint        passed      1.2 s
    book        FAILED     63.0 s
    1 passed, 1 failed in 64.2 s
    """
    lines = [
        f"{one.name:<12}{'FAILED' if one.status else 'passed':<9}{one.seconds:6.1f} s"
        for one in outcomes
    ]
    failed = sum(one.status != 0 for one in outcomes)
    total = sum(one.seconds for one in outcomes)
    return "\n".join([*lines, f"{len(outcomes) - failed} passed, {failed} failed in {total:.1f} s"])


def main(names: Sequence[str]) -> int:
    """Run the named gates, or all; return 1 if any failed."""
    unknown = [name for name in names if name not in GATES]
    if unknown:
        print(f"error: no gate {', '.join(unknown)}; there are {', '.join(GATES)}", file=sys.stderr)
        return 2
    outcomes = run({name: GATES[name] for name in names or GATES})
    print(f"\n=== summary ===\n{summary(outcomes)}", flush=True)
    return int(any(one.status for one in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
