"""How well a label map fits the truth: achievable accuracy, under-segmentation, boundaries.

ASA only rises with splitting, so methods are compared at equal mask counts (see `MergeTree.cut`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

Array = NDArray[Any]


def _joint(labels: Array, truth: Array) -> Array:
    count = int(truth.max()) + 1
    flat = labels.ravel().astype(np.int64) * count + truth.ravel()
    return np.bincount(flat, minlength=(int(labels.max()) + 1) * count).reshape(-1, count)


def achievable_accuracy(labels: Array, truth: Array) -> float:
    """Share of pixels that are right if each mask takes its most frequent truth (ASA)."""
    return float(_joint(labels, truth).max(1).sum() / labels.size)


def undersegmentation_error(labels: Array, truth: Array) -> float:
    """Pixels that leak over a truth border, as a share: sum over masks of min(inside, outside) per truth region."""
    joint = _joint(labels, truth)
    outside = joint.sum(1, keepdims=True) - joint
    return float(np.minimum(joint, outside)[joint.sum(1) > 0].sum() / labels.size)


def boundary_scores(labels: Array, truth: Array, tolerance: int = 2) -> tuple[float, float]:
    """(recall, precision) of borders within `tolerance` pixels."""

    def edges(array: Array) -> Array:
        return np.asarray(maximum_filter(array, 3) != minimum_filter(array, 3))

    mine, real = edges(labels), edges(truth)
    grow = np.ones((2 * tolerance + 1, 2 * tolerance + 1), bool)
    recall = (real & binary_dilation(mine, grow)).sum() / max(real.sum(), 1)
    precision = (mine & binary_dilation(real, grow)).sum() / max(mine.sum(), 1)
    return float(recall), float(precision)
