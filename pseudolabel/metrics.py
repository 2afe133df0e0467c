"""How well a label map fits the truth: achievable accuracy, under-segmentation, boundaries.

ASA only rises with splitting, so methods are compared at equal mask counts (see `MergeTree.cut`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, maximum_filter, minimum_filter

from pseudolabel.regions import joint_counts

Array = NDArray[Any]


def achievable_accuracy(labels: Array, truth: Array) -> float:
    """Share of pixels that are right if each mask takes its most frequent truth (ASA)."""
    return float(joint_counts(labels, truth).max(1).sum() / labels.size)


def undersegmentation_error(labels: Array, truth: Array) -> float:
    """Pixels that leak over a truth border, as a share: sum over masks of min(inside, outside) per truth region."""
    joint = joint_counts(labels, truth)
    outside = joint.sum(1, keepdims=True) - joint
    return float(np.minimum(joint, outside)[joint.sum(1) > 0].sum() / labels.size)


def boundary_scores(labels: Array, truth: Array, tolerance: int = 2, known: Array | None = None) -> tuple[float, float]:
    """(recall, precision) of borders within `tolerance` pixels; only where the truth is `known`, if given."""
    grow = np.ones((2 * tolerance + 1, 2 * tolerance + 1), bool)
    there = np.ones(labels.shape, bool) if known is None else binary_erosion(known, grow, border_value=1)

    def edges(array: Array) -> Array:
        return np.asarray((maximum_filter(array, 3) != minimum_filter(array, 3)) & there)

    mine, real = edges(labels), edges(truth)
    recall = (real & binary_dilation(mine, grow)).sum() / max(real.sum(), 1)
    precision = (mine & binary_dilation(real, grow)).sum() / max(mine.sum(), 1)
    return float(recall), float(precision)


def cut_things(labels: Array, truth: Array, part: Array, least: int = 60) -> tuple[int, int]:
    """(true regions cut along the border of `part`, true regions that have it): shadows and prints are no things.

    A region counts if `least` of its pixels are in the part and outside it; it is cut if most of either lie in
    different masks.
    """
    cut = total = 0
    for region in np.unique(truth):
        here = truth == region
        inside, outside = labels[here & part], labels[here & ~part]
        if min(len(inside), len(outside)) >= least:
            total += 1
            cut += int(np.bincount(inside).argmax() != np.bincount(outside).argmax())
    return cut, total


def rand_index(first: Array, second: Array) -> float:
    """Adjusted Rand index of two label maps over the pixels that both label; 0 by chance, 1 if they are the same."""
    both = (first > 0) & (second > 0)
    if not both.any():
        return 0.0
    joint = joint_counts(first[both], second[both]).astype(np.float64)

    def pairs(counts: Array) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, one, other = pairs(joint), pairs(joint.sum(1)), pairs(joint.sum(0))
    expected = one * other / max(pairs(np.array([joint.sum()])), 1.0)
    most = (one + other) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)
