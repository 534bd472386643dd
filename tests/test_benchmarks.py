"""The ablations compose, and the pages' tables are what the stored results give."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablations  # noqa: E402 - benchmarks are scripts, no package
import tables  # noqa: E402

ARMS = [(study, arm) for study, found in ablations.STUDIES.items() for arm in found.arms]


@pytest.mark.parametrize("study, arm", ARMS)
def test_every_arm_composes(study, arm):
    chosen = [*ablations.MEASURED, *ablations.STUDIES[study].common, *ablations.STUDIES[study].arms[arm]]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        configuration = compose("config", [*chosen, "data.root=PHOTOS"])
    assert configuration.data.kind == "folder"


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.stem)
def test_every_table_is_made_of_a_stored_result(page):
    text = page.read_text(encoding="utf-8")
    assert tables.MARKED.search(text)
    assert tables.with_tables(text) == text, "python benchmarks/tables.py"
