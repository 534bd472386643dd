"""Photos in shards give the crops that the same photos give from memory, in as much memory as a few of them take."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from PIL import Image
from run_parts import configuration

from slimcodec import InvalidInput
from slimcodec.cli import main
from slimcodec.pipeline import photos as photos_of_run
from slimcodec.pipeline.checks import checked, require_means
from slimcodec.training import sharding
from slimcodec.training.crops import PhotoCache, ShardCache
from slimcodec.training.photos import Photo, embedded, folder_photos
from slimcodec.training.sharding import write_shards
from slimcodec.training.shards import ENTRY, STORES, Shards, open_shards

STEP = {"seed": 3, "step": 7, "batch": 24, "size": 48}
LARGEST = 150 * 200  # pixels: some of the photos are downscaled
SHARD = 200_000  # bytes: the photos fill several
MOST_GROWTH = 40 << 20  # bytes, from 1,000 to 100,000 photos
SMALL = "ignore:2 of 26 photos are smaller:UserWarning"
TINY_RUN = [
    "experiment=smoke",
    "stages=[teacher]",
    "teacher.training.steps=4",
    "teacher.training.steps_per_epoch=2",
    "teacher.training.crop=64",
    "validation.side=64",
]


def pieces():
    """Real ones, 24, of many sizes and names."""
    for index, (name, pixels) in enumerate(embedded("train")):
        for part in range(5 if index else 4):
            height, width = 90 + 20 * part, 200 - 15 * index
            yield f"{name}.{part}", Image.fromarray(pixels[part * 10 :, part * 30 :][:height, :width])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A tree of photos as cameras and programs leave them, two of them too small for some crops."""
    root = tmp_path_factory.mktemp("photos")
    (root / "holiday.2").mkdir()
    suffixes = ["png", "JPG", "webp", "tif", "avif"]
    for index, (name, picture) in enumerate(pieces()):
        exif = Image.Exif()
        exif[0x0112] = 6 if index % 3 == 0 else 1  # a third lies on its side
        folder = root / "holiday.2" if index % 2 else root
        suffix = suffixes[index % len(suffixes)]
        kept = picture.convert("L") if index % 7 == 0 else picture
        kept.save(folder / f"{name}.{suffix}", exif=exif)
    for name in (b"caf\xe9.png", b"small.png"):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(os.fsdecode(os.fsencode(root) + b"/" + name))
    return root


@pytest.fixture(scope="module")
def written(photos, tmp_path_factory):
    """A folder of shards for each way to store photos."""
    folders = {store: tmp_path_factory.mktemp(store) for store in STORES}
    for store, folder in folders.items():
        done = list(write_shards(photos, folder, store=store, max_pixels=LARGEST, shard_bytes=SHARD))
        assert len(done) > 2 and done[-1].done == done[-1].source_photos == 26
    return folders


@pytest.fixture
def folder(written, tmp_path):
    """Shards to be damaged."""
    return Path(shutil.copytree(written["files"], tmp_path / "shards"))


@pytest.fixture(scope="module")
def cache(photos):
    return PhotoCache(folder_photos(photos, max_pixels=LARGEST), saturated=0.3)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


# -------------------------------------------------------------------------------------------------------------- crops


@pytest.mark.filterwarnings(SMALL)
@pytest.mark.parametrize("store", STORES)
def test_crops_are_those_of_the_photos_in_memory(store, written, cache):
    streamed = ShardCache(open_shards(written[store]), saturated=0.3)
    for more in ({}, {"step": 8}, {"seed": 0}, {"size": 32}):
        assert torch.equal(streamed.crops(**STEP | more), cache.crops(**STEP | more))


@pytest.mark.filterwarnings(SMALL)
@pytest.mark.parametrize("store", STORES)
def test_processes_resumed_runs_and_workers_cut_what_one_process_cuts(store, written):
    whole = [ShardCache(open_shards(written[store])).crops(**STEP | {"step": step}) for step in range(3)]
    resumed = ShardCache(open_shards(written[store]))
    parts = [resumed.crops(**STEP | {"step": 2}, first=first, count=8) for first in (0, 8, 16)]
    assert torch.equal(torch.cat(parts), whole[2])
    ahead = ShardCache(open_shards(written[store]), workers=2)
    for step in range(3):
        assert torch.equal(ahead.crops(**STEP | {"step": step}), whole[step])
    ahead._ahead._found = None  # collected with the cache, in a circle, each worker would be waited for five seconds


@pytest.mark.parametrize("store", STORES)
def test_photos_and_slices_are_those_of_the_tree(store, written, photos):
    expected, shards = folder_photos(photos, max_pixels=LARGEST), open_shards(written[store])
    assert shards.sha256 == open_shards(written[store]).sha256 != shards[1:].sha256
    assert len(shards) == len(expected) == 26
    for place in (0, 11, -1):
        assert np.array_equal(shards[place].pixels, expected[place].pixels)
    assert isinstance(shards[:-8], Shards) and len(shards[:-8]) == 18
    held_out = list(shards[-8:])
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(held_out, expected[-8:], strict=True))
    assert [shards.evenly_spaced(3)[i].name for i in range(3)] == [shards[i].name for i in (0, 8, 17)]
    assert shards.evenly_spaced(None) is shards.evenly_spaced(99) is shards


def test_photos_that_are_too_small_are_named(written):
    streamed = ShardCache(open_shards(written["files"]))
    with pytest.warns(UserWarning, match=r"2 of 26 photos .* 48x48 .*: caf.*\.png \(60x40\), small\.png \(60x40\)$"):
        streamed.require([48])
    with pytest.raises(InvalidInput, match="no photo is as large as the 512x512 crop"):
        streamed.require([512])


# ------------------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("store", STORES)
def test_any_tar_and_webdataset_read_them(store, written, photos):
    shards = sorted(written[store].glob("*.tar"))
    members = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            members += tar
    assert members[0].name.startswith("000000000/") and members[-1].name.startswith("000000025/small.")
    assert any("/holiday.2/astronaut_1." in member.name for member in members)
    webdataset = pytest.importorskip("webdataset")
    read = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode("pil", handler=None)
    samples = list(read)
    assert len(samples) == len({sample["__key__"] for sample in samples}) == 26
    expected = folder_photos(photos, max_pixels=LARGEST)
    found = next(value for key, value in samples[-1].items() if key in ("png", "npy"))
    assert np.array_equal(np.asarray(found), expected[-1].pixels)


@pytest.mark.parametrize("store", STORES)
def test_a_command_that_was_stopped_goes_on_to_the_same_bytes(store, photos, written, tmp_path):
    arguments = {"store": store, "max_pixels": LARGEST, "shard_bytes": SHARD}
    progress = write_shards(photos, tmp_path, **arguments)
    for _ in range(2):
        next(progress)
    progress.close()
    (tmp_path / ".0011aabb.partial").write_bytes(b"killed")
    with pytest.raises(InvalidInput, match=r"shards\.json: not all shards were written; run slimcodec shards again"):
        open_shards(tmp_path)
    with pytest.raises(InvalidInput, match="holds shards of another max_pixels; name another folder"):
        list(write_shards(photos, tmp_path, **arguments | {"max_pixels": None}))
    first, *_ = write_shards(photos, tmp_path, **arguments)
    assert first.shard == "photos-000002.tar"
    assert contents(tmp_path) == contents(written[store])
    assert list(write_shards(photos, tmp_path, **arguments)) == []


def test_a_full_disk_leaves_no_part_of_a_shard(photos, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharding, "_stored", full)
    with pytest.raises(OSError, match="No space left"):
        list(write_shards(photos, tmp_path))
    assert set(contents(tmp_path)) == {"shards.json"}


def test_unreadable_photos_are_skipped_with_one_warning(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("holiday.2/no.jpg", "cut.png"):
        (tmp_path / "photos" / name).write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"skipped 2 unreadable photos: cut\.png, holiday\.2/no\.jpg$") as caught:
        progress = write_shards(tmp_path / "photos", tmp_path / "out", shard_bytes=SHARD)
        next(progress)
        progress.close()  # those of the first command are named by the second one, too
        list(write_shards(tmp_path / "photos", tmp_path / "out", shard_bytes=SHARD))
    assert len(caught) == 1 and len(open_shards(tmp_path / "out")) == 26


def test_photos_of_which_none_can_be_read_are_an_error(tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"not a picture")
    with pytest.raises(InvalidInput, match="none of the 1 photos can be read"):
        list(write_shards(tmp_path, tmp_path / "out"))
    with pytest.raises(InvalidInput, match="nowhere is not a folder"):
        list(write_shards(tmp_path / "nowhere", tmp_path / "out"))


def test_the_command_says_how_far_it_is(photos, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["shards", str(photos), out, "--max-pixels", "20000", "--shard-size", "1", "--jobs", "1"]) == 0
    *shards, last = capsys.readouterr().out.splitlines()
    assert shards[-1].endswith("26 of 26 done") and last == f"{out}: 26 photos"
    assert main(["shards", str(photos), out]) == 2
    assert capsys.readouterr().err == (
        f"slimcodec: {out}: holds shards of another max_pixels; name another folder, or remove this one\n"
    )


# ------------------------------------------------------------------------------------------------------------- damage


def edited(**values):
    def edit(folder):
        found = json.loads((folder / "shards.json").read_text())
        (folder / "shards.json").write_text(json.dumps(found | values))

    return edit


def indexed(field, value):
    def edit(folder):
        index = np.load(folder / "index.npy")
        index[field][5] = value
        np.save(folder / "index.npy", index)

    return edit


DAMAGES = {
    "no description": (lambda folder: (folder / "shards.json").unlink(), r"shards\.json: there is none; write shards"),
    "unfinished": (edited(complete=False), r"shards\.json: not all shards were written; run slimcodec shards again"),
    "another version": (edited(format_version=9), r"shards\.json: is of version 9, this slimcodec reads 1"),
    "unknown store": (edited(store="tape"), r"shards\.json: is damaged \(store is none of files, pixels\)"),
    "no list": (edited(shards=3), r"shards\.json: is damaged \(shards is of the wrong type\)"),
    "no index": (lambda folder: (folder / "index.npy").unlink(), r"index\.npy: cannot be read \(No such file"),
    "cut index": (lambda folder: os.truncate(folder / "index.npy", 300), r"index\.npy: is damaged \(no \.npy\)"),
    "empty index": (lambda folder: os.truncate(folder / "index.npy", 0), r"index\.npy: is damaged \(no \.npy\)"),
    "short index": (
        lambda folder: np.save(folder / "index.npy", np.load(folder / "index.npy")[:-1]),
        r"index\.npy: is damaged \(no index of 26 photos\)",
    ),
    "pickle": (
        lambda folder: np.save(folder / "index.npy", np.array([{}]), allow_pickle=True),
        r"index\.npy: is damaged \(no \.npy\)",
    ),
    "a wrong shard": (indexed("shard", 99), r"index\.npy: is damaged \(an entry is of no shard\)"),
    "beyond the end": (indexed("offset", 1 << 40), r"index\.npy: is damaged \(an entry is outside its shard\)"),
    "no size": (indexed("width", 0), r"index\.npy: is damaged \(an entry has sides of less than 1 or more than 65,535"),
    "a huge size": (indexed("height", 1 << 30), r"index\.npy: is damaged \(an entry has sides of less than 1 or more"),
    "no room": (indexed("bytes", 1 << 40), r"index\.npy: is damaged \(an entry is outside its shard\)"),
    "a missing shard": (lambda folder: (folder / "photos-000001.tar").unlink(), r"photos-000001\.tar: cannot be read"),
    "a cut shard": (
        lambda folder: os.truncate(folder / "photos-000001.tar", 5000),
        r"photos-000001\.tar: is damaged \(5,000 bytes instead of [\d,]+\); copy it again, or remove the folder",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_before_any_work_in_one_line(damage, folder, tmp_path):
    edit, message = DAMAGES[damage]
    edit(folder)
    settings = checked(configuration("data=shards", f"data.root={folder}", f"run_dir={tmp_path / 'run'}"))
    with pytest.raises(InvalidInput, match=rf"^data\.root: {folder}/{message}") as caught:
        require_means(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_inside_a_shard_is_told_when_it_is_read(workers, folder):
    for path in folder.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    streamed = ShardCache(open_shards(folder), workers=workers)
    with pytest.raises(InvalidInput, match=r"^\S+/photos-00000\d\.tar: is damaged \(photo \d+ cannot be decoded\); c"):
        streamed.crops(**STEP | {"size": 32})
    with pytest.raises(InvalidInput, match=r"photos-000000\.tar: is damaged \(photo 0 has no header of a tar file\)"):
        open_shards(folder)[0]


def test_another_picture_is_not_taken_for_the_one_of_the_index(folder):
    indexed("height", 33)(folder)
    with pytest.raises(InvalidInput, match=r"photo 5 is another picture than the index says"):
        open_shards(folder)[5]


# --------------------------------------------------------------------------------------------------------------- runs


def test_settings_that_shards_cannot_follow_are_refused(written):
    with pytest.raises(InvalidInput, match=r"data\.max_pixels=5: photos in shards are as large as they were written"):
        checked(configuration("data=shards", f"data.root={written['files']}", "data.max_pixels=5"))
    with pytest.raises(InvalidInput, match=r"data\.root: name the folder that slimcodec shards wrote"):
        checked(configuration("data=shards", "data.root=null"))


def test_a_run_reads_what_it_needs(written, monkeypatch):
    """Photos for validation from the end, and a sample where all of them would be in memory together."""
    overrides = [f"data.root={written['files']}", "data.held_out=2", "data.limit=12"]
    photos = photos_of_run.Photos(checked(configuration("data=shards", *overrides)))
    train, validation = photos.all
    assert isinstance(train, Shards) and len(train) == 10
    assert len(validation) == 2 and all(isinstance(photo, Photo) for photo in validation)
    monkeypatch.setattr(photos_of_run, "MOST_SAMPLED", 4)
    assert [len(photos.to_learn_from(64, count)) for count in (None, 3, 9)] == [4, 3, 4]
    assert photos.to_learn_from(64, 3)[0].pixels.shape == (64, 64, 3)


def test_a_teacher_of_shards_is_the_teacher_of_the_photos_in_memory(written, photos, tmp_path):
    sources = {"shards": [f"data.root={written['files']}"], "folder": [f"data.root={photos}", "data.limit=null"]}
    sources["folder"] += [f"data.max_pixels={LARGEST}"]
    for data, more in sources.items():
        places = [f"run_dir={tmp_path / data}", f"cache={tmp_path / data}-cache"]
        arguments = [*TINY_RUN, *places, f"data={data}", *more]
        assert warm.run(arguments, tmp_path / "log.txt") == 0, (tmp_path / "log.txt").read_text()[-3000:]
    weights = [(tmp_path / data / "teacher/weights.safetensors").read_bytes() for data in sources]
    assert weights[0] == weights[1]


# ------------------------------------------------------------------------------------------------------------- memory

SCRIPT = """
import json, sys
from pathlib import Path
from slimcodec.training.crops import ShardCache
from slimcodec.training.shards import open_shards
for folder in sys.argv[1:]:
    cache = ShardCache(open_shards(folder))
    for step in range(4):
        cache.crops(seed=0, step=step, batch=64, size=32)
    status = Path("/proc/self/status").read_text()
    print(1024 * int(status.partition("VmHWM:")[2].split()[0]))
"""


def repeated(written, folder, count):
    """Shards whose index names the same photos so often that there are `count`."""
    shutil.copytree(written, folder)
    index = np.resize(np.load(folder / "index.npy"), count)
    assert index.dtype == ENTRY
    np.save(folder / "index.npy", index)
    found = json.loads((folder / "shards.json").read_text())["shards"]
    found[0]["photos"] += count - sum(shard["photos"] for shard in found)
    edited(shards=found)(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_is_that_of_a_few_photos_however_many_there_are(written, tmp_path):
    """100,000 of them, decoded, would be 6 GB."""
    counts = [(count, store) for count in (1_000, 100_000) for store in STORES]
    folders = [repeated(written[store], tmp_path / f"{store}-{count}", count) for count, store in counts]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, few, _, many = map(int, done.stdout.split())  # each the highest so far
    assert many - few < MOST_GROWTH


def test_nothing_is_read_before_it_is_drawn(folder):
    shards = open_shards(folder)
    for path in folder.glob("*.tar"):
        path.unlink()
    few = shards[3:20].evenly_spaced(2)
    assert len(few) == 2 and ShardCache(few).require([32]) is None
    with pytest.raises(InvalidInput, match=r"photos-\d+\.tar: cannot be read \(No such file or directory\)"):
        ShardCache(few).crops(**STEP | {"size": 32})
