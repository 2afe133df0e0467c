"""HyperFree's masks on cubes, through our own backbone and the mask engine of the model library.

Cubes of different cameras may share a batch. Each enters as published: over its maximum, longest side to the model's
side, zero-padded to a square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hypervision import HyperModel, create_model
from hypervision.masks import Canvas, MaskRule, Masks, Render, generate
from pseudolabel.config import HyperfreeConfig, require_weights
from pseudolabel.regions import paint

Array = NDArray[Any]


def label_map(masks: Masks, valid_HW: Array) -> Array:
    """One label map of masks that overlap: the more confident wins."""
    return paint([masks.mask(index).numpy() & valid_HW for index in range(len(masks))], masks.iou, valid_HW.shape)


class HyperfreeMasks:
    """HyperFree loaded once; call it on a cube, or `generate` on several."""

    def __init__(self, config: HyperfreeConfig, device: str) -> None:
        require_weights("HyperFree", config.checkpoint, config.allow_random, "pseudolabel.hyperfree")
        torch.manual_seed(0)
        self.config, self.device = config, torch.device(device)
        self.rule = MaskRule(
            config.points_per_side, config.points_per_batch, config.pred_iou_thresh, config.stability_score_thresh,
            nms_iou=config.nms_iou,
        )  # fmt: skip
        self.model: HyperModel = create_model(config.model, config.checkpoint, config.image_size).to(self.device)

    def _prepare(self, cube_CHW: Array) -> tuple[Tensor, Canvas]:
        """The cube with its longest side at the image size, zero-padded to a square."""
        side = self.config.image_size
        cube = torch.from_numpy(np.ascontiguousarray(cube_CHW, np.float32))[None].to(self.device)
        ratio = side / max(cube.shape[-2:])
        height, width = (max(1, round(n * ratio)) for n in cube.shape[-2:])
        canvas = Canvas(cube.shape[2], cube.shape[3], (height / side, width / side))
        cube = F.interpolate(cube, (height, width), mode="bilinear", antialias=True, align_corners=False)
        return F.pad(cube, (0, side - width, 0, side - height))[0], canvas

    @torch.inference_mode()
    def generate(self, cubes_CHW: Sequence[Array], wl_C: Sequence[Array], gsd_m: Sequence[float]) -> list[Masks]:
        """Masks of several cubes over their scenes' maxima, encoded and decoded together."""
        side = self.config.image_size
        prepared = [self._prepare(cube) for cube in cubes_CHW]
        most = max(len(cube) for cube, _ in prepared)
        batch = torch.stack([F.pad(cube, (0, 0, 0, 0, 0, most - len(cube))) for cube, _ in prepared])
        gsd = [one * max(cube.shape[1:]) / side for one, cube in zip(gsd_m, cubes_CHW, strict=True)]
        neck = self.model.encode(batch, [axis.tolist() for axis in wl_C], gsd)[-1]
        scene, grid = self.model.prepare_masks(neck), (neck.shape[2], neck.shape[3])
        canvases = [canvas for _, canvas in prepared]
        extent = torch.tensor([[canvas.filled[1], canvas.filled[0]] for canvas in canvases], device=self.device) * side

        def propose(points_BP2: Tensor) -> tuple[Tensor, Render]:
            return self.model.propose_masks(scene, grid, (side, side), points_BP2 * extent[:, None])

        return generate(propose, canvases, self.rule, self.device, side)

    def __call__(self, cube_CHW: Array, wl_C: Array, gsd_m: float, valid_HW: Array) -> Array:
        """Label map of a cube over its scene's maximum; where masks overlap the more confident one wins."""
        return label_map(self.generate([cube_CHW], [wl_C], [gsd_m])[0], valid_HW)
