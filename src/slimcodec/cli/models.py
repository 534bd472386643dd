"""slimcodec models: the installed models."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidModel
from slimcodec.cli import streams
from slimcodec.cli.streams import BAD_INPUT, STREAM
from slimcodec.codec import zoo

HELP = "the installed models"
EXAMPLES = """examples:
  slimcodec models
  slimcodec models --json
  slimcodec info NAME"""
TITLES = "name", "role", "decoder kMAC/pixel", "encoder kMAC/pixel", "parameters", "hash"


class Listed(NamedTuple):
    """One model; the fields are the keys of --json, all but the first two as in model.json."""

    name: str
    directory: str
    role: str
    decoder_macs_per_pixel: float
    encoder_macs_per_pixel: float
    parameters: int
    weights_sha256: str

    @classmethod
    def from_description(cls, directory: Path, description: dict[str, Any]) -> "Listed":
        return cls(directory.name, str(directory), *(description[field] for field in cls._fields[2:]))

    def row(self) -> tuple[str, ...]:
        macs = self.decoder_macs_per_pixel, self.encoder_macs_per_pixel
        kilo = (f"{number / 1000:.2f}" for number in macs)
        return (self.name, self.role, *kilo, f"{self.parameters:,}", self.weights_sha256[:16])


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="as JSON")
    verb.set_defaults(output=STREAM)


def run(options: argparse.Namespace) -> int:
    found, broken = _read_all()
    for reason in broken:
        streams.complain(reason)
    streams.show(json.dumps([model._asdict() for model in found], indent=1) if options.json else _lines(found))
    return BAD_INPUT if broken else 0


def _read_all() -> tuple[list[Listed], list[str]]:
    """The models that can be read, and why others cannot."""
    found, broken = [], []
    for directory in zoo.list_models():
        try:
            found.append(Listed.from_description(directory, zoo.read_description(directory)))
        except InvalidModel as error:
            broken.append(str(error))
    return found, broken


def _lines(found: list[Listed]) -> str:
    if not found:
        return "no model is installed"
    return streams.table([TITLES, *(model.row() for model in found)])
