"""Writing a file whole or not at all: what becomes of the one that was there, and of targets that are no files."""

import errno
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from slimcodec.codec import atomic
from slimcodec.codec.atomic import write_bytes, write_text, writing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    return path


# --- what was there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o666, 0o755])
def test_the_mode_stays(target, kept):
    target.chmod(kept)
    with writing(target) as file:
        assert {mode(path) for path in target.parent.iterdir()} == {kept}  # nobody else may read what is half written
        file.write(b"after")
    assert mode(target) == kept and target.read_bytes() == b"after" and names(target.parent) == ["file"]


@pytest.mark.parametrize("mask, expected", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, mask, expected):
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "new", b"data")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == expected


def test_attributes_stay_and_the_time_is_now(target):
    os.utime(target, (1, 1))
    try:
        os.setxattr(target, "user.origin", b"camera")
    except OSError:
        pytest.skip("this file system has no attributes")
    write_bytes(target, b"after")
    assert os.getxattr(target, "user.origin") == b"camera" and target.stat().st_mtime > 1


@pytest.mark.parametrize("links", [1, 2])
def test_a_read_only_file_is_refused_before_the_work(target, links):
    if links == 2:
        os.link(target, target.with_name("twin"))
    target.chmod(0o444)
    with pytest.raises(PermissionError, match="may not be written to") as caught, writing(target):
        pytest.fail("the block was entered")
    assert caught.value.filename == str(target) and target.read_bytes() == b"before"


@pytest.fixture
def nobody():
    """Root becomes somebody else, and gets a folder that anybody can reach."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").write_bytes(b"before")
        os.chmod(folder, 0o777)
        os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


def as_root(call, *arguments):
    os.seteuid(0)
    call(*arguments)
    os.seteuid(65534)


def test_a_file_that_only_others_may_write_is_refused(nobody):
    target = nobody / "file"
    with pytest.raises(PermissionError, match="may not be written to") as caught, writing(target):
        pytest.fail("the block was entered")
    assert caught.value.filename == str(target) and names(nobody) == ["file"]


def test_a_file_of_others_that_may_be_written_stays_theirs(nobody):
    target = nobody / "file"
    as_root(os.chmod, target, 0o622)  # which does not say that it may be read
    write_bytes(target, b"after")
    assert target.stat().st_uid == 0 and mode(target) == 0o622
    as_root(os.chmod, target, 0o644)
    assert target.read_bytes() == b"after"


def test_a_file_that_may_be_written_in_a_folder_that_may_not(nobody):
    target = nobody / "file"
    as_root(os.chown, target, 65534, os.getegid())
    as_root(os.chmod, nobody, 0o755)
    write_bytes(target, b"after")
    assert target.read_bytes() == b"after" and names(nobody) == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_stays(target):
    os.chown(target, 1234, 2345)
    target.chmod(0o640)
    write_bytes(target, b"after")
    status = target.stat()
    assert (status.st_uid, status.st_gid, mode(target)) == (1234, 2345, 0o640)


@pytest.mark.parametrize("data", [b"", b"short", b"longer than before"])
def test_hard_links_stay(target, data):
    twin = target.with_name("twin")
    os.link(target, twin)
    write_bytes(target, data)
    assert target.samefile(twin) and twin.read_bytes() == data and names(target.parent) == ["file", "twin"]


@pytest.mark.parametrize("links", [1, 2])
def test_what_breaks_it_off_leaves_what_was_there(target, links):
    if links == 2:
        os.link(target, target.with_name("twin"))
    with pytest.raises(KeyboardInterrupt), writing(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"before" and names(target.parent) == ["file", "twin"][:links]


@pytest.mark.parametrize("links", [1, 2])
def test_a_full_disk_leaves_what_was_there(target, links, file_size_limit):
    """A write over the limit takes what fits, and the next fails."""
    if links == 2:
        os.link(target, target.with_name("twin"))
    with file_size_limit(1000), pytest.raises(OSError) as caught:
        write_bytes(target, bytes(2000))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(target)
    assert target.read_bytes() == b"before" and names(target.parent) == ["file", "twin"][:links]


def test_a_file_system_that_cannot_reserve_room_is_written_all_the_same(target, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    os.link(target, target.with_name("twin"))
    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    write_bytes(target, b"after")
    assert target.read_bytes() == b"after"


def test_links_stay_links_even_where_they_lead_to_nothing_yet(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    for data in (b"one", b"two"):
        write_bytes(link, data)
        assert link.is_symlink() and (tmp_path / "file").read_bytes() == data
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "circle", b"data")
    assert caught.value.errno == errno.ELOOP and caught.value.filename == str(tmp_path / "circle")


def test_an_encoder_that_writes_to_the_number_of_a_file_gets_none(tmp_path):
    """Pillow's do, and take no notice of how much was written."""
    with writing(tmp_path / "file") as file, pytest.raises(io.UnsupportedOperation):
        file.fileno()


# --- what is no file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
def test_a_pipe_behind_a_number(folder):
    reader, writer = os.pipe()
    with writing(f"{folder}/{writer}") as file:
        file.write(b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    os.close(writer)


def test_a_link_to_a_number_as_dev_stdout_is(tmp_path):
    reader, writer = os.pipe()
    (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{writer}")
    assert atomic.descriptor(tmp_path / "stdout") == writer and atomic.descriptor(tmp_path) is None
    write_bytes(tmp_path / "stdout", b"through")
    assert os.read(reader, 99) == b"through" and (tmp_path / "stdout").is_symlink()
    os.close(reader)
    os.close(writer)


def test_a_file_behind_a_number_is_written_to_where_it_stands(target):
    """As `(echo head; slimcodec compress a.png /dev/stdout) > file` means it."""
    with open(target, "ab", buffering=0) as file:
        write_bytes(f"/dev/fd/{file.fileno()}", b" and after")
        assert target.read_bytes() == b"before and after"


@pytest.mark.parametrize("number, code", [("987", errno.EBADF), ("9" * 30, errno.ENOENT)])
def test_a_number_that_is_not_open_is_named(number, code):
    with pytest.raises(OSError) as caught, writing(f"/dev/fd/{number}"):
        pytest.fail("the block was entered")
    assert caught.value.filename == f"/dev/fd/{number}" and caught.value.errno == code


def test_a_named_pipe_gets_all_or_nothing(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    for error, expected in ((None, b"all of it"), (ValueError, b"")):
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
        reader.start()
        try:
            with writing(pipe) as file:
                file.write(b"all of it")
                if error:
                    raise error
        except ValueError:
            pass
        reader.join(10)
        assert got.pop() == expected and pipe.is_fifo()


def test_a_full_device_is_named():
    with pytest.raises(OSError) as caught:
        write_bytes("/dev/full", b"data")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "/dev/full"


class Reluctant(io.RawIOBase):
    """Takes three bytes at a time and `room` in all."""

    def __init__(self, room):
        self.got, self.room = b"", room

    def writable(self):
        return True

    def write(self, data):
        taken = bytes(data)[: min(3, self.room - len(self.got))]
        self.got += taken
        return len(taken) or None


def test_a_raw_file_gets_all_that_is_written():
    file = Reluctant(room=100)
    with writing(file) as out:
        out.write(b"more than three bytes")
    assert file.got == b"more than three bytes"
    with pytest.raises(OSError, match="took only a part"), writing(Reluctant(room=10)) as out:
        out.write(b"more than three bytes")


def test_an_open_file_gets_nothing_of_what_was_broken_off(target):
    with open(target, "ab") as file:
        with pytest.raises(ValueError), writing(file) as out:
            out.write(b"half")
            raise ValueError
        with writing(file) as out:
            out.write(b" and after")
    assert target.read_bytes() == b"before and after"


# --- text -----------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf_8_come_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_text(tmp_path / "a.json", json.dumps({name: "é"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {name: "é"}
    write_text(tmp_path / "a.csv", name, errors="surrogateescape")
    assert (tmp_path / "a.csv").read_bytes() == b"caf\xe9.png"


def test_what_a_killed_command_left_is_removed_and_nothing_else(tmp_path):
    script = """
import os, signal, sys
from slimcodec.codec import atomic
with atomic.writing(sys.argv[1]) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "rounds").mkdir()
    kept = [tmp_path / name for name in (".slim.partial", "mine.partial", "job.json", "rounds/.cafe.partial")]
    for path in kept:
        path.touch()
    for name in ("job.json", "rounds/rounds.json"):
        subprocess.run([sys.executable, "-c", script, tmp_path / name])
    before = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(before) == len(kept) + 2
    atomic.remove_partial(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
