"""Arguments that several verbs share, and the types of their values."""

import argparse

Parser = argparse.ArgumentParser


def add_files(verb: Parser, inputs: str, output: str) -> None:
    """IN… OUT, of compress and decompress."""
    verb.add_argument("inputs", nargs="+", metavar="IN", help=inputs)
    verb.add_argument("output", metavar="OUT", help=f"{output}; a folder for several INs")


def add_model(verb: Parser, default: str) -> None:
    """--model and --device, of compress and decompress."""
    verb.add_argument("--model", metavar="NAME", help=f"name or directory; default: {default}")
    verb.add_argument(
        "--device", default="cpu", metavar="D", help="where the networks run, such as cuda (default: cpu)"
    )


def add_max_pixels(verb: Parser, default: int | None, said: str) -> None:
    """--max-pixels, of compress and decompress; the help says the default as `said`."""
    help = f"refuse larger pictures (default: {said})"
    verb.add_argument("--max-pixels", type=count, default=default, metavar="N", help=help)


def add_effort(verb: Parser) -> None:
    """--effort, of compress and evaluate."""
    verb.add_argument("--effort", type=int, default=0, metavar="E", help="0 (fast, default) to 10 (smaller files)")


def add_study(verb: Parser, codecs: str, qualities: str) -> None:
    """What evaluate and anchors have in common."""
    verb.add_argument("data", metavar="DATA", help="a folder of photos")
    verb.add_argument("--out", required=True, metavar="DIR", help="where the results go; what is there is not redone")
    verb.add_argument("--codec", type=names, default=codecs, metavar="A,B", help="other codecs (default: %(default)s)")
    verb.add_argument("--qualities", type=numbers, metavar="Q,Q", help=f"default: {qualities}")
    verb.add_argument(
        "--metrics",
        type=names,
        default="psnr,ms_ssim,aad",
        metavar="M,M",
        help="groups or names; jpeg_ai is JPEG AI's seven (default: %(default)s)",
    )
    verb.add_argument("--limit", type=count, metavar="N", help="only the first N pictures")
    verb.add_argument(
        "--jobs", type=count, metavar="N", help="processes at a time (default: one a core; one on another device)"
    )


def names(text: str) -> list[str]:
    """jpeg,webp"""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> tuple[float, ...]:
    """1,2.5,8; sorted, each once"""
    try:
        return tuple(sorted({float(number) for number in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 1,2.5,8") from None


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def region(text: str) -> tuple[int, int, int, int]:
    """X,Y,W,H"""
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H in pixels, such as 0,0,640,480") from None
    return x, y, width, height
