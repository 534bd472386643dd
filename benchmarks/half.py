"""What weights in half precision cost: BD-rate of a float32 model directory (half_weights=false) rounded to float16.

python benchmarks/half.py RUN/teacher --photos PHOTOS --json FILE [--every 4]
"""

import argparse
import json
import tempfile
from pathlib import Path

from slimcodec.codec import models
from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.curves import Curve, bd_rate, mean_curve
from slimcodec.evaluation.photos import find_photos
from slimcodec.evaluation.points import estimated_points

QUALITIES = range(1, 9)


def main() -> None:
    options = _options()
    photos = find_photos(options.photos)[:: options.every]
    whole = models.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        half = models.load(models.save(Path(folder) / "half", whole.codec, whole.tables, role="student", half=True))
        curves = {name: _curve(model, photos, name) for name, model in (("float32", whole), ("float16", half))}
    result = {
        "command": f"python benchmarks/half.py {options.model} --photos {options.photos} --every {options.every}",
        "photos": len(photos),
        "percent": bd_rate(curves["float32"], curves["float16"]).percent,
        "curves": {name: curve._asdict() for name, curve in curves.items()},
    }
    write_text(options.json, json.dumps(result, indent=1) + "\n")
    print(f"float16 against float32: {result['percent']:+.3f} %")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th photo")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def _curve(model: models.Model, photos: list[Path], name: str) -> Curve:
    return mean_curve(estimated_points(Codec(model), photos, QUALITIES, description=name))


if __name__ == "__main__":
    main()
