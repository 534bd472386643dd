"""A codec that is two commands: a real one around Pillow, ffmpeg's, and what is said where one fails."""

import pickle
import stat
import sys
import time

import numpy as np
import pytest
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.cli import main
from slimcodec.evaluation import ffmpeg, memory
from slimcodec.evaluation.anchors import codec
from slimcodec.evaluation.commands import command_codec
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.points import codec_key
from slimcodec.evaluation.summary import read as read_summary

SCRIPT = """import sys
from PIL import Image
verb, source, made, *quality = sys.argv[1:]
if verb == "enc":
    Image.open(source).save(made, format="jpeg", quality=int(quality[0]))
else:
    Image.open(source).save(made, format="png")
"""


@pytest.fixture(scope="module")
def picture():
    from skimage.data import astronaut

    return Image.fromarray(astronaut()[20:100, 180:276])


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "my codec.py"  # with a space
    path.write_text(SCRIPT)
    return f"{sys.executable} '{path}'"


def commands(encode, decode="true {in} {out}", **settings):
    return command_codec(encode, decode, **{"name": "mine", "qualities": (10, 30, 50, 70)} | settings)


def test_two_commands_are_a_codec(picture, script):
    mine = pickle.loads(pickle.dumps(commands(f"{script} enc {{in}} {{out}} {{q}}", f"{script} dec {{in}} {{out}}")))
    data = mine.compress(picture, 50)
    assert data == codec("jpeg").compress(picture, 50)
    assert np.array_equal(np.asarray(mine.decompress(data)), np.asarray(codec("jpeg").decompress(data)))


def test_ffmpeg_is_a_codec_by_its_suffix(picture):
    program = ffmpeg.executable()
    encode = f"{program} -v error -i {{in}} -c:v mjpeg -q:v {{q}} {{out}}.jpg"
    mine = commands(encode, f"{program} -v error -i {{in}}.jpg {{out}}", qualities=(2, 31))
    fine, coarse = (mine.compress(picture, quality) for quality in (2, 31))
    assert len(fine) > 1.5 * len(coarse) and fine.startswith(b"\xff\xd8")
    assert psnr_db(np.asarray(picture), np.asarray(mine.decompress(fine))) > 28


def test_the_files_that_a_command_names_are_part_of_its_settings(script, tmp_path):
    encode, decode = f"{script} enc {{in}} {{out}} {{q}}", f"{script} dec {{in}} {{out}}"
    before = codec_key(commands(encode, decode))
    assert codec_key(commands(encode, decode)) == before
    (tmp_path / "my codec.py").write_text(SCRIPT + "# changed\n")
    assert codec_key(commands(encode, decode)) != before
    assert "my codec.py " in commands(encode, decode).settings


def test_no_shell_reads_a_command(picture, tmp_path):
    mine = commands(
        f"{sys.executable} -c 'import sys; open(sys.argv[2], \"w\").write(sys.argv[3])' {{in}} {{out}} '$({{q}}) ; x'"
    )
    assert mine.compress(picture, 2.5) == b"$(2.5) ; x"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import sys; sys.exit(3)", "ended with exit code 3: it said nothing"),
        ("raise ValueError('no such quality')", "ended with exit code 1: ValueError: no such quality"),
        ("pass", "ended well, but wrote nothing to {out}"),
        ("import os; os.kill(os.getpid(), 9)", "ended with signal 9: it said nothing"),
    ],
)
def test_a_command_that_fails_is_one_line_with_its_code_and_its_last_word(line, reason, picture):
    with pytest.raises(InvalidInput) as error:
        commands(f'{sys.executable} -c "{line}" {{in}} {{out}} {{q}}').compress(picture, 10)
    assert str(error.value) == f"mine: {sys.executable} {reason}"


def test_a_program_that_is_not_there_and_a_file_that_is_no_png(picture, tmp_path):
    with pytest.raises(InvalidInput, match="mine: cannot start no-such-program: No such file"):
        commands("no-such-program {in} {out} {q}").compress(picture, 10)
    with pytest.raises(InvalidInput, match="mine: cp wrote no PNG that can be read"):
        commands("true {in} {out} {q}", "cp {in} {out}").decompress(b"no picture")


def test_a_command_that_takes_too_long_is_ended_with_what_it_started(picture, tmp_path):
    program = tmp_path / "slow"
    program.write_text(f"#!/bin/sh\n(sleep 20; touch {tmp_path}/late) &\nsleep 20\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    start = time.monotonic()
    with pytest.raises(InvalidInput, match=r"slow took longer than 0\.2 seconds and was stopped"):
        commands(f"{program} {{in}} {{out}} {{q}}", seconds=0.2).compress(picture, 10)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("encode", "decode", "message"),
    [
        ("enc {in} {out}", "dec {in} {out}", "must have {q}"),
        ("enc {in} {q}", "dec {in} {out}", "must have {out}"),
        ("enc {in} {out} {q}", "dec {out}", "must have {in}"),
        ("enc '{in} {out} {q}", "dec {in} {out}", "cannot be read: No closing quotation"),
        ("", "dec {in} {out}", "a command is empty"),
    ],
)
def test_commands_that_cannot_be_run_are_refused(encode, decode, message):
    with pytest.raises(InvalidInput) as error:
        commands(encode, decode)
    assert message in str(error.value)


def test_on_the_command_line_it_is_measured_beside_the_others(picture, script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "peak_mib", lambda *_: None)
    (tmp_path / "photos").mkdir()
    picture.save(tmp_path / "photos" / "face.png")
    pair = [f"{script} enc {{in}} {{out}} {{q}}", f"{script} dec {{in}} {{out}}"]
    arguments = [
        "anchors",
        tmp_path / "photos",
        "--out",
        tmp_path / "out",
        "--codec",
        "jpeg",
        "--metrics",
        "psnr_rgb_db",
    ]
    arguments = [*map(str, arguments), "--jobs", "1", "--codec-command", *pair, "--command-name", "mine"]
    assert main(arguments) == 2
    assert "1 --command-name and 0 --command-qualities" in capsys.readouterr().err
    assert main([*arguments, "--command-qualities", "5,20,50,90"]) == 0
    found = read_summary(tmp_path / "out")
    assert list(found.codecs) == ["jpeg", "mine"] and found.codecs["mine"].qualities == [5, 20, 50, 90]
    assert found.bd_rate["jpeg"]["mine"]["psnr_rgb_db"].percent == pytest.approx(0, abs=1)
