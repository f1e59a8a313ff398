"""Every gate runs whatever fails before it, and one failure fails the whole."""

import sys

from tools import gates


def test_gates_after_a_failed_one_still_run_and_the_failure_counts(capsys):
    outcomes = gates.run({"a": ["1"], "b": ["0"]}, execute=lambda command: int(command[0]))
    assert [(one.name, one.status) for one in outcomes] == [("a", 1), ("b", 0)]
    assert gates.summary(outcomes).splitlines()[-1].startswith("1 passed, 1 failed")


def test_a_failing_gate_gives_a_failing_status(monkeypatch):
    failing = {"a": [sys.executable, "-c", "raise SystemExit(3)"]}
    monkeypatch.setattr(gates, "GATES", failing)
    assert gates.main([]) == 1
    monkeypatch.setattr(gates, "GATES", {"a": [sys.executable, "-c", ""]})
    assert gates.main([]) == 0


def test_an_unknown_gate_is_refused_with_the_list(capsys):
    assert gates.main(["lnit"]) == 2
    assert "no gate lnit; there are lint, types" in capsys.readouterr().err


def test_a_line_that_holds_a_picture_is_cut(monkeypatch, capsys):
    monkeypatch.setattr(gates, "GATES", {"a": [sys.executable, "-c", "print('x' * 5000)"]})
    gates.main(["a"])
    assert max(map(len, capsys.readouterr().out.splitlines())) < 500


def test_the_gates_are_those_that_the_design_asks_for():
    assert list(gates.GATES) == ["lint", "types", "unit", "book", "nbval", "pages", "browser"]
