"""What masks from a click or a box are worth, beside answers that need no net.

A falling mask loss is no sign of masks: a net that predicts nothing anywhere has a low one. So the overlap with the
label is measured, and the same is asked of trivial answers: for a click, a disc with the mean area of the masks of the
picture, and the segment of the picture (Felzenszwalb and Huttenlocher, IJCV 2004) that lies under it; for a box, the
box filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import felzenszwalb
from torch import Tensor

from hypervision import HyperModel

Array = NDArray[Any]
CLICKS = 24  # masks of a picture that are asked, the largest first
SEGMENT = {"scale": 60, "sigma": 0.8, "min_size": 30}


@dataclass(frozen=True)
class MaskScores:
    """Scores of one mask, or their medians over several (`share` and `iou_error`: means).

    Fields: IoU with the label of the mask from a click and from a box; difference of the IoU that the click's mask
    predicts of itself; share of the picture that this mask covers; IoU of the disc, of the segment under the click and
    of the filled box.
    """

    click_iou: float
    box_iou: float
    iou_error: float
    share: float
    disc_iou: float
    segment_iou: float
    filled_box_iou: float


def summary(scores: Sequence[MaskScores]) -> dict[str, float]:
    """Medians of the overlaps, means of the rest, and how many `masks` there were; empty for none."""
    if not scores:
        return {}
    columns = {field.name: [getattr(score, field.name) for score in scores] for field in fields(MaskScores)}
    means = {name: float(np.mean(columns.pop(name))) for name in ("iou_error", "share")}
    medians = {name: float(np.median(values)) for name, values in columns.items()}
    return {**medians, **means, "masks": float(len(scores))}


def words(scores: dict[str, float]) -> str:
    """A summary as one line."""
    return (
        f"click IoU {scores['click_iou']:.2f} (disc {scores['disc_iou']:.2f}, segment {scores['segment_iou']:.2f}), "
        f"box IoU {scores['box_iou']:.2f} (filled box {scores['filled_box_iou']:.2f}), "
        f"predicted IoU off by {scores['iou_error']:.2f}, covers {scores['share']:.0%}"
    )


def clicks(labels_HW: Array) -> tuple[list[int], Array]:
    """The largest labels and the pixel (x, y) that lies deepest inside each."""
    ids, sizes = np.unique(labels_HW[labels_HW > 0], return_counts=True)
    chosen = ids[np.argsort(-sizes, kind="stable")[:CLICKS]]
    points = []
    for label in chosen:
        depth = distance_transform_edt(np.pad(labels_HW == label, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        points.append((x, y))
    return chosen.tolist(), np.array(points, np.float32).reshape(-1, 2)


def box_of(mask_HW: Array) -> list[float]:
    """x0 y0 x1 y1 of a mask, corners included."""
    ys, xs = np.nonzero(mask_HW)
    return [float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())]


def overlap(first_HW: Array, second_HW: Array) -> float:
    """Intersection over union; 0 for two empty masks."""
    union = np.count_nonzero(first_HW | second_HW)
    return float(np.count_nonzero(first_HW & second_HW) / union) if union else 0.0


def disc(point_xy: Array, area: float, shape_hw: tuple[int, int]) -> Array:
    """The pixels within a circle of an area around a point."""
    y, x = np.mgrid[: shape_hw[0], : shape_hw[1]]
    return np.asarray((x - point_xy[0]) ** 2 + (y - point_xy[1]) ** 2 <= area / np.pi)


def filled(box: Sequence[float], shape_hw: tuple[int, int]) -> Array:
    """The pixels of a box."""
    inside = np.zeros(shape_hw, bool)
    x0, y0, x1, y1 = (int(side) for side in box)
    inside[y0 : y1 + 1, x0 : x1 + 1] = True
    return inside


@torch.no_grad()
def predict(model: HyperModel, neck_1Dhw: Tensor, image_hw: tuple[int, int], **prompts: Any) -> tuple[Array, Array]:
    """The mask that a student deems best for each prompt [P, H, W], and the IoU that it predicts of it [P]."""
    height, width = image_hw
    extent_hw = model.feature_info[-1].extent(image_hw)
    logits, iou = model.predict_masks(neck_1Dhw, extent_hw, **prompts)
    best = iou[0].argmax(1)
    chosen = logits[0].float()[torch.arange(len(best), device=best.device), best]
    whole = F.interpolate(chosen[None], extent_hw, mode="bilinear", align_corners=False)[0, :, :height, :width]
    return (whole > 0).cpu().numpy(), iou[0].float().amax(1).cpu().numpy()


def from_clicks(model: HyperModel, neck_1Dhw: Tensor, labels_HW: Array) -> tuple[list[int], Array, Array]:
    """The largest labels, the mask from a click in each [P, H, W], and the IoU predicted of it [P]."""
    ids, points = clicks(labels_HW)
    if not ids:
        return [], np.zeros((0, *labels_HW.shape), bool), np.zeros(0)
    point_1P12 = torch.from_numpy(points).to(neck_1Dhw.device)[None, :, None]
    ones = torch.ones_like(point_1P12[..., 0])
    return ids, *predict(model, neck_1Dhw, _sides(labels_HW), points_BPN2=point_1P12, labels_BPN=ones)


def _sides(labels_HW: Array) -> tuple[int, int]:
    return labels_HW.shape[0], labels_HW.shape[1]


def score_picture(model: HyperModel, neck_1Dhw: Tensor, labels_HW: Array, rgb_HW3: Array) -> list[MaskScores]:
    """Scores of the largest labels of a picture.

    Args:
        model: the student.
        neck_1Dhw: the last map of `encode` of the picture's cube.
        labels_HW: ids of the masks that are right, 0 where there is none.
        rgb_HW3: the picture, 8 bits, that is cut into segments.
    """
    ids, click_PHW, predicted_P = from_clicks(model, neck_1Dhw, labels_HW)
    if not ids:
        return []
    image_hw, masks = _sides(labels_HW), [labels_HW == label for label in ids]
    boxes = [box_of(mask) for mask in masks]
    box_PHW, _ = predict(model, neck_1Dhw, image_hw, boxes_BP4=torch.tensor([boxes], device=neck_1Dhw.device))
    segments_HW = felzenszwalb(rgb_HW3, **SEGMENT)
    area = float(np.mean([mask.sum() for mask in masks]))
    scores = []
    for number, (mask, point) in enumerate(zip(masks, clicks(labels_HW)[1], strict=True)):
        click_iou = overlap(click_PHW[number], mask)
        x, y = point.astype(int)
        scores.append(
            MaskScores(
                click_iou, overlap(box_PHW[number], mask), abs(float(predicted_P[number]) - click_iou),
                float(click_PHW[number].mean()), overlap(disc(point, area, image_hw), mask),
                overlap(segments_HW == segments_HW[y, x], mask), overlap(filled(boxes[number], image_hw), mask),
            )
        )  # fmt: skip
    return scores


def mask_row(scores: Sequence[MaskScores]) -> dict[str, float]:
    """A summary as names and numbers for a row of metrics."""
    return {f"mask/{name}": round(value, 4) for name, value in summary(scores).items()}
