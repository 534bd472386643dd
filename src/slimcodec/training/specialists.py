"""Trained codecs of one kind, joined into a model whose files name one of them for every cell of a picture."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from slimcodec import InvalidModel
from slimcodec.codec import models, zoo
from slimcodec.codec.models import load_training_state
from slimcodec.codec.network import HyperpriorCodec

OWN = "g_a.head.", "g_s."  # prefixes of a specialist's own tensors


def joined(codecs: Sequence[HyperpriorCodec]) -> HyperpriorCodec:
    """A codec of these specialists. Raises InvalidModel where they are not the same but for g_a's head and g_s."""
    first = codecs[0]
    for number, codec in enumerate(codecs):
        if codec.architecture != first.architecture or codec.architecture.specialists != 1:
            raise InvalidModel(
                f"specialist {number}: its architecture must be that of specialist 0, with no specialists"
            )
    shared = {name: tensor for name, tensor in first.state_dict().items() if not name.startswith(OWN)}
    for number, codec in enumerate(codecs):
        state = codec.state_dict()
        if changed := [name for name, tensor in shared.items() if not torch.equal(tensor, state[name])]:
            raise InvalidModel(f"specialist {number}: {changed[0]} is not that of specialist 0, which all must share")
    architecture = dataclasses.replace(first.architecture, specialists=len(codecs))
    found = HyperpriorCodec(architecture, initialise=False)
    found.load_state_dict(first.state_dict(), strict=False)
    for number, codec in enumerate(codecs[1:], start=1):
        own = found.specialists[str(number)]
        own.g_s.load_state_dict(codec.g_s.state_dict())
        own.head.load_state_dict(codec.g_a.head.state_dict())
    return found.eval()


def join(directories: Sequence[str | Path], target: Path, **fields: Any) -> Path:
    """Write a model directory of these specialists, each a model's name or directory; `fields` as for models.save.

    Tables, and what further training needs, are the first one's. Raises InvalidModel as `joined`.
    """
    found = [models.load(directory) for directory in directories]
    training = load_training_state(found[0])
    for other in found[1:]:
        load_training_state(other)  # h_scale as it was trained, which is compared, too
    codec = joined([model.codec for model in found])
    first = zoo.describe(found[0].directory)
    given = {"role": first.role, "teacher": first.teacher} | fields
    return models.save(target, codec, found[0].tables, training=training, **given)
