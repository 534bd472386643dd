"""Codecs by name, to measure beside a model: those of `anchors`, models, and CompressAI's."""

from collections.abc import Iterable, Sequence
from typing import Any

from slimcodec import InvalidInput, InvalidModel
from slimcodec.evaluation import anchors, compressai_zoo
from slimcodec.evaluation.codecs import ModelCodec


def find(names: Iterable[str], beside: Sequence[Any] = (), **settings: Any) -> list[Any]:
    """The codecs of these names; a model that is measured anyway, among those `beside`, is not taken twice.

    `settings` are those of `ModelCodec.find`. Raises `InvalidInput` where a name is nobody's.
    """
    known = {codec.settings for codec in beside}
    found = [rival(name, **settings) for name in names]
    return [codec for codec in found if codec.settings not in known]


def rival(name: str, **settings: Any) -> Any:
    if name in anchors.NAMES:
        return anchors.codec(name)
    if name in compressai_zoo.NAMES:
        return compressai_zoo.CompressaiCodec(name)
    try:
        return ModelCodec.find(name, role="rival", **settings)
    except InvalidModel as error:
        choices = ", ".join([*anchors.NAMES, *compressai_zoo.NAMES])
        raise InvalidInput(f"{name!r} is no codec; choose from {choices}, or name a model ({error})") from error
