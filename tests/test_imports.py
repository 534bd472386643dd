"""Who may import whom: the table of the design, read against the source. Imports inside functions count too.

(cli, training) -> evaluation -> codec          run.py on top, and hydra only there; wandb only in training/tracking
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/slimcodec"

VERBS = "compress", "decompress", "info", "models", "evaluate", "anchors", "report"

# What each module may import beside the standard library and `slimcodec` itself (the exceptions and the version).
# Modules of the package are named folder/module. None: any, within what the other tests allow.
ALLOWED = {
    "__init__": {"codec/inference", "codec/files"},
    "__main__": {"cli/main"},
    "cli/__init__": set(),
    "cli/main": {"cli/streams"} | {f"cli/{verb}" for verb in VERBS},
    "cli/streams": {"codec/atomic"},
    "cli/arguments": set(),
    "cli/jobs": {"tqdm", "cli/streams", "codec/atomic", "codec/bitstream"},
    "cli/compress": {"cli/arguments", "cli/jobs", "codec/bitstream", "codec/zoo"},
    "cli/decompress": {"cli/arguments", "cli/jobs", "codec/bitstream"},
    "cli/info": {"cli/streams", "codec/atomic", "codec/bitstream", "codec/zoo"},
    "cli/models": {"cli/streams", "codec/zoo"},
    "cli/study": {"cli/streams", "evaluation/anchors", "evaluation/points", "evaluation/study"},
    "cli/evaluate": {"cli/arguments", "cli/study", "evaluation/codecs"},
    "cli/anchors": {"cli/arguments", "cli/study"},
    "cli/report": {"cli/streams", "cli/study", "evaluation/points", "evaluation/study"},
    "pillow": {"PIL", "codec/atomic", "codec/files", "codec/bitstream", "codec/pictures"},
    "codec/__init__": set(),
    "codec/layers": {"torch"},
    "codec/architecture": {"codec/bitstream"},
    "codec/network": {"torch", "codec/layers", "codec/rate", "codec/architecture"},
    "codec/rate": {"torch", "codec/layers"},
    "codec/complexity": {"codec/architecture"},
    "codec/atomic": set(),
    "codec/json_files": set(),
    "codec/zoo": {"codec/atomic", "codec/architecture", "codec/complexity", "codec/json_files"},
    "codec/models": {
        "torch",
        "safetensors",
        "codec/atomic",
        "codec/isolation",
        "codec/network",
        "codec/complexity",
        "codec/zoo",
    },
    "codec/pictures": {"numpy", "PIL", "codec/depth", "codec/profiles"},
    "codec/depth": {"numpy", "PIL"},
    "codec/profiles": {"numpy", "PIL", "codec/bitstream"},
    "codec/files": {"PIL", "codec/atomic", "codec/inference", "codec/zoo", "codec/pictures", "codec/bitstream"},
    "codec/compilation": {"numba"},
    "codec/entropy": {"numpy", "codec/compilation"},
    "codec/isolation": {"torch"},
    "codec/bitstream": set(),
    "codec/tiling": {"torch", "codec/network"},
    "codec/quantise": {"torch", "codec/rate"},
    "codec/symbols": {"torch", "numpy"}
    | {"codec/network", "codec/rate", "codec/entropy", "codec/bitstream", "codec/quantise", "codec/tiling"},
    "codec/refine": {"torch", "numpy", "codec/network", "codec/tiling"},
    "codec/targets": {"codec/network"},
    "codec/inference": {"torch", "numpy", "PIL", "codec/encoding", "codec/decoding", "codec/progress", "codec/heap"}
    | {"codec/models", "codec/isolation", "codec/network", "codec/bitstream", "codec/pictures", "codec/targets"}
    | {"codec/quantise", "codec/refine", "codec/symbols", "codec/tiling"},
    "codec/encoding": {"torch", "numpy", "codec/decoding", "codec/progress", "codec/heap", "codec/isolation"}
    | {"codec/network", "codec/bitstream", "codec/pictures", "codec/refine", "codec/symbols", "codec/tiling"},
    "codec/decoding": {"numpy", "PIL", "codec/progress", "codec/heap", "codec/bitstream", "codec/pictures"}
    | {"codec/network", "codec/symbols", "codec/tiling"},
    "codec/progress": set(),
    "codec/heap": set(),
    "evaluation/__init__": {"evaluation/curves"},
    "evaluation/metrics": None,
    "evaluation/ffmpeg": {"imageio_ffmpeg"},
    "evaluation/locks": {"filelock"},
    "evaluation/points": {"numpy", "PIL", "tqdm", "joblib", "codec/atomic", "codec/pictures"}
    | {"evaluation/locks", "evaluation/metrics"},
    "evaluation/provenance": {"torch"},
    "evaluation/curves": None,
    "evaluation/anchors": None,
    "evaluation/codecs": {"PIL", "codec/zoo", "codec/inference"},
    "evaluation/memory": {"evaluation/points", "evaluation/codecs", "evaluation/anchors"},
    "evaluation/summary": {"codec/complexity", "codec/architecture"}
    | {"evaluation/metrics", "evaluation/points", "evaluation/curves", "evaluation/anchors"},
    "evaluation/figures": None,
    "evaluation/viewer": None,
    "evaluation/report": None,
    "evaluation/study": None,
    "training/__init__": set(),
    "training/data": None,
    "training/prior": None,
    "training/calibrate": None,
    "training/parallel": {"torch"},
    "training/checkpoints": {"torch", "lightning", "training/parallel"},
    "training/losses": None,
    "training/teach": None,
    "training/distill": None,
    "training/prune": None,
    "training/rounds": None,
    "training/start": None,
    "training/sweep": {"rich", "codec/atomic", "codec/json_files", "evaluation/locks"},
    "training/tracking": {"lightning", "numpy", "wandb"}
    | {"codec/inference", "codec/models", "training/data", "training/rounds"}
    | {"evaluation/curves", "evaluation/figures", "evaluation/metrics"},
}
RUN_ONLY = {"hydra", "omegaconf"}
WANDB = "training/tracking"
ABOVE = {
    "codec": {"evaluation", "training", "cli"},
    "evaluation": {"training", "cli"},
    "training": {"cli"},
    "cli": {"training"},  # beside each other: neither may import the other
}

MODULES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def imports(module: str) -> set[str]:
    """What a module imports: top-level names of libraries, and folder/module for modules of the package."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {_named(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            found |= {_named(f"{base}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("slimcodec."):
            found.add(_named(node.value))  # a name for import_module
    return found - sys.stdlib_module_names - {"slimcodec"}


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """`from ..codec import x` in training/data is `from slimcodec.codec import x`."""
    if node.level == 0:
        return node.module
    parents = ["slimcodec", *module.split("/")][: -node.level]
    return ".".join([*parents, *filter(None, [node.module])])


def _named(dotted: str) -> str:
    """torch.nn -> torch; slimcodec.codec.rate.scale -> codec/rate; slimcodec.InvalidFile -> slimcodec."""
    first, *rest = dotted.split(".")
    if first != "slimcodec":
        return first
    known = [name for name in ("/".join(rest[:2]), rest[0] if rest else "") if name in MODULES]
    if known:
        return known[0]
    return "/".join(rest[:2]) if rest and (PACKAGE / rest[0]).is_dir() else "slimcodec"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_the_table_allows(module):
    assert module in ALLOWED, f"{module} is new: give it one responsibility and a line in the table"
    allowed = ALLOWED[module]
    if allowed is not None:
        assert imports(module) <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    folders = {name.split("/")[0] for name in imports(module)}
    assert not folders & ABOVE.get(module.split("/")[0], set())


@pytest.mark.parametrize("module", MODULES)
def test_hydra_stays_in_run_py_and_wandb_in_tracking(module):
    assert not imports(module) & RUN_ONLY
    assert ("wandb" in imports(module)) == (module == WANDB)


def test_run_py_leaves_wandb_to_tracking():
    assert "import wandb" not in (ROOT / "run.py").read_text()


def test_importing_the_package_imports_no_library():
    heavy = "torch numpy numba PIL safetensors lightning compressai"
    script = f"import slimcodec, sys; print(*set('{heavy}'.split()) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
