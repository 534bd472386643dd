"""Train on a machine that has a GPU, PyTorch and nothing else: pack here, train there, bring the results back here.

    python kit.py pack KIT --photos PHOTOS --validation OTHERS --model MODEL -- experiment=flagship_wide …
    python kit.py train KIT --work WORK --results RESULTS          there; kit.py lies in KIT
    python kit.py receive RESULTS                                  here: runs/… as it was there

KIT is parts of at most 60 MiB, for machines that files reach in pieces: `unpack` takes those that have arrived, and
`train` begins when all have. RESULTS is pieces of at most 15 MiB; `results` makes them at any time, while it trains
too. Whatever stands after `--` is for run.py. A run that was stopped goes on: there by `train` once more, here by its
own command, on a third machine by packing it with `--run`.

There is nothing but the standard library here, for there is nothing else there.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
MIB = 2**20
PART_BYTES, PIECE_BYTES = 60 * MIB, 15 * MIB
TAR_BYTES, BYTES_OF_A_NAME = 64 * 1024, 2048  # what a tar takes beside the files' own bytes, generously
RECORD = "kit.json"  # in the first part: how many there are, the commit, and the arguments of run.py
SOURCE = ("kit.py", "run.py", "conf", "src", "pyproject.toml", "LICENSE", "README.md")
# Of what training needs by its metadata: there already, or for what is done elsewhere.
LEFT_OUT = {"torch", "imageio-ffmpeg", "wandb", "tensorboard", "scikit-learn", "scikit-image"}
LEFT_OUT |= {"hydra-submitit-launcher", "hydra-joblib-launcher"}
GLIBC = ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")  # of manylinux wheels; pip takes no range
LEFT_BEHIND = ("previous.ckpt", "best.ckpt")  # of a run: what going on does not need
TRY_AGAIN = 75  # run.py's exit status when it was stopped and can go on


def main() -> int:
    options = _options()
    try:
        return options.verb(options)
    except (OSError, ValueError, tarfile.TarError, subprocess.CalledProcessError) as error:
        print(f"kit.py: {error}", file=sys.stderr)
        return 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    packing = verbs.add_parser("pack", help="here: put everything into parts")
    packing.add_argument("kit", type=Path)
    packing.add_argument("--photos", type=Path, required=True, help="folder of photos to train on")
    packing.add_argument("--validation", type=Path, required=True, help="folder of photos to validate with")
    packing.add_argument("--model", type=Path, action="append", default=[], help="a model directory; several times")
    packing.add_argument("--run", type=Path, help="a run to go on with: the folder that holds runs/")
    packing.add_argument("--python", default="3.12", help="Python's version there")
    packing.add_argument("--has", action="append", default=[], help="a package that is there; several times")
    packing.add_argument("--no-wheels", action="store_true", help="everything is there")
    packing.set_defaults(verb=pack)
    for name, verb in (("unpack", unpack), ("train", train), ("results", results)):
        there = verbs.add_parser(name, help="there")
        if verb is not results:
            there.add_argument("kit", type=Path)
        there.add_argument("--work", type=Path, required=True, help="folder to work in")
        if verb is not unpack:
            there.add_argument("--results", type=Path, required=True, help="folder for what is brought back")
        there.set_defaults(verb=verb)
    receiving = verbs.add_parser("receive", help="here: take the results")
    receiving.add_argument("results", type=Path)
    receiving.add_argument("--into", type=Path, default=HERE, help="the folder that holds runs/")
    receiving.set_defaults(verb=receive)
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_args(arguments[:end], argparse.Namespace(overrides=arguments[end + 1 :]))


# ------------------------------------------------------------------------------------------------------------ here


def pack(options: argparse.Namespace) -> int:
    """Write the parts. An older kit in the folder is replaced."""
    options.kit.mkdir(parents=True, exist_ok=True)
    for old in options.kit.glob("kit-*.tar"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        wheels = [] if options.no_wheels else list(_wheels(Path(folder), options.python, set(options.has)))
        files = [*_source(), *_models(options.model), *wheels, *_run(options.run)]
        files += [*_tree(options.photos, "photos"), *_tree(options.validation, "validation")]
        parts = _parts(files)
        record = Path(folder) / RECORD
        overrides = ["data=folder", "data.root=photos", "data.validation_root=validation", *options.overrides]
        record.write_text(json.dumps({"parts": len(parts), "commit": _commit(), "overrides": overrides}, indent=1))
        parts[0].insert(0, (record, RECORD))
        for number, part in enumerate(parts, 1):
            path = options.kit / f"kit-{number:02}.tar"
            with tarfile.open(path, "w") as tar:
                for file, name in part:
                    tar.add(file, name)
            print(f"{path}: {len(part)} files, {path.stat().st_size / MIB:.1f} MiB ({number} of {len(parts)})")
    shutil.copyfile(HERE / "kit.py", options.kit / "kit.py")
    return 0


def _tree(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, f"{name}/{path.relative_to(folder)}"


def _source() -> Iterator[tuple[Path, str]]:
    for name in SOURCE:
        path = HERE / name
        yield from _tree(path, name) if path.is_dir() else [(path, name)]


def _models(models: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Where run.py finds them by their names."""
    for model in models:
        role = json.loads((model / "model.json").read_text())["role"]
        yield from _tree(model, f"{role}s/{model.resolve().name}")


def _run(folder: Path | None) -> Iterator[tuple[Path, str]]:
    return _tree(folder / "runs", "runs") if folder else iter(())


def _parts(files: Iterable[tuple[Path, str]]) -> list[list[tuple[Path, str]]]:
    """The files in their order, in parts that are as full as they may be."""
    parts: list[list[tuple[Path, str]]] = [[]]
    room = left = PART_BYTES - TAR_BYTES
    for path, name in files:
        size = path.stat().st_size + BYTES_OF_A_NAME
        if size > room:
            raise ValueError(f"{path}: has {size / MIB:.0f} MiB, and a part holds {PART_BYTES // MIB}; make it smaller")
        if size > left:
            parts.append([])
            left = room
        parts[-1].append((path, name))
        left -= size
    return parts


def _wheels(folder: Path, python: str, there_already: set[str]) -> Iterator[tuple[Path, str]]:
    """Of everything that training needs, in the versions that are installed here."""
    platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in GLIBC] + ["--platform=manylinux2014_x86_64"]
    there = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    for name in sorted(_distributions("slimcodec", {"train"}) - there_already):
        wanted = f"{name}=={importlib.metadata.version(name)}"
        print(f"wheel of {wanted}", flush=True)
        pip = [sys.executable, "-m", "pip", "--quiet"]
        done = subprocess.run([*pip, "download", "--no-deps", "--dest", folder, *there, wanted], capture_output=True)
        if done.returncode:  # there is only its source: one of Python alone fits everywhere
            subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, wanted], check=True)
    yield from ((path, f"wheels/{path.name}") for path in sorted(folder.glob("*.whl")))


def _distributions(name: str, extras: set[str], found: set[str] | None = None) -> set[str]:
    """The names of what a distribution needs, and what that needs, as they are installed here."""
    found = set() if found is None else found
    for requirement in importlib.metadata.requires(name) or ():
        named, marker = re.split(r"[ ;<>=!~\[]", requirement, maxsplit=1)[0], requirement.partition(";")[2]
        needed = re.sub(r"[-_.]+", "-", named).lower()
        extra = re.search(r"extra == ['\"]([^'\"]+)", marker)
        if (extra and extra[1] not in extras) or needed in LEFT_OUT or needed in found or _is_elsewhere(marker):
            continue
        try:
            importlib.metadata.version(needed)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system, or another version of Python
        inside = re.search(r"\[([^\]]+)\]", requirement.partition(";")[0])
        found.add(needed)
        _distributions(needed, set(inside[1].split(",")) if inside else set(), found)
    return found


def _is_elsewhere(marker: str) -> bool:
    """Whether a requirement is of other systems than Linux."""
    return bool(re.search(r"(sys_platform|platform_system) == ['\"](?!linux|Linux)", marker))


def _commit() -> str | None:
    """The commit that is packed, with +dirty where files differ from it."""
    head, changes = (
        subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
        for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", *SOURCE))
    )
    return head.stdout.strip() + ("+dirty" if changes.stdout else "") if head.returncode == 0 else None


def receive(options: argparse.Namespace) -> int:
    """Put the run where it can go on, and its model directories where they can be used."""
    pieces = sorted(options.results.glob("results.tar.*"))
    if not pieces:
        raise ValueError(f"{options.results}: has no results.tar.*")
    with tempfile.TemporaryFile() as whole:
        for piece in pieces:
            whole.write(piece.read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole) as tar:
            names = tar.getnames()
            tar.extractall(options.into, filter="data")
    for model in sorted({Path(name).parent for name in names if name.endswith("model.json")}):
        print(options.into / model)
    return 0


# ----------------------------------------------------------------------------------------------------------- there


def unpack(options: argparse.Namespace) -> int:
    """Take the parts that have arrived; 75 while others are missing."""
    options.work.mkdir(parents=True, exist_ok=True)
    for part in sorted(options.kit.glob("kit-*.tar")):
        stamp = options.work / f".{part.stem}"
        if not stamp.exists():
            with tarfile.open(part) as tar:
                tar.extractall(options.work, filter="data")
            stamp.touch()
            print(f"{part.name}: unpacked", flush=True)
    record = options.work / RECORD
    parts = json.loads(record.read_text())["parts"] if record.exists() else 1
    names = [f"kit-{number:02}" for number in range(1, parts + 1)]
    if missing := [name for name in names if not (options.work / f".{name}").exists()]:
        print(f"of {parts} parts these have not arrived: {', '.join(missing)}")
        return TRY_AGAIN
    return 0


def train(options: argparse.Namespace) -> int:
    """Install, run, and leave the results, whatever the run came to; the exit status is run.py's."""
    if status := unpack(options):
        return status
    site, record = options.work.resolve() / "site", json.loads((options.work / RECORD).read_text())
    wheels = sorted((options.work / "wheels").glob("*.whl"))
    if wheels and not site.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", f"{site}.partial", *wheels], check=True)
        Path(f"{site}.partial").replace(site)
    paths = [str(options.work.resolve() / "src"), str(site), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment["SLIMCODEC_COMMIT"] = record["commit"] or ""
    command = [sys.executable, "run.py", *record["overrides"], *options.overrides]
    print(" ".join(command), flush=True)
    status = subprocess.run(command, cwd=options.work, env=environment).returncode
    results(options)
    return status


def results(options: argparse.Namespace) -> int:
    """Leave all of runs/ in pieces. Checkpoints and model directories are whole at any time."""
    options.results.mkdir(parents=True, exist_ok=True)
    for old in options.results.glob("results.tar.*"):
        old.unlink()
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as tar:
            for path, name in _tree(options.work / "runs", "runs"):
                if path.name not in LEFT_BEHIND and not path.name.startswith("."):
                    tar.add(path, name)
        size = whole.tell()
        whole.seek(0)
        for number in range(-(-size // PIECE_BYTES)):
            (options.results / f"results.tar.{number:02}").write_bytes(whole.read(PIECE_BYTES))
    print(f"{options.results}: {size / MIB:.1f} MiB of results", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
