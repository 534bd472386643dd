"""slimcodec export: a model in another form."""

import argparse
from pathlib import Path
from typing import Any

from slimcodec import InvalidInput
from slimcodec.cli.options import add_verb, table
from slimcodec.cli.streams import write

EXAMPLES = """examples:
  slimcodec export slim-2k --onnx slim-2k-onnx
  slimcodec export runs/mine/student --graphs"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "export", run, help="a model's networks as ONNX files", examples=EXAMPLES, prints=True)
    verb.add_argument("model", metavar="MODEL", help="name or directory")
    kind = verb.add_mutually_exclusive_group(required=True)
    kind.add_argument("--onnx", type=Path, metavar="DIR", help="write networks and tensors for other programs")
    kind.add_argument("--graphs", action="store_true", help="into the model: then it runs without PyTorch")


def run(options: argparse.Namespace) -> int:
    from slimcodec.codec import models, zoo

    try:
        from slimcodec.training import onnx_export
    except ModuleNotFoundError as error:
        raise InvalidInput(f"export needs {error.name}: pip install 'slimcodec[onnx]'") from error
    if options.graphs:
        directory = zoo.find(options.model)
        onnx_export.add_graphs(directory)
        write(f"{directory}: runs without PyTorch")
        return 0
    manifest = onnx_export.export(models.load(options.model), options.onnx)
    write(table([(name, f"{described['bytes']:,} bytes") for name, described in manifest["files"].items()]))
    return 0
