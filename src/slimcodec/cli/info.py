"""slimcodec info: what is in a .slim file, or what a model is and what was measured of it."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidFile
from slimcodec.cli.options import add_verb
from slimcodec.cli.streams import STREAM, write
from slimcodec.codec import atomic, bitstream, grid, zoo

EXAMPLES = """examples:
  slimcodec info photo.slim
  slimcodec info slim-2k
  slimcodec info slim-2k --json"""


def add(verbs: Any) -> None:
    verb = add_verb(
        verbs,
        "info",
        run,
        help="what is in a .slim file, or what a model is and what was measured of it",
        examples=EXAMPLES,
        prints=True,
    )
    verb.add_argument("name", metavar="FILE_OR_MODEL", help="a .slim file, - for stdin, or a model's name or directory")
    verb.add_argument("--json", action="store_true", help="as JSON; of a model, model.json as it is")


def run(options: argparse.Namespace) -> int:
    name = options.name
    if name == STREAM or os.path.isfile(name) or atomic.is_stream(name) or name.endswith(bitstream.EXTENSION):
        report = report_of(name)
        write(json.dumps(report._asdict(), indent=1) if options.json else _file_lines(report))
        return 0
    directory = zoo.find(name)
    description = zoo.read_description(directory)
    if options.json:
        write(json.dumps(description, indent=1, ensure_ascii=False))
    else:
        write(zoo.render_card(directory.resolve().name, description).rstrip("\n"))
    return 0


class FileReport(NamedTuple):
    """What a .slim file says of itself."""

    file: str
    format_version: int
    width: int
    height: int
    grey: bool
    quality: float
    scale: float  # of width and height, at which the picture is coded
    bytes: int
    bpp: float
    model_hash: str
    model: str | None  # that decodes it, where it is installed
    tile: int  # its side in pixels; 0 where there is one tile
    tiles: tuple[int, int]  # rows and columns
    chunks: dict[str, int]  # name → bytes
    complete: bool


def report_of(name: str) -> FileReport:
    data = _bytes(name)
    name = "stdin" if name == STREAM else name
    try:
        contents = bitstream.unpack(data, max_pixels=sys.maxsize, allow_partial=True)
    except InvalidFile as error:
        raise InvalidFile(f"{name}: {error}") from error
    header = contents.header
    return FileReport(
        file=name,
        format_version=data[len(bitstream.MAGIC)],
        width=header.width,
        height=header.height,
        grey=header.grey,
        quality=header.quality / bitstream.QUALITY_ONE,
        scale=header.scale,
        bytes=len(data),
        bpp=8 * len(data) / (header.width * header.height),
        model_hash=header.model_hash.hex(),
        model=_installed(header.model_hash.hex()),
        tile=header.tile * grid.CELL,
        tiles=header.tiles,
        chunks={name: len(chunk) for name, chunk in contents.chunks.items()},
        complete=contents.complete,
    )


def _bytes(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == STREAM else Path(name).read_bytes()
    except OSError as error:
        raise InvalidFile(f"{'stdin' if name == STREAM else name}: cannot be read ({error.strerror})") from error


def _installed(model_hash: str) -> str | None:
    """The name of the model that decodes it."""
    with contextlib.suppress(InvalidFile):
        return zoo.by_hash(model_hash).name


def _file_lines(report: FileReport) -> str:
    rows, columns = report.tiles
    tiles = f"{rows} x {columns} of {report.tile} pixels" if report.tile else "one"
    chunks = ", ".join(f"{name} {size:,} bytes" for name, size in report.chunks.items())
    lines = [
        f"{report.file}: .slim, format version {report.format_version}",
        f"picture   {report.width} x {report.height} pixels, {'grey' if report.grey else 'colour'}",
        f"quality   {report.quality:g}" + (f", at {report.scale:g} of width and height" if report.scale < 1 else ""),
        f"size      {report.bytes:,} bytes, {report.bpp:.3f} bpp",
        f"model     {report.model_hash}, {report.model or 'not installed'}",
        f"tiles     {tiles}",
        f"chunks    {chunks or 'none'}",
    ]
    if not report.complete:
        lines.append("truncated: decompress --partial decodes what is there")
    return "\n".join(lines)
