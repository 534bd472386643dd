"""CompressAI's models as codecs, with weights of our own making under its names: nothing is downloaded."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from slimcodec import InvalidFile, InvalidInput
from slimcodec.evaluation import compressai_zoo
from slimcodec.evaluation.compressai_zoo import CompressaiCodec
from slimcodec.evaluation.rivals import rival

NAME = "compressai-bmshj2018-hyperprior"


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """The folder of weights, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    compressai_zoo._loaded.cache_clear()
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    compressai_zoo._loaded.cache_clear()


def put_weights(codec, quality):
    from compressai.models import ScaleHyperprior

    torch.manual_seed(0)
    network = ScaleHyperprior(8, 16)  # the published ones are of 128 and 192
    with torch.no_grad():
        network.g_a[-1].weight *= 30  # or all latents are rounded to zero
    torch.save(network.state_dict(), codec._path(quality))


def test_names_are_compressais_own():
    from compressai.zoo.image import cfgs, model_urls

    for name in compressai_zoo.NAMES:
        architecture = name.removeprefix("compressai-")
        assert set(cfgs[architecture]) == set(model_urls[architecture]["mse"])
        assert len(cfgs[architecture]) == compressai_zoo._QUALITIES[architecture]
    path = CompressaiCodec(NAME)._path(1)
    assert path.name == "bmshj2018-hyperprior-1-7eb97409.pth.tar" and path.parent.name == "checkpoints"


def test_weights_on_disk_are_a_codec_of_real_files(checkpoints):
    from skimage.data import astronaut

    codec = pickle.loads(pickle.dumps(rival(NAME)))
    assert codec.unavailable() and "there is no" in codec.unavailable() and codec.qualities == ()
    for quality in (1, 3):
        put_weights(codec, quality)
    assert codec.qualities == (1, 3) and codec.unavailable() is None
    picture = Image.fromarray(astronaut()[20:100, 180:276])
    data = codec.compress(picture, 3)
    decoded = codec.decompress(data)
    assert decoded.size == picture.size and data[0] == 3 and 20 < len(data) < 80 * 96 * 3
    with torch.no_grad():
        padded = np.pad(np.asarray(picture), ((0, 48), (0, 32), (0, 0)), mode="edge")
        network = compressai_zoo._loaded("bmshj2018-hyperprior", 3, codec._path(3))
        expected = network(torch.from_numpy(padded).permute(2, 0, 1)[None] / 255)["x_hat"][0, :, :80, :96].clamp(0, 1)
    assert np.abs(np.asarray(decoded, int) - 255 * expected.permute(1, 2, 0).numpy()).max() < 1


def test_without_compressai_it_is_named(monkeypatch):
    monkeypatch.setattr(compressai_zoo, "find_spec", lambda name: None)
    assert CompressaiCodec(NAME).qualities == ()
    assert CompressaiCodec(NAME).unavailable() == "CompressAI is not installed; pip install compressai"


class Pickled:
    def __reduce__(self):
        return print, ("a pickle was executed",)


def test_no_pickle_is_executed(checkpoints, capsys):
    codec, picture = CompressaiCodec(NAME), Image.new("RGB", (64, 64))
    with pytest.raises(InvalidInput, match="no weights of quality 1 here"):
        codec.compress(picture, 1)
    torch.save({"weights": Pickled()}, codec._path(1))
    with pytest.raises(InvalidFile, match="is no file of bmshj2018-hyperprior's weights"):
        codec.compress(picture, 1)
    assert "executed" not in capsys.readouterr().out
    codec._path(1).write_bytes(b"damaged")
    with pytest.raises(InvalidFile, match="is no file of bmshj2018-hyperprior's weights"):
        codec.compress(picture, 1)
