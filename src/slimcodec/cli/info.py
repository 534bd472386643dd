"""slimcodec info: what is in a .slim file, or what a model is. It decodes nothing."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from slimcodec import InvalidFile
from slimcodec.cli import streams
from slimcodec.cli.streams import STREAM
from slimcodec.codec import atomic, bitstream, zoo

HELP = "what is in a .slim file, or what a model is and what was measured of it"
EXAMPLES = """examples:
  slimcodec info photo.slim
  slimcodec info slim-2k
  slimcodec info slim-2k --json"""


class FileInfo(NamedTuple):
    """What a .slim file says of itself; the fields are the keys of --json."""

    file: str
    format_version: int
    width: int
    height: int
    grey: bool
    quality: float
    bytes: int
    bpp: float
    model_hash: str
    model: str | None  # the installed one with this hash
    tile: int  # pixels a side; 0: not tiled
    tiles: tuple[int, int]  # rows, columns
    chunks: dict[str, int]  # name → bytes
    complete: bool


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", metavar="FILE_OR_MODEL", help="a .slim file, - for stdin, or a model's name or directory")
    verb.add_argument("--json", action="store_true", help="as JSON; of a model, model.json as it is")
    verb.set_defaults(output=STREAM)


def run(options: argparse.Namespace) -> int:
    streams.show(_of_file(options) if _is_file(options.name) else _of_model(options))
    return 0


def _is_file(name: str) -> bool:
    """Whether it names a file, be it missing, rather than a model."""
    return name == STREAM or os.path.isfile(name) or atomic.is_stream(name) or name.endswith(bitstream.EXTENSION)


def _of_model(options: argparse.Namespace) -> str:
    directory = zoo.find(options.name)
    description = zoo.read_description(directory)
    if options.json:
        return json.dumps(description, indent=1, ensure_ascii=False)
    return zoo.render_card(directory.resolve().name, description).rstrip("\n")


def _of_file(options: argparse.Namespace) -> str:
    found = read(options.name)
    return json.dumps(found._asdict(), indent=1) if options.json else _lines(found)


def read(name: str) -> FileInfo:
    """Raises InvalidFile for a file that cannot be read or is no .slim file. A truncated one is described too."""
    data = _bytes(name)
    name = "stdin" if name == STREAM else name
    try:
        contents = bitstream.unpack(data, max_pixels=sys.maxsize, allow_partial=True)
    except InvalidFile as error:
        raise InvalidFile(f"{name}: {error}") from error
    header = contents.header
    return FileInfo(
        file=name,
        format_version=bitstream.VERSION,
        width=header.width,
        height=header.height,
        grey=header.grey,
        quality=header.quality / bitstream.QUALITY_ONE,
        bytes=len(data),
        bpp=8 * len(data) / (header.width * header.height),
        model_hash=header.model_hash.hex(),
        model=_installed(header.model_hash.hex()),
        tile=header.tile * bitstream.CELL,
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
    return None


def _lines(found: FileInfo) -> str:
    rows, columns = found.tiles
    tiles = f"{rows} x {columns} of {found.tile} pixels" if found.tile else "one"
    chunks = ", ".join(f"{name} {size:,} bytes" for name, size in found.chunks.items())
    lines = [
        f"{found.file}: .slim, format version {found.format_version}",
        f"picture   {found.width} x {found.height} pixels, {'grey' if found.grey else 'colour'}",
        f"quality   {found.quality:g}",
        f"size      {found.bytes:,} bytes, {found.bpp:.3f} bpp",
        f"model     {found.model_hash}, {found.model or 'not installed'}",
        f"tiles     {tiles}",
        f"chunks    {chunks or 'none'}",
    ]
    if not found.complete:
        lines.append("truncated: decompress --partial decodes what is there")
    return "\n".join(lines)
