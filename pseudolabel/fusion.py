"""Fuse a spatial and a spectral label map into masks that know both shape and material.

    fill gaps -> overlay -> slivers to a neighbour -> merge tree (shape distance, a little colour, size) -> cut
    -> snap borders

The obvious recipe (match masks by IoU, merge) fails: a look-alike hides inside a "matched" mask. See
docs/method.md for each step's reason and measured effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pseudolabel.config import FusionConfig
from pseudolabel.regions import (
    MergeTree,
    absorb_slivers,
    areas,
    fill_gaps,
    means,
    merge_tree,
    overlay,
    snap_borders,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Fused:
    """The result on one tile: mask ids (0 = unlabelled), and one record per mask in the order of the ids."""

    labels: Array
    records: list[dict[str, Any]]
    shape_means: Array


def fusion_tree(
    spatial: Array, spectral: Array, shape_HWK: Array, colour_HW3: Array, config: FusionConfig
) -> MergeTree:
    """The hierarchy of fused masks over the common refinement of both sources."""
    valid = (spectral > 0) | (spatial > 0)
    spatial, spectral = fill_gaps(spatial, valid), fill_gaps(spectral, valid)
    pieces = overlay(spatial, spectral)
    if config.absorb_slivers:
        pieces = absorb_slivers(pieces, (spatial, spectral), shape_HWK)
    return merge_tree(pieces, [(shape_HWK, 1.0), (colour_HW3, config.colour_weight)])


def source_tree(labels: Array, features_HWK: Array) -> MergeTree:
    """The hierarchy of one source alone, for comparison at equal mask counts."""
    valid = np.ones(labels.shape, bool)
    return merge_tree(overlay(fill_gaps(labels, valid), valid.astype(np.int32)), [(features_HWK, 1.0)])


def best_iou(labels: Array, source: Array) -> Array:
    """For each label the largest IoU with a region of `source`, index 0 included."""
    count, other = int(labels.max()) + 1, int(source.max()) + 1
    joint = np.bincount(labels.ravel().astype(np.int64) * other + source.ravel(), minlength=count * other)
    joint = joint.reshape(count, other).astype(float)
    joint[:, 0] = 0  # unlabelled source pixels are no mask
    union = areas(labels)[:, None] + areas(source)[None] - joint
    return np.asarray((joint / np.maximum(union, 1)).max(1))


def fuse(spatial: Array, spectral: Array, shape_HWK: Array, colour_HW3: Array, config: FusionConfig) -> Fused:
    """Fused masks of one tile with their source, area and homogeneity score."""
    valid = (spectral > 0) | (spatial > 0)
    labels = fusion_tree(spatial, spectral, shape_HWK, colour_HW3, config).cut(cost=config.stop_cost)
    if config.snap_pixels:
        labels = snap_borders(labels, shape_HWK, config.snap_pixels)
    labels = np.where(valid, labels, 0)
    small = areas(labels) < config.min_pixels
    small[0] = False
    labels = np.where(small[labels], 0, labels)
    ids, packed = np.unique(labels, return_inverse=True)
    labels = packed.reshape(labels.shape).astype(np.int32) + (0 if ids[0] == 0 else 1)
    return _describe(labels, spatial, spectral, shape_HWK, config)


def _describe(labels: Array, spatial: Array, spectral: Array, shape_HWK: Array, config: FusionConfig) -> Fused:
    size, mean = areas(labels), means(labels, shape_HWK)
    spread = np.sqrt(means(labels, ((shape_HWK - mean[labels]) ** 2).sum(-1, keepdims=True))[:, 0])
    from_spatial, from_spectral = best_iou(labels, spatial), best_iou(labels, spectral)
    records = []
    for index in range(1, len(size)):
        near = (from_spatial[index] >= config.source_iou, from_spectral[index] >= config.source_iou)
        records.append({
            "id": index,
            "pixels": int(size[index]),
            "source": {(True, False): "spatial", (False, True): "spectral"}.get(near, "both"),
            "iou_spatial": round(float(from_spatial[index]), 4),
            "iou_spectral": round(float(from_spectral[index]), 4),
            "score": round(float(1.0 / (1.0 + spread[index] / config.material_distance)), 4),
        })  # fmt: skip
    return Fused(labels, records, mean[1:])


def scene_materials(shape_means_NK: Array, config: FusionConfig) -> Array:
    """Material id from 1 of each mask of a scene, by average linkage of the masks' mean spectra."""
    if len(shape_means_NK) < 2:
        return np.ones(len(shape_means_NK), np.int32)
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(shape_means_NK, "average")
    found = fcluster(tree, config.material_distance, "distance")
    # Number materials by first appearance, so that ids do not depend on the library's ordering.
    _, first, packed = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[packed] + 1, np.int32)
