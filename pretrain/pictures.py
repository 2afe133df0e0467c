"""`pictures/step_<n>.png`: what the student sees as training goes on, always on the same tiles.

A row per dataset: the picture, the labels, masks that the student predicts from one click in each label, and the
first three principal components of its last tap and of its semantic map as colours.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from hypervision import HyperModel
from sharding.manifest import Manifest, SampleRef
from sharding.records import write_atomic

Array = NDArray[Any]
TITLES = ("rgb", "labels", "masks from a click", "last tap, PCA", "semantic, PCA")
DATASETS, CLICKS, BANDS = 4, 24, 40
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


def clicks(labels_HW: Array) -> tuple[list[int], Array]:
    """The largest labels and the pixel (x, y) that lies deepest inside each."""
    ids, sizes = np.unique(labels_HW[labels_HW > 0], return_counts=True)
    chosen = ids[np.argsort(-sizes, kind="stable")[:CLICKS]]
    points = []
    for one in chosen:
        depth = distance_transform_edt(np.pad(labels_HW == one, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        points.append((x, y))
    return chosen.tolist(), np.array(points, np.float32).reshape(-1, 2)


class Pictures:
    """Draws the first tile of each of the first datasets."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.refs = [ref for _, ref in sorted(manifest.firsts.items())][:DATASETS]
        self.folder = folder

    def draw(self, model: HyperModel, step: int) -> Path:
        """Write the picture of a step; the student's state is as before."""
        rows = [self._row(model, ref) for ref in self.refs]
        sheet = Image.new("RGB", (len(TITLES) * SIDE, HEAD + sum(SIDE + HEAD for _ in rows)), "white")
        pen = ImageDraw.Draw(sheet)
        for column, title in enumerate(TITLES):
            pen.text((column * SIDE + 3, 2), title, fill="black")
        for number, (ref, pictures) in enumerate(zip(self.refs, rows, strict=True)):
            top = HEAD + number * (SIDE + HEAD)
            for column, picture in enumerate(pictures):
                small = Image.fromarray(picture).resize((SIDE - 4, SIDE - 4), Image.Resampling.NEAREST)
                sheet.paste(small, (column * SIDE + 2, top))
            pen.text((3, top + SIDE - 3), f"{ref.dataset}  {ref.key}  step {step}", fill="black")
        data = io.BytesIO()
        sheet.save(data, "png")
        path = self.folder / f"step_{step:08d}.png"
        write_atomic(path, data.getvalue())
        return path

    @torch.no_grad()
    def _row(self, model: HyperModel, ref: SampleRef) -> Sequence[Array]:
        meta = ref.meta()
        where = next(model.parameters()).device
        good = np.flatnonzero(~np.asarray(meta["bad_band"], bool))
        bands = good[np.unique(np.linspace(0, len(good) - 1, BANDS).round().astype(int))]
        cube = torch.from_numpy(ref.bands(meta, bands)).to(where)[None]
        if model.size.input_mode == "public":
            cube = cube / float(meta["scene_max"])
        wl = tuple(np.asarray(meta["wavelength_nm"], float)[bands].tolist())
        maps = model.encode(cube, wl, [float(meta["gsd_m"])])
        labels = ref.picture("instances").astype(np.int64)
        return (
            ref.picture("rgb"),
            paint(labels),
            paint(self._predicted(model, maps[-1], labels)),
            principal_colours(maps[-2][0]),
            principal_colours(model.semantic(maps[-1])[0]),
        )

    def _predicted(self, model: HyperModel, neck_1Dhw: Tensor, labels_HW: Array) -> Array:
        """A label map of the masks that the student draws around a click in each label, smaller ones on top."""
        ids, points = clicks(labels_HW)
        told = np.zeros_like(labels_HW)
        if not ids:
            return told
        point_BPN2 = torch.from_numpy(points).to(neck_1Dhw.device)[None, :, None]
        height, width = labels_HW.shape
        extent_hw = model.feature_info[-1].extent((height, width))
        logits, iou = model.predict_masks(neck_1Dhw, extent_hw, point_BPN2, torch.ones_like(point_BPN2[..., 0]))
        best = logits[0].float()[torch.arange(len(ids)), iou[0].argmax(1)]
        masks = F.interpolate(best[None], extent_hw, mode="bilinear", align_corners=False)[0, :, :height, :width] > 0
        for index in masks.sum((1, 2)).argsort(descending=True).tolist():
            told[masks[index].cpu().numpy()] = ids[index]
        return told
