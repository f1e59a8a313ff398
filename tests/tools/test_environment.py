"""The environment is made once, from the pins, without CUDA where that can be had, or refused.

pip itself is replaced here: what matters is what it is asked for.
"""

import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest

from tools import environment


@pytest.fixture
def project(tmp_path):
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools>=77"]\n')
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    """Record subprocesses instead of running them; all succeed."""
    made = []

    def run(command, **options):
        made.append([str(word) for word in command])
        if command[1:3] == ["-m", "venv"]:
            Path(command[3]).mkdir()
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(environment, "cpu_index", lambda *_: None)
    return made


def installs(commands):
    return [command for command in commands if "install" in command]


def test_pins_and_build_tool_go_in_first_then_the_library_alone(project):
    first, second = environment.pip_commands(project, None)
    assert first == ["install", "-r", str(project / "requirements.txt"), "setuptools>=77"]
    assert "--no-deps" in second
    assert "--no-build-isolation" in second


def test_the_cpu_index_is_an_extra_one(project):
    first, _ = environment.pip_commands(project, environment.CPU_INDEX)
    assert first[1:3] == ["--extra-index-url", environment.CPU_INDEX]


def test_a_second_run_installs_nothing_and_a_changed_pin_does(project, commands):
    assert environment.main(project) == 0
    before = len(installs(commands))
    assert before == 2
    assert environment.main(project) == 0
    assert len(installs(commands)) == before
    (project / "requirements.txt").write_text("torch==2.14.0\n")
    assert environment.main(project) == 0
    assert len(installs(commands)) == 2 * before


def test_a_failed_installation_leaves_no_stamp_and_says_one_line(project, monkeypatch, capsys):
    monkeypatch.setattr(environment, "cpu_index", lambda *_: None)

    def run(command, **options):
        return subprocess.CompletedProcess(command, int("install" in command), stdout="", stderr="")

    monkeypatch.setattr(environment.subprocess, "run", run)
    assert environment.main(project) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: pip could not install")
    assert said.count("\n") == 1
    assert not list(project.rglob("installed.sha256"))


def test_an_old_python_is_refused_in_one_line(project, commands, monkeypatch, capsys):
    monkeypatch.setattr(environment.sys, "version_info", (3, 10, 2))
    assert environment.main(project) == 1
    assert "Python 3.11 or newer is needed" in capsys.readouterr().err
    assert commands == []


def test_a_venv_that_cannot_be_made_is_named_with_the_remedy(project, monkeypatch, capsys):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="")

    monkeypatch.setattr(environment.subprocess, "run", run)
    assert environment.main(project) == 1
    assert "apt install python3-venv" in capsys.readouterr().err


class Answer:
    status = 200

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_the_cpu_index_is_used_on_linux_where_it_answers(monkeypatch):
    monkeypatch.setattr(environment.urllib.request, "urlopen", lambda *_, **__: Answer())
    assert environment.cpu_index("linux", "") == environment.CPU_INDEX
    assert environment.cpu_index("darwin", "") is None
    assert environment.cpu_index("linux", "global.no-index='true'") is None


def test_the_cpu_index_is_left_out_where_it_cannot_be_reached(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(environment.urllib.request, "urlopen", refuse)
    assert environment.cpu_index("linux", "") is None


def test_the_file_needs_nothing_but_the_standard_library():
    code = "import sys; sys.path.insert(0, 'tools'); import environment"
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True, cwd=environment.ROOT)
