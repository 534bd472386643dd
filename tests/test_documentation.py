"""README and docs/: every block of code runs, every link leads somewhere, and a stranger can read them.

A block runs as it stands, in a folder that holds the photos it names. Two comments before a block say otherwise:

    <!-- slow -->    it runs in `make test-slow`; its commands are checked in every test
    <!-- shown -->   it takes hours, or the network, or a cluster; its commands are checked

Checked means: a `python run.py` composes its configuration, a `slimcodec` parses its arguments, and so on.
"""

import glob
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import skimage.data
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from markdown_it import MarkdownIt
from PIL import Image
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from torch.distributed.run import get_args_parser

import run
import slimcodec
from slimcodec.pipeline.checks import checked

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
CARDS = [ROOT / "CHANGELOG.md", *ROOT.glob("students/README.md"), *ROOT.glob("teachers/README.md")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MARK = re.compile(r"<!-- (slow|shown) -->\n\Z")
# Words in capitals stand for what the reader puts there.
STAND_INS = {"TRAINER": "cpu", "STEPS": "20", "STUDY": "controls", "SET": "photos", "FILE": "codec.json"}
INTERVAL = re.compile(r"=(?:tag\(\w+,)?interval\(([^,]+),[^)]+\)+$")  # of a sweeper: its beginning stands for it
FOLDERS = ("photos", "PHOTOS", "OTHERS", "KODAK")
PHOTO_SIDE, PHOTOS = 96, 3
PROGRAMS = {
    "wandb",
    "tensorboard",
    "cat",
    "test",
    "scontrol",
    "docker",
    "curl",
    "OMP_NUM_THREADS=1",
}  # others' own, taken as they are
README_WORDS, README_LINES, README_COLUMNS = 140, 120, 100
# A cell that is numbers and units alone: it starts with a number and has no word of four letters.
NUMBER = re.compile(r"[+−–-]?\d[\d,.:]*")  # or a ratio, such as 4:2:0
TABLES = [
    DOCS / f"{name}.md"
    for name in ("flagship", "ablations", "tried", "evaluation", "performance", "determinism", "scaling")
]


class Parsed(Exception):
    """The arguments of a command are right, and it must not begin to work."""


# --- blocks of code ---------------------------------------------------------------------------------------------------


def run_shell(example):
    for command in commands(example.parsed):
        words = shlex.split(command, comments=True)
        if words[0] == "slimcodec" and "|" not in words:
            names = [name for word in words[1:] for name in sorted(glob.glob(word)) or [word]]
            assert command_line()(names) == 0, command
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True, env=environment())


BLOCKS = Sybil(parsers=[PythonCodeBlockParser(), CodeBlockParser("sh", run_shell)])


def examples(page, *, marked):
    """The blocks of a page that have the mark: slow, shown, or None."""
    document = BLOCKS.parse(page)
    for example in document.examples():
        found = MARK.search(document.text[: example.region.start])
        if (found and found[1]) == marked:
            yield example


def having(*marks):
    return [page for page in PAGES if any(True for mark in marks for _ in examples(page, marked=mark))]


def commands(block):
    """One a line, long ones joined; without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def command_line():
    """What pyproject.toml says that `slimcodec` runs."""
    module, function = PROJECT["scripts"]["slimcodec"].split(":")
    return getattr(import_module(module), function)


def environment():
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PATH": path, "PYTHONPATH": python_path}


@pytest.fixture
def with_photos(tmp_path, monkeypatch):
    """A folder that holds what the pages name; it is the working directory."""
    astronaut = skimage.data.astronaut()
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        for index in range(PHOTOS):
            corner = 100 * index
            pixels = astronaut[corner : corner + PHOTO_SIDE, 100 : 100 + PHOTO_SIDE]
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    picture = Image.open(tmp_path / "photos" / "0.png")
    picture.save(tmp_path / "photo.png")
    picture.save(tmp_path / "photo.jpg", quality=95)
    for name in ("run.py", "conf"):  # as in the folder of the repository
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(found):
    for example in found:
        example.namespace.setdefault("picture", Image.open("photo.jpg"))
        example.evaluate()


@pytest.mark.parametrize("page", having(None), ids=lambda page: page.stem)
def test_the_blocks_run(page, with_photos):
    evaluate(examples(page, marked=None))


@pytest.mark.slow
@pytest.mark.parametrize("page", having("slow"), ids=lambda page: page.stem)
def test_the_slow_blocks_run(page, with_photos):
    evaluate(examples(page, marked="slow"))


@pytest.mark.slow
def test_the_first_command_to_train_runs_in_miniature(with_photos):
    """With the widths and the steps of experiment=smoke."""
    first = commands(next(examples(DOCS / "training.md", marked="shown")).parsed)[0]
    smoke = yaml.safe_load((ROOT / "conf" / "experiment" / "smoke.yaml").read_text(encoding="utf-8"))
    small = [f"{key}={value}" for key, value in flat({k: v for k, v in smoke.items() if k not in ("defaults", "name")})]
    _, script, *overrides = shlex.split(first)
    small += ["teacher=tiny", "student=tiny", "data.held_out=1", "evaluate.anchors=[jpeg]"]
    done = subprocess.run([sys.executable, str(ROOT / script), *overrides, *small], env=environment())
    assert done.returncode == 0
    assert (with_photos / "runs" / "mine" / "student" / "model.json").is_file()


def flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value).replace(" ", "").replace("False", "false")


@pytest.mark.parametrize("page", having("slow", "shown"), ids=lambda page: page.stem)
def test_the_commands_that_are_not_run_are_right(page, monkeypatch):
    for example in [*examples(page, marked="slow"), *examples(page, marked="shown")]:
        if isinstance(example.region.evaluator, PythonEvaluator):
            compile(example.parsed, page, "exec")
            assert all(hasattr(slimcodec, name) for name in re.findall(r"\bslimcodec\.(\w+)", example.parsed))
            continue
        for command in commands(example.parsed):
            words = [stand_in(word) for word in shlex.split(command, comments=True)]
            check(words, monkeypatch)


def stand_in(word):
    return re.sub(r"\b[A-Z]+\b", lambda match: STAND_INS.get(match[0], match[0]), word)


def check(words, monkeypatch):
    """Fails where a command could not begin to work."""
    match words:
        case ["srun", *rest]:
            check(rest, monkeypatch)
        case ["torchrun", *rest]:
            options = rest[: rest.index("run.py")]
            assert get_args_parser().parse_args([*options, "run.py"]).training_script == "run.py"
            check(["python", *rest[len(options) :]], monkeypatch)
        case ["python", "run.py", *arguments]:
            check_configuration(arguments)
        case [".venv/bin/python", "-m", "pytest", path]:
            assert (ROOT / path).is_file(), words
        case ["python", "-m", module, *_]:
            assert find_spec(module), words
        case ["python", script, *arguments]:
            source = (ROOT / script).read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in arguments if word.startswith("--")), words
        case ["slimcodec", *arguments]:
            check_arguments(list(itertools.takewhile(lambda word: word != ">", arguments)), monkeypatch)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), words
        case ["pip", "install", requirement]:
            found = re.fullmatch(r"(?:\.|slimcodec)(?:\[(\w+)\])?", requirement)
            assert found and (found[1] is None or found[1] in PROJECT["optional-dependencies"]), words
        case _:
            assert words[0] in PROGRAMS, words


def check_configuration(arguments):
    """Every job of the command composes, and its settings agree with each other."""
    words = [INTERVAL.sub(r"=\1", word) for word in arguments if not word.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(words)
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for job in jobs:
            checked(run.plain(compose("config", job, return_hydra_config=True)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_settings_in_the_text_are_known(page):
    """`prune.gate=record` between backticks composes. Arguments of Python functions look like that too."""
    spans = [token.content for token in inside(page) if token.type == "code_inline"]
    written = [span for span in spans if re.fullmatch(r"[a-z][a-z_./]*=[\w\[\],:/-]+", span)]
    defaults = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text(encoding="utf-8"))
    known = {path.stem for path in (ROOT / "conf").iterdir()} | set(defaults)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for setting in (span for span in written if re.split(r"[./=]", span)[0] in known):
            others = [] if setting.startswith("experiment=") else ["experiment=photos"]
            compose("config", [*others, setting], return_hydra_config=True)


def check_arguments(arguments, monkeypatch):
    """`slimcodec` parses them; what would follow is cut off."""
    from slimcodec import cli

    read = cli.read_options

    def parsed(arguments):
        read(arguments)  # exits where an argument is wrong
        raise Parsed

    with monkeypatch.context() as patched, pytest.raises(Parsed):
        patched.setattr(cli, "read_options", parsed)
        command_line()(arguments)


# --- links ------------------------------------------------------------------------------------------------------------


def tokens(page):
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def inside(page):
    return [child for token in tokens(page) for child in token.children or ()]


def anchors(page):
    """Of the headings: lower case, without punctuation, hyphens for spaces."""
    found = tokens(page)
    titles = [after.content for token, after in itertools.pairwise(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_link_leads_somewhere(page):
    links = [token.attrGet("href") or token.attrGet("src") for token in inside(page)]
    for link in (link for link in links if link and not re.match(r"[a-z]+:", link)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


# --- for readers ------------------------------------------------------------------------------------------------------


def test_the_readme_is_for_a_stranger_in_a_hurry():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, fence, _ = text.partition("```")
    assert fence and len(re.sub(r"<!--.*?-->", "", before).split()) <= README_WORDS
    assert len(text.splitlines()) < README_LINES
    assert max(map(len, text.splitlines())) < README_COLUMNS


@pytest.mark.parametrize("page", TABLES, ids=lambda page: page.stem)
def test_a_table_cell_holds_one_number(page):
    for cell in cells(page):
        if NUMBER.match(cell) and not re.search(r"[^\W\d_]{4}", cell):
            assert len(NUMBER.findall(cell)) == 1, f"{page.name}: {cell}"


def cells(page):
    """Of the tables' bodies, without the first of each row, which names it."""
    found, first = tokens(page), False
    for token, after in itertools.pairwise(found):
        if token.type == "tr_open":
            first = True
        elif token.type == "td_open":
            if not first:
                yield after.content
            first = False


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == DOCS], ids=lambda page: page.stem)
def test_a_page_opens_with_code_or_a_table_of_contents(page):
    """What is to be done stands before what is to be known. The format is for reading."""
    first = next(token.type for token in tokens(page)[3:] if token.type != "html_block")
    assert first == "fence" or page.stem == "format"


# --- the site, and those who take part --------------------------------------------------------------------------------


def test_the_site_builds_and_asks_the_network_for_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment() | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {page.stem for page in (tmp_path / "site").glob("*.html")} == {page.stem for page in DOCS.glob("*.md")} | {
        "404"
    }
    reference = (tmp_path / "site" / "reference.html").read_text(encoding="utf-8")
    assert "the best quality whose file is no larger" in reference, "the docstring of Codec.compress"
    for page in (tmp_path / "site").glob("*.html"):
        assert not re.search(r'(?:src="|<link[^>]*href=")https?:', page.read_text(encoding="utf-8")), page.name


def test_where_what_lives_names_files_that_exist():
    """Whoever has never seen the code finds six places, each one file."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| where is … | in |")
    found = re.findall(r"^\| (.+?) \| `(.+?)` \|$", table, re.MULTILINE)
    assert len(found) == 6
    for place, path in found:
        assert (ROOT / path).is_file(), f"{place}: {path}"


def test_the_citation_is_of_this_version():
    """cffconvert --validate checks the rest of the schema."""
    from slimcodec import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["title"] == PROJECT["name"] and citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
