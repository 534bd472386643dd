"""Which file becomes which: decided, and refused, before anything is written.

    IN            OUT is beside it: photo.jpg → photo.slim, photo.slim → photo.png. That of stdin is stdout
    IN... OUT     the last of several names is OUT when it is a folder, -, a device or not there yet, or a file of the
                  kind that the verb makes; any other file that is there is one more IN
    -o OUT IN...  every name is an IN

OUT is a folder for several INs, or when there is a folder of that name, or when it ends in /. Where IN is a folder, its
files keep their places in the tree. A file that is there already is not overwritten.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidInput
from slimcodec.cli.streams import STREAM
from slimcodec.codec import atomic, bitstream

NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "SLIM"}  # what Pillow has a reader for that only tells them apart


class Job(NamedTuple):
    source: str
    target: str


class Plan(NamedTuple):
    jobs: list[Job]
    notes: list[str]  # what is left out, a line each


def split(names: list[str], output: str | None, *, compresses: bool) -> tuple[list[str], str | None]:
    """The INs, and OUT if one was named."""
    if output is None and names == [STREAM]:
        return names, STREAM
    if output is None and len(names) > 1 and _is_output(names[-1], compresses):
        return names[:-1], names[-1]
    return names, output


def _is_output(name: str, compresses: bool) -> bool:
    is_file = os.path.isfile(name) and not atomic.is_stream(name)
    return name == STREAM or not is_file or _is_slim(name) == compresses


def plan(options: argparse.Namespace) -> Plan:
    """Raises InvalidInput before anything is written."""
    inputs, output, compresses = options.inputs, options.output, options.compresses
    several = len(inputs) > 1 or os.path.isdir(inputs[0])
    notes: list[str] = []
    sources = [found for name in inputs for found in _sources(name, notes, options)]
    if output is not None and not _is_folder(output, several):
        _check_file(output, several, compresses)
        jobs = [Job(inputs[0], output)]
    else:
        _check_folder(output, inputs)
        jobs = [Job(name, _target(name, below, output, compresses)) for name, below in sources]
    _check_targets(jobs)
    jobs = _without_what_is_there(jobs, notes, options)
    if output is not None and _is_folder(output, several):
        for folder in {os.path.dirname(job.target) for job in jobs}:
            os.makedirs(folder, exist_ok=True)
    return Plan(jobs, notes)


# --- what is read -----------------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    name: str
    below: str  # its path below the folder that was named, or the file's name


def _sources(name: str, notes: list[str], options: argparse.Namespace) -> list[_Source]:
    if not os.path.isdir(name):
        return [_Source(name, os.path.basename(name))]
    if not options.recursive:
        raise InvalidInput(f"{name}: is a folder; --recursive takes what is in it")
    wanted, passed = _picture_suffixes(), {bitstream.EXTENSION}
    if not options.compresses:
        wanted, passed = passed, wanted
    found = []
    for path in _files_below(Path(name)):
        if path.suffix.lower() in wanted:
            found.append(_Source(str(path), str(path.relative_to(name))))
        elif path.suffix.lower() not in passed:
            notes.append(f"{path}: skipped, by its suffix it is no {_kind(options.compresses)}")
    if not found:
        raise InvalidInput(f"{name}: holds no {_kind(options.compresses)}")
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """In all its folders, in the order of their paths; hidden ones are left out, and links to folders not followed."""
    for path in sorted(folder.rglob("*")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file():
            yield path


def _picture_suffixes() -> set[str]:
    from PIL import Image

    return {
        suffix
        for suffix, format in Image.registered_extensions().items()
        if format in Image.OPEN and format not in NO_PICTURES
    }


def _kind(compresses: bool) -> str:
    return "picture" if compresses else f"{bitstream.EXTENSION} file"


# --- what is written --------------------------------------------------------------------------------------------------


def _is_folder(output: str, several: bool) -> bool:
    return output != STREAM and (several or os.path.isdir(output) or output.endswith(os.sep))


def _is_slim(name: str) -> bool:
    return name.lower().endswith(bitstream.EXTENSION)


def _check_file(output: str, several: bool, compresses: bool) -> None:
    """A suffix that lies is refused. What Pillow writes is known when it is written."""
    if output == STREAM and (several or sys.stdout.isatty()):
        raise InvalidInput(f"{STREAM}: stdout is for one picture, and not for a terminal; name a file or a folder")
    if output == STREAM or atomic.is_stream(output) or _is_slim(output) == compresses:
        return
    if compresses:
        suffix = os.path.splitext(output)[1]
        ending = f"a file that ends in {suffix}" if suffix else "a file"
        raise InvalidInput(
            f"{output}: compress does not make {ending}; end OUT in {bitstream.EXTENSION}, or in {os.sep} for a folder"
        )
    raise InvalidInput(f"{output}: decompress makes pictures; end OUT in .png or another picture's suffix")


def _check_folder(output: str | None, inputs: list[str]) -> None:
    if STREAM in inputs:
        raise InvalidInput(f"{STREAM}: stdin has no name to write its picture under; make it the only IN and name OUT")
    if output is None or os.path.isdir(output) or output.endswith(os.sep):
        return
    if os.path.exists(output):
        raise InvalidInput(f"{output}: is not a folder, and there are several pictures to write to it")
    if os.path.splitext(output)[1]:
        raise InvalidInput(f"{output}: is not there; if it is OUT, the folder for several pictures, end it in {os.sep}")


def _target(name: str, below: str, output: str | None, compresses: bool) -> str:
    place = name if output is None else os.path.join(output, below)
    return os.path.splitext(place)[0] + (bitstream.EXTENSION if compresses else ".png")


def _check_targets(jobs: list[Job]) -> None:
    """No picture is lost to another one."""
    sources = {_identity(job.source) for job in jobs if job.source != STREAM}
    written: dict[str, str] = {}
    for source, target in jobs:
        if target == STREAM or atomic.is_stream(target):
            continue
        if _identity(target) in sources:
            raise InvalidInput(f"{target}: is an input as well; name another OUT")
        if target in written:
            if written[target] == source:
                raise InvalidInput(f"{source}: is named twice")
            raise InvalidInput(
                f"{target}: both {written[target]} and {source} would be written to it; "
                "use two folders, or --recursive with the folder above both"
            )
        written[target] = source


def _identity(name: str) -> Any:
    """The same for all names of one file, hard links among them."""
    try:
        status = os.stat(name)
    except OSError:
        return os.path.realpath(name)
    return status.st_dev, status.st_ino


def _without_what_is_there(jobs: list[Job], notes: list[str], options: argparse.Namespace) -> list[Job]:
    there = [job for job in jobs if os.path.exists(job.target) and not atomic.is_stream(job.target)]
    if options.force or not there:
        return jobs
    if options.no_clobber:
        notes += [f"{job.target}: is there already, left alone" for job in there]
        return [job for job in jobs if job not in there]
    more = f", and {len(there) - 1} more" if len(there) > 1 else ""
    raise InvalidInput(f"{there[0].target}: is there already{more}; --force overwrites, --no-clobber leaves it alone")
