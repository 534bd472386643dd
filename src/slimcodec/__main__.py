"""The command line: slimcodec compress | decompress | info.  Exit codes: 0 done, 2 bad input, 1 our fault."""

import argparse
import json
import os
import sys
from pathlib import Path

from slimcodec import InvalidFile, InvalidInput, SlimcodecError, __version__
from slimcodec.codec.bitstream import MAX_PIXELS


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; bad input ends in one line on stderr and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        options.verb(options)
    except SlimcodecError as error:
        print(f"slimcodec: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"slimcodec: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def compress(options: argparse.Namespace) -> None:
    from PIL import Image, ImageOps, UnidentifiedImageError

    from slimcodec.codec.inference import load

    try:
        with Image.open(options.input) as file:
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"{options.input}: is not a picture that can be read ({error})") from error
    data = load(options.model or _only_student()).compress(picture, options.quality)
    _write(options.output, data)
    bpp = 8 * len(data) / (picture.width * picture.height)
    print(f"{options.output}: {len(data):,} bytes, {bpp:.3f} bpp")


def decompress(options: argparse.Namespace) -> None:
    from PIL import Image

    from slimcodec.codec.inference import load

    data = options.input.read_bytes()
    # An output name that Pillow does not know is found before the work, not after it.
    if options.output.suffix.lower() not in Image.registered_extensions():
        raise InvalidInput(f"{options.output}: no picture format ends in {options.output.suffix!r}; try .png")
    picture = load(options.model or _model_of(data, options.max_pixels)).decompress(data, max_pixels=options.max_pixels)
    partial = options.output.with_name(f".{os.getpid()}.{options.output.name}")
    try:
        picture.save(partial)
        os.replace(partial, options.output)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{options.output}: {picture.width}x{picture.height}")


def info(options: argparse.Namespace) -> None:
    from slimcodec.codec.models import find, load, render_card

    found = load(find(options.model)).info
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(render_card(str(options.model), found), end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimcodec", description="Learned image compression with a slim decoder.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("compress", help="picture → .slim")
    verb.set_defaults(verb=compress)
    verb.add_argument("input", type=Path, metavar="IN")
    verb.add_argument("output", type=Path, metavar="OUT")
    verb.add_argument("-q", "--quality", type=float, default=4.0, help="1 (smallest) to 8 (best), fractions too")
    verb.add_argument("--model", help="name or directory; default: the only student there is")

    verb = verbs.add_parser("decompress", help=".slim → picture")
    verb.set_defaults(verb=decompress)
    verb.add_argument("input", type=Path, metavar="IN")
    verb.add_argument("output", type=Path, metavar="OUT")
    verb.add_argument("--model", help="name or directory; default: the installed model that made the file")
    verb.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help="refuse larger pictures (default: %(default)s)"
    )

    verb = verbs.add_parser("info", help="what a model is and what was measured of it")
    verb.set_defaults(verb=info)
    verb.add_argument("model", metavar="MODEL", help="name or directory")
    verb.add_argument("--json", action="store_true", help="model.json as it is")
    return parser


def _only_student() -> Path:
    from slimcodec.codec.models import list_models

    students = [directory for directory in list_models() if directory.parent.name == "students"]
    if len(students) != 1:
        names = ", ".join(directory.name for directory in students) or "none"
        raise InvalidInput(f"--model is needed: the students installed are {names}")
    return students[0]


def _model_of(data: bytes, max_pixels: int) -> Path:
    """The installed model whose weights' hash the file names."""
    from slimcodec.codec.bitstream import unpack
    from slimcodec.codec.models import list_models, read_description

    wanted = unpack(data, max_pixels=max_pixels)[0].model_hash.hex()
    for directory in list_models():
        if read_description(directory)["weights_sha256"].startswith(wanted):
            return directory
    raise InvalidFile(f"made with model {wanted}, which is not installed; name its directory with --model")


def _write(path: Path, data: bytes) -> None:
    """The whole file or none."""
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
