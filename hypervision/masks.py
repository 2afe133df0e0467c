"""Automatic masks for a batch of images: a grid of points, decoded for all images together, filtered, suppressed.

The procedure is SAM's (Kirillov et al., ICCV 2023), with its thresholds: every point gives three masks; those of a low
predicted IoU or an unstable outline go, and of masks whose boxes overlap the best stays. The packages render every
candidate, and upsample it to the size of the image, before they look at it; here those of a low predicted IoU are never
rendered, and those that look unstable as they are rendered are not upsampled.

Any model takes part that can tell the IoU of the masks of points, and render some of them (see `Propose`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Render = Callable[[Tensor], Tensor]
"""numbers of prompts -> logits [n, M, h, w] of their masks, with the image's padding."""
Propose = Callable[[Tensor], tuple[Tensor, Render]]
"""points [B, P, 2], (x, y) as shares of each image's own width and height -> predicted IoU [B, P, M], what renders."""

STABILITY_SLACK = 0.1  # how much the stability of the low-resolution logits may differ from that of the upsampled ones
UPSAMPLED_PIXELS = 1 << 26
PROMPTS_ON_CPU = 2  # more at once leave the cache: half as fast


@dataclass(frozen=True)
class MaskRule:
    """Thresholds of the procedure, named as in the public packages; masks per decoder call over all images."""

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    nms_iou: float = 0.7


@dataclass(frozen=True)
class Canvas:
    """One image for the decoder: its size in pixels, and the share of the canvas that it fills (down, across)."""

    height: int
    width: int
    filled: tuple[float, float] = (1.0, 1.0)


@dataclass
class Masks:
    """The masks of one image, best first: run lengths, predicted IoU, stability, boxes x0 y0 x1 y1, points (x, y).

    Run lengths count pixels column by column and begin with those outside, as COCO's do.
    """

    size: tuple[int, int]
    runs: list[list[int]] = field(default_factory=list)
    iou: list[float] = field(default_factory=list)
    stability: list[float] = field(default_factory=list)
    boxes: list[list[int]] = field(default_factory=list)
    points: list[list[float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.runs)

    def mask(self, index: int) -> Tensor:
        """One mask as booleans [H, W]."""
        height, width = self.size
        inside = torch.arange(len(self.runs[index])) % 2 == 1
        return torch.repeat_interleave(inside, torch.tensor(self.runs[index])).reshape(width, height).T

    def keep(self, chosen: Sequence[int]) -> Masks:
        """Some of them, in the given order."""
        rows = (self.runs, self.iou, self.stability, self.boxes, self.points)
        return Masks(self.size, *([row[index] for index in chosen] for row in rows))  # type: ignore[arg-type]


def stability(logits_QHW: Tensor, offset: float = 1.0) -> Tensor:
    """IoU of a mask with itself when its threshold moves by +- offset."""
    inner = (logits_QHW > offset).flatten(1).sum(1)
    outer = (logits_QHW > -offset).flatten(1).sum(1)
    return inner / outer.clamp_min(1)


def grid_points(side: int) -> Tensor:
    """Centres of a side x side grid, (x, y) as shares of width and height: [side^2, 2]."""
    step = (torch.arange(side) + 0.5) / side
    return torch.stack([step.repeat(side), step.repeat_interleave(side)], 1)


def run_lengths(masks_QHW: Tensor) -> list[list[int]]:
    """Run lengths of masks, column by column, beginning with the pixels outside."""
    flat = masks_QHW.transpose(1, 2).flatten(1).cpu()
    turns = F.pad(flat[:, 1:] ^ flat[:, :-1], (1, 0))
    turns[:, 0] = flat[:, 0]
    rows, at = turns.nonzero(as_tuple=True)
    ends = torch.tensor([flat.shape[1]])
    found = []
    for index in range(len(flat)):
        own = at[rows == index]
        found.append(torch.diff(torch.cat([torch.zeros(1, dtype=own.dtype), own, ends])).tolist())
    return found


def boxes_of(masks_QHW: Tensor) -> Tensor:
    """Boxes x0 y0 x1 y1 of masks, corners included; zeros for an empty one: [Q, 4]."""
    parts = []
    for axis in (1, 2):
        seen = masks_QHW.any(axis)
        low = seen.int().argmax(1)
        high = seen.shape[1] - 1 - seen.flip(1).int().argmax(1)
        parts.append((low, high))
    boxes = torch.stack([parts[0][0], parts[1][0], parts[0][1], parts[1][1]], 1)
    return boxes * masks_QHW.flatten(1).any(1)[:, None]


def suppress_boxes(boxes_Q4: Tensor, score_Q: Tensor, limit: float) -> list[int]:
    """Indices, best first, of boxes that overlap no better one by more than `limit` (IoU)."""
    order = torch.argsort(score_Q, descending=True, stable=True)
    box = boxes_Q4[order].double()
    area = (box[:, 2:] - box[:, :2]).prod(1)
    kept: list[int] = []
    alive = torch.ones(len(order), dtype=torch.bool)
    for index in range(len(order)):
        if not alive[index]:
            continue
        kept.append(int(order[index]))
        rest = box[index + 1 :]
        sides = torch.minimum(rest[:, 2:], box[index, 2:]) - torch.maximum(rest[:, :2], box[index, :2])
        common = sides.clamp_min(0).prod(1)
        alive[index + 1 :] &= ~(common / (area[index + 1 :] + area[index] - common) > limit)
    return kept


def restore(logits_QHW: Tensor, canvas: Canvas, canvas_side: int | None) -> Tensor:
    """Logits at the size of the image: through the canvas, whose padding is cut, if there is one."""
    soft = logits_QHW[:, None].float()
    if canvas_side is not None:
        soft = F.interpolate(soft, (canvas_side, canvas_side), mode="bilinear", align_corners=False)
        rows, cols = (max(1, round(share * canvas_side)) for share in canvas.filled)
        soft = soft[..., :rows, :cols]
    return F.interpolate(soft, (canvas.height, canvas.width), mode="bilinear", align_corners=False)[:, 0]


@torch.inference_mode()
def generate(
    propose: Propose, canvases: Sequence[Canvas], rule: MaskRule, device: torch.device, canvas_side: int | None = None
) -> list[Masks]:
    """The masks of every image of a batch.

    Args:
        propose: the model with its images already encoded.
        canvases: one per image.
        rule: thresholds.
        device: where the points go.
        canvas_side: side in pixels of the padded square that was encoded; None if images were stretched to it.
    """
    found = [Masks((one.height, one.width)) for one in canvases]
    at_once = min(rule.points_per_batch, PROMPTS_ON_CPU) if device.type == "cpu" else rule.points_per_batch
    for part in torch.split(grid_points(rule.points_per_side), max(1, at_once // len(canvases))):
        iou_BPM, render = propose(part.to(device)[None].expand(len(canvases), -1, -1))
        good_QM = iou_BPM.flatten(0, 1) > rule.pred_iou_thresh
        prompts = good_QM.any(1).nonzero().flatten()
        if not len(prompts):
            continue
        logits_nMhw = render(prompts)
        for index, canvas in enumerate(canvases):
            own = (prompts // len(part) == index).nonzero().flatten()
            row, mask = good_QM[prompts[own]].nonzero(as_tuple=True)
            at = part[(prompts[own][row] % len(part)).cpu()]
            iou_Q = iou_BPM.flatten(0, 1)[prompts[own][row], mask]
            _collect(found[index], canvas, at, logits_nMhw[own[row], mask], iou_Q, rule, canvas_side)
    return [one.keep(suppress_boxes(torch.tensor(one.boxes), torch.tensor(one.iou), rule.nms_iou)) if one.runs else one
            for one in found]  # fmt: skip


def _collect(
    found: Masks, canvas: Canvas, points_Q2: Tensor, logits_Qhw: Tensor, iou_Q: Tensor, rule: MaskRule, side: int | None
) -> None:
    """Add the candidates that pass; only those that may are upsampled."""
    rows, cols = (math.ceil(share * n) for share, n in zip(canvas.filled, logits_Qhw.shape[1:], strict=True))
    low = stability(logits_Qhw[:, :rows, :cols], rule.stability_score_offset)
    may = (low > rule.stability_score_thresh - STABILITY_SLACK).nonzero().flatten()
    for some in torch.split(may, max(1, UPSAMPLED_PIXELS // (canvas.height * canvas.width))):
        soft = restore(logits_Qhw[some], canvas, side)
        steady = stability(soft, rule.stability_score_offset)
        good = (steady > rule.stability_score_thresh).nonzero().flatten()
        masks = soft[good] > 0
        found.runs += run_lengths(masks)
        found.boxes += boxes_of(masks).tolist()
        found.iou += iou_Q[some[good]].tolist()
        found.stability += steady[good].tolist()
        found.points += (points_Q2[some[good].cpu()] * torch.tensor([canvas.width, canvas.height])).tolist()
