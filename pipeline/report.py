"""`report.png`: some tiles as RGB, spatial, spectral and fused masks and materials, and the training losses."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from skimage.segmentation import find_boundaries

from pretrain.config import TERMS
from pretrain.logs import read_metrics
from pretrain.mask_scores import words
from sharding.manifest import SampleRef, open_manifest
from sharding.records import write_atomic
from sharding.sample import Array

COLUMNS = ("rgb", "spatial", "spectral", "fused", "materials")


def paint_labels(labels: Array, seed: int = 1) -> Array:
    """A colour per id, 0 black, the same colours every time."""
    rng = np.random.default_rng(seed)
    palette = rng.uniform(0.25, 1.0, (int(labels.max()) + 1, 3))
    palette[0] = 0
    picture = palette[labels]
    picture[find_boundaries(labels, mode="inner")] *= 0.35
    return picture


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    plt.close(figure)
    write_atomic(path, picture.getvalue())


def _tile_row(axes: Any, ref: SampleRef) -> None:
    meta = ref.meta()
    pictures: dict[str, Array | None] = {
        "rgb": ref.picture("rgb"),
        "fused": paint_labels(ref.picture("instances")),
        "materials": paint_labels(ref.picture("materials"), 7),
    }
    for name in ("spatial", "spectral"):
        pictures[name] = paint_labels(ref.picture(name)) if f"{name}.png" in ref.members else None
    count = len(meta["masks"])
    kinds = len({row["material"] for row in meta["masks"]})
    wl = meta["wavelength_nm"]
    titles = {
        "rgb": f"{ref.dataset}: {len(wl)} bands, {min(wl):.0f}-{max(wl):.0f} nm",
        "fused": f"fused: {count} masks",
        "materials": f"{kinds} materials",
    }
    for axis, name in zip(axes, COLUMNS, strict=True):
        axis.axis("off")
        picture = pictures[name]
        if picture is None:
            axis.text(0.5, 0.5, "not kept", ha="center", transform=axis.transAxes)
        else:
            axis.imshow(picture, interpolation="nearest")
        axis.set_title(titles.get(name, name), fontsize=8)


def smoothed(values: Sequence[float]) -> Array:
    """A running mean over a fortieth of a curve."""
    width = max(1, len(values) // 40)
    padded = np.pad(np.asarray(values, float), (width - 1, 0), "edge")
    return np.convolve(padded, np.ones(width) / width, "valid")


def _losses(axis: Any, run: Path) -> None:
    rows = read_metrics(run)
    steps = [row["step"] for row in rows]
    for name in ("loss", *TERMS):
        if rows and name in rows[-1]:
            axis.plot(steps, smoothed([row[name] for row in rows]), label=name, linewidth=1.2)
    axis.set_xlabel(f"step\n{_masks_in_words(rows)}", fontsize=8)
    axis.set_title(f"training losses of {run.name}", fontsize=9)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


def _masks_in_words(rows: Sequence[dict[str, Any]]) -> str:
    """What the masks of the last picture were worth; a falling mask loss does not tell."""
    scored = [row for row in rows if "mask/masks" in row]
    if not scored:
        return "masks: not trained, or no picture was drawn"
    found = {name.removeprefix("mask/"): value for name, value in scored[-1].items() if name.startswith("mask/")}
    return f"masks of training tiles after step {scored[-1]['step'] + 1}: {words(found)}"


def write_report(workdir: Path, datasets: list[str], run: Path, path: Path) -> None:
    """Draw one tile of each of the first datasets and the losses of a run."""
    refs = [open_manifest(workdir / "shards", [name])[0] for name in datasets[:5]]
    figure = plt.figure(figsize=(11, 2.3 * len(refs) + 3), layout="constrained")
    grid = figure.add_gridspec(len(refs) + 1, len(COLUMNS), height_ratios=[1] * len(refs) + [1.3])
    for row, ref in enumerate(refs):
        _tile_row([figure.add_subplot(grid[row, column]) for column in range(len(COLUMNS))], ref)
    _losses(figure.add_subplot(grid[-1, :]), run)
    save_figure(figure, path)
