"""The command line: what it writes, what it says about bad input, and its exit codes."""

import io
import json
import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.cli import VERBS, files, main
from slimcodec.codec import atomic, inference, models, zoo


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, model_directory, monkeypatch):
    """One student and one teacher."""
    folder = tmp_path_factory.mktemp("zoo")
    models.copy(model_directory, folder / "students/mine")
    models.copy(model_directory, folder / "teachers/large")
    monkeypatch.setattr(zoo, "zoos", lambda: [folder / "students", folder / "teachers"])
    return folder


@pytest.fixture
def photo(tmp_path, pictures):
    path = tmp_path / "photo.png"
    Image.fromarray(pictures["astronaut 100x130"]).save(path)
    return path


@pytest.fixture
def small(tmp_path, pictures):
    path = tmp_path / "small.png"
    Image.fromarray(pictures["17x31"]).save(path)
    return path


@pytest.fixture
def slim(tmp_path, photo, codec):
    path = tmp_path / "photo.slim"
    path.write_bytes(codec.compress(Image.open(photo), 5.5))
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- one picture ----------------------------------------------------------------------------------------------------


def test_a_picture_goes_to_a_file_and_back(tmp_path, photo, codec, capsys):
    slim, out = tmp_path / "photo.slim", tmp_path / "out.png"
    assert run("compress", photo, slim, "-q", "5.5") == 0
    size = slim.stat().st_size
    assert capsys.readouterr() == (f"{slim}: {size:,} bytes, {8 * size / 13000:.3f} bpp, quality 5.5\n", "")
    assert run("decompress", slim, out) == 0
    assert capsys.readouterr() == (f"{out}: 130x100 RGB\n", "")
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(codec.decompress(slim.read_bytes())))
    assert names(tmp_path) == ["out.png", "photo.png", "photo.slim"]


@pytest.mark.parametrize(
    "options, settings",
    [
        ([], {}),
        (["-q", "2.5"], {"quality": 2.5}),
        (["--bpp", "0.5"], {"target_bpp": 0.5}),
        (["--max-bytes", "900"], {"max_bytes": 900}),
        (["--psnr", "30"], {"target_psnr_db": 30.0}),
        (["--effort", "3", "--strip"], {"effort": 3, "strip": True}),
    ],
)
def test_settings_reach_the_codec(tmp_path, photo, codec, monkeypatch, options, settings):
    seen = {}

    def compress(self, picture, progress, **settings):
        seen.update(settings)
        return data

    data = codec.compress(Image.open(photo))
    monkeypatch.setattr(inference.Codec, "compress", compress)
    assert run("compress", photo, tmp_path / "a.slim", *options) == 0
    assert seen == {"effort": 0, "strip": False} | settings


def test_a_region_and_a_truncated_file(tmp_path, slim):
    assert run("decompress", slim, tmp_path / "a.png", "--region", "8,16,24,32") == 0
    assert Image.open(tmp_path / "a.png").size == (24, 32)
    slim.write_bytes(slim.read_bytes()[:-1])
    assert run("decompress", slim, tmp_path / "b.png") == 2
    assert run("decompress", slim, tmp_path / "b.png", "--partial") == 0


def test_stdin_and_stdout(slim, photo, codec, capsysbinary, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(photo.read_bytes())))
    assert run("compress", "-", "-", "-q", "5.5") == 0
    printed = capsysbinary.readouterr()
    assert printed.out == slim.read_bytes() and printed.err.startswith(b"stdout: ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(slim.read_bytes())))
    assert run("decompress", "-", "-") == 0
    printed = capsysbinary.readouterr()
    assert np.array_equal(Image.open(io.BytesIO(printed.out)), codec.decompress(slim.read_bytes()))
    assert printed.err == b"stdout: 130x100 RGB\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nothing")))
    assert run("decompress", "-", "-") == 2
    assert capsysbinary.readouterr().out == b""


def test_a_terminal_is_no_place_for_a_picture(photo, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(InvalidInput, match="not for a terminal"):
        files.plan([str(photo)], "-", ".slim")


# --- several --------------------------------------------------------------------------------------------------------


def test_several_pictures_go_to_a_folder_that_need_not_be_there(tmp_path, photo, small, capsys):
    assert run("compress", photo, small, "-q", "3", tmp_path / "slim") == 0  # options may stand in between
    assert names(tmp_path / "slim") == ["photo.slim", "small.slim"]
    assert capsys.readouterr().out.count("quality 3\n") == 2
    assert run("decompress", *sorted((tmp_path / "slim").iterdir()), tmp_path / "back") == 0
    assert names(tmp_path / "back") == ["photo.png", "small.png"]
    assert Image.open(tmp_path / "back/small.png").size == Image.open(small).size
    assert run("compress", small, tmp_path / "back") == 0  # one picture, and a folder that is there
    assert names(tmp_path / "back") == ["photo.png", "small.png", "small.slim"]


def test_a_bad_one_does_not_stop_the_others(tmp_path, photo, small, capsys):
    (tmp_path / "text.png").write_text("not a picture")
    assert run("compress", tmp_path / "text.png", photo, tmp_path / "none.png", small, tmp_path / "slim") == 2
    assert names(tmp_path / "slim") == ["photo.slim", "small.slim"]
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 2
    first, second = printed.err.splitlines()
    assert first.startswith(f"slimcodec: {tmp_path / 'text.png'}: ") and "none.png" in second


def test_what_would_overwrite_is_refused_before_any_work(tmp_path, photo, small, capsys):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other/photo.jpg"
    Image.open(photo).save(twin)
    before = small.read_bytes()
    for arguments, named in (
        (["compress", photo, twin, tmp_path / "slim"], "both"),
        (["compress", photo, small], "is there already and no .slim file"),  # a forgotten OUT
        (["compress", photo, twin, small], "is not a folder"),
        (["compress", photo, photo], "is an input as well"),
        (["compress", photo, small, "-"], "stdout is for one picture"),
        (["compress", "-", photo, tmp_path / "slim"], "stdin has no name"),
    ):
        assert run(*arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and named in printed.err
    assert small.read_bytes() == before and names(tmp_path) == ["other", "photo.png", "small.png"]


def test_a_bar_shows_on_a_terminal_alone(monkeypatch, capsys):
    def work(source, target, progress):
        for share in (0.0, 0.5, 1.0):
            time.sleep(0.11)  # tqdm draws ten times a second
            progress(share)
        return "done"

    jobs = [files.Job("a", "b"), files.Job("c", "d")]
    assert files.do_each(jobs, work) == 0
    assert capsys.readouterr() == ("b: done\nd: done\n", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(files, "BAR_AFTER_SECONDS", 0)
    assert files.do_each(jobs, work) == 0
    printed = capsys.readouterr()
    assert printed.out == "b: done\nd: done\n" and "75%" in printed.err


# --- what there is --------------------------------------------------------------------------------------------------


def test_info_of_a_file(slim, codec, capsys):
    assert run("info", slim, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    size = slim.stat().st_size
    expected = {"format_version": 2, "width": 130, "height": 100, "grey": False, "quality": 5.5, "bytes": size}
    expected |= {"bpp": 8 * size / 13000, "model_hash": codec.model_hash.hex(), "model": "mine", "complete": True}
    assert expected.items() <= report.items()
    slim.write_bytes(slim.read_bytes()[:-1])
    assert run("info", slim) == 0
    lines = capsys.readouterr().out
    assert "130 x 100 pixels" in lines and "quality   5.5" in lines and "mine" in lines and "truncated" in lines


def test_info_of_a_model_is_the_card_or_model_json(installed, capsys):
    description = zoo.read_description(installed / "students/mine")
    assert run("info", "mine", "--json") == 0
    assert json.loads(capsys.readouterr().out) == description
    assert {"decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters", "figures"} <= set(description)
    assert run("info", installed / "students/mine") == 0
    assert capsys.readouterr().out == zoo.render_card("mine", description)


def test_models_lists_the_installed_ones_and_names_the_broken(installed, codec, capsys):
    assert run("models") == 0
    title, mine, large = capsys.readouterr().out.splitlines()
    kilo = f"{codec.model.info['decoder_macs_per_pixel'] / 1000:.2f}"
    assert title.startswith("name") and mine.split()[:3] == ["mine", "student", kilo] and large.startswith("large")
    (installed / "students/mine" / zoo.DESCRIPTION).write_text("{}")
    assert run("models", "--json") == 2
    printed = capsys.readouterr()
    assert [model["name"] for model in json.loads(printed.out)] == ["large"]
    assert "students/mine" in printed.err and printed.err.count("\n") == 1


NAMES = [verb.__name__.rpartition(".")[2] for verb in VERBS]
HEAVY = "torch numpy numba PIL safetensors tqdm matplotlib scipy joblib plotly"


def test_looking_imports_no_library(slim, tmp_path):
    script = f"""
import sys
from slimcodec.cli import main
codes = main(["info", sys.argv[1]]), main(["models"])
print(codes, sorted(set("{HEAVY}".split()) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script, slim], capture_output=True, text=True, timeout=20)
    assert done.stderr == "(0, 0) []\n"


def test_help_and_typos_import_no_library():
    """A verb imports what it needs when it runs: what `slimcodec --help` imports, every command would wait for."""
    tried = [["--help"], ["--version"], ["compres"], *([verb, flag] for verb in NAMES for flag in ("--help", "--typo"))]
    script = f"""
import contextlib, os, sys
from slimcodec.cli import main
codes = []
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
    for arguments in {tried}:
        try:
            main(arguments)
        except SystemExit as ending:
            codes.append(ending.code)
print(codes, sorted(set("{HEAVY}".split()) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == (f"{[0, 0, 2] + [0, 2] * len(NAMES)} []\n", "")


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, photo, slim, capsys):
    broken, text = tmp_path / "broken.slim", tmp_path / "text.png"
    broken.write_bytes(b"SLIMnothing")
    text.write_text("not a picture")
    out = tmp_path / "out.slim"
    for arguments, named in (
        (["compress", tmp_path / "missing.png", out], "missing.png"),
        (["compress", tmp_path, out], f"{tmp_path}: "),
        (["compress", text, out], "text.png"),
        (["compress", photo, out, "-q", "9"], "quality"),
        (["compress", photo, out, "-q", "nan"], "quality"),
        (["compress", photo, out, "--effort", "11"], "effort"),
        (["compress", photo, out, "--model", "nobody"], "nobody"),
        (["compress", photo, out, "--device", "nowhere"], "nowhere"),
        (["compress", photo, tmp_path / "missing/out.slim"], "missing/out.slim: No such file"),
        (["compress", photo, "/dev/full"], "/dev/full: No space left"),
        (["decompress", broken, tmp_path / "out.png"], "broken.slim"),
        (["decompress", slim, tmp_path / "out.xyz"], ".xyz"),
        (["decompress", slim, tmp_path / "out.png", "--max-pixels", "99"], "photo.slim"),
        (["decompress", slim, tmp_path / "out.png", "--region", "0,0,999,999"], "region"),
        (["info", tmp_path], str(tmp_path)),
        (["info", tmp_path / "missing.slim"], "missing.slim: cannot be read"),
        (["info", broken], "broken.slim"),
        (["info", "nobody"], "nobody"),
    ):
        assert run(*arguments) == 2, arguments
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and named in printed.err
        assert printed.err.startswith("slimcodec: ") and "None" not in printed.err
    assert names(tmp_path) == ["broken.slim", "photo.png", "photo.slim", "text.png"]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("compress a.png", "OUT"),
        ("compress a.png a.slim -q 3 --bpp 1", "not allowed with"),
        ("compress a.png a.slim --colour", "--colour"),
        ("compress a.png a.slim -q good", "good"),
        ("decompress a.slim a.png --region 1,2,3", "X,Y,W,H"),
        ("compress a.png a.slim --max-pixels 0", "--max-pixels"),
        ("info a b", "unrecognized"),
        ("", "VERB"),
    ],
)
def test_arguments_that_make_no_sense(arguments, named, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2 and named in capsys.readouterr().err


def test_a_missing_model_is_said_once(tmp_path, photo, small, installed, capsys):
    models.copy(installed / "students/mine", installed / "students/other")
    for arguments, named in (([], "mine, other"), (["--model", "nobody"], "nobody")):
        assert run("compress", photo, small, tmp_path / "slim", *arguments) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and named in printed.err


def test_max_pixels_is_honoured_both_ways(tmp_path, photo, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    slim = tmp_path / "photo.slim"
    assert run("compress", photo, slim) == 2
    assert "--max-pixels" in capsys.readouterr().err and not slim.exists()
    assert run("compress", photo, slim, "--max-pixels", 12_999) == 2
    assert "more than the limit of 12,999" in capsys.readouterr().err
    assert run("compress", photo, slim, "--max-pixels", 13_000) == 0
    assert capsys.readouterr().err == ""
    assert run("decompress", slim, tmp_path / "out.png", "--max-pixels", 12_999) == 2
    assert "--max-pixels" in capsys.readouterr().err
    assert run("decompress", slim, tmp_path / "out.png", "--max-pixels", 13_000) == 0


def test_an_animation_is_compressed_with_one_line(tmp_path, capsys):
    path = tmp_path / "film.gif"
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert run("compress", path, tmp_path / "film.slim") == 0
    assert capsys.readouterr().err == f"slimcodec: {path}: only the first of its 3 frames is used\n"


def test_info_lists_xmp(tmp_path, photo, capsys):
    Image.open(photo).save(tmp_path / "with.jpg", xmp=b"<x:xmpmeta/>")
    assert run("compress", tmp_path / "with.jpg", tmp_path / "with.slim") == 0
    assert run("info", tmp_path / "with.slim") == 0
    assert "chunks    xmp 20 bytes" in capsys.readouterr().out


def test_a_warning_is_one_line(tmp_path, capsys):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path)
    assert run("compress", path, tmp_path / "deep.slim") == 0
    assert capsys.readouterr().err == f"slimcodec: {path}: has 16 bits a channel, rounded to 8\n"


def test_ctrl_c_leaves_nothing_behind(tmp_path, photo, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference.Codec, "compress", stopped)
    assert run("compress", photo, tmp_path / "a.slim") == 130
    assert names(tmp_path) == ["photo.png"] and capsys.readouterr() == ("", "")


def test_our_own_mistakes_are_not_hidden(tmp_path, photo, monkeypatch):
    monkeypatch.setattr(inference.Codec, "compress", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("compress", photo, tmp_path / "a.slim")
    assert names(tmp_path) == ["photo.png"]


def test_nobody_reading_ends_it_quietly(slim):
    command = [sys.executable, "-m", "slimcodec", "info", slim]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait(20) == 141 and process.stderr.read() == ""
    process.stderr.close()


# --- standard streams -----------------------------------------------------------------------------------------------


def shell(arguments, redirection, *, unbuffered="", **settings):
    """What `slimcodec ARGUMENTS REDIRECTION` does in a shell; those that import no library take a quarter second."""
    command = f"{shlex.quote(sys.executable)} -m slimcodec {arguments} {redirection}"
    settings = {"capture_output": True, "timeout": 60} | settings
    return subprocess.run(
        ["bash", "-c", command], env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, check=False, **settings
    )


FULL = b"slimcodec: stdout: No space left on device\n"
CLOSED = b"slimcodec: stdout is closed, there is nowhere to write to\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", ["info -", "info - --json", "models", "models --json", "info --help", "--version"]
)
def test_a_full_disk_behind_stdout(slim, arguments, unbuffered):
    done = shell(arguments, f"< {slim} > /dev/full", unbuffered=unbuffered)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", FULL)


@pytest.mark.parametrize(
    "arguments, redirection, code, printed",
    [
        ("info -", "<&-", 2, b"slimcodec: stdin is closed; name a file to read\n"),
        ("compress - out.slim", "<&-", 2, b"slimcodec: stdin is closed; name a file to read\n"),
        ("decompress /dev/stdin out.png", "<&-", 2, b"slimcodec: stdin is closed; name a file to read\n"),
        ("info {slim}", ">&-", 2, CLOSED),
        ("models --json", ">&-", 2, CLOSED),
        ("compress {slim} -", ">&-", 2, CLOSED),
        ("decompress {slim} /dev/stdout", ">&-", 2, CLOSED),
        ("--version", ">&-", 0, b""),
        ("info nobody", ">/dev/null 2>&-", 2, b""),
        ("info nobody", ">/dev/null 2>/dev/full", 2, b""),
        ("info --nothing", "2>&-", 2, b""),
        ("models", ">/dev/null 2>&-", 0, b""),
        ("models", ">/dev/null <&-", 0, b""),
        ("models", ">&- 2>&- <&-", 2, b""),
    ],
)
def test_closed_streams_are_one_line_or_silence(tmp_path, slim, arguments, redirection, code, printed):
    done = shell(arguments.format(slim=slim), redirection, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", printed)
    assert names(tmp_path) == ["photo.png", "photo.slim"]


@pytest.fixture
def closed(monkeypatch):
    """Closes a stream as Python sees it; its number stays with pytest."""
    return lambda name: monkeypatch.setattr(sys, name, None)


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_picture_goes_to_a_file_whatever_stream_is_closed(tmp_path, photo, slim, closed, name):
    closed(name)
    assert run("compress", photo, tmp_path / "a.slim", "-q", "5.5") == 0
    assert (tmp_path / "a.slim").read_bytes() == slim.read_bytes()
    assert run("compress", tmp_path / "missing.png", tmp_path / "b.slim") == 2


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
@pytest.mark.parametrize("verb", ["compress", "decompress"])
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_picture_that_fits_only_in_part_is_no_success(
    tmp_path, photo, slim, capfd, monkeypatch, file_size_limit, verb, target, unbuffered
):
    """PYTHONUNBUFFERED makes stdout a raw file, which says how much it took, and nothing else."""
    raw = io.FileIO(tmp_path / "out", "w")
    stream = io.TextIOWrapper(raw if unbuffered else io.BufferedWriter(raw), write_through=unbuffered)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(atomic, "descriptor", lambda name: raw.fileno() if name == "/dev/stdout" else None)
    with file_size_limit(1000):
        assert run(verb, photo if verb == "compress" else slim, target) == 2
    name = "stdout" if target == "-" else target
    assert capfd.readouterr().err == f"slimcodec: {name}: File too large\n"


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_what_goes_to_dev_stdout_is_the_picture_alone(photo, slim, capfdbinary, target):
    assert run("compress", photo, target, "-q", "5.5") == 0
    printed = capfdbinary.readouterr()
    assert printed.out == slim.read_bytes()
    assert printed.err.startswith(f"{target}: ".encode()) and printed.err.count(b"\n") == 1
    assert run("decompress", slim, target) == 0
    assert Image.open(io.BytesIO(capfdbinary.readouterr().out)).format == "PNG"


def test_info_reads_stdin_and_pipes(slim, capsys, monkeypatch):
    assert run("info", slim, "--json") == 0
    expected = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(slim.read_bytes())))
    assert run("info", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out) == expected | {"file": "stdin"}
    reader, writer = os.pipe()
    os.write(writer, slim.read_bytes())
    os.close(writer)
    assert run("info", f"/dev/fd/{reader}", "--json") == 0
    os.close(reader)
    assert json.loads(capsys.readouterr().out) == expected | {"file": f"/dev/fd/{reader}"}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nothing")))
    assert run("info", "-") == 2
    assert capsys.readouterr().err.startswith("slimcodec: stdin: not a .slim file")


def test_another_name_of_the_input_is_an_input_as_well(tmp_path, photo, capsys):
    os.link(photo, tmp_path / "twin.slim")
    before = photo.read_bytes()
    assert run("compress", photo, tmp_path / "twin.slim") == 2
    assert "is an input as well" in capsys.readouterr().err and photo.read_bytes() == before


def test_what_may_not_be_written_is_refused_in_one_line(photo, slim, capsys):
    before = slim.read_bytes()
    slim.chmod(0o444)
    assert run("compress", photo, slim) == 2
    reason = "may not be written to; change its mode or name another target"
    assert capsys.readouterr() == ("", f"slimcodec: {slim}: {reason}\n") and slim.read_bytes() == before
