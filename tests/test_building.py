"""The entropy coder's library: made once where it can be kept, for one process where nothing can be, and else one line.

Containers, read-only checkouts, machines without a compiler, and what is wrong with what is there.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import slimcodec
from slimcodec import InvalidInput
from slimcodec.codec import building, entropy, native

ROOT = Path(__file__).parents[1]
PACKAGE = Path(slimcodec.__file__).parent
NOBODY = 65534
# Another user, who may read the Python that root has at home.
BECOME = "setpriv --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search --regid {0} --reuid {0}"
needs_another_user = pytest.mark.skipif(
    os.name == "nt" or (os.geteuid() == 0 and not shutil.which("setpriv")), reason="root may write anywhere"
)
TABLES = entropy.build_tables([65535, 1], [2], [0], escape=False).for_native
CODE = """
from slimcodec.codec import entropy
tables = entropy.build_tables([65535, 1], [2], [0], escape=False)
encoder = entropy.Encoder()
encoder.put([0, 1, 0], [0, 0, 0], tables)
data = encoder.finish()
assert entropy.Decoder(data).get(entropy.np.zeros(3, int), tables).tolist() == [0, 1, 0]
assert len(data) == 16, len(data)
"""


@pytest.fixture
def place(tmp_path_factory):
    """A folder that every user may read, with a copy of the package that has no library yet."""
    place = tmp_path_factory.mktemp("place")
    for path in (place, *place.parents[:2]):
        path.chmod(0o755)
    (place / "slimcodec/codec").mkdir(parents=True)
    for name in ("__init__.py", *(f"codec/{name}" for name in ("__init__.py", "building.py", "coder.c", "entropy.py"))):
        shutil.copy(PACKAGE / name, place / "slimcodec" / name)
    shutil.copy(PACKAGE / "codec/native.py", place / "slimcodec/codec")
    (place / "temporary").mkdir()
    (place / "temporary").chmod(0o1777)
    return place


def start(place, *, user=None, **environment):
    become = BECOME.format(user).split() if user and os.geteuid() == 0 else []
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
        "TMPDIR": str(place / "temporary"),
    } | environment
    command = [*become, sys.executable, "-c", CODE]
    return subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE, text=True)


def kept(place):
    return sorted(path.name for path in (place / "slimcodec/codec").glob("coder-*"))


def test_processes_that_make_it_at_the_same_time_leave_one_which_is_used_from_then_on(place):
    for process in [start(place), start(place)]:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert kept(place) == [building.library_path().name] and not list((place / "temporary").iterdir())
    again = start(place, CC="/nonexistent")
    assert again.wait() == 0, again.stderr.read()


@needs_another_user
def test_where_it_cannot_be_kept_it_is_made_for_one_process(place):
    for path in (place / "slimcodec", place / "slimcodec/codec"):
        path.chmod(0o555)
    process = start(place, user=NOBODY)
    assert process.wait() == 0, process.stderr.read()
    assert kept(place) == [] and not list((place / "temporary").iterdir())


@needs_another_user
def test_one_that_is_there_needs_nothing_that_can_be_written(place):
    with building.library() as path:
        shutil.copy(path, place / "slimcodec/codec")
    for path in (place / "slimcodec", place / "slimcodec/codec", place / "temporary"):
        path.chmod(0o555)
    process = start(place, user=NOBODY, CC="/nonexistent")
    assert process.wait() == 0, process.stderr.read()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of coder.c without a library."""
    monkeypatch.setattr(building, "SOURCE", Path(shutil.copy(building.SOURCE, tmp_path)))
    monkeypatch.delenv("CC", raising=False)
    return building.SOURCE


def refused():
    with pytest.raises(InvalidInput) as caught, building.library():
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_compiler_one_line_says_what_brings_one(source, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    assert building.compiler() is None
    assert refused() == f"{source}: there is no C compiler here: pip install ziglang brings one, and CC names another"
    monkeypatch.setattr(building, "find_spec", lambda name: name == "ziglang" or None)
    assert building.compiler() == [sys.executable, "-m", "ziglang", "cc"]


def test_a_compiler_that_cannot_do_it_is_named(source, monkeypatch):
    monkeypatch.setenv("CC", "/nonexistent -m64")
    assert refused() == f"{source}: /nonexistent cannot be run (No such file or directory); CC names another"
    monkeypatch.setenv("CC", "false")
    assert refused() == f"{source}: false cannot compile it (exit status 1); CC names another"
    monkeypatch.delenv("CC")
    source.write_text("nothing of C\n")
    assert refused().startswith(f"{source}: ")


def test_without_a_temporary_folder_one_line_says_so(source, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    assert "cannot be compiled without a temporary folder" in refused()


def test_a_library_of_another_version_is_left_alone(source):
    with building.library() as before:
        pass
    source.write_text(source.read_text() + "\n")
    with building.library() as after:
        assert after.exists()
    assert before.exists() and before != after


def test_a_damaged_library_is_named(source):
    building.library_path().write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"coder-.*: cannot be loaded .*; delete it, and it is made anew") as caught:
        native.functions.__wrapped__()
    assert "\n" not in str(caught.value)


def test_the_source_has_no_warnings(tmp_path):
    found = building.compiler()
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-pedantic", "-Werror"]
    done = subprocess.run(
        [*found, *warnings, "-c", "-o", tmp_path / "coder.o", building.SOURCE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [np.zeros(3, np.uint64), np.zeros((3, 1), np.uint32), np.zeros(6, np.uint32)[::2], [0, 0, 0]]
)
def test_an_array_of_another_kind_is_an_error_and_no_crash(words):
    states, index, symbols = np.zeros(2, np.uint64), np.zeros(1, np.uint8), np.zeros(1, np.int16)
    with pytest.raises(ctypes.ArgumentError):
        native.call("decode", states, words, 3, 0, index, 1, 1, *TABLES, symbols)
    symbols.flags.writeable = False
    with pytest.raises(ctypes.ArgumentError):
        native.call("decode", states, np.zeros(3, np.uint32), 3, 0, index, 1, 1, *TABLES, symbols)


def test_levels_are_the_nearest_and_halves_go_to_the_even_one():
    x = np.concatenate([np.linspace(-1, 2, 9001), np.arange(-3, 520) / 510, [np.nan, np.inf, -np.inf]])
    x = x.astype(np.float32)[None, :, None].repeat(2, axis=2)
    found = np.empty(x.shape, np.uint8)
    native.call("levels", x, found, x.size)
    wanted = np.nan_to_num(np.rint(x * np.float32(255)), nan=0).clip(0, 255)
    assert np.array_equal(found, wanted)


def test_a_wheel_has_it_and_serves_every_python(monkeypatch):
    """What hatchling is told for one; an editable install uses the checkout's."""
    pytest.importorskip("hatchling")
    from hatchling.builders.wheel import WheelBuilder

    monkeypatch.syspath_prepend(str(ROOT))
    from hatch_build import CoderHook

    config = SimpleNamespace(builder=WheelBuilder(str(ROOT)))
    hook = CoderHook(str(ROOT), {}, config, None, str(ROOT / "dist"), "wheel", None)
    found = {}
    for version in ("standard", "editable"):
        found[version] = {"force_include": {}}
        hook.initialize(version, found[version])
        hook.finalize(version, found[version], "")
    name = building.library_path().name
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert list(found["standard"]["force_include"].values()) == [f"slimcodec/codec/{name}"]
    assert found["editable"]["force_include"] == {}
    assert found["standard"]["tag"].startswith("py3-none-") and found["standard"]["pure_python"] is False
    assert sys.platform != "linux" or found["standard"]["tag"] == f"py3-none-{platform}"
    monkeypatch.setattr(building, "compiler", lambda: None)
    assert hook.dependencies() == ["ziglang"]
