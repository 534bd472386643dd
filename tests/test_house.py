"""The size of functions and files, and that only one file knows the names in a configuration or in a summary."""

import ast
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from slimcodec.evaluation import summary
from slimcodec.pipeline import settings

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "run.py", ROOT / "kit.py", *sorted((ROOT / "src").rglob("*.py"))]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 400, 45
NAMES_OF_SUMMARIES = {
    name
    for kind in vars(summary).values()
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    for name in kind._fields
}
NAMES_OF_SETTINGS = {
    name
    for kind in vars(settings).values()
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
    for name in kind.__dataclass_fields__
}
# Who reads JSON or a table of their own, in which such a name stands too: of points.csv, of ffmpeg's VMAF, of
# evaluation/summary.json in a run's directory, of pydantic's errors, of a kit's record where no package is installed.
OWN = {
    "kit.py",
    "evaluation/summary.py",
    "evaluation/points.py",
    "evaluation/metrics.py",
    "pipeline/results.py",
    "pipeline/settings.py",
}


def functions():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield node.end_lineno - node.lineno + 1, f"{path.name}:{node.lineno} {node.name}"


def keys_read(tree):
    """The literal keys by which something is read: x["key"] and x.get("key")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            key = node.args[0] if node.args else None
        else:
            continue
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield node.lineno, key.value


def test_functions_are_short():
    lengths = sorted(length for length, _ in functions())
    assert statistics.median(lengths) <= 7
    assert lengths[int(0.95 * len(lengths))] <= 22
    assert [name for length, name in functions() if length > MOST_LINES_OF_A_FUNCTION] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_no_longer_than_one_reads(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_FILE


def test_no_tool_left_its_cache_in_the_repository():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hidden = {name.split("/")[0] for name in listed.splitlines() if name.startswith(".")}
    assert hidden == {".ci", ".dockerignore", ".gitignore"}


def test_hydras_file_is_short():
    assert len((ROOT / "run.py").read_text().splitlines()) < 250


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_summaries_and_configurations_are_not_read_by_key(path):
    place = path.relative_to(ROOT / "src/slimcodec").as_posix() if path.is_relative_to(ROOT / "src") else path.name
    if place in OWN or place.startswith("codec/"):  # codec/ knows neither
        return
    names = NAMES_OF_SUMMARIES | NAMES_OF_SETTINGS
    assert [f"line {line}: {key}" for line, key in keys_read(TREES[path]) if key in names] == []


def test_the_names_are_those_of_the_two_files():
    assert {"bd_rate", "curves", "provenance"} <= NAMES_OF_SUMMARIES
    assert {"learning_rate", "floors", "qualities", "run_dir"} <= NAMES_OF_SETTINGS
