"""Model directories: exact round trips, complete or absent, and one clear sentence for every kind of damage."""

import hashlib
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import VARIANTS, correction_tables, lively
from safetensors.torch import load_file, save_file

from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.cli import main
from slimcodec.codec import inference, models, zoo
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.complexity import decoder_macs_per_pixel, macs_per_pixel
from slimcodec.codec.network import Coded, HyperpriorCodec
from slimcodec.training.prior import FactorizedPrior, export_tables
from slimcodec.training.teach import load_trained, save_trained

ROOT = Path(__file__).parents[1]
CURVE = {"quality": [1, 2.5], "bpp": [0.1, 0.25], "psnr_db": [28.5, 31.25]}


@pytest.fixture
def directory(model_directory, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(model_directory, tmp_path / "damaged")


def new_model(architecture, seed=0):
    torch.manual_seed(seed)
    return lively(architecture, seed=seed), FactorizedPrior(architecture.hypers, architecture.rungs)


def edit_description(directory, change):
    path = directory / models.DESCRIPTION
    info = json.loads(path.read_text(encoding="utf-8"))
    change(info)
    path.write_text(json.dumps(info), encoding="utf-8")


def reseal(directory):
    """Make model.json name the hash of weights.safetensors as it is now."""
    digest = hashlib.sha256((directory / models.WEIGHTS).read_bytes()).hexdigest()
    edit_description(directory, lambda info: info.update(weights_sha256=digest))


def edit_weights(directory, change):
    tensors = load_file(directory / models.WEIGHTS)
    change(tensors)
    save_file(tensors, directory / models.WEIGHTS)
    reseal(directory)


def refusal(call, *arguments):
    """The one-line message of the InvalidModel that the call must raise."""
    with pytest.raises(InvalidModel) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# --- round trips ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_loaded_model_computes_the_same(architecture, tmp_path):
    codec, prior = new_model(architecture)
    loaded = models.load(save_trained(tmp_path / "model", codec, prior, role="student"))
    assert loaded.codec.architecture == architecture
    x = torch.rand(2, 3, 64, 128)
    quality = torch.tensor([QUALITY_ONE, QUALITY_ONE * architecture.rungs])
    for name, before, after in zip(Coded._fields, codec(x, quality), loaded.codec(x, quality), strict=True):
        assert torch.equal(before, after), name
    assert torch.equal(codec.gain_shift(quality), loaded.codec.gain_shift(quality))
    assert {name: table.tolist() for name, table in loaded.tables.items()} == {
        name: table.tolist() for name, table in export_tables(prior).items()
    }


def test_half_weights_are_the_float_ones_rounded(architecture, tmp_path):
    codec, prior = new_model(architecture)
    whole = models.load(save_trained(tmp_path / "whole", codec, prior, role="student"))
    half = models.load(save_trained(tmp_path / "half", codec, prior, role="student", half=True))
    for name, tensor in whole.codec.state_dict().items():
        exact = name == "log_gain" or name.startswith("h_scale.")  # integers in the file, at any size
        assert torch.equal(half.codec.state_dict()[name], tensor if exact else tensor.half().float()), name
    dtypes = {tensor.dtype for tensor in load_file(half.directory / models.WEIGHTS).values()}
    assert torch.float16 in dtypes and torch.float32 not in dtypes
    load_trained(half.directory)  # what further training needs still fits them


def test_a_weight_beyond_half_precision_is_refused(architectures, tmp_path):
    codec, prior = new_model(architectures["four stages"])
    codec.g_a.head.bias.data[0] = 1e5
    assert "g_a.head.bias: holds NaN or infinity" in refusal(
        lambda: save_trained(tmp_path / "half", codec, prior, role="student", half=True)
    )
    assert not (tmp_path / "half").exists()
    save_trained(tmp_path / "whole", codec, prior, role="student")


def test_saving_a_loaded_model_again_gives_the_same_bytes(model_directory, tmp_path):
    model = models.load(model_directory)
    again = models.save(tmp_path / "again", model.codec, model.tables, role="student")
    assert (again / models.WEIGHTS).read_bytes() == (model_directory / models.WEIGHTS).read_bytes()
    assert not (again / models.TRAINING).exists()


def test_training_state_comes_back(architecture, tmp_path):
    codec, prior = new_model(architecture)
    directory = save_trained(tmp_path / "model", codec, prior, role="teacher")
    trained, trained_prior, _ = load_trained(directory)
    for name, tensor in codec.h_scale.state_dict().items():
        assert torch.equal(tensor, trained.h_scale.state_dict()[name]), name
    for name, tensor in prior.state_dict().items():
        assert torch.equal(tensor, trained_prior.state_dict()[name]), name
    # The float masters are not what the weights file holds, but they quantise to it.
    shipped = models.load(directory).codec.h_scale.state_dict()
    assert not torch.equal(shipped["layers.1.weight"], codec.h_scale.state_dict()["layers.1.weight"])


def test_loading_draws_no_random_numbers(model_directory):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    models.load(model_directory)
    assert torch.equal(torch.rand(1), expected)


def test_description_and_files(model_directory, codec):
    info = codec.model.info
    architecture = codec.network.architecture
    assert Architecture.from_dict(info["architecture"]) == architecture
    assert info["macs_per_pixel"] == macs_per_pixel(architecture)
    assert info["decoder_macs_per_pixel"] == decoder_macs_per_pixel(architecture)
    assert info["weights_sha256"] == hashlib.sha256((model_directory / models.WEIGHTS).read_bytes()).hexdigest()
    assert {"format_version", *models.FIELDS} == set(info)
    tensors = load_file(model_directory / models.WEIGHTS)
    assert tensors["log_gain"].dtype == torch.int16
    assert {t.dtype for n, t in tensors.items() if n.startswith("h_scale") and "weight" in n} == {torch.int8}
    assert sorted(path.name for path in model_directory.iterdir()) == sorted(
        [models.DESCRIPTION, models.WEIGHTS, models.TRAINING, models.CARD]
    )
    for path in model_directory.iterdir():  # no pickle, and no zip with one inside
        assert path.suffix in {".json", ".md", ".safetensors"}
        assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")


# --- card, figures, copies ------------------------------------------------------------------------------------------


def test_the_card_is_rendered_from_the_description(directory):
    models.add_figures(directory, {"validation": {"bd_rate_percent": 1.5, "set": "photos", "curve": CURVE}})
    models.add_figures(directory, {"speed": {"seconds": 0.25}})
    info = models.load(directory).info
    card = (directory / models.CARD).read_text(encoding="utf-8")
    assert card == models.render_card("damaged", info)
    assert set(info["figures"]) == {"validation", "speed"}
    assert card.startswith("# damaged\n")
    assert "| 2.5 | 0.2500 | 31.25 |" in card and "- bd_rate_percent: 1.50" in card
    assert f"{info['decoder_macs_per_pixel']:,.0f} MAC/pixel to decode" in card


def test_a_copy_is_the_model_under_its_own_name(model_directory, tmp_path):
    models.copy(model_directory, tmp_path / "other")
    assert models.load(tmp_path / "other").sha256 == models.load(model_directory).sha256
    info = models.read_description(tmp_path / "other")
    assert (tmp_path / "other" / models.CARD).read_text(encoding="utf-8") == models.render_card("other", info)


@pytest.mark.parametrize("half", [False, True])
def test_a_copy_with_other_tables_has_the_same_weights_and_training_state(architectures, tmp_path, half):
    """Bit for bit; what was measured with its tables is dropped, and its files are those of another model."""
    architecture = architectures["two stages"]
    codec, prior = new_model(architecture)
    source = save_trained(tmp_path / "source", codec, prior, role="student", half=half)
    models.add_figures(source, {"validation": {"set": "photos", "curve": CURVE}})
    before = models.load(source)
    basis = {name: table.half().float() if table.is_floating_point() else table
             for name, table in correction_tables(architecture).items()}  # fmt: skip
    tables = before.tables | basis
    models.copy_with_tables(source, tmp_path / "copy", tables, git_commit="7654321")
    copied, weights = models.load(tmp_path / "copy"), load_file(tmp_path / "copy" / models.WEIGHTS)
    for name, tensor in load_file(source / models.WEIGHTS).items():
        assert torch.equal(weights[name], tensor) and weights[name].dtype == tensor.dtype, name
    assert weights["tables.head_basis"].dtype == (torch.float16 if half else torch.float32)
    assert copied.tables.keys() == tables.keys()
    assert all(torch.equal(copied.tables[name], table) for name, table in tables.items())
    assert (tmp_path / "copy" / models.TRAINING).read_bytes() == (source / models.TRAINING).read_bytes()
    load_trained(tmp_path / "copy")
    assert copied.sha256 != before.sha256 and copied.info["figures"] == {} != before.info["figures"]
    changed = {name for name in copied.info if copied.info[name] != before.info[name]}
    assert changed == {"weights_sha256", "figures", "git_commit"} and copied.info["git_commit"] == "7654321"
    card = (tmp_path / "copy" / models.CARD).read_text(encoding="utf-8")
    assert card == models.render_card("copy", copied.info)


def test_a_copy_with_tables_that_fails_leaves_nothing_behind(directory, tmp_path, monkeypatch):
    """And a model of that name as it was."""
    target = shutil.copytree(directory, tmp_path / "target")
    files = {path.name: path.read_bytes() for path in target.iterdir()}
    tables, names = models.load(directory).tables, {path.name for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(models, "write_description", full)
        models.copy_with_tables(directory, target, tables)
    (directory / models.WEIGHTS).write_bytes(b"no tensors")
    assert "is no safetensors file" in refusal(models.copy_with_tables, directory, target, tables)
    assert "cannot be read" in refusal(models.copy_with_tables, tmp_path / "missing", tmp_path / "new", tables)
    assert {path.name for path in tmp_path.iterdir()} == names
    assert {path.name: path.read_bytes() for path in target.iterdir()} == files


def test_the_card_names_the_teacher(architectures, tmp_path):
    codec, prior = new_model(architectures["one stage"])
    teacher = {"name": "large", "sha256": "ab" * 32}
    directory = save_trained(tmp_path / "model", codec, prior, role="student", teacher=teacher, git_commit="1234567")
    card = (directory / models.CARD).read_text(encoding="utf-8")
    assert "- teacher: large (sha256 `abababababababab…`)" in card and "commit 1234567" in card


def test_a_model_is_replaced_as_a_whole(architectures, tmp_path):
    architecture = architectures["one stage"]
    target = tmp_path / "model"
    first, second = (new_model(architecture, seed) for seed in (1, 2))
    save_trained(target, *first, role="student")
    before = models.load(target).sha256
    (target / "stray").write_text("of the old model")
    leftover = tmp_path / ".model.partial"
    leftover.mkdir()
    (leftover / "half a file").write_text("of a job that was stopped")
    assert models.load(target).sha256 == before
    save_trained(target, *second, role="student")
    assert models.load(target).sha256 != before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (target / "stray").exists()


@pytest.mark.parametrize(
    "name, damage",
    [
        ("g_s.head.conv.weight", lambda codec: codec.g_s.head.conv.weight.data[0].fill_(float("nan"))),
        ("h_scale.layers.1.weight", lambda codec: codec.h_scale.layers[1].weight.data[0].fill_(float("inf"))),
        ("log_gain", lambda codec: codec.log_gain.data[0].fill_(2048)),
    ],
)
def test_weights_that_cannot_be_stored_replace_nothing(name, damage, architectures, tmp_path):
    codec, prior = new_model(architectures["one stage"])
    directory = save_trained(tmp_path / "model", codec, prior, role="student")
    damage(codec)
    assert name in refusal(lambda: save_trained(directory, codec, prior, role="student"))
    assert models.load(directory)


def test_an_accumulator_that_could_overflow_is_refused(tmp_path):
    codec = HyperpriorCodec(Architecture.from_dict(VARIANTS["four stages"] | {"h_scale": [8, 8192, 8]}))
    with torch.no_grad():
        codec.h_scale.layers[2].weight.fill_(0.99)
    assert "h_scale.layers.2" in refusal(lambda: models.save(tmp_path / "model", codec, {}, role="student"))
    assert not list(tmp_path.iterdir())


# --- finding --------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(model_directory, tmp_path, monkeypatch):
    """Two folders of models in place of those of the package; the first has precedence."""
    zoos = [tmp_path / "students", tmp_path / "teachers"]
    shutil.copytree(model_directory, zoos[0] / "slim")
    shutil.copytree(model_directory, zoos[0] / ".slim.partial")
    shutil.copytree(model_directory, zoos[1] / "large")
    (zoos[1] / "empty").mkdir()
    monkeypatch.setattr(zoo, "zoos", lambda: zoos)
    return tmp_path


def test_models_are_found_by_name(installed, tmp_path, monkeypatch):
    assert models.load("slim").directory == installed / "students/slim"
    assert inference.load("large").model.directory == installed / "teachers/large"
    assert [path.name for path in zoo.directories()] == ["slim", "large"]  # and not the half-written one
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slim").mkdir()  # a folder that happens to bear the name hides nothing
    assert zoo.find("slim") == installed / "students/slim"
    assert zoo.find("teachers/large") == Path("teachers/large")


@pytest.mark.parametrize("name", ["slimm", "empty", "", "students/empty", "a\0b", "x" * 5000])
def test_an_unknown_name_lists_the_known_ones(installed, name):
    message = refusal(models.load, name)
    assert message.startswith(name) and message.endswith("known names: large, slim")


def test_a_model_is_found_by_the_hash_that_a_file_names(installed):
    digest = zoo.read_description(installed / "students/slim")["weights_sha256"]
    (installed / "students/another").mkdir()
    (installed / "students/another" / zoo.DESCRIPTION).write_text("damaged, and first in line")
    assert zoo.by_hash(digest[:16]) == installed / "students/slim"
    with pytest.raises(InvalidFile, match=r"model 0123456789abcdef, which is not installed.*--model"):
        zoo.by_hash("0123456789abcdef")


def test_the_default_is_the_only_student_or_the_one_of_that_name(installed):
    assert zoo.default_student() == installed / "students/slim"
    shutil.copytree(installed / "students/slim", installed / "students/other")
    with pytest.raises(InvalidInput, match=r"--model.*: the students installed are other, slim"):
        zoo.default_student()
    shutil.copytree(installed / "students/slim", installed / "students/slim-2k")
    assert zoo.default_student() == installed / "students/slim-2k"


def test_the_zoos_of_this_package_exist():
    assert {"students", "teachers"} >= {path.name for path in zoo.zoos()} != set()


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, named",
    [
        ("", "is not JSON"),
        ('{"format_version": 1', "is not JSON"),
        ("[1]", "format_version is None"),
        ("{}", "format_version is None"),
        ('{"format_version": 99}', f"format_version is 99, this slimcodec reads {models.FORMAT_VERSION}"),
        (json.dumps({"format_version": models.FORMAT_VERSION}), "slimcodec_version is missing"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_a_description_that_is_none(directory, text, named):
    (directory / models.DESCRIPTION).write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(models.load, directory)
    assert message.startswith(str(directory / models.DESCRIPTION)) and named in message


@pytest.mark.parametrize("field", models.FIELDS)
def test_every_field_of_the_description_is_needed(directory, field):
    edit_description(directory, lambda info: info.pop(field))
    assert f"{models.DESCRIPTION}: {field} is missing" in refusal(models.load, directory)


@pytest.mark.parametrize("field", models.FIELDS)
def test_every_field_of_the_description_has_a_type(directory, field):
    edit_description(directory, lambda info: info.update({field: [1]}))
    assert f"{models.DESCRIPTION}: {field} is missing or of the wrong type" in refusal(models.load, directory)


@pytest.mark.parametrize(
    "fields",
    [
        {"macs_per_pixel": {"g_s": "many"}},
        {"teacher": {"name": "large"}},
        {"teacher": {"name": "large", "sha256": None}},
        {"figures": {"kodak": {"curve": {"quality": [1]}}}},
        {"figures": {"kodak": {"curve": CURVE | {"bpp": [1]}}}},
        {"figures": {"kodak": {"curve": 3}}},
    ],
)
def test_a_description_without_a_card(directory, fields):
    edit_description(directory, lambda info: info.update(fields))
    for call in (models.load, lambda path: models.copy(path, path.with_name("copy"))):
        assert f"{models.DESCRIPTION}: no card" in refusal(call, directory)


def test_a_broken_architecture_names_file_and_field(directory):
    edit_description(directory, lambda info: info["architecture"].update(h_mean=[8]))
    assert f"{directory / models.DESCRIPTION}: architecture.h_mean: " in refusal(models.load, directory)


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda path: path.unlink(), "cannot be read (No such file or directory); copy the whole model directory"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "sha256"),
        (lambda path: path.write_bytes(b"\1" + path.read_bytes()[1:]), "sha256"),
        (lambda path: path.write_bytes(b""), "sha256"),
    ],
)
def test_a_weights_file_that_is_damaged(directory, damage, named):
    damage(directory / models.WEIGHTS)
    message = refusal(models.load, directory)
    assert message.startswith(str(directory / models.WEIGHTS)) and named in message


@pytest.mark.parametrize("length", [0, 4, 100, 2000, -1])
def test_a_weights_file_that_is_truncated_and_resealed(directory, length):
    path = directory / models.WEIGHTS
    path.write_bytes(path.read_bytes()[:length])
    reseal(directory)
    assert refusal(models.load, directory).startswith(f"{path}: is no safetensors file")


def replaced(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda tensors: tensors.pop("g_s.head.conv.bias"), "tensor g_s.head.conv.bias is missing"),
        (lambda tensors: tensors.pop("h_scale.layers.2.exponent"), "tensor h_scale.layers.2.exponent is missing"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "tensor more is not part of this architecture"),
        (replaced("g_a.head.weight", lambda t: t[:-1].clone()), "tensor g_a.head.weight is (11, 16, 1, 1)"),
        (replaced("g_a.head.weight", lambda t: t.double()), "torch.float64"),
        (replaced("log_gain", lambda t: t.float()), "tensor log_gain is"),
        (replaced("log_gain", lambda t: t[:1].clone()), "tensor log_gain is (1, 12)"),
        (replaced("h_scale.layers.0.weight", lambda t: t.int()), "tensor h_scale.layers.0.weight is"),
        (replaced("h_mean.0.bias", lambda t: t * float("nan")), "tensor h_mean.0.bias holds NaN"),
        (
            replaced("h_scale.layers.0.weight", lambda t: torch.full_like(t, -128)),
            "tensor h_scale.layers.0.weight holds",
        ),
        (replaced("h_scale.layers.1.bias", lambda t: t + 2**24), "tensor h_scale.layers.1.bias holds"),
        (replaced("h_scale.layers.3.exponent", lambda t: t * 0 + 40), "tensor h_scale.layers.3."),
        (replaced("h_scale.layers.3.exponent", lambda t: t * 0 - 1), "tensor h_scale.layers.3."),
        (lambda tensors: tensors.pop("tables.r_sizes"), "tables.r_sizes is missing"),
        (lambda tensors: tensors.pop("tables.z_frequencies"), "tables.z_frequencies is missing"),
        (replaced("tables.z_frequencies", lambda t: t.float()), "tables.z_frequencies is missing or not uint16"),
        (
            replaced("tables.z_frequencies", lambda t: t[0].clone()),
            "tables.z_frequencies is missing or not uint16",
        ),
        (replaced("tables.z_frequencies", lambda t: t[:, :-1].clone()), "tables.z_frequencies must begin with (8, 8)"),
        (replaced("tables.z_frequencies", lambda t: t[:-1].clone()), "tables.z_frequencies must begin with (8, 8)"),
        (
            replaced("tables.z_frequencies", lambda t: (t.int() + 1).to(torch.uint16)),
            "probability tables: table 0 sums",
        ),
        (replaced("tables.r_frequencies", lambda t: t[:-1].clone()), "probability tables: the sizes do not add up"),
        (
            replaced("tables.r_sizes", lambda t: t[:-1].clone()),
            "tables.r_sizes is missing or not int32 of shape (64,)",
        ),
        (replaced("tables.r_sizes", lambda t: t - 1), "every table of r holds an odd number"),
        (replaced("tables.r_sizes", lambda t: t - 2), "probability tables: the sizes do not add up"),
    ],
)
def test_weights_that_do_not_fit(directory, change, named):
    edit_weights(directory, change)
    assert named in refusal(inference.load, directory)


def test_an_architecture_that_does_not_fit_its_weights(directory):
    edit_description(directory, lambda info: info["architecture"].update(upsampling_kernel=1))
    message = refusal(models.load, directory)
    assert message.startswith(f"{directory / models.WEIGHTS}: tensor g_s.levels.1.enter.conv.weight is (48, 16, 3, 3)")


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda path: path.unlink(), "missing; this model can be used, but not trained"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is no safetensors file"),
        (lambda path: save_file({}, path), "does not fit the architecture"),
        (lambda path: shutil.copy(path.with_name(models.WEIGHTS), path), "does not fit the architecture"),
    ],
)
def test_a_training_state_that_is_damaged(directory, change, named):
    change(directory / models.TRAINING)
    message = refusal(models.load_training_state, models.load(directory))
    assert message.startswith(str(directory / models.TRAINING)) and named in message


def test_a_training_state_of_other_weights_is_refused(directory, architectures, tmp_path):
    other = save_trained(tmp_path / "other", *new_model(architectures["four stages"], seed=5), role="student")
    shutil.copy(other / models.TRAINING, directory)
    message = refusal(models.load_training_state, models.load(directory))
    assert "the two files are of different models" in message


ZOO = sorted(path.parent for zoo in ("students", "teachers") for path in ROOT.glob(f"{zoo}/*/model.json"))


@pytest.mark.parametrize("directory", ZOO, ids=lambda directory: f"{directory.parent.name}/{directory.name}")
def test_what_the_repository_ships_loads_and_its_card_says_what_model_json_says(directory):
    model = models.load(directory)
    assert (directory / models.CARD).read_text(encoding="utf-8") == models.render_card(directory.name, model.info)
    assert model.info["decoder_macs_per_pixel"] == decoder_macs_per_pixel(model.codec.architecture)
    assert "kodak" in model.info["figures"]


# --- descriptions that nobody could have saved ------------------------------------------------------------------------

PARTS = "g_a", "h_a", "h_scale", "h_mean", "context", "g_s", "gain"
LEVEL = {"scale": 16, "channels": 8}


def rewritten(directory, *, field, with_text):
    """model.json in which a field's value is this text, which json.dumps need not be able to write."""
    edit_description(directory, lambda info: info.update({field: "HERE"}))
    path = directory / models.DESCRIPTION
    path.write_text(path.read_text(encoding="utf-8").replace('"HERE"', with_text), encoding="utf-8")


@pytest.mark.parametrize(
    "field", ["parameters", "decoder_macs_per_pixel", "figures", "configuration", "format_version"]
)
@pytest.mark.parametrize(
    "text, named",
    [
        ("9" * 400, "a number of 400 digits"),
        ("-" + "9" * 5000, "digits"),
        ("1e400", "too large"),
        ("NaN", "NaN is no number"),
        ("-Infinity", "Infinity is no number"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("[" * 100 + "]" * 100, "nested deeper than 64"),
        ("[" * 900 + "]" * 900, "nested deeper than 64"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 64"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper than 64"),
        ('"' + "x" * (5 << 20) + '"', "larger than 4,194,304 bytes"),
    ],
    ids=lambda text: text[:12],
)
def test_values_that_no_model_has_are_one_line(directory, field, text, named):
    rewritten(directory, field=field, with_text=text)
    for call in (models.load, zoo.read_description):
        message = refusal(call, directory)
        assert message.startswith(str(directory / models.DESCRIPTION)) and named in message and len(message) < 500


@pytest.mark.parametrize("field", ["parameters", "decoder_macs_per_pixel", "encoder_macs_per_pixel", "format_version"])
def test_true_is_not_one(directory, field):
    edit_description(directory, lambda info: info.update({field: True}))
    for call in (models.load, zoo.read_description):
        assert f"{field} is" in refusal(call, directory)


@pytest.mark.parametrize("part", PARTS)
def test_true_is_no_cost_of_a_part(directory, part):
    edit_description(directory, lambda info: info["macs_per_pixel"].update({part: True}))
    for call in (models.load, zoo.read_description):
        assert f"macs_per_pixel.{part} is True" in refusal(call, directory)


@pytest.mark.parametrize(
    "field", ["latent_channels", "hyper_channels", "upsampling_kernel", "head_kernel", "quality_ladder", "context"]
)
@pytest.mark.parametrize("value", [True, [True], 1.0], ids=str)
def test_true_and_one_point_nought_are_no_width(directory, field, value):
    edit_description(directory, lambda info: info["architecture"].update({field: value}))
    if (field, value) != ("quality_ladder", [1.0]):
        assert f"architecture.{field}: " in refusal(zoo.read_description, directory)


@pytest.mark.parametrize(
    "field", ["decoder_macs_per_pixel", "encoder_macs_per_pixel", *(f"macs_per_pixel.{part}" for part in PARTS)]
)
@pytest.mark.parametrize(
    "change", [lambda macs: macs / 2, lambda macs: macs + 0.01, lambda _: -1], ids=["half", "more", "-1"]
)
def test_costs_that_were_edited_are_noticed(directory, field, change):
    def edit(info):
        *parents, name = field.split(".")
        place = info[parents[0]] if parents else info
        place[name] = change(place[name])

    edit_description(directory, edit)
    for call in (models.load, zoo.read_description):
        message = refusal(call, directory)
        assert f"{models.DESCRIPTION}: {field} is " in message and "of this architecture it is" in message


def test_a_number_of_parameters_and_a_part_that_were_edited_are_noticed(directory):
    edit_description(directory, lambda info: info.update(parameters=info["parameters"] - 1))
    assert "parameters is " in refusal(models.load, directory)
    edit_description(directory, lambda info: info["macs_per_pixel"].update(more=1))
    assert "macs_per_pixel.more: there is no such part" in refusal(zoo.read_description, directory)


@pytest.mark.parametrize("part", ["g_a", "g_s"])
def test_a_network_of_thousands_of_blocks_is_refused_at_once(directory, part):
    blocks = [{"kind": "residual", "hidden": 1}] * 20_000
    edit_description(directory, lambda info: info["architecture"].update({part: [LEVEL | {"blocks": blocks}]}))
    began = time.process_time()
    for call in (models.load, zoo.read_description):
        message = refusal(call, directory)
        assert f"architecture.{part}: 20000 blocks" in message and "at most 32" in message
    assert time.process_time() - began < 2


def test_more_weights_than_the_architecture_can_have_are_not_read(directory):
    with open(directory / models.WEIGHTS, "r+b") as file:
        file.truncate(1 << 40)  # a hole: nothing of it is on the disk
    assert "1,099,511,627,776 bytes, more than this architecture can need" in refusal(models.load, directory)


def test_half_a_character_is_no_part_of_a_card(directory):
    rewritten(directory, field="role", with_text='"\\ud800"')
    assert "no card can be rendered" in refusal(zoo.read_description, directory)


@pytest.mark.parametrize("text", ["9" * 400, "[" * 100_000, "NaN"], ids=lambda text: text[:3])
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["card", "json"])
def test_info_says_what_is_wrong_in_one_line(directory, text, more, capsys):
    rewritten(directory, field="parameters", with_text=text)
    assert main(["info", str(directory), *more]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and models.DESCRIPTION in printed.err


def test_a_description_is_read_without_torch(model_directory):
    script = f"import sys; from slimcodec.codec import zoo; zoo.read_description({str(model_directory)!r}); "
    subprocess.run([sys.executable, "-c", script + "assert 'torch' not in sys.modules"], check=True)


def test_what_is_not_finite_is_written_as_null(directory):
    models.add_figures(
        directory, {"kodak": {"bd_rate_percent": float("nan"), "curve": CURVE | {"psnr_db": [1, math.inf]}}}
    )
    figure = models.load(directory).info["figures"]["kodak"]
    assert figure["bd_rate_percent"] is None and figure["curve"]["psnr_db"] == [1, None]
    assert "| 2.5 | 0.2500 | – |" in (directory / models.CARD).read_text(encoding="utf-8")


@pytest.mark.parametrize("work", ["save", "copy", "copy with tables"])
def test_a_full_disk_leaves_nothing_and_is_named(work, model_directory, architectures, tmp_path, file_size_limit):
    codec, prior = new_model(architectures["four stages"])
    with file_size_limit(10_000), pytest.raises(OSError, match="File too large") as caught:
        if work == "save":
            save_trained(tmp_path / "model", codec, prior, role="student")
        elif work == "copy":
            models.copy(model_directory, tmp_path / "model")
        else:
            models.copy_with_tables(model_directory, tmp_path / "model", models.load(model_directory).tables)
    assert str(tmp_path / "model") in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
