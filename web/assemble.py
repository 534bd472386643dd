"""python web/assemble.py OUT MODEL …: the page with its models and ONNX Runtime Web, ready for any web server.

`npm ci --prefix web` fetches the version of ONNX Runtime Web that package-lock.json names. MODEL is a name or a
directory; the first one is what the page compresses with unless told otherwise.
"""

import json
import shutil
import sys
from pathlib import Path

from slimcodec.codec import models
from slimcodec.training import onnx_export

WEB = Path(__file__).resolve().parent
PAGE = "index.html", "page.css", "page.js", "client.js", "compare.js", "png.js", "rival.js", "worker.js", "codec"
RUNTIME = WEB / "node_modules/onnxruntime-web"
# For WebAssembly alone, and for GPUs. A browser loads one of the two.
RUNTIME_FILES = [
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
]


def assemble(out: Path, names: list[str]) -> None:
    if not RUNTIME.is_dir():
        sys.exit("web/node_modules/onnxruntime-web is missing: npm ci --prefix web, or make web")
    loaded = {model.directory.resolve().name: model for model in map(models.load, names)}
    if len(loaded) < len(names):
        sys.exit("two of the models have one name; rename a directory")
    shutil.rmtree(out, ignore_errors=True)
    (out / "ort").mkdir(parents=True)
    for name in PAGE:
        (shutil.copytree if (WEB / name).is_dir() else shutil.copy)(WEB / name, out / name)
    for name in RUNTIME_FILES:
        shutil.copy(RUNTIME / "dist" / name, out / "ort")
    shutil.copy(WEB / "LICENSE.onnxruntime", out / "ort/LICENSE")
    listed = []
    for name, model in loaded.items():
        manifest = onnx_export.export(model, out / "models" / name)
        listed.append({"name": name, "hash": manifest["weights_sha256"][:16]})
    (out / "models/models.json").write_text(json.dumps({"models": listed}, indent=1) + "\n")


if __name__ == "__main__":
    assemble(Path(sys.argv[1]), sys.argv[2:])
