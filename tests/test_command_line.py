"""The command line: what it writes, what it says about bad input, and its exit codes."""

import argparse
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.cli import VERBS, files, main, read_options
from slimcodec.cli.plan import Job, Plan, plan, split
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
        (["--scale", "0.5"], {"scale": 0.5}),
        (["--scale", "best"], {"scale": "best"}),
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
    assert seen == {"effort": 0, "strip": False, "scale": None} | settings


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
        plan(read_options(["compress", str(photo), "-"]))


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
    slim = tmp_path / "photo.slim"
    slim.write_bytes(b"kept")
    for arguments, named in (
        (["compress", photo, twin, tmp_path / "slim"], "both"),
        (["compress", photo, twin, "-o", small], "is not a folder"),
        (["compress", photo, small, tmp_path / "third.png"], "third.png: is not there"),
        (["compress", photo, photo], "is named twice"),
        (["compress", photo, "-o", photo], "does not make a file that ends in .png"),
        (["compress", photo, small, "-"], "stdout is for one picture"),
        (["compress", "-", photo, tmp_path / "slim"], "stdin has no name"),
        (["compress", photo], "photo.slim: is there already; --force"),
        (["compress", photo, slim], "photo.slim: is there already; --force"),
        (["compress", small, photo], "photo.slim: is there already; --force"),
        (["decompress", slim], "photo.png: is there already; --force"),
        (["decompress", slim, "-o", tmp_path / "other/photo.jpg"], "photo.jpg: is there already"),
        (["compress", photo, tmp_path / "a.webp"], "does not make a file that ends in .webp"),
        (["compress", photo, tmp_path / "a"], "does not make a file; end OUT in .slim"),
        (["decompress", slim, slim], "is named twice"),
        (["decompress", slim, tmp_path / "b.slim"], "decompress makes pictures"),
        (["compress", tmp_path], f"{tmp_path}: is a folder; --recursive"),
    ):
        assert run(*arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and named in printed.err
    assert small.read_bytes() == before and slim.read_bytes() == b"kept"
    assert names(tmp_path) == ["other", "photo.png", "photo.slim", "small.png"]


@pytest.fixture
def tree(tmp_path, photo, small):
    """Two pictures of one name in two folders, and what is no picture."""
    for folder in ("a", "b/c"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
    shutil.copy(photo, tmp_path / "tree/a/photo.png")
    shutil.copy(small, tmp_path / "tree/b/c/photo.PNG")
    (tmp_path / "tree/a/notes.txt").write_text("no picture")
    (tmp_path / "tree/a/.hidden.png").write_text("no picture")
    return tmp_path / "tree"


def below(folder, suffix):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}"))


def test_folders_keep_their_tree(tmp_path, tree, capsys):
    slim, back = tmp_path / "slim", tmp_path / "back"
    assert run("compress", "-r", tree, slim, "-q", "2") == 0
    assert below(slim, ".slim") == ["a/photo.slim", "b/c/photo.slim"]
    skipped = f"slimcodec: {tree}/a/notes.txt: skipped, by its suffix it is no picture\n"
    assert capsys.readouterr().err == skipped
    assert run("decompress", slim, "--recursive", "-o", back, "--quiet") == 0
    assert below(back, ".png") == ["a/photo.png", "b/c/photo.png"] and capsys.readouterr() == ("", "")
    assert run("compress", "-r", tree, "--quiet") == 0  # beside the pictures
    assert below(tree, ".slim") == ["a/photo.slim", "b/c/photo.slim"]
    assert run("compress", "-r", tree, "--quiet") == 2
    assert "is there already, and 1 more; --force" in capsys.readouterr().err
    (tree / "a/photo.slim").unlink()
    before = (tree / "b/c/photo.slim").stat()
    assert run("compress", "-r", tree, "--no-clobber") == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1 and f"{tree}/b/c/photo.slim: is there already, left alone" in printed.err
    assert (tree / "b/c/photo.slim").stat() == before
    (tmp_path / "empty").mkdir()
    assert run("compress", "-r", tmp_path / "empty") == 2 and "holds no picture" in capsys.readouterr().err


def test_without_out_a_file_is_beside_the_picture(tmp_path, photo, small, slim, codec):
    slim.unlink()
    assert run("compress", photo, small, "-q", "5.5") == 0
    assert names(tmp_path) == ["photo.png", "photo.slim", "small.png", "small.slim"]
    assert slim.read_bytes() == codec.compress(photo, 5.5)
    photo.unlink()
    assert run("decompress", slim) == 0
    assert np.array_equal(np.asarray(Image.open(photo)), np.asarray(codec.decompress(slim.read_bytes())))
    assert run("compress", photo, slim, "-f", "-q", "3") == 0 and slim.read_bytes() == codec.compress(photo, 3)


@pytest.mark.parametrize(
    "suffix, format", [("jpg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF"), ("tif", "TIFF"), ("PNG", "PNG")]
)
def test_decompress_writes_what_the_suffix_says(tmp_path, slim, suffix, format):
    assert run("decompress", slim, tmp_path / f"out.{suffix}") == 0
    assert Image.open(tmp_path / f"out.{suffix}").format == format


def test_which_name_is_out(tmp_path, photo, small, slim):
    photo, small, slim, none, folder = map(str, (photo, small, slim, tmp_path / "none", tmp_path))
    for compresses, given, output, expected in (
        (True, [photo], None, ([photo], None)),
        (True, [photo, slim], None, ([photo], slim)),
        (True, [photo, small], None, ([photo, small], None)),  # as gzip: both
        (True, [photo, small, none], None, ([photo, small], none)),
        (True, [photo, folder], None, ([photo], folder)),
        (True, [photo, "-"], None, ([photo], "-")),
        (True, [photo, "/dev/null"], None, ([photo], "/dev/null")),
        (True, [photo, slim], none, ([photo, slim], none)),
        (True, ["-"], None, (["-"], "-")),
        (False, [slim, photo], None, ([slim], photo)),
        (False, [slim, slim], None, ([slim, slim], None)),
    ):
        assert split(given, output, compresses=compresses) == expected, given


@pytest.mark.parametrize("jobs", [1, 3])
def test_several_at_a_time_say_the_same(tmp_path, photo, small, pictures, capsys, jobs):
    """In the order of the names; a warning stands before its picture's line."""
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(deep)
    (tmp_path / "text.png").write_text("not a picture")
    sources = [photo, deep, tmp_path / "text.png", small]
    assert run("compress", *sources, "-o", tmp_path / "out", "-j", jobs) == 2
    printed = capsys.readouterr()
    lines = [line.split(": ")[0] for line in printed.out.splitlines()]
    assert lines == [f"{tmp_path}/out/{name}.slim" for name in ("photo", "deep", "small")]
    first, second = printed.err.splitlines()
    assert first == f"slimcodec: {deep}: has 16 bits a channel, rounded to 8" and "text.png: is not a pic" in second
    assert run("compress", *sources, "-o", tmp_path / "out", "-j", jobs, "--quiet", "--force") == 2
    assert capsys.readouterr() == ("", f"{second}\n")


def test_ctrl_c_ends_several_at_a_time(tmp_path, photo, small, monkeypatch, capsys):
    """The others stop where they next say how far they are."""
    started = threading.Event()

    def compress(self, picture, progress, **_):
        if picture.size == (31, 17):
            started.wait(10)
            raise KeyboardInterrupt
        started.set()
        for _ in range(1000):
            progress(0.5)
            time.sleep(0.01)
        pytest.fail("went on")

    monkeypatch.setattr(inference.Codec, "compress", compress)
    begin, before = time.monotonic(), set(threading.enumerate())
    assert run("compress", small, photo, "-j", "2") == 130
    for thread in set(threading.enumerate()) - before:
        thread.join(1)
    assert time.monotonic() - begin < 5 and names(tmp_path) == ["photo.png", "small.png"]
    assert capsys.readouterr() == ("", "")


def test_verbose_says_what_it_took(tmp_path, photo, slim, codec, capsys):
    assert run("compress", photo, tmp_path / "a.slim", "-q", "5.5", "-v") == 0
    decoded = np.asarray(codec.decompress(slim.read_bytes())).astype(float)
    psnr_db = 10 * np.log10(255**2 / np.square(decoded - np.asarray(Image.open(photo))).mean())
    numbers = rf"quality 5\.5, PSNR {psnr_db:.2f} dB, \d+\.\d\d s, \d+\.\d\d MP/s\n"
    assert re.search(numbers, capsys.readouterr().out)
    assert run("decompress", slim, tmp_path / "a.png", "-v") == 0
    assert re.search(r"130x100 RGB, \d+\.\d\d s, \d+\.\d\d MP/s\n", capsys.readouterr().out)


def test_a_psnr_out_of_reach_says_what_could_be(tmp_path, photo, capsys):
    assert run("compress", photo, tmp_path / "a.slim", "--psnr", "5") == 0
    assert re.search(r"slimcodec: --psnr 5: the lowest quality .* gives \d+\.\d\d dB here\n", capsys.readouterr().err)
    assert run("compress", photo, tmp_path / "b.slim", "--psnr", "99") == 2
    reach = r"--psnr 99: the best quality .* gives \d.* dB here, the lowest \d.* dB\n"
    assert re.search(reach, capsys.readouterr().err)


def test_a_bar_shows_on_a_terminal_alone(monkeypatch, capsys):
    def work(source, target, progress):
        for share in (0.0, 0.5, 1.0):
            time.sleep(0.11)  # tqdm draws ten times a second
            progress(share)
        return "done"

    jobs, options = Plan([Job("a", "b"), Job("c", "d")], []), argparse.Namespace(quiet=False, jobs=1)
    assert files.do_each(jobs, work, options) == 0
    assert capsys.readouterr() == ("b: done\nd: done\n", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(files, "BAR_AFTER_SECONDS", 0)
    assert files.do_each(jobs, work, options) == 0
    printed = capsys.readouterr()
    assert printed.out == "b: done\nd: done\n" and "75%" in printed.err


# --- what there is --------------------------------------------------------------------------------------------------


def test_info_of_a_file(slim, codec, capsys):
    assert run("info", slim, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    size, version = slim.stat().st_size, slim.read_bytes()[4]
    expected = {"format_version": version, "width": 130, "height": 100, "grey": False, "quality": 5.5, "bytes": size}
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


NAMES_OF = {"--effort": "effort", "-q": "quality", "--bpp": "--bpp", "--max-bytes": "--max-bytes", "--psnr": "--psnr"}
OUT_OF_RANGE = [["--effort", "11"], ["--effort", "-1"], ["-q", "0.5"], ["-q", "9"], ["-q", "nan"]]
OUT_OF_RANGE += [["--bpp", "0"], ["--max-bytes", "-5"], ["--psnr", "inf"]]
HEAVY = "torch numpy PIL safetensors tqdm matplotlib scipy joblib plotly"


def test_looking_and_values_out_of_range_import_no_library(slim, model_directory):
    script = f"""
import sys
from slimcodec.cli import main
codes = main(["info", sys.argv[1]]), main(["models"])
for wrong in {OUT_OF_RANGE}:
    assert main(["compress", "photo.png", "--model", sys.argv[2], *wrong]) == 2
assert main(["evaluate", "photos", "--out", "study", "--effort", "11"]) == 2
print(codes, sorted(set("{HEAVY}".split()) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, slim, model_directory], capture_output=True, text=True, timeout=20
    )
    *refusals, last = done.stderr.splitlines()
    assert last == "(0, 0) []" and len(refusals) == len(OUT_OF_RANGE) + 1, done.stderr
    for line, (option, value) in zip(refusals, [*OUT_OF_RANGE, ["--effort", "11"]], strict=True):
        assert value in line and "must be" in line and NAMES_OF[option] in line


def test_help_and_typos_import_no_library():
    """A verb imports what it needs when it runs: what `slimcodec --help` imports, every command would wait for.

    Nor does a command look for cycles among its imports, or let NumPy's threads spin.
    """
    tried = [["--help"], ["--version"], ["compres"], *([verb, flag] for verb in VERBS for flag in ("--help", "--typo"))]
    script = f"""
import contextlib, gc, os, sys
from slimcodec.__main__ import run
codes = []
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
    for arguments in {tried}:
        try:
            run(arguments)
        except SystemExit as ending:
            codes.append(ending.code)
print(codes, sorted(set("{HEAVY}".split()) & set(sys.modules)))
print(gc.get_threshold()[0] >= 100_000, os.environ["OPENBLAS_NUM_THREADS"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == (f"{[0, 0, 2] + [0, 2] * len(VERBS)} []\nTrue 1\n", "")


BASH = """
source "$1"
COMP_WORDS=(slimcodec compress --eff); COMP_CWORD=2
_shtab_slimcodec slimcodec --eff compress; echo "${COMPREPLY[@]}"
COMP_WORDS=(slimcodec dec); COMP_CWORD=1
_shtab_slimcodec slimcodec dec slimcodec; echo "${COMPREPLY[@]}"
COMP_WORDS=(slimcodec compress pho); COMP_CWORD=2
_shtab_slimcodec slimcodec pho compress; echo "${COMPREPLY[@]}"
"""
FISH = """
source $argv[1]
for line in "slimcodec compress --eff" "slimcodec dec" "slimcodec compress pho"
    echo (complete -C"$line" | string match -r "^[^[:space:]]+")
end
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_verbs_options_and_files(tmp_path, photo, capsys, shell):
    assert run("completion", shell) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert all(verb in script.read_text() for verb in VERBS)
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    if shell == "zsh":  # it completes at a terminal alone
        assert subprocess.run(["zsh", "-n", script], timeout=20).returncode == 0
        return
    arguments = ["bash", "--norc", "-c", BASH, "bash", script] if shell == "bash" else ["fish", "-c", FISH, script]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert done.stdout.splitlines() == ["--effort", "decompress", "photo.png"], done.stderr


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
        ("compress", "IN"),
        ("compress a.png a.slim -q 3 --bpp 1", "not allowed with"),
        ("compress a.png a.slim --colour", "usage: slimcodec compress"),
        ("compress a.png a.slim --colour", "unrecognized arguments: --colour"),
        ("compress a.png -f -n", "not allowed with"),
        ("compress a.png -j 0", "is not a whole number from 1"),
        ("decompress a.slim --region 0,0,0,1", "no part of a picture"),
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
    assert run("compress", photo, slim, "--force") == 2
    reason = "may not be written to; change its mode or name another target"
    assert capsys.readouterr() == ("", f"slimcodec: {slim}: {reason}\n") and slim.read_bytes() == before
