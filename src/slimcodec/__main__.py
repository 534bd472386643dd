"""The command line: slimcodec compress | decompress | info | models | evaluate | anchors | report.

Exit codes: 0 done, 1 our fault, 2 bad input, 130 stopped by Ctrl-C, 141 nobody read to the end of what was written.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from slimcodec import InvalidFile, InvalidInput, InvalidModel, SlimcodecError, __version__
from slimcodec.codec import atomic, bitstream, zoo

BAD_INPUT, STOPPED, NOBODY_READS = 2, 130, 141
BAR_AFTER_SECONDS = 1.0
STREAM = "-"  # stdin as IN, stdout as OUT

EXAMPLES = {
    "compress": """examples:
  slimcodec compress photo.jpg photo.slim -q 5
  slimcodec compress *.jpg slim/ --bpp 0.5 --effort 5
  cat photo.png | slimcodec compress - - --strip > photo.slim""",
    "decompress": """examples:
  slimcodec decompress photo.slim photo.png
  slimcodec decompress *.slim pictures/
  slimcodec decompress huge.slim corner.png --region 0,0,640,480""",
    "info": """examples:
  slimcodec info photo.slim
  slimcodec info slim-2k
  slimcodec info slim-2k --json""",
    "models": """examples:
  slimcodec models
  slimcodec models --json
  slimcodec info NAME""",
    "evaluate": """examples:
  slimcodec evaluate photos/ --model slim-2k --out study/
  slimcodec evaluate photos/ --model slim-2k --model small --codec jpeg,webp,avif --out study/
  slimcodec evaluate kodak/ --run runs/mine --metrics psnr,ms_ssim --out study/""",
    "anchors": """examples:
  slimcodec anchors photos/ --codec jpeg,webp,jpeg2000,avif,jxl,hevc,vvc --out study/
  slimcodec anchors photos/ --codec vvc --qualities 22,27,32,37 --out study/""",
    "report": """examples:
  slimcodec report study/
  slimcodec report study/ --data photos/
  slimcodec report study/ --figures paper/figures""",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; bad input ends in one line on stderr and exit code 2."""
    closed = _open_closed_streams()
    with _checked_streams():
        try:
            return _flushed(_run(arguments, closed))
        except SystemExit as ending:  # argparse's, after --help or a wrong option
            sys.exit(_flushed(ending.code))


def _run(arguments: list[str] | None, closed: set[str]) -> int:
    options = _options(arguments)
    try:
        _require_streams(options, closed)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.verb(options)
    except BrokenPipeError:
        return NOBODY_READS
    except (SlimcodecError, OSError) as error:
        _complain(_line(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        return STOPPED


def compress(options: argparse.Namespace) -> int:
    from slimcodec import compress_file

    model = options.model or zoo.default_student()
    settings = {name: getattr(options, name) for name in ("effort", "strip", "device", "max_pixels")}
    targets = {name: getattr(options, name) for name in ("quality", "target_bpp", "max_bytes", "target_psnr_db")}
    settings |= {name: value for name, value in targets.items() if value is not None}

    def work(source: Any, target: Any, progress: Callable[[float], None]) -> str:
        done = compress_file(source, target, model=model, progress=progress, **settings)
        return f"{done.bytes:,} bytes, {done.bpp:.3f} bpp, quality {done.quality:g}"

    return _each(_jobs(options.inputs, options.output, bitstream.EXTENSION), work)


def decompress(options: argparse.Namespace) -> int:
    from slimcodec import decompress_file

    settings = {name: getattr(options, name) for name in ("model", "device", "max_pixels", "allow_partial")}
    settings["max_memory"] = options.max_memory << 20
    if options.region is not None:
        settings["region"] = options.region

    def work(source: Any, target: Any, progress: Callable[[float], None]) -> str:
        done = decompress_file(source, target, progress=progress, **settings)
        return f"{done.width}x{done.height} {done.mode}"

    return _each(_jobs(options.inputs, options.output, ".png"), work)


def info(options: argparse.Namespace) -> int:
    name = options.name
    if name == STREAM or os.path.isfile(name) or atomic.is_stream(name) or name.endswith(bitstream.EXTENSION):
        report = _report(name)
        _print(json.dumps(report, indent=1) if options.json else _file_lines(report))
        return 0
    directory = zoo.find(name)
    description = zoo.read_description(directory)
    if options.json:
        _print(json.dumps(description, indent=1, ensure_ascii=False))
    else:
        _print(zoo.render_card(directory.resolve().name, description).rstrip("\n"))
    return 0


def models(options: argparse.Namespace) -> int:
    found, code = [], 0
    for directory in zoo.list_models():
        try:
            description = zoo.read_description(directory)
        except InvalidModel as error:
            _complain(str(error))
            code = BAD_INPUT
        else:
            fields = "role", "decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters", "weights_sha256"
            found.append({"name": directory.name, "directory": str(directory)} | {f: description[f] for f in fields})
    _print(json.dumps(found, indent=1) if options.json else _model_lines(found))
    return code


def evaluate(options: argparse.Namespace) -> int:
    if not options.model and not options.run:
        raise InvalidInput("name a model to evaluate, --model NAME, or a run with its rounds, --run DIRECTORY")
    with _evaluation():
        from slimcodec.evaluation import codecs

        settings = {"effort": options.effort, "device": options.device}
        if options.qualities:
            settings["qualities"] = options.qualities
        measured = [codecs.ModelCodec.find(name, **settings) for name in options.model]
        rounds = []
        if options.run:
            measured, rounds = codecs.with_run(measured, options.run, **settings)
        return _study(options, [*measured, *_anchors(options.codec)], rounds=rounds)


def anchors(options: argparse.Namespace) -> int:
    with _evaluation():
        found = _anchors(options.codec)
        if options.qualities and len(found) > 1:
            raise InvalidInput(f"--qualities: each codec has a scale of its own; name one --codec, not {len(found)}")
        return _study(options, found, qualities={codec.name: options.qualities or codec.qualities for codec in found})


def report(options: argparse.Namespace) -> int:
    with _evaluation():
        from slimcodec.evaluation import points, study

        out = Path(options.out)
        photos = points.find_photos(options.data) if options.data else []
        study.draw(out, photos, figures_folder=Path(options.figures) if options.figures else None)
        _print(f"{out / study.PAGE}, and the figures in {options.figures or out / study.FIGURES}")
        return 0


# --- standard streams -----------------------------------------------------------------------------------------------


def _open_closed_streams() -> set[str]:
    """The names of the standard streams that are closed. The null device takes their places: else the next file that
    is opened would, and what is meant for stderr would be written into it.
    """
    closed = set()
    for name, mode in (
        ("stdin", "r"),
        ("stdout", "w"),
        ("stderr", "w"),
    ):  # opening takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
            closed.add(name)
    return closed


@contextlib.contextmanager
def _checked_streams() -> Iterator[None]:
    """A file's name need not be text. And PYTHONUNBUFFERED's raw stdout would not tell of a disk that took a part."""
    raw, before = getattr(sys.stdout, "buffer", None), sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(raw, io.RawIOBase):
        yield
        return
    checked = io.BufferedWriter(raw)
    sys.stdout = io.TextIOWrapper(checked, before.encoding, "backslashreplace", line_buffering=True)
    try:
        yield
    finally:
        sys.stdout.detach()
        checked.detach()
        sys.stdout = before


def _require_streams(options: argparse.Namespace, closed: set[str]) -> None:
    """Raises InvalidInput when what was asked for needs a closed stream. Mere messages do without."""
    sources, target = [*getattr(options, "inputs", []), getattr(options, "name", "")], getattr(options, "output", "")
    if "stdin" in closed and any(_stands_for(name, 0) for name in sources):
        raise InvalidInput("stdin is closed; name a file to read")
    if "stdout" in closed and (options.verb in (info, models) or _stands_for(target, 1)):
        raise InvalidInput("stdout is closed, there is nowhere to write to")


def _stands_for(name: str, number: int) -> bool:
    """Whether a name means stdin, 0, or stdout, 1."""
    found = atomic.descriptor(name)
    if found is None or found == number:
        return name == STREAM or found == number
    with contextlib.suppress(OSError):
        return os.path.sameopenfile(found, number)
    return False


def _flushed(code: Any) -> Any:
    """The exit code, once all of stdout is written."""
    try:
        with _writing_stdout():
            sys.stdout.flush()
    except BrokenPipeError:
        code = NOBODY_READS
    except OSError as error:
        _complain(_line(error))
        code = BAD_INPUT
    try:
        sys.stderr.flush()
    except OSError:  # nobody can be told
        _drop(sys.stderr)
    return code


@contextlib.contextmanager
def _writing_stdout() -> Iterator[None]:
    """Name stdout in what goes wrong with it. What is left to be written is dropped, or Python would try it again."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # none in a refusal, of a damaged file say
            _drop(sys.stdout)
            error.filename = "stdout" if error.filename in (None, "<stdout>") else error.filename
        raise


def _drop(stream: TextIO) -> None:
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _print(text: str) -> None:
    with _writing_stdout():
        print(text)


def _complain(line: str) -> None:
    """A line on stderr; where it cannot be written, the exit code has to do."""
    with contextlib.suppress(OSError):
        print(f"slimcodec: {line}", file=sys.stderr)


# --- several files --------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    source: str
    target: str


def _jobs(inputs: list[str], output: str, suffix: str) -> list[Job]:
    """Which file becomes which. Raises InvalidInput before anything is written."""
    several = len(inputs) > 1
    if output == STREAM and (several or sys.stdout.isatty()):
        raise InvalidInput(f"{STREAM}: stdout is for one picture, and not for a terminal; name a file or a folder")
    if not several and not os.path.isdir(output) and not output.endswith(os.sep):
        jobs = [Job(inputs[0], output)]
    else:
        jobs = _jobs_in_folder(inputs, output, suffix)
    _check_targets(jobs, suffix)
    return jobs


def _jobs_in_folder(inputs: list[str], folder: str, suffix: str) -> list[Job]:
    if STREAM in inputs:
        raise InvalidInput(f"{STREAM}: stdin has no name to write its picture under; make it the only IN and name OUT")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InvalidInput(f"{folder}: is not a folder, and there are {len(inputs)} pictures to write to it")
    sources = {}
    for source in inputs:
        target = os.path.join(folder, Path(source).stem + suffix)
        if target in sources:
            raise InvalidInput(f"{target}: both {sources[target]} and {source} would be written to it; use two folders")
        sources[target] = source
    os.makedirs(folder, exist_ok=True)
    return [Job(source, target) for target, source in sources.items()]


def _check_targets(jobs: list[Job], suffix: str) -> None:
    """A forgotten OUT must not cost a picture: `compress *.png` where there are two."""
    sources = {_identity(job.source) for job in jobs if job.source != STREAM}
    for _, target in jobs:
        if target == STREAM or atomic.is_stream(target):
            continue
        if _identity(target) in sources:
            raise InvalidInput(f"{target}: is an input as well; name another OUT")
        if suffix == bitstream.EXTENSION and os.path.isfile(target) and not target.endswith(suffix):
            raise InvalidInput(
                f"{target}: is there already and no {suffix} file; the last name is OUT, was it forgotten?"
            )


def _identity(name: str) -> Any:
    """The same for all names of one file, hard links among them."""
    try:
        status = os.stat(name)
    except OSError:
        return os.path.realpath(name)
    return status.st_dev, status.st_ino


def _each(jobs: list[Job], work: Callable[[Any, Any, Callable[[float], None]], str]) -> int:
    """Do all that can be done, with a line each. A missing or damaged model stops everything."""
    code = 0
    messages = sys.stderr if _stands_for(jobs[0].target, 1) else sys.stdout
    with _progress(len(jobs)) as (show, say):
        for index, job in enumerate(jobs):
            source = sys.stdin.buffer if job.source == STREAM else job.source
            target = sys.stdout.buffer if job.target == STREAM else job.target
            to_stdout = _writing_stdout() if job.target == STREAM else contextlib.nullcontext()
            try:
                with to_stdout:
                    line = work(source, target, lambda share, index=index: show(index + share))
            except (InvalidModel, BrokenPipeError):
                raise
            except (SlimcodecError, OSError) as error:
                say(f"slimcodec: {_line(error)}", sys.stderr)
                code = BAD_INPUT
            else:
                say(f"{'stdout' if job.target == STREAM else job.target}: {line}", messages)
            show(index + 1)
    return code


@contextlib.contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[float], None], Callable[[str, TextIO], None]]]:
    """`show(files done)` and `say(line, stream)`: on a terminal a bar, where the work takes its time."""
    if not sys.stderr.isatty():
        yield lambda done: None, _say
        return
    from tqdm import tqdm

    with tqdm(
        total=total, delay=BAR_AFTER_SECONDS, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        yield lambda done: bar.update(done - bar.n), lambda line, stream: bar.write(line, stream)


def _say(line: str, stream: TextIO) -> None:
    if stream is sys.stdout:
        _print(line)
    else:
        with contextlib.suppress(OSError):
            print(line, file=stream)


# --- studies --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _evaluation() -> Iterator[None]:
    """What a user who only compresses pictures has not installed is asked for in one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "slimcodec":
            raise
        raise InvalidInput(
            f"measuring needs {error.name}, which is not installed: pip install 'slimcodec[eval]'"
        ) from error


def _anchors(names: list[str]) -> list[Any]:
    from slimcodec.evaluation import anchors

    return [anchors.codec(name) for name in names]


def _study(options: argparse.Namespace, codecs: list[Any], **settings: Any) -> int:
    """Measure, and say in a few lines what came of it."""
    from slimcodec.evaluation import points, study

    out = Path(options.out)
    summary = study.evaluate(
        codecs,
        points.find_photos(options.data, options.limit),
        out,
        name=Path(options.data).resolve().name,
        metrics=options.metrics,
        jobs=options.jobs or _default_jobs(codecs),
        command=shlex.join(["slimcodec", *options.arguments]),
        **settings,
    )
    _print(_study_lines(summary))
    for line in _troubles(summary):
        _complain(line)
    _print(f"{out / study.PAGE}")
    return BAD_INPUT if summary["failures"] or summary["data"]["left_out"] else 0


def _default_jobs(codecs: list[Any]) -> int:
    """One a core; but where a model runs on another device, one: processes would each take a share of its memory."""
    return os.cpu_count() or 1 if all(getattr(codec, "device", "cpu") == "cpu" for codec in codecs) else 1


def _study_lines(summary: dict[str, Any]) -> str:
    """A table of the BD-rates by RGB PSNR, with the range that they are over."""
    anchors = summary["anchors"]
    rows = [("codec", "decoder kMAC/pixel", *(f"BD-rate against {name}" for name in anchors))]
    for name, codec in summary["codecs"].items():
        macs = codec["complexity"] and f"{codec['complexity']['decoder_macs_per_pixel'] / 1000:.2f}"
        entries = [summary["bd_rate"][anchor].get(name, {}).get("psnr_rgb_db") for anchor in anchors]
        rows.append((name, macs or "", *map(_bd_rate, entries)))
    return _table(rows)


def _bd_rate(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["percent"] is None:
        return "–"
    return f"{entry['percent']:+.1f} % ({entry['low']:.1f} to {entry['high']:.1f} dB)"


def _troubles(summary: dict[str, Any]) -> Iterator[str]:
    """What could not be done, a line each; why a BD-rate is missing, once per codec."""
    yield from (f"left out: {reason}" for reason in summary["data"]["left_out"].values())
    yield from (f"metric {name}: {reason}" for name, reason in summary["unavailable"].items())
    failures = defaultdict(list)
    for failure in summary["failures"]:
        place = " at ".join(str(part) for part in (failure["picture"], failure["quality"]) if part not in ("", None))
        failures[failure["codec"], failure["reason"]].append(place)
    for (codec, reason), (place, *more) in failures.items():
        where = f" ({place}{f' and {len(more)} more' if more else ''})" if place else ""
        yield f"{codec}{where}: {reason}"
    for anchor, of_codecs in summary["bd_rate"].items():
        for name, of_metrics in of_codecs.items():
            entry = of_metrics.get("psnr_rgb_db")
            if name in summary["codecs"] and entry and entry["percent"] is None:
                yield f"no BD-rate of {name} against {anchor}: {entry['reason']}"


# --- reports --------------------------------------------------------------------------------------------------------


def _report(name: str) -> dict[str, Any]:
    """What a .slim file says of itself."""
    data = _bytes(name)
    name = "stdin" if name == STREAM else name
    try:
        contents = bitstream.unpack(data, max_pixels=sys.maxsize, allow_partial=True)
    except InvalidFile as error:
        raise InvalidFile(f"{name}: {error}") from error
    header = contents.header
    return {
        "file": name,
        "format_version": bitstream.VERSION,
        "width": header.width,
        "height": header.height,
        "grey": header.grey,
        "quality": header.quality / bitstream.QUALITY_ONE,
        "bytes": len(data),
        "bpp": 8 * len(data) / (header.width * header.height),
        "model_hash": header.model_hash.hex(),
        "model": _installed(header.model_hash.hex()),
        "tile": header.tile * bitstream.CELL,
        "tiles": header.tiles,
        "chunks": {name: len(chunk) for name, chunk in contents.chunks.items()},
        "complete": contents.complete,
    }


def _bytes(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == STREAM else Path(name).read_bytes()
    except OSError as error:
        raise InvalidFile(f"{'stdin' if name == STREAM else name}: cannot be read ({error.strerror})") from error


def _installed(model_hash: str) -> str | None:
    """The name of the model that decodes it."""
    with contextlib.suppress(InvalidFile):
        return zoo.by_hash(model_hash).name


def _file_lines(report: dict[str, Any]) -> str:
    rows, columns = report["tiles"]
    tiles = f"{rows} x {columns} of {report['tile']} pixels" if report["tile"] else "one"
    chunks = ", ".join(f"{name} {size:,} bytes" for name, size in report["chunks"].items())
    lines = [
        f"{report['file']}: .slim, format version {report['format_version']}",
        f"picture   {report['width']} x {report['height']} pixels, {'grey' if report['grey'] else 'colour'}",
        f"quality   {report['quality']:g}",
        f"size      {report['bytes']:,} bytes, {report['bpp']:.3f} bpp",
        f"model     {report['model_hash']}, {report['model'] or 'not installed'}",
        f"tiles     {tiles}",
        f"chunks    {chunks or 'none'}",
    ]
    if not report["complete"]:
        lines.append("truncated: decompress --partial decodes what is there")
    return "\n".join(lines)


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
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return " ".join(str(error).split())


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    _complain(" ".join(str(message).split()))


# --- arguments ------------------------------------------------------------------------------------------------------


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """argparse's, but options may also stand between the INs and OUT."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    if more and (not hasattr(options, "inputs") or any(m.startswith("-") and m != STREAM for m in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        *options.inputs, options.output = [*options.inputs, options.output, *more]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimcodec", description="Learned image compression with a slim decoder.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_compress(_verb(verbs, compress, "pictures → .slim"))
    _add_decompress(_verb(verbs, decompress, ".slim → pictures"))
    verb = _verb(verbs, info, "what is in a .slim file, or what a model is and what was measured of it")
    verb.add_argument("name", metavar="FILE_OR_MODEL", help="a .slim file, - for stdin, or a model's name or directory")
    verb.add_argument("--json", action="store_true", help="as JSON; of a model, model.json as it is")
    verb = _verb(verbs, models, "the installed models")
    verb.add_argument("--json", action="store_true", help="as JSON")
    _add_evaluate(
        _verb(verbs, evaluate, "measure models on your photos, beside other codecs: points, BD-rates, a page")
    )
    _add_anchors(_verb(verbs, anchors, "measure other codecs on your photos, into the same folder as evaluate"))
    _add_report(_verb(verbs, report, "draw the page and the figures of a study anew"))
    return parser


def _verb(verbs: Any, function: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
    name = function.__name__
    verb = verbs.add_parser(
        name,
        help=help,
        description=help,
        epilog=EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(verb=function)
    return verb


def _add_compress(verb: argparse.ArgumentParser) -> None:
    _add_files(verb, "a picture of any kind that Pillow reads; - is stdin", "a .slim file, a folder, or - for stdout")
    target = verb.add_mutually_exclusive_group()
    target.add_argument(
        "-q", "--quality", type=float, metavar="Q", help="1 (smallest) to 8 (best), fractions too; default 4"
    )
    target.add_argument("--bpp", type=float, dest="target_bpp", metavar="BPP", help="bits per pixel to aim at")
    target.add_argument("--max-bytes", type=int, metavar="N", help="the best quality that fits in so many bytes")
    target.add_argument("--psnr", type=float, dest="target_psnr_db", metavar="P", help="the PSNR to reach, in dB")
    verb.add_argument("--effort", type=int, default=0, metavar="E", help="0 (fast, default) to 10 (smaller files)")
    verb.add_argument("--strip", action="store_true", help="leave out the colour profile, EXIF and XMP")
    _add_max_pixels(verb, None, "179 million, Pillow's limit")
    _add_model(verb, "the only student there is")


def _add_decompress(verb: argparse.ArgumentParser) -> None:
    _add_files(verb, "a .slim file; - is stdin", "a picture of any kind that Pillow writes, a folder, or - for stdout")
    verb.add_argument("--region", type=_region, metavar="X,Y,W,H", help="only this part, in pixels")
    verb.add_argument(
        "--partial", action="store_true", dest="allow_partial", help="decode what there is of a truncated file"
    )
    _add_max_pixels(verb, bitstream.MAX_PIXELS, "%(default)s")
    verb.add_argument(
        "--max-memory",
        type=_count,
        default=bitstream.MAX_MEMORY >> 20,
        metavar="MIB",
        help="refuse what would take more, pixels included, beyond library and model (default: %(default)s)",
    )
    _add_model(verb, "the installed model that made the file")


def _add_evaluate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", action="append", default=[], metavar="NAME", help="name or directory; may be repeated")
    verb.add_argument("--run", metavar="DIRECTORY", help="a run: its teacher, and its student after each round")
    verb.add_argument("--effort", type=int, default=0, metavar="E", help="0 (fast, default) to 10 (smaller files)")
    verb.add_argument("--device", default="cpu", metavar="D", help="where the networks run (default: cpu)")
    _add_study(verb, "jpeg,webp", "1 to 8")


def _add_anchors(verb: argparse.ArgumentParser) -> None:
    _add_study(verb, "jpeg,webp,jpeg2000,avif,jxl,hevc,vvc", "a ladder for each codec")


def _add_study(verb: argparse.ArgumentParser, codecs: str, qualities: str) -> None:
    verb.add_argument("data", metavar="DATA", help="a folder of photos")
    verb.add_argument("--out", required=True, metavar="DIR", help="where the results go; what is there is not redone")
    verb.add_argument("--codec", type=_names, default=codecs, metavar="A,B", help="other codecs (default: %(default)s)")
    verb.add_argument("--qualities", type=_numbers, metavar="Q,Q", help=f"default: {qualities}")
    verb.add_argument(
        "--metrics",
        type=_names,
        default="psnr,ms_ssim,aad",
        metavar="M,M",
        help="groups or names; jpeg_ai is JPEG AI's seven (default: %(default)s)",
    )
    verb.add_argument("--limit", type=_count, metavar="N", help="only the first N pictures")
    verb.add_argument(
        "--jobs", type=_count, metavar="N", help="processes at a time (default: one a core; one on another device)"
    )


def _add_report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("out", metavar="DIR", help="what evaluate or anchors wrote")
    verb.add_argument("--data", metavar="DATA", help="the photos, for the pictures on the page")
    verb.add_argument("--figures", metavar="FOLDER", help="where the figures go (default: DIR/figures)")


def _add_files(verb: argparse.ArgumentParser, inputs: str, output: str) -> None:
    verb.add_argument("inputs", nargs="+", metavar="IN", help=inputs)
    verb.add_argument("output", metavar="OUT", help=f"{output}; a folder for several INs")


def _add_model(verb: argparse.ArgumentParser, default: str) -> None:
    verb.add_argument("--model", metavar="NAME", help=f"name or directory; default: {default}")
    verb.add_argument(
        "--device", default="cpu", metavar="D", help="where the networks run, such as cuda (default: cpu)"
    )


def _add_max_pixels(verb: argparse.ArgumentParser, default: int | None, said: str) -> None:
    help = f"refuse larger pictures (default: {said})"
    verb.add_argument("--max-pixels", type=_count, default=default, metavar="N", help=help)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(number) for number in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 1,2.5,8") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _region(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H in pixels, such as 0,0,640,480") from None
    return x, y, width, height


if __name__ == "__main__":
    sys.exit(main())
