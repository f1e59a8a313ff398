"""What the documents and the workflows name has to exist.

Nobody can run GitHub's workflows here, so this catches what can be caught at a desk: a file that is
no YAML, a make target or a module that was renamed, a link that leads nowhere, the address of the
repository in a second place, versions that went apart.
"""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import gencoh_lib
from tools import book

ROOT = book.ROOT
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(
    path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
)
#: Pages of GitHub that a document may link to, relative to the repository: no owner, no name.
GITHUB_PAGES = {"deployments", "issues", "releases", "tree"}


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([a-z][a-z ]*):(?!=)", makefile, flags=re.MULTILINE)
    return {name for rule in rules for name in rule.split()}


def commands(path: Path) -> list[str]:
    """The shell lines of a workflow, or the code of a document."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".yml":
        return re.findall(r"`([^`\n]+)`", text) + re.findall(r"(?ms)^```sh\n(.*?)^```", text)
    jobs = yaml.safe_load(text)["jobs"].values()
    return [step["run"] for job in jobs for step in job.get("steps", []) if "run" in step]


@pytest.mark.parametrize("path", [*DOCUMENTS, *WORKFLOWS], ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(path):
    named = {
        name
        for command in commands(path)
        for name in re.findall(r"(?:^|[\s;&])make ([a-z]+)", f" {command}")
    }
    assert named <= targets()


def test_the_commands_of_the_readme_are_found_by_the_test_above():
    """Guards against a pattern that finds nothing."""
    text = "\n".join(commands(ROOT / "README.md"))
    assert "make book" in text
    assert "make test" in text
    assert {"book", "test", "env"} <= targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_module_that_a_workflow_runs_exists(path):
    for command in commands(path):
        for module in re.findall(r"python -m (tools\.\w+)", command):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_complete(path):
    """Permissions are stated, jobs end, actions are GitHub's own and pinned by major version."""
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    triggers = loaded[True]  # YAML 1.1 reads the key "on" as a boolean
    assert triggers
    assert loaded["permissions"] == {"contents": "read"}
    for name, job in loaded["jobs"].items():
        needs = job.get("needs", [])
        for needed in [needs] if isinstance(needs, str) else needs:
            assert needed in loaded["jobs"]
        if "uses" in job:
            assert (ROOT / job["uses"]).exists()
            assert "workflow_call" in yaml.safe_load((ROOT / job["uses"]).read_text("utf-8"))[True]
            continue
        assert "runs-on" in job, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_an_artifact_is_uploaded_under_the_name_under_which_it_is_downloaded():
    uploaded, downloaded = set(), set()
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for step in job.get("steps", []):
                action = step.get("uses", "")
                if action.startswith("actions/upload-artifact@"):
                    uploaded.add(step["with"]["name"])
                if action.startswith("actions/download-artifact@"):
                    downloaded.add(step["with"]["name"])
    assert downloaded
    assert downloaded <= uploaded


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_github_demands(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    inputs = [part for part in form["body"] if part["type"] != "markdown"]
    ids = [part["id"] for part in inputs]
    assert len(ids) == len(set(ids))
    assert all(part["attributes"]["label"] for part in inputs)
    assert any(part.get("validations", {}).get("required") for part in inputs)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_of_a_document_leads_somewhere(path):
    text = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("../../"):
            assert link.split("/")[2] in GITHUB_PAGES, link
        elif not link.startswith(("https://", "#")):
            assert (path.parent / link).exists(), link


def test_the_example_of_the_readme_prints_what_it_shows(capsys):
    """Word for word; numbers to two digits, for another processor adds in another order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [(code, shown)] = re.findall(r"(?ms)^```python\n(.*?)^```\n\n^```text\n(.*?)^```", text)
    exec(code, {})
    printed = capsys.readouterr().out
    number = re.compile(r"\d+\.\d+|\d+")
    assert number.sub("#", printed).split() == number.sub("#", shown).split()
    found, expected = ([float(n) for n in number.findall(one)] for one in (printed, shown))
    assert found == pytest.approx(expected, rel=1e-2)


def test_the_address_of_the_repository_stands_in_one_place():
    url = book.config()["repository"]["url"].removeprefix("https://")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    texts = (ROOT / name for name in listed if not name.endswith(".npz"))
    holders = [
        path.relative_to(ROOT).as_posix()
        for path in texts
        if path.is_file() and url in path.read_text("utf-8", errors="ignore")
    ]
    assert holders == ["_config.yml"]


def test_the_version_is_the_same_everywhere():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)$", changes, re.MULTILINE)
    assert newest is not None
    assert project["version"] == gencoh_lib.__version__ == citation["version"] == newest[1]
    assert str(citation["date-released"]) == newest[2]


def test_the_licences_are_what_they_are_called():
    text = (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")
    assert text.startswith("Attribution 4.0 International")
    for section in range(1, 9):
        assert f"Section {section} -- " in text
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("BSD 3-Clause License")


def test_binder_installs_what_the_library_needs_at_the_pins_of_the_book():
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    needed = {re.split(r"[<>=~ ]", one)[0] for one in dependencies}
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in lines if line and not line.startswith(("#", "-"))}
    assert needed <= wanted | {"filelock"}, "torch brings filelock"
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert wanted <= pinned
    assert lines[-1] == "-e ."
