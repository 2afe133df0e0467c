"""`pictures/step_<n>.png`: what the student sees as training goes on, always on the same tiles.

A row per dataset: the picture, the labels, masks that the student predicts from one click in each label, and the
first three principal components of its last tap and of its semantic map as colours; below, what the masks are worth.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from hypervision import HyperModel
from pretrain.mask_scores import MaskScores, from_clicks, score_picture, summary, words
from sharding.manifest import Manifest, SampleRef
from sharding.records import write_atomic

Array = NDArray[Any]
TITLES = ("rgb", "labels", "masks from a click", "last tap, PCA", "semantic, PCA")
DATASETS, BANDS = 4, 40
SIDE, HEAD = 192, 16


def paint(labels_HW: Array) -> Array:
    """A colour per id, 0 black, the same colours every time: [H, W, 3] uint8."""
    palette = np.random.default_rng(1).integers(64, 256, (int(labels_HW.max()) + 1, 3))
    palette[0] = 0
    return np.asarray(palette[labels_HW], np.uint8)


def principal_colours(map_Dhw: Tensor) -> Array:
    """The first three principal components of a map, each from its 2nd to its 98th percentile: [h, w, 3] uint8."""
    flat = map_Dhw.float().flatten(1).T.double()
    flat = flat - flat.mean(0)
    _, _, basis = torch.linalg.svd(flat, full_matrices=False)
    basis = basis[:3] * torch.sign(basis[:3].sum(1, keepdim=True))  # else a colour may turn over between steps
    parts = (flat @ basis.T).reshape(*map_Dhw.shape[1:], -1).cpu().numpy()
    low, high = np.percentile(parts, (2, 98), axis=(0, 1))
    scaled = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.asarray(255 * np.pad(scaled, ((0, 0), (0, 0), (0, 3 - scaled.shape[2]))), np.uint8)


class Pictures:
    """Draws the first tile of each of the first datasets."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.refs = [ref for _, ref in sorted(manifest.firsts.items())][:DATASETS]
        self.folder = folder

    def draw(self, model: HyperModel, step: int, masks: bool = True) -> list[MaskScores]:
        """Write the picture of a step; the student's state is as before.

        Returns:
            Scores of the masks that it shows; none without `masks`, for a student that does not learn them.
        """
        rows = [self._row(model, ref, masks) for ref in self.refs]
        sheet = Image.new("RGB", (len(TITLES) * SIDE, HEAD + sum(SIDE + 2 * HEAD for _ in rows)), "white")
        pen = ImageDraw.Draw(sheet)
        for column, title in enumerate(TITLES):
            off = "masks: not trained" if title.startswith("masks") and not masks else title
            pen.text((column * SIDE + 3, 2), off, fill="black")
        for number, (ref, (pictures, scores)) in enumerate(zip(self.refs, rows, strict=True)):
            top = HEAD + number * (SIDE + 2 * HEAD)
            for column, picture in enumerate(pictures):
                small = Image.fromarray(picture).resize((SIDE - 4, SIDE - 4), Image.Resampling.NEAREST)
                sheet.paste(small, (column * SIDE + 2, top))
            pen.text((3, top + SIDE - 3), f"{ref.dataset}  {ref.key}  step {step}", fill="black")
            if scores:
                pen.text((3, top + SIDE - 3 + HEAD), words(summary(scores)), fill="black")
        data = io.BytesIO()
        sheet.save(data, "png")
        write_atomic(self.path(step), data.getvalue())
        return [score for _, scores in rows for score in scores]

    def path(self, step: int) -> Path:
        """Where the picture of a step lies."""
        return self.folder / f"step_{step:08d}.png"

    @torch.no_grad()
    def _row(self, model: HyperModel, ref: SampleRef, masks: bool) -> tuple[Sequence[Array], list[MaskScores]]:
        meta = ref.meta()
        where = next(model.parameters()).device
        good = np.flatnonzero(~np.asarray(meta["bad_band"], bool))
        bands = good[np.unique(np.linspace(0, len(good) - 1, BANDS).round().astype(int))]
        cube = torch.from_numpy(ref.bands(meta, bands)).to(where)[None]
        if model.size.input_mode == "public":
            cube = cube / float(meta["scene_max"])
        wl = tuple(np.asarray(meta["wavelength_nm"], float)[bands].tolist())
        maps = model.encode(cube, wl, [float(meta["gsd_m"])])
        labels_HW, rgb_HW3 = ref.picture("instances").astype(np.int64), ref.picture("rgb")
        pictures = (
            rgb_HW3,
            paint(labels_HW),
            paint(drawn_masks(model, maps[-1], labels_HW)) if masks else np.full_like(rgb_HW3, 255),
            principal_colours(maps[-2][0]),
            principal_colours(model.semantic(maps[-1])[0]),
        )
        return pictures, score_picture(model, maps[-1], labels_HW, rgb_HW3) if masks else []


def drawn_masks(model: HyperModel, neck_1Dhw: Tensor, labels_HW: Array) -> Array:
    """A label map of the masks that the student draws around a click in each label, smaller ones on top."""
    ids, masks_PHW, _ = from_clicks(model, neck_1Dhw, labels_HW)
    drawn_HW = np.zeros_like(labels_HW)
    for index in np.argsort(-masks_PHW.sum((1, 2)), kind="stable"):
        drawn_HW[masks_PHW[index]] = ids[index]
    return drawn_HW
