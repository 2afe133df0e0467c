"""Few labels on a real scene, Indian Pines: `python benchmarks/real.py DATA WORKDIR NAME=model.safetensors ...`.

DATA holds `Indian_pines_corrected.npy` (145 x 145 x 200, AVIRIS) and `Indian_pines_gt.npy` (16 classes), which the
package tensorly carries: `pip download --no-deps tensorly==0.10.0`, unpack `tensorly/datasets/data`. No wavelengths
come with them: 220 even steps from 400 to 2500 nm less the 20 bands that are left out of the corrected cube (104-108,
150-163, 220) are a guess, good to some nanometres. Everything else is `hypervision bench real`, on a recipe that is
written here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

LEFT_OUT = {*range(104, 109), *range(150, 164), 220}  # counted from 1


def write_recipe(data: Path, work: Path, most_nm: float) -> Path:
    """The scene up to a wavelength, its row and a recipe with nothing but it, below the work folder."""
    raw = work / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    axis = [float(nm) for band, nm in enumerate(np.linspace(400, 2500, 220), 1) if band not in LEFT_OUT]
    seen = [nm for nm in axis if nm <= most_nm]
    np.save(raw / "pines.npy", np.load(data / "Indian_pines_corrected.npy")[:, :, : len(seen)])
    Image.fromarray(np.load(data / "Indian_pines_gt.npy").astype(np.uint8)).save(work / "pines_labels.png")
    row = {
        "key": "pines", "container": "npy", "files": "*.npy", "axes": "hwb", "units": "radiance", "gsd_m": 20.0,
        "wavelength": [round(nm, 1) for nm in seen],
    }  # fmt: skip
    (work / "pines.yaml").write_text(yaml.safe_dump(row, sort_keys=False))
    dataset = {"name": "pines", "row": str(work / "pines.yaml"), "root": str(raw), "train": False,
               "truth": str(work / "{scene}_labels.png")}  # fmt: skip
    recipe = work / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"workdir": str(work), "datasets": [dataset], "teacher": {"mode": "none"}}))
    return recipe


def main() -> None:
    """Write the recipe and run the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=model.safetensors")
    parser.add_argument("--most-nm", type=float, default=2500.0, help="leave out the bands beyond")
    given, more = parser.parse_known_args()
    recipe = write_recipe(given.data, given.work.absolute(), given.most_nm)
    models = [word for model in given.models for word in ("--model", model)]
    subprocess.run([sys.executable, "-m", "pipeline.cli", "bench", "real", str(recipe), *models, *more], check=True)


if __name__ == "__main__":
    main()
