"""Spatial masks, spectral masks and fused masks of one scene against its truth, at equal mask counts.

ASA only rises with splitting, so every method is cut by its own merge tree to the same count: 1.0 and 1.5 times the
true one. All snap their borders.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label as connected

from pseudolabel.config import FusionConfig
from pseudolabel.descriptors import Array, Features
from pseudolabel.fusion import fusion_tree, source_tree
from pseudolabel.metrics import achievable_accuracy, boundary_scores, undersegmentation_error
from pseudolabel.regions import MergeTree, areas, merge_tree, snap_borders

SHARES = (1.0, 1.5)
METHODS = ("spatial", "spectral", "spectral + brightness", "fused")
SCORES = ("ASA", "UE", "recall", "precision")
BRIGHTNESS_WEIGHT = 0.2
LEAST_TRUE = 40
"""Pixels of a true region that counts as one."""


def method_trees(
    spatial: Array, spectral: Array, features: Features, config: FusionConfig
) -> dict[str, tuple[MergeTree, Array]]:
    """The merge tree of each method and the features its borders snap by."""
    shape, lab = features.shape_HWK, features.colour_HW3
    alone = source_tree(spectral, shape)
    return {
        "spatial": (source_tree(spatial, lab), lab),
        "spectral": (alone, shape),
        "spectral + brightness": (merge_tree(alone.base, [(shape, 1.0), (lab, BRIGHTNESS_WEIGHT)]), shape),
        "fused": (fusion_tree(spatial, spectral, features, config), shape),
    }


def cut_to(tree: MergeTree, features_HWK: Array, count: int, snap: int = 2) -> Array:
    """The label map of a tree with `count` regions."""
    labels = tree.cut(count=count)
    return snap_borders(labels, features_HWK, snap) if snap else labels


def true_count(truth: Array) -> int:
    """Regions of at least 40 pixels of a map of things or of classes (0 = unknown)."""
    count = 0
    for value in np.unique(truth[truth > 0]):
        parts, found = connected(truth == value)
        count += int((areas(parts)[1:] >= LEAST_TRUE).sum()) if found else 0
    return max(count, 1)


def fit_of(labels: Array, truth: Array) -> dict[str, float]:
    """ASA, under-segmentation error, boundary recall and precision where the truth is known (> 0)."""
    known = truth > 0
    recall, precision = boundary_scores(labels, truth, known=None if known.all() else known)
    inside = (labels[known], truth[known])
    values = (achievable_accuracy(*inside), undersegmentation_error(*inside), recall, precision)
    return dict(zip(SCORES, values, strict=True))


def compare_methods(
    spatial: Array, spectral: Array, features: Features, truth: Array, config: FusionConfig
) -> dict[str, dict[str, float]]:
    """Method -> "ASA at 1 x" and so on, of one scene."""
    count = true_count(truth)
    rows = {}
    for method, (tree, snap_by) in method_trees(spatial, spectral, features, config).items():
        row: dict[str, float] = {}
        for share in SHARES:
            fit = fit_of(cut_to(tree, snap_by, round(share * count), config.snap_pixels), truth)
            row |= {f"{name} at {share:g} x": value for name, value in fit.items()}
        rows[method] = row
    return rows
