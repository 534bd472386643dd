"""Which code made a result: the commit of its checkout, changes told; and every command that made a study."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from report_parts import a_summary

import slimcodec
from slimcodec.evaluation import provenance
from slimcodec.evaluation.summary import Command, Machine, Provenance, plain
from slimcodec.evaluation.summary import read as read_summary
from slimcodec.report import page, study, tables

MACHINE = {"cpu": "a processor", "cores": 2}


def git(folder, *arguments):
    environment = {n: v for n, v in os.environ.items() if not n.startswith("GIT_")}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that holds the package, whose last commit did not touch it."""
    root = tmp_path / "checkout"
    package = root / "src" / "slimcodec"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (root / ".gitignore").write_text("__pycache__\n")
    git(root, "init", "-q")
    for name in ("first", "second"):
        (root / "README.md").write_text(name)
        git(root, "add", ".")
        git(root, "commit", "-qm", name)
    monkeypatch.setattr(slimcodec, "__file__", str(package / "__init__.py"))
    return root


def test_the_commit_is_that_of_the_checkout(checkout, tmp_path, monkeypatch):
    head = git(checkout, "rev-parse", "HEAD")
    assert provenance.commit() == head
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert provenance.commit() == head


@pytest.mark.parametrize("changed", ["README.md", "src/slimcodec/__init__.py", "src/slimcodec/new.py"])
@pytest.mark.parametrize("staged", [False, True])
def test_changes_in_no_commit_are_told(checkout, changed, staged):
    (checkout / changed).write_text("changed")
    if staged:
        git(checkout, "add", ".")
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD") + "+dirty"


def test_results_are_no_change_of_the_code(checkout):
    head, study_folder = git(checkout, "rev-parse", "HEAD"), checkout / "results" / "kodak"
    study_folder.mkdir(parents=True)
    (study_folder / "points.csv").write_text("new")
    (checkout / "src" / "slimcodec" / "__pycache__").mkdir()
    (checkout / "src" / "slimcodec" / "__pycache__" / "x.pyc").write_text("ignored")
    assert provenance.commit() == head
    git(checkout, "add", ".")
    assert provenance.commit() == head + "+dirty" and provenance.commit(without=study_folder) == head
    assert provenance.commit(without=Path("/elsewhere")) == head + "+dirty"


@pytest.mark.parametrize("ignored", [False, True])
def test_an_installed_package_in_another_repository_has_no_commit(checkout, monkeypatch, ignored):
    installed = checkout / ".venv" / "site-packages" / "slimcodec"
    shutil.copytree(checkout / "src" / "slimcodec", installed)
    if ignored:
        (checkout / ".gitignore").write_text(".venv\n")
    monkeypatch.setattr(slimcodec, "__file__", str(installed / "__init__.py"))
    assert provenance.commit() is None


def test_without_git_or_a_repository_there_is_no_commit(checkout, tmp_path, monkeypatch):
    shutil.rmtree(checkout / ".git")
    assert provenance.commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() is None


def test_this_checkout_says_its_own_head():
    """Of this very repository, where the suite runs in one."""
    root = Path(study.__file__).parents[3]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    assert provenance.commit().removesuffix("+dirty") == git(root, "rev-parse", "HEAD")


def test_every_command_is_kept_and_a_repeated_one_once():
    first = provenance.provenance("slimcodec evaluate a", 1, "c" * 40, Provenance())
    second = provenance.provenance("slimcodec anchors a", 1, "d" * 40, first)
    again = provenance.provenance("slimcodec evaluate a", 1, "c" * 40, second)
    assert [entry.command for entry in second.commands] == ["slimcodec evaluate a", "slimcodec anchors a"]
    assert [entry.command for entry in again.commands] == ["slimcodec anchors a", "slimcodec evaluate a"]
    assert second.commands[0] == Command(
        date=first.date,
        version=slimcodec.__version__,
        commit="c" * 40,
        command="slimcodec evaluate a",
        processor=first.machine.cpu,
    )
    other_code = provenance.provenance("slimcodec evaluate a", 1, "e" * 40, first)
    assert len(other_code.commands) == 2
    assert provenance.provenance("", 1, None, first).commands == first.commands


def test_a_summary_with_one_command_is_read_as_a_list_of_one(tmp_path):
    made = {"date": "2026-01-02", "version": "0.1.0", "commit": "c" * 40, "command": "evaluate", "machine": MACHINE}
    old = plain(a_summary()) | {"provenance": made}
    (tmp_path / study.SUMMARY).write_text(json.dumps(old))
    read = read_summary(tmp_path).provenance
    assert "command" not in plain(read) and read.machine == Machine(**MACHINE)
    (entry,) = read.commands
    assert entry == Command(*(made[n] for n in ("date", "version", "commit", "command")), processor="a processor")


def test_the_page_shows_every_command():
    commands = [
        {"date": "2026-01-02", "version": "0.1.0", "commit": "c" * 40, "command": "evaluate a", "processor": "one"},
        {"date": "2026-01-03", "version": "0.1.0", "commit": None, "command": "anchors a", "processor": "two"},
    ]
    summary = a_summary(provenance={"date": "2026-01-03", "commands": commands})
    lines = [value for name, value in tables.machine(summary) if name == "Command"]
    assert lines == [f"evaluate a (2026-01-02, 0.1.0, {'c' * 40}, one)", "anchors a (2026-01-03, 0.1.0, two)"]
    html = page.render(summary, [], [])
    assert "evaluate a (2026-01-02" in html and "anchors a (2026-01-03" in html
