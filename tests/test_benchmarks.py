"""The ablations compose, what was tried computes what it says, and the pages' tables are what results give."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from slimcodec.codec.hyper import ContextStage
from slimcodec.codec.networks import Head

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablations  # noqa: E402 - benchmarks are scripts, no package
import bands  # noqa: E402
import frontends  # noqa: E402
import fusion  # noqa: E402
import resampling  # noqa: E402
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


@pytest.mark.parametrize("front", [frontends.Dct(), frontends.Wavelets()], ids=["DCT", "wavelets"])
def test_fixed_transforms_lose_nothing_but_fine_chroma(front):
    yuv = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    found = front.split(yuv)
    assert found.shape == (1, 96, 2, 4)
    assert torch.allclose(front.join(found)[:, :1], yuv[:, :1], atol=1e-5)
    assert torch.allclose(front.split(front.join(found)), found, atol=1e-5)


def test_a_last_layer_that_makes_all_bands_is_the_one_that_makes_pixels():
    random = np.random.default_rng(0)
    head = Head(random.normal(size=(192, 5, 1, 1)).astype(np.float32), random.normal(size=192).astype(np.float32))
    for own, found in zip(head[:2], bands._projected(head, 8, 8)[:2], strict=True):
        assert np.allclose(own, found, atol=1e-4)
    assert np.linalg.matrix_rank(bands._projected(head, 8, 3).weight[..., 0, 0]) == 5


def test_fitted_filters_are_better_than_lanczos_on_what_they_were_fitted_to():
    noise = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((80, 64), Image.Resampling.BICUBIC)
    for factor in ((1, 2), (3, 4)):
        small = np.asarray(resampling._smaller(picture, *factor))
        found = resampling._larger(small, picture, factor, resampling._fitted([(small, picture)], factor), own=False)
        errors = {
            way: np.square(np.asarray(picture) - pixels.astype(float)).mean() for way, (pixels, _) in found.items()
        }
        assert errors["learned"] < errors["lanczos"]


def test_a_weight_of_one_leaves_the_mean_as_it_is():
    c_k, x = ContextStage(4 + 2 * 3, 5, 3, "depthwise"), torch.rand(1, 10, 6, 7)
    weights = torch.tensor([1.0] + [0.0] * 19).repeat(3, 1)
    arm = fusion.Arm(mean=True, own=True)
    fused = fusion.Fused(c_k, 4, arm, weights, [], torch.empty(0, dtype=torch.int64))
    assert torch.allclose(fused(x), c_k(x), atol=1e-6)
