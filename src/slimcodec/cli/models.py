"""slimcodec models: the installed models."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidModel
from slimcodec.cli.options import add_verb, table
from slimcodec.cli.streams import BAD_INPUT, complain, write
from slimcodec.codec import zoo

EXAMPLES = """examples:
  slimcodec models
  slimcodec models --json
  slimcodec models --write-cards
  slimcodec info NAME"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "models", run, help="the installed models", examples=EXAMPLES, prints=True)
    verb.add_argument("--json", action="store_true", help="as JSON")
    verb.add_argument(
        "--write-cards", action="store_true", help="write each model's README.md anew, from its model.json"
    )


class Listed(NamedTuple):
    """A model as it is listed; these are the names in the JSON."""

    name: str
    directory: str
    role: str
    decoder_macs_per_pixel: float
    encoder_macs_per_pixel: float
    parameters: int
    weights_sha256: str


def run(options: argparse.Namespace) -> int:
    found, code = [], 0
    for directory in zoo.directories():
        try:
            found.append(_listed(directory))
            if options.write_cards:
                zoo.write_card(directory)
        except InvalidModel as error:
            complain(str(error))
            code = BAD_INPUT
    write(json.dumps([model._asdict() for model in found], indent=1) if options.json else _model_lines(found))
    return code


def _listed(directory: Path) -> Listed:
    described = zoo.describe(directory)
    return Listed(directory.name, str(directory), *(getattr(described, name) for name in Listed._fields[2:]))


def _model_lines(found: list[Listed]) -> str:
    """A table of the models, with the column titles first."""
    if not found:
        return "no model is installed"
    rows = [("name", "role", "decoder kMAC/pixel", "encoder kMAC/pixel", "parameters", "hash")]
    rows += [
        (
            model.name,
            model.role,
            f"{model.decoder_macs_per_pixel / 1000:.2f}",
            f"{model.encoder_macs_per_pixel / 1000:.2f}",
            f"{model.parameters:,}",
            zoo.short(model.weights_sha256),
        )
        for model in found
    ]
    return table(rows)
