"""Fuse a spatial and a spectral label map into masks that know both shape and material.

    fill gaps -> overlay -> slivers to a neighbour -> merge tree (shape distance, colour on spatial borders, size;
    light and shade are one) -> cut -> snap borders -> records with a confidence

The obvious recipe (match masks by IoU, merge) fails: a look-alike hides inside a "matched" mask. See
docs/method.md for each step's formula, reason and measured effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pseudolabel.confidence import confidence
from pseudolabel.config import FusionConfig
from pseudolabel.descriptors import Array, Features
from pseudolabel.light import ShadowRule
from pseudolabel.regions import (
    MergeTree,
    Rule,
    absorb_slivers,
    areas,
    border_shares,
    borders,
    fill_gaps,
    joint_counts,
    means,
    merge_by,
    merge_tree,
    overlay,
    relabel,
    snap_borders,
)


@dataclass(frozen=True)
class Fused:
    """The result on one scene: mask ids (0 = unlabelled), and one record per mask in the order of the ids."""

    labels: Array
    records: list[dict[str, Any]]


def base_pieces(spatial: Array, spectral: Array, features: Features, config: FusionConfig) -> tuple[Array, Array]:
    """(pieces that are merged, spatial map without gaps): the common refinement of both sources, without slivers."""
    valid = (spectral > 0) | (spatial > 0)
    spatial, spectral = fill_gaps(spatial, valid), fill_gaps(spectral, valid)
    pieces = overlay(spatial, spectral if config.split else valid.astype(np.int32))
    if config.absorb_slivers and config.split:
        pieces = absorb_slivers(pieces, (spatial, spectral), features.shape_HWK)
    return pieces, spatial


def pair_rule(pieces: Array, mean_NX: Array, features: Features, config: FusionConfig) -> Rule:
    """How far apart two regions are: shape, colour (times the share of their border that is spatial), or shade.

    Features are [shape coordinates, Lab / 100, brightness].
    """
    shadow = ShadowRule(features.basis, config) if config.shadows else None
    if shadow is not None:
        shadow.calibrate(mean_NX[1:, :-4], mean_NX[1:, -1], areas(pieces)[1:])

    def rule(a_X: Array, b_X: Array, share: float) -> tuple[float, bool]:
        step = a_X - b_X
        weight = config.colour_weight * (share if config.colour_on_borders else 1.0)
        squared = float(step[:-4] @ step[:-4] + weight * (step[-4:-1] @ step[-4:-1]))
        left = None if shadow is None else shadow(a_X[:-4], a_X[-1], b_X[:-4], b_X[-1], squared)
        return (squared, False) if left is None else (left, True)

    return rule


def _stacked_means(labels: Array, features: Features) -> Array:
    planes = (features.shape_HWK, features.colour_HW3, features.brightness_HW[..., None])
    return np.concatenate([means(labels, plane) for plane in planes], 1)


def fusion_tree(spatial: Array, spectral: Array, features: Features, config: FusionConfig) -> MergeTree:
    """The hierarchy of fused masks over the common refinement of both sources."""
    pieces, spatial = base_pieces(spatial, spectral, features, config)
    mean_NX = _stacked_means(pieces, features)
    rule = pair_rule(pieces, mean_NX, features, config)
    return merge_by(pieces, mean_NX, rule, border_shares(pieces, spatial), config.size_term)


def source_tree(labels: Array, features_HWK: Array) -> MergeTree:
    """The hierarchy of one source alone, for comparison at equal mask counts."""
    valid = np.ones(labels.shape, bool)
    return merge_tree(overlay(fill_gaps(labels, valid), valid.astype(np.int32)), [(features_HWK, 1.0)])


def best_iou(labels: Array, source: Array) -> Array:
    """For each label the largest IoU with a region of `source`, index 0 included."""
    joint = joint_counts(labels, source).astype(float)
    joint[:, 0] = 0  # unlabelled source pixels are no mask
    union = areas(labels)[:, None] + areas(source)[None] - joint
    return np.asarray((joint / np.maximum(union, 1)).max(1))


def finish(tree: MergeTree, valid: Array, features: Features, config: FusionConfig, count: int | None = None) -> Array:
    """The masks of a tree: cut at the stop cost (or to `count`), borders snapped, tiny masks left unlabelled."""
    labels = tree.cut(count=count) if count is not None else tree.cut(cost=config.stop_cost)
    if config.snap_pixels:
        labels = snap_borders(labels, features.shape_HWK, config.snap_pixels)
    labels = np.where(valid, labels, 0)
    small = areas(labels) < config.min_pixels
    small[0] = False
    return relabel(np.where(small[labels], 0, labels))


def fuse(spatial: Array, spectral: Array, features: Features, config: FusionConfig) -> Fused:
    """Fused masks of one scene, with their sources, areas and confidence."""
    valid = (spectral > 0) | (spatial > 0)
    if not valid.any():
        return Fused(np.zeros(valid.shape, np.int32), [])
    labels = finish(fusion_tree(spatial, spectral, features, config), valid, features, config)
    return Fused(labels, describe(labels, spatial, spectral, features, config))


def _contrast(labels: Array, features: Features, config: FusionConfig) -> Array:
    """For each label the cost of its cheapest merge with a neighbour, index 0 included; 2 x stop_cost without one."""
    mean_NX, size = _stacked_means(labels, features), areas(labels)
    rule = pair_rule(labels, mean_NX, features, config)
    cheapest = np.full(len(size), 2 * config.stop_cost)
    for a, b in borders(labels):
        squared, _ = rule(mean_NX[a], mean_NX[b], 1.0)
        cost = float(np.sqrt(size[a] * size[b] / (size[a] + size[b]) * squared))
        cheapest[a], cheapest[b] = min(cheapest[a], cost), min(cheapest[b], cost)
    return cheapest


def describe(
    labels: Array, spatial: Array, spectral: Array, features: Features, config: FusionConfig
) -> list[dict[str, Any]]:
    """One record per mask: source, agreement with both, spread, contrast, and the confidence that follows."""
    shape = features.shape_HWK
    size, mean = areas(labels), means(labels, shape)
    spread = np.sqrt(means(labels, ((shape - mean[labels]) ** 2).sum(-1, keepdims=True))[:, 0])
    from_spatial, from_spectral = best_iou(labels, spatial), best_iou(labels, spectral)
    contrast = _contrast(labels, features, config) / config.stop_cost
    sure = confidence(size, from_spatial, from_spectral, spread, contrast)
    records = []
    for index in range(1, len(size)):
        near = (from_spatial[index] >= config.source_iou, from_spectral[index] >= config.source_iou)
        records.append({
            "id": index,
            "pixels": int(size[index]),
            "source": {(True, False): "spatial", (False, True): "spectral"}.get(near, "both"),
            "iou_spatial": round(float(from_spatial[index]), 4),
            "iou_spectral": round(float(from_spectral[index]), 4),
            "spread": round(float(spread[index]), 4),
            "contrast": round(float(contrast[index]), 4),
            "score": round(float(sure[index]), 4),
        })  # fmt: skip
    return records


def scene_materials(spectra_NB: Array, config: FusionConfig) -> Array:
    """Material id from 1 of each mask of a scene, by average linkage of the masks' mean spectra."""
    if len(spectra_NB) < 2:
        return np.ones(len(spectra_NB), np.int32)
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(spectra_NB, "average")
    found = fcluster(tree, config.material_distance, "distance")
    # Number materials by first appearance, so that ids do not depend on the library's ordering.
    _, first, packed = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[packed] + 1, np.int32)
