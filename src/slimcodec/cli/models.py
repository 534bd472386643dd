"""slimcodec models: the installed models."""

import argparse
import json
from typing import Any

from slimcodec import InvalidModel
from slimcodec.cli.options import add_verb, table
from slimcodec.cli.streams import BAD_INPUT, complain, write
from slimcodec.codec import zoo

EXAMPLES = """examples:
  slimcodec models
  slimcodec models --json
  slimcodec info NAME"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "models", run, help="the installed models", examples=EXAMPLES, prints=True)
    verb.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    found, code = [], 0
    for directory in zoo.list_models():
        try:
            description = zoo.read_description(directory)
        except InvalidModel as error:
            complain(str(error))
            code = BAD_INPUT
        else:
            fields = "role", "decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters", "weights_sha256"
            found.append({"name": directory.name, "directory": str(directory)} | {f: description[f] for f in fields})
    write(json.dumps(found, indent=1) if options.json else _model_lines(found))
    return code


def _model_lines(found: list[dict[str, Any]]) -> str:
    """A table of the models, with the column titles first."""
    if not found:
        return "no model is installed"
    rows = [("name", "role", "decoder kMAC/pixel", "encoder kMAC/pixel", "parameters", "hash")]
    rows += [
        (
            model["name"],
            model["role"],
            f"{model['decoder_macs_per_pixel'] / 1000:.2f}",
            f"{model['encoder_macs_per_pixel'] / 1000:.2f}",
            f"{model['parameters']:,}",
            model["weights_sha256"][:16],
        )
        for model in found
    ]
    return table(rows)
