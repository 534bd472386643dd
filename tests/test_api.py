"""What a user writes: `import slimcodec`, and then names, types and help."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import slimcodec
from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import costs, inference, models, targets, torch_networks, zoo


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, model_directory, monkeypatch):
    folder = tmp_path_factory.mktemp("zoo")
    models.copy(model_directory, folder / "students/mine")
    models.copy(model_directory, folder / "teachers/large")
    monkeypatch.setattr(zoo, "zoos", lambda: [folder / "students", folder / "teachers"])


@pytest.fixture
def photo(pictures):
    return pictures["astronaut 100x130"]


def test_dir_and_help_list_the_api_without_pytorch():
    script = """
import sys
import slimcodec
assert set(slimcodec.__all__) <= set(dir(slimcodec))
import pydoc
text = pydoc.plain(pydoc.render_doc(slimcodec))
missing = [name for name in slimcodec.__all__ if name not in text]
told = "the best quality whose file is no larger" in text and "target_bpp, effort and so on" in text
print(missing, told, "slim-2k" in slimcodec.list_models(), sorted({"torch", "huggingface_hub"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[] True True []\n", "")


def test_load_without_a_name_is_the_default(codec):
    assert slimcodec.load().model_hash == codec.model_hash
    assert slimcodec.list_models() == ["mine", "large"]


def test_a_codec_says_what_it_is(codec):
    said = repr(slimcodec.load("mine"))
    kilo = codec.model.info["decoder_macs_per_pixel"] / 1000
    assert said.startswith(f"<slimcodec.Codec 'mine': student, {kilo:.2f} kMAC/pixel to decode")
    assert f"float32 on cpu, model {codec.model_hash.hex()}>" in said


def test_the_device_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_networks.automatic_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert slimcodec.load("mine", device="auto").device == torch.device("cpu")


def test_a_picture_may_come_as_what_it_is(tmp_path, photo, codec):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    expected = codec.compress(photo, 3)
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    for picture in (photo, Image.fromarray(photo), tensor, path, str(path), path.read_bytes()):
        assert slimcodec.compress(picture, quality=3) == expected == codec.compress(picture, quality=3)
    grey = photo[:, :, 1]
    for picture in (grey, torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None]):
        assert slimcodec.compress(picture) == codec.compress(Image.fromarray(grey))


def test_what_is_compressed_comes_back(tmp_path, photo, codec):
    data = slimcodec.compress(photo)
    (tmp_path / "photo.slim").write_bytes(data)
    expected = np.asarray(codec.decompress(data))
    for file in (data, bytearray(data), memoryview(data), tmp_path / "photo.slim", str(tmp_path / "photo.slim")):
        assert np.array_equal(slimcodec.decompress(file), expected)
    assert slimcodec.decompress(data, region=(8, 16, 24, 32)).size == (24, 32)
    (tmp_path / "photo.slim").write_bytes(data[:-1])
    with pytest.raises(InvalidFile, match=rf"^{tmp_path}/photo.slim: "):
        slimcodec.decompress(tmp_path / "photo.slim")
    with pytest.raises(InvalidModel, match=r"^nobody: "):
        slimcodec.compress(photo, model="nobody")


def test_threads_load_a_model_once(photo, monkeypatch):
    loads, load = [], inference.Codec.__init__
    slow = lambda self, *given: (loads.append(1), time.sleep(0.1), load(self, *given))[2]  # noqa: E731
    monkeypatch.setattr(inference.Codec, "__init__", slow)
    begin = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: (begin.wait(), slimcodec.compress(photo, model="large"))[1], range(4)))
    assert len(set(files)) == 1 and len(loads) == 1


@pytest.mark.parametrize("jobs", [None, 1, 3])
def test_batches_keep_their_order(pictures, codec, jobs):
    shots = [pictures["astronaut 100x130"], pictures["17x31"], pictures["astronaut 100x130"][:40]]
    files = codec.compress_batch(shots, jobs=jobs, quality=2)
    assert files == [codec.compress(shot, 2) for shot in shots]
    decoded = codec.decompress_batch(iter(files), jobs=jobs, region=(1, 2, 3, 4))
    assert [np.asarray(picture).tobytes() for picture in decoded] == [
        np.asarray(codec.decompress(data, region=(1, 2, 3, 4))).tobytes() for data in files
    ]
    with pytest.raises(InvalidInput, match="only one"):
        codec.compress_batch(shots, jobs=jobs, quality=2, target_bpp=1)
    with pytest.raises(InvalidInput, match=r"^jobs 0: must be"):
        codec.compress_batch(shots, jobs=0)


def test_a_batch_leaves_pytorchs_threads_as_they_were(pictures, codec):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        codec.compress_batch([pictures["17x31"]] * 2, jobs=2)
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_the_psnr_of_a_file(photo, codec):
    data = codec.compress(photo, 3)
    error = np.square(np.asarray(codec.decompress(data)).astype(float) - photo).mean()
    assert codec.psnr_db(photo, data) == pytest.approx(10 * np.log10(255**2 / error))
    assert codec.psnr_db(photo, data) == codec.encoding(photo).psnr_db(codec.fixed_quality(3))


def test_there_are_steps_for_every_effort():
    assert len(costs.STEPS) == targets.MAX_EFFORT + 1
