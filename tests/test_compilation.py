"""Where compiled code is kept, and that the codec works where it cannot be: containers, full disks, damaged files."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import slimcodec

NOBODY = 65534
# Another user, who may read the Python that root has at home.
BECOME = "setpriv --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search --regid {0} --reuid {0}"
pytestmark = pytest.mark.skipif(
    os.name == "nt" or (os.geteuid() == 0 and not shutil.which("setpriv")), reason="root may write anywhere"
)
PACKAGE = Path(slimcodec.__file__).parent
CODE = """
import tempfile
{first}
from slimcodec.codec import entropy
tables = entropy.build_tables([65535, 1], [2], [0], escape=False)
encoder = entropy.Encoder()
{work}
print(getattr(entropy._look_up._cache, "cache_path", None))
"""
WORK = "encoder.put([0, 1, 0], [0, 0, 0], tables); data = encoder.finish(); assert len(data) == 16, len(data)"


@pytest.fixture
def place():
    """A folder that every user may read, with a copy of the package that only its owner may write."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        (place / "slimcodec/codec").mkdir(parents=True)
        for name in ("__init__.py", "codec/__init__.py", "codec/entropy.py", "codec/compilation.py"):
            shutil.copy(PACKAGE / name, place / "slimcodec" / name)
        (place / "temporary").mkdir()
        (place / "temporary").chmod(0o1777)
        for path in (place / "slimcodec", place / "slimcodec/codec"):
            path.chmod(0o555)
        yield place
        for path in (place / "slimcodec", place / "slimcodec/codec"):
            path.chmod(0o755)


def run(place, *, work=WORK, first="", user=NOBODY, **environment):
    """The last line that a process of another user prints (root may write anywhere), and what it says besides."""
    become = BECOME.format(user).split() if os.geteuid() == 0 else []
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
        "TMPDIR": str(place / "temporary"),
    } | environment
    found = subprocess.run(
        [*become, sys.executable, "-c", CODE.format(first=first, work=work)],
        env={name: value for name, value in environment.items() if value is not None},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1]


def uid():
    return NOBODY if os.geteuid() == 0 else os.getuid()


@pytest.mark.parametrize("home", ["/nonexistent", None])
def test_where_neither_package_nor_home_can_be_written_code_is_kept_in_a_temporary_folder(place, home):
    folder = run(place, HOME=home)
    if home is None and os.geteuid() != 0:
        return  # this user's home, which the system knows
    kept = place / "temporary" / f"slimcodec-numba-{uid()}"
    assert Path(folder).parent == kept
    assert kept.stat().st_mode & 0o777 == 0o700 and kept.stat().st_uid == uid()
    assert {path.suffix for path in Path(folder).iterdir()} == {".nbi", ".nbc"}


def test_a_user_without_a_name_or_home_gets_no_folder_called_tilde(place):
    (place / "here").mkdir()
    (place / "here").chmod(0o777)
    folder = run(place, user=64321, HOME=None, work="", first=f"import os; os.chdir({str(place / 'here')!r})")
    if os.geteuid() == 0:
        assert Path(folder).parent == place / "temporary/slimcodec-numba-64321"
    assert not list((place / "here").iterdir())


def test_a_temporary_folder_that_others_may_write_is_not_trusted(place):
    kept = place / "temporary" / f"slimcodec-numba-{uid()}"
    kept.mkdir()
    kept.chmod(0o777)
    assert run(place, work="") == "None"
    assert not list(kept.iterdir())


def test_a_link_in_its_place_is_not_followed(place):
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    (place / "temporary" / f"slimcodec-numba-{uid()}").symlink_to(place / "open")
    assert run(place, work="") == "None"
    assert not list((place / "open").iterdir())


def test_where_nothing_can_be_written_it_works_without_a_cache(place):
    assert run(place, first="tempfile.tempdir = '/nonexistent'") == "None"


def test_numbas_own_choice_stays_the_first(place):
    """The user's cache here; beside the package where that can be written."""
    cache = place / "temporary/cache"
    assert Path(run(place, work="", XDG_CACHE_HOME=str(cache))).parent == cache / "numba"
    (place / "slimcodec/codec").chmod(0o777)
    assert Path(run(place, work="")) == place / "slimcodec/codec/__pycache__"


def test_damaged_code_is_compiled_anew_and_kept(place):
    folder = Path(run(place))
    kept = sorted(folder.iterdir())
    for path in kept:
        path.write_bytes(path.read_bytes()[:-20])
    sizes = [path.stat().st_size for path in kept]
    assert run(place) == str(folder)
    assert all(path.stat().st_size > size for path, size in zip(kept, sizes, strict=True))


def test_what_cannot_be_kept_stops_nothing(place):
    """As on a disk that is full, or became so since the folder was chosen."""
    full = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    full += "; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    folder = Path(run(place, work=full + WORK))
    assert folder.is_dir() and not list(folder.iterdir())
    assert run(place, first=full) == "None"
