"""A codec that is two commands, such as `enc {in} {out} {q}` and `dec {in} {out}`: PNG in, PNG out.

    picture ──► picture.png ──encode──► file ──► its bytes ──► file ──decode──► decoded.png ──► picture

No shell is in between: the words of a command are told apart as a shell would, and passed on as they are.
"""

import hashlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image

from slimcodec import InvalidInput

IN, OUT, QUALITY = "{in}", "{out}", "{q}"
SECONDS = 600.0
LONGEST_REASON = 300  # characters of what a command says


@dataclass(frozen=True)
class CommandCodec:
    """Two commands as a codec that `points.measure` takes. They run in the folder from which slimcodec was started.

    `{in}` and `{out}` are files: PNG on the picture's side. On the side of the compressed file a suffix may follow,
    as in `{out}.jpg`, for programs that look at it. `{q}` is the quality.
    """

    name: str
    encode: str
    decode: str
    qualities: tuple[float, ...]
    seconds: float = SECONDS  # that a command may take
    kind: ClassVar[str] = "anchor"

    @cached_property
    def settings(self) -> str:
        """The commands, and digits of the files that they name: a program that has changed is another codec."""
        words = [*_words(self.encode), *_words(self.decode)]
        files = {word: found for word in words if (found := _file(word))}
        digits = [f"{Path(word).name} {_digits(path)}" for word, path in files.items()]
        return f"{self.encode} | {self.decode} ({', '.join(digits) or 'no file is named'})"

    def compress(self, picture: Image.Image, quality: float) -> bytes:
        """The file that the first command makes of the picture. Raises `InvalidInput` where it does not."""
        words = _words(self.encode)
        with _folder() as folder:
            source, made = folder / "picture.png", folder / f"file{_suffix(self.encode, OUT)}"
            picture.save(source, compress_level=1)
            self._run(words, {IN: source, OUT: made.with_suffix(""), QUALITY: f"{quality:g}"})
            return self._made(words, made)

    def decompress(self, data: bytes) -> Image.Image:
        """The picture that the second command makes of the file. Raises `InvalidInput` where it does not."""
        words = _words(self.decode)
        with _folder() as folder:
            source, made = folder / f"file{_suffix(self.decode, IN)}", folder / "decoded.png"
            source.write_bytes(data)
            self._run(words, {IN: source.with_suffix(""), OUT: made})
            png = self._made(words, made)
        try:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as file:
                return file.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise InvalidInput(f"{self.name}: {words[0]} wrote no PNG that can be read to {OUT}") from error

    def _run(self, words: list[str], values: Mapping[str, object]) -> None:
        command = [_filled(word, values) for word in words]
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that what it starts is ended with it
            ) as process:
                said = self._said(process, words[0])
        except OSError as error:
            raise InvalidInput(f"{self.name}: cannot start {words[0]}: {error.strerror}") from error
        if process.returncode:
            reason = _last_line(said) or "it said nothing"
            raise InvalidInput(f"{self.name}: {words[0]} ended with {_ending(process.returncode)}: {reason}")

    def _said(self, process: "subprocess.Popen[bytes]", program: str) -> bytes:
        """What it writes to stderr until it ends."""
        try:
            return process.communicate(timeout=self.seconds)[1]
        except subprocess.TimeoutExpired as error:
            taken = f"longer than {self.seconds:g} seconds"
            raise InvalidInput(f"{self.name}: {program} took {taken} and was stopped") from error
        finally:
            if process.returncode is None:  # a time-out, or Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)

    def _made(self, words: list[str], path: Path) -> bytes:
        if not path.is_file() or not path.stat().st_size:
            raise InvalidInput(f"{self.name}: {words[0]} ended well, but wrote nothing to {OUT}")
        return path.read_bytes()


def command_codec(
    encode: str, decode: str, *, name: str, qualities: Iterable[float], seconds: float = SECONDS
) -> CommandCodec:
    """The codec. Raises `InvalidInput` where a command lacks a word that it needs, or cannot be read."""
    for command, needed in ((encode, (IN, OUT, QUALITY)), (decode, (IN, OUT))):
        words = _words(command)
        for word in needed:
            if not any(word in other for other in words):
                raise InvalidInput(
                    f"{name}: the command {command!r} must have {word} in it, where its value is to stand"
                )
    return CommandCodec(name, encode, decode, tuple(qualities), seconds)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"the command {command!r} cannot be read: {error}") from error
    if not words:
        raise InvalidInput("a command is empty; write what to run, such as 'enc {in} {out} {q}'")
    return words


def _filled(word: str, values: Mapping[str, object]) -> str:
    """In one pass, so that braces in a file's name stay as they are."""
    return re.sub("|".join(map(re.escape, values)), lambda found: str(values[found[0]]), word)


def _suffix(command: str, placeholder: str) -> str:
    found = re.search(re.escape(placeholder) + r"(\.\w+)", command)
    return found[1] if found else ""


def _file(word: str) -> Path | None:
    """The file that a word of a command names: a program, a script, a model."""
    path = shutil.which(word) or word
    return Path(path) if Path(path).is_file() else None


def _digits(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="slimcodec-") as folder:
        yield Path(folder)


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    return next((line[:LONGEST_REASON] for line in reversed(lines) if line), "")


def _ending(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
