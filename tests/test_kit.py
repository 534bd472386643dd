"""What is packed here trains there, in pieces as it arrives, and comes back as a run that can be used."""

import json
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import pytest
from PIL import Image
from run_parts import TINY

import kit
from slimcodec.training.photos import embedded


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A kit of small parts, without wheels: the tests' own environment has everything."""
    folder = tmp_path_factory.mktemp("kit")
    for split in ("train", "validation"):
        (folder / split).mkdir()
        for name, pixels in embedded(split):
            Image.fromarray(pixels[:192, :256]).save(folder / split / f"{name}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "PART_BYTES", 3 * kit.MIB // 2)
        overrides = ["experiment=smoke", *TINY, "stages=[teacher]"]
        arguments = {"photos": folder / "train", "validation": folder / "validation", "model": [], "run": None}
        arguments |= {"python": "3.12", "has": [], "no_wheels": True, "overrides": overrides}
        kit.pack(SimpleNamespace(kit=folder / "kit", **arguments))
    return folder / "kit"


def there(verb, *arguments):
    return [sys.executable, "kit.py", verb, ".", *map(str, arguments)]


def test_parts_are_small_and_hold_all(packed):
    parts = sorted(packed.glob("kit-*.tar"))
    assert all(path.stat().st_size <= 3 * kit.MIB // 2 for path in parts)
    names = []
    for path in parts:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert len(names) == len(set(names))
    assert {"run.py", "conf/config.yaml", "src/slimcodec/__init__.py"} <= set(names)
    assert {"photos/coffee.png", "validation/flower.png"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_it_waits_for_the_parts_trains_and_comes_back(packed, tmp_path):
    work, results = tmp_path / "work", tmp_path / "results"
    first, *others = sorted(packed.glob("kit-*.tar"))
    arriving = tmp_path / "arriving"
    arriving.mkdir()
    for path in (packed / "kit.py", first):
        (arriving / path.name).write_bytes(path.read_bytes())
    done = subprocess.run(there("unpack", "--work", work), cwd=arriving, capture_output=True, text=True)
    assert done.returncode == kit.TRY_AGAIN and "have not arrived: kit-02" in done.stdout
    (arriving / first.name).unlink()  # what was carried before is gone with the next
    for path in others:
        (arriving / path.name).write_bytes(path.read_bytes())
    command = there("train", "--work", work, "--results", results, "--", "name=away")
    done = subprocess.run(command, cwd=arriving, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kit.receive(SimpleNamespace(results=results, into=tmp_path / "here"))
    model = json.loads((tmp_path / "here/runs/away/teacher/model.json").read_text())
    assert model["git_commit"] == json.loads((work / kit.RECORD).read_text())["commit"]
    assert model["configuration"]["data"]["root"] == "photos"


def test_a_checkpoint_comes_back_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "PIECE_BYTES", 1000)
    work = tmp_path / "work/runs/cache/finish-1/finished.work"
    work.mkdir(parents=True)
    contents = {"last.ckpt": b"now" * 2000, "previous.ckpt": b"before", ".last.ckpt.partial": b"half"}
    for name, data in contents.items():
        (work / name).write_bytes(data)
    for _ in range(2):  # the second takes the place of the first
        kit.results(SimpleNamespace(work=tmp_path / "work", results=tmp_path / "results"))
    pieces = list((tmp_path / "results").iterdir())
    assert len(pieces) > 6 and max(path.stat().st_size for path in pieces) == 1000
    kit.receive(SimpleNamespace(results=tmp_path / "results", into=tmp_path / "here"))
    found = tmp_path / "here/runs/cache/finish-1/finished.work"
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {"last.ckpt": contents["last.ckpt"]}


def test_the_packages_are_those_of_training():
    found = kit._distributions("slimcodec", {"train"})
    assert {"lightning", "hydra-core", "pydantic-core", "torch-pruning"} <= found
    assert not found & {"torch", "wandb", "compressai", "pytest", "mkdocs", "colorama"}


def test_what_is_wrong_is_one_line(tmp_path):
    command = [sys.executable, kit.__file__, "receive", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"kit.py: {tmp_path}: has no results.tar.*\n")
    large = tmp_path / "photo.png"
    with large.open("wb") as file:
        file.truncate(kit.PART_BYTES)
    with pytest.raises(ValueError, match=r"photo\.png: has 60 MiB, and a part holds 60; make it smaller"):
        kit._parts([(large, "photos/photo.png")])
