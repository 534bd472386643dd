"""Who may import whom: the table of the design, read against the source. Imports inside functions count too.

run.py -> pipeline -> (training, report) -> evaluation -> codec      cli may use them all

hydra is in run.py alone, and wandb in pipeline/tracking alone.
"""

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/slimcodec"

# What each module may import beside the standard library and `slimcodec` itself (the exceptions and the version).
# Modules of the package are named folder/module. None: any, within what the other tests allow.
ALLOWED = {
    "__init__": {"codec/inference", "codec/files", "codec/zoo"},
    "__main__": None,
    "pillow": {"PIL", "codec/atomic", "codec/files", "codec/bitstream", "codec/pictures"},
    "codec/__init__": set(),
    "codec/grid": set(),
    "codec/units": set(),
    "codec/blocks": set(),
    "codec/bitstream": {"codec/chunks", "codec/grid"},
    "codec/layers": {"torch", "codec/blocks"},
    "codec/fixed": {"torch", "codec/layers", "codec/units"},
    "codec/architecture": {"codec/bitstream", "codec/blocks", "codec/grid"},
    "codec/hyper": {"torch", "codec/architecture", "codec/grid", "codec/layers"},
    "codec/network": {"torch", "codec/architecture", "codec/bitstream", "codec/fixed", "codec/grid", "codec/hyper"}
    | {"codec/layers", "codec/scales", "codec/units"},
    "codec/rate": {"torch", "codec/layers", "codec/units"},
    "codec/costs": {"numpy", "codec/bitstream"},
    "codec/dependent": {"numpy", "codec/entropy", "codec/grid", "codec/native", "codec/units"},
    "codec/rounding": {"numpy", "codec/arrays", "codec/dependent", "codec/native", "codec/units"},
    "codec/scales": {"numpy", "codec/architecture", "codec/bitstream", "codec/grid", "codec/units"},
    "codec/maps": {"numpy", "codec/native"},
    "codec/regions": {"numpy", "codec/arrays", "codec/architecture", "codec/blocks", "codec/grid"}
    | {"codec/heads", "codec/networks", "codec/rounding", "codec/rows", "codec/tiling"},
    "codec/rows": {"numpy", "codec/arrays", "codec/grid", "codec/native", "codec/networks", "codec/rounding"},
    "codec/segments": {"torch", "codec/layers", "codec/network", "codec/regions"},
    "codec/bands": {"codec/arrays", "codec/grid", "codec/rounding"},
    "codec/analysis": {"codec/bands", "codec/grid", "codec/heap", "codec/networks", "codec/progress", "codec/rounding"}
    | {"codec/tiling"},
    "codec/choice": {"numpy", "codec/bitstream", "codec/costs", "codec/grid", "codec/maps", "codec/pictures"}
    | {"codec/rounding", "codec/symbols", "codec/transforms"},
    "codec/networks": {"numpy", "codec/architecture", "codec/grid", "codec/rounding"},
    "codec/complexity": {"codec/architecture", "codec/blocks", "codec/grid"},
    "codec/atomic": set(),
    "codec/json_files": set(),
    "codec/cards": {"codec/bitstream"},
    "codec/hub": {"huggingface_hub"},
    "codec/zoo": {"codec/architecture", "codec/atomic", "codec/cards", "codec/complexity", "codec/hub"}
    | {"codec/json_files"},
    "codec/models": {"safetensors", "torch", "codec/architecture", "codec/atomic", "codec/cards"}
    | {"codec/complexity", "codec/fixed", "codec/isolation", "codec/network", "codec/stored", "codec/torch_networks"}
    | {"codec/transforms", "codec/units", "codec/zoo"},
    "codec/pictures": {"PIL", "numpy", "torch", "codec/depth", "codec/profiles"},
    "codec/depth": {"PIL", "numpy"},
    "codec/profiles": {"PIL", "numpy", "codec/chunks"},
    "codec/files": {"PIL", "codec/atomic", "codec/bitstream", "codec/inference", "codec/pictures", "codec/zoo"},
    "codec/arrays": {"array_api_compat", "numpy"},
    "codec/building": set(),
    "codec/native": {"numpy", "codec/building"},
    "codec/entropy": {"numpy", "codec/native"},
    "codec/handful": {"numpy", "codec/entropy"},
    "codec/adapt": {"numpy", "codec/architecture", "codec/bitstream", "codec/entropy", "codec/grid", "codec/grouping"}
    | {"codec/handful", "codec/native", "codec/networks", "codec/scales", "codec/units"},
    "codec/bilateral": {"numpy", "codec/bitstream", "codec/grid", "codec/grouping", "codec/maps", "codec/native"}
    | {"codec/units"},
    "codec/grouping": {"numpy"},
    "codec/chunks": set(),
    "codec/heads": {"numpy", "codec/adapt", "codec/arrays", "codec/bitstream", "codec/grid", "codec/maps"}
    | {"codec/networks", "codec/rounding", "codec/rows", "codec/units"},
    "codec/partition": {"numpy", "codec/adapt", "codec/bilateral", "codec/bitstream", "codec/grid", "codec/heads"}
    | {"codec/grouping", "codec/units"},
    "codec/isolation": {"torch"},
    "codec/tiling": {"codec/architecture", "codec/blocks", "codec/grid"},
    "codec/torch_networks": {"numpy", "torch", "codec/architecture", "codec/fixed", "codec/grid", "codec/layers"}
    | {"codec/network", "codec/networks", "codec/quantise", "codec/regions", "codec/rows", "codec/tiling"},
    "codec/onnx_networks": {"numpy", "onnxruntime", "codec/architecture", "codec/batch", "codec/grid", "codec/native"}
    | {"codec/networks", "codec/rounding", "codec/rows", "codec/tiling", "codec/zoo"},
    "codec/stored": {"numpy", "safetensors", "codec/architecture", "codec/networks", "codec/onnx_networks"}
    | {"codec/regions", "codec/scales", "codec/transforms", "codec/zoo"},
    "codec/quantise": {"numpy", "torch", "codec/dependent", "codec/grid", "codec/rate", "codec/rounding"},
    "codec/contexts": {"numpy", "codec/entropy"},
    "codec/symbols": {
        "numpy",
        "codec/adapt",
        "codec/bilateral",
        "codec/bitstream",
        "codec/contexts",
        "codec/entropy",
        "codec/grid",
    }
    | {"codec/dependent", "codec/rounding", "codec/scales", "codec/units"},
    "codec/transforms": {"numpy", "codec/adapt", "codec/analysis", "codec/arrays", "codec/bitstream", "codec/dependent"}
    | {"codec/bilateral"}
    | {"codec/grid", "codec/heads", "codec/maps", "codec/networks", "codec/pictures", "codec/progress"}
    | {"codec/regions"}
    | {"codec/rounding", "codec/rows", "codec/scales", "codec/symbols", "codec/tiling", "codec/units"}
    | {"codec/workers", "codec/zoo"},
    "codec/refine": {"numpy", "torch", "codec/costs", "codec/grid", "codec/network", "codec/pictures"}
    | {"codec/dependent", "codec/quantise", "codec/regions", "codec/torch_networks", "codec/transforms"},
    "codec/targets": {"codec/bitstream", "codec/encoding"},
    "codec/blas": {"threadpoolctl"},
    "codec/batch": {"codec/blas"},
    "codec/workers": {"codec/batch"},
    "codec/encoding": {"numpy", "codec/bands", "codec/bitstream", "codec/choice", "codec/costs", "codec/heads"}
    | {"codec/bilateral", "codec/chunks", "codec/partition"}
    | {"codec/decoding", "codec/grid", "codec/heap", "codec/isolation", "codec/pictures", "codec/progress"}
    | {"codec/refine", "codec/resizing", "codec/rounding", "codec/symbols", "codec/tiling", "codec/transforms"},
    "codec/resizing": {"PIL", "numpy", "codec/grid", "codec/pictures"},
    "codec/decoding": {"PIL", "numpy", "codec/architecture", "codec/bitstream", "codec/grid", "codec/heap"}
    | {
        "codec/heads",
        "codec/pictures",
        "codec/progress",
        "codec/resizing",
        "codec/rounding",
        "codec/symbols",
        "codec/transforms",
        "codec/workers",
    },
    "codec/inference": {"PIL", "numpy", "torch", "codec/batch", "codec/bitstream", "codec/cards"}
    | {"codec/decoding", "codec/encoding", "codec/grid", "codec/hub", "codec/isolation", "codec/models"}
    | {"codec/network", "codec/pictures", "codec/progress", "codec/quantise", "codec/stored", "codec/symbols"}
    | {"codec/targets", "codec/torch_networks", "codec/transforms", "codec/zoo"},
    "codec/progress": {"tqdm"},
    "codec/heap": set(),
    "evaluation/__init__": {"evaluation/curves"},
    "evaluation/metrics": None,
    "evaluation/ffmpeg": {"imageio_ffmpeg"},
    "evaluation/locks": {"filelock"},
    "evaluation/photos": {"numpy", "PIL", "codec/pictures"},
    "evaluation/points": {"numpy", "PIL", "joblib", "codec/atomic", "codec/progress"}
    | {"evaluation/locks", "evaluation/metrics", "evaluation/photos"},
    "evaluation/provenance": {"torch", "evaluation/summary"},
    "evaluation/curves": None,
    "evaluation/bootstrap": {"numpy", "scipy", "evaluation/curves", "evaluation/metrics", "evaluation/points"},
    "evaluation/nlpd": {"numpy"},
    "evaluation/published": {"codec/json_files", "evaluation/curves"},
    "evaluation/anchors": None,
    "evaluation/codecs": {"PIL", "codec/zoo", "codec/inference"},
    "evaluation/memory": {"evaluation/points", "evaluation/photos", "evaluation/codecs", "evaluation/anchors"},
    "evaluation/commands": {"PIL"},
    "evaluation/compressai_zoo": {"torch", "compressai", "numpy", "PIL"},
    "evaluation/rivals": {"evaluation/anchors", "evaluation/codecs", "evaluation/compressai_zoo"},
    "evaluation/summary": {"codec/atomic", "codec/json_files", "evaluation/points", "evaluation/curves"},
    "evaluation/comparison": {"codec/complexity", "codec/architecture", "evaluation/summary", "evaluation/bootstrap"}
    | {"evaluation/metrics", "evaluation/points", "evaluation/curves", "evaluation/published"},
    "training/names": set(),
    "training/schedule": set(),
    "training/started": set(),
    "training/errors": set(),
    "training/records": {"codec/json_files"},
    "training/widths": {"codec/architecture", "codec/blocks", "codec/complexity"},
    "training/inheritance": {"codec/architecture"},
    "training/parallel": {"torch", "lightning", "training/started"},
    "training/checkpoints": {"torch", "lightning", "training/parallel", "training/errors"},
    "training/onnx_export": {"numpy", "onnx", "onnxruntime", "safetensors", "torch", "codec/atomic", "codec/grid"}
    | {"codec/adapt", "codec/architecture", "codec/fixed", "codec/layers", "codec/models", "codec/network"}
    | {"codec/regions", "codec/segments", "codec/tiling", "codec/zoo"},
    "training/shards": {"numpy", "codec/json_files", "codec/pictures", "evaluation/photos", "training/photos"},
    "pipeline/ranges": {"pydantic", "codec/bitstream", "codec/grid"},
    "pipeline/sections": {"pydantic", "codec/grid", "pipeline/ranges"}
    | {"training/names", "training/records", "training/schedule"},
    "pipeline/settings": {"pydantic", "pipeline/ranges", "pipeline/sections"},
    "pipeline/checks": {"codec/zoo", "codec/architecture", "evaluation/anchors", "evaluation/metrics"}
    | {"pipeline/results", "pipeline/run_directory", "pipeline/sections", "pipeline/settings"}
    | {"training/inheritance", "training/names", "training/records"}
    | {"training/shards", "training/started", "training/widths"},
    "pipeline/run_directory": {"codec/atomic", "codec/json_files", "codec/zoo", "evaluation/locks", "training/records"},
    "pipeline/results": {"rich", "codec/atomic", "codec/json_files", "codec/zoo", "training/records"}
    | {"pipeline/run_directory", "pipeline/sections", "pipeline/settings"},
}
# What stands on what: a module imports from its own folder and from those of lower rank.
RANKS = {"codec": 0, "evaluation": 1, "report": 2, "training": 2, "pipeline": 3, "cli": 4}
RUN_ONLY = {"hydra", "omegaconf"}
WANDB = "pipeline/tracking"
# What checks a run before it begins: it answers `run.py --help` and a typo.
LIGHT = (
    *(f"training.{name}" for name in ("widths", "records", "inheritance", "names", "schedule", "started", "errors")),
    "training.shards",
    *(f"pipeline.{name}" for name in ("sections", "settings", "checks", "jobs", "run_directory", "results", "sweep")),
)

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
    folder = module.split("/")[0]
    assert module in ALLOWED or folder in ("report", "training", "pipeline", "cli"), f"{module} is new: give it a line"
    allowed = ALLOWED.get(module)
    if allowed is not None:
        assert imports(module) <= allowed


@pytest.mark.parametrize("module", [module for module in MODULES if "/" in module])
def test_imports_run_one_way(module):
    own = module.split("/")[0]
    folders = {name.split("/")[0] for name in imports(module) if name in MODULES} - {own}
    assert all(folder in RANKS and RANKS[folder] < RANKS[own] for folder in folders), folders


def test_no_imports_go_round_in_a_circle():
    graph = {module: imports(module) & set(MODULES) for module in MODULES}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_hydra_stays_in_run_py_and_wandb_in_tracking(module):
    assert not imports(module) & RUN_ONLY
    assert ("wandb" in imports(module)) == (module == WANDB)


@pytest.mark.parametrize("module", MODULES)
def test_the_hubs_library_stays_in_hub(module):
    assert ("huggingface_hub" in imports(module)) == (module == "codec/hub")


def test_run_py_leaves_wandb_to_tracking():
    assert "import wandb" not in (ROOT / "run.py").read_text()


def test_importing_the_package_imports_no_library():
    heavy = "torch numpy PIL safetensors lightning compressai"
    script = f"import slimcodec, sys; print(*set('{heavy}'.split()) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def imported_by(modules: Iterable[str], libraries: Iterable[str]) -> dict[str, list[str]]:
    """Module → which of the libraries are imported once it is, and those before it: in one fresh interpreter."""
    script = (
        "import importlib, json, sys\n"
        "modules, libraries = json.loads(sys.argv[1])\n"
        "found = {}\n"
        "for module in modules:\n"
        "    importlib.import_module(f'slimcodec.{module}')\n"
        "    found[module] = [library for library in libraries if library in sys.modules]\n"
        "print(json.dumps(found))"
    )
    command = [sys.executable, "-c", script, json.dumps([list(modules), list(libraries)])]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_checks_a_run_before_it_begins_imports_no_heavy_library():
    heavy = ("torch", "lightning", "torch_pruning", "scipy", "matplotlib", "skimage", "sklearn", "tensorboard")
    assert imported_by(LIGHT, heavy) == {module: [] for module in LIGHT}


def test_training_imports_neither_compressai_nor_what_only_some_runs_need():
    some = ("compressai", "torch_geometric", "torch_pruning", "pytorch_optimizer", "skimage", "sklearn", "tensorboard")
    found = imported_by([f"training.{name}" for name in ("teach", "distill", "rounds", "start")], some)
    assert found == {module: [] for module in found}
