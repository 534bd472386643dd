"""slimcodec export: a model in another form."""

import argparse
from pathlib import Path
from typing import Any

from slimcodec import InvalidInput
from slimcodec.cli.options import add_verb, table
from slimcodec.cli.streams import write

EXAMPLES = """examples:
  slimcodec export slim-2k --onnx slim-2k-onnx"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "export", run, help="a model's networks as ONNX files", examples=EXAMPLES, prints=True)
    verb.add_argument("model", metavar="MODEL", help="name or directory")
    verb.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="the folder to write to")


def run(options: argparse.Namespace) -> int:
    from slimcodec.codec import models

    try:
        from slimcodec.training import onnx_export
    except ModuleNotFoundError as error:
        raise InvalidInput(f"--onnx needs {error.name}: pip install 'slimcodec[onnx]'") from error
    manifest = onnx_export.export(models.load(options.model), options.onnx)
    write(table([(name, f"{described['bytes']:,} bytes") for name, described in manifest["files"].items()]))
    return 0
