"""The command line: what it writes, what it says about bad input, and its exit codes."""

import json

import numpy as np
import pytest
from PIL import Image

from slimcodec import load
from slimcodec.__main__ import main
from slimcodec.codec import models


@pytest.fixture
def photo(tmp_path, pictures):
    path = tmp_path / "photo.png"
    Image.fromarray(pictures["astronaut 100x130"]).save(path)
    return path


def test_a_picture_goes_to_a_file_and_back(tmp_path, photo, model_directory, capsys):
    slim, out = tmp_path / "photo.slim", tmp_path / "out.png"
    assert main(["compress", str(photo), str(slim), "-q", "5.5", "--model", str(model_directory)]) == 0
    assert f"{slim.stat().st_size:,} bytes" in capsys.readouterr().out
    assert main(["decompress", str(slim), str(out), "--model", str(model_directory)]) == 0
    expected = load(model_directory).decompress(slim.read_bytes())
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "photo.png", "photo.slim"]


def test_an_installed_model_is_found_by_the_hash_in_the_file(tmp_path, photo, model_directory, monkeypatch):
    zoo = tmp_path / "students"
    zoo.mkdir()
    models.copy(model_directory, zoo / "mine")
    monkeypatch.setattr(models, "zoos", lambda: [zoo])
    slim, out = tmp_path / "photo.slim", tmp_path / "out.png"
    assert main(["compress", str(photo), str(slim)]) == 0  # the only student
    assert main(["decompress", str(slim), str(out)]) == 0
    assert Image.open(out).size == Image.open(photo).size


def test_info_prints_the_card_or_model_json(model_directory, capsys):
    assert main(["info", str(model_directory), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert {"decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters", "figures"} <= set(info)
    assert main(["info", str(model_directory)]) == 0
    assert "MAC/pixel" in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, photo, model_directory, capsys):
    broken, text = tmp_path / "broken.slim", tmp_path / "text.png"
    broken.write_bytes(b"SLIMnothing")
    text.write_text("not a picture")
    model = ["--model", str(model_directory)]
    for arguments, named in (
        (["compress", str(tmp_path / "missing.png"), str(tmp_path / "o.slim"), *model], "missing.png"),
        (["compress", str(text), str(tmp_path / "o.slim"), *model], "text.png"),
        (["compress", str(photo), str(tmp_path / "o.slim"), "-q", "9", *model], "quality"),
        (["compress", str(photo), str(tmp_path / "o.slim"), "--model", "nobody"], "nobody"),
        (["decompress", str(broken), str(tmp_path / "o.png"), *model], "not a complete"),
        (["decompress", str(broken), str(tmp_path / "o.xyz"), *model], ".xyz"),
        (["info", str(tmp_path)], str(tmp_path)),
    ):
        assert main(arguments) == 2, arguments
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and named in printed.err
    assert not (tmp_path / "o.slim").exists() and not (tmp_path / "o.png").exists()
