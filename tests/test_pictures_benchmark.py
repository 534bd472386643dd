"""The script that checks a folder of pictures against second readers finds what it is for."""

import sys
from pathlib import Path

import numpy as np
import pytest
from picture_files import png
from PIL import Image

from slimcodec.codec.pictures import Picture

pytest.importorskip("tifffile")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import pictures as script

VALUES = np.random.default_rng(2).integers(0, 65536, (8, 9, 3)).astype(np.uint16)


def test_files_are_coded_refused_or_wrong(tmp_path, monkeypatch, capsys):
    import tifffile

    tifffile.imwrite(tmp_path / "deep.tif", VALUES, photometric="rgb")
    Image.fromarray((VALUES >> 8).astype(np.uint8)).save(tmp_path / "turned.tif")
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.setattr(script, "readers", lambda _: [script.by_tifffile])
    outcomes = [script.examine(tmp_path / name)[0] for name in ("deep.tif", "turned.tif", "text.png")]
    assert outcomes == ["coded", "coded", "refused"]
    monkeypatch.setattr(script, "from_picture", lambda image: Picture(255 - np.asarray(image), False, None, None, None))
    assert script.examine(tmp_path / "turned.tif")[0] == "wrong"
    monkeypatch.setattr(script, "from_picture", lambda _: 1 / 0)
    assert script.examine(tmp_path / "turned.tif")[0] == "traceback"
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(tmp_path)])
    assert script.main() == 1 and "traceback" in capsys.readouterr().out


def test_a_second_reader_that_breaks_is_none(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(png(VALUES, 16, 2))
    picture = Picture((VALUES >> 8).astype(np.uint8), False, None, None, None)
    assert script.in_a_child(lambda: 1 / 0) is None
    assert script.in_a_child(lambda: script.difference(picture, VALUES / 65535, "PNG")) == ""
    assert "levels off" in script.in_a_child(lambda: script.difference(picture, 1 - VALUES / 65535, "PNG"))
