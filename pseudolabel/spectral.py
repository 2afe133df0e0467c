"""HyperFree's masks on the cube itself, through our own backbone: a grid of points, filtered, suppressed.

The procedure is SAM's automatic one (Kirillov et al., 2023): every point gives three masks; those with a low
predicted IoU or an unstable outline are dropped, and of overlapping ones the best stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hypervision import HyperModel, create_model
from pseudolabel.config import HyperfreeConfig, require_weights
from pseudolabel.regions import paint

Array = NDArray[Any]


def stability(logits_QHW: Tensor, offset: float = 1.0) -> Tensor:
    """IoU of a mask with itself when its threshold moves by +- offset."""
    inner = (logits_QHW > offset).flatten(1).sum(1)
    outer = (logits_QHW > -offset).flatten(1).sum(1)
    return inner / outer.clamp_min(1)


def suppress(masks: Array, scores: Array, limit: float) -> list[int]:
    """Indices of masks that stay when those overlapping a better one by more than `limit` (IoU) go."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    size = flat.sum(1)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        common = flat[kept] @ flat[index] if kept else np.zeros(0)
        union = size[kept] + size[index] - common if kept else np.ones(0)
        if not (common / np.maximum(union, 1) > limit).any():
            kept.append(int(index))
    return kept


def grid_points(side: int, height: int, width: int) -> Tensor:
    """Centres of a side x side grid over the picture, (x, y) in pixels: [side^2, 2]."""
    step = (torch.arange(side) + 0.5) / side
    return torch.stack([(step * width).repeat(side), (step * height).repeat_interleave(side)], 1)


class HyperfreeMasks:
    """HyperFree loaded once; call it on cubes."""

    def __init__(self, config: HyperfreeConfig, device: str) -> None:
        require_weights("HyperFree", config.checkpoint, config.allow_random, "pseudolabel.hyperfree")
        torch.manual_seed(0)
        self.config, self.device = config, torch.device(device)
        self.model: HyperModel = create_model(config.model, config.checkpoint, config.image_size).to(self.device)

    def _prepare(self, cube_CHW: Array) -> tuple[Tensor, int, int]:
        """The cube with its longest side to the image size, zero-padded to a square."""
        side = self.config.image_size
        cube = torch.from_numpy(np.ascontiguousarray(cube_CHW, np.float32))[None].to(self.device)
        ratio = side / max(cube.shape[-2:])
        height, width = (max(1, round(n * ratio)) for n in cube.shape[-2:])
        cube = F.interpolate(cube, (height, width), mode="bilinear", antialias=True, align_corners=False)
        return F.pad(cube, (0, side - width, 0, side - height)), height, width

    @torch.inference_mode()
    def __call__(self, cube_CHW: Array, wl_C: Array, gsd_m: float, valid_HW: Array) -> Array:
        """Label map of a cube over its scene's maximum; where masks overlap the more confident one wins."""
        cube, height, width = self._prepare(cube_CHW)
        side = self.config.image_size
        gsd = gsd_m * max(cube_CHW.shape[1:]) / side
        neck = self.model.encode(cube, tuple(wl_C.tolist()), gsd)[-1]
        masks, scores = self._decode(neck, height, width)
        if not len(masks):
            return np.zeros(valid_HW.shape, np.int32)
        kept = suppress(masks, scores, self.config.nms_iou)
        full = self._restore(masks[kept], valid_HW)
        return paint(list(full), scores[kept].tolist(), valid_HW.shape)

    def _decode(self, neck: Tensor, height: int, width: int) -> tuple[Array, Array]:
        """Low-resolution masks that pass the filters, over the real part of the square, and their scores."""
        side = self.config.image_size
        points = grid_points(self.config.points_per_side, height, width).to(self.device)
        found, scores = [], []
        for part in torch.split(points, self.config.points_per_batch):
            labels = torch.ones(1, len(part), 1, device=self.device)
            logits, iou = self.model.predict_masks(neck, (side, side), part[None, :, None], labels)
            logits, iou = logits[0].flatten(0, 1), iou[0].flatten()
            good = (iou > self.config.pred_iou_thresh) & (stability(logits) > self.config.stability_score_thresh)
            found.append(logits[good].cpu().numpy())
            scores.append(iou[good].cpu().numpy())
        low = np.concatenate(found)
        ratio = low.shape[-1] / side
        rows, cols = max(1, round(height * ratio)), max(1, round(width * ratio))
        masks = low[:, :rows, :cols] > 0
        some = masks.any((1, 2))
        return masks[some], np.concatenate(scores)[some]

    @staticmethod
    def _restore(masks: Array, valid_HW: Array) -> Array:
        """Masks at the size of the tile."""
        soft = F.interpolate(torch.from_numpy(masks.astype(np.float32))[None], valid_HW.shape, mode="bilinear")
        return (soft[0].numpy() > 0.5) & valid_HW
