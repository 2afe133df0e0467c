"""Every switch of the fusion off in turn, on generated scenes with look-alikes, shadows and printed patterns.

Spatial masks are the classical ones (weak) and simulated ones (good, made from the truth, see `simulated`); spectral
masks are the classical ones. A scene gives a row per method and per variant, at 1.0 and 1.5 times the true count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pseudolabel.assemble import Labels
from pseudolabel.classical import spatial_regions, spectral_regions
from pseudolabel.comparison import SHARES, cut_to, fit_of, method_trees, true_count
from pseudolabel.confidence import MATCH_IOU, inputs
from pseudolabel.config import AblationConfig, ClassicalConfig, FusionConfig
from pseudolabel.descriptors import Array, Features, features_of
from pseudolabel.fusion import best_iou, fuse, fusion_tree
from pseudolabel.metrics import achievable_accuracy, cut_things
from pseudolabel.regions import MergeTree, areas, borders, joint_counts
from pseudolabel.simulated import simulated_masks
from sharding.generator.corpus import PLACES, sensor_of
from sharding.generator.materials import Library, make_library
from sharding.generator.scene import Scene, make_scene
from sharding.render import render_rgb

OFF: dict[str, dict[str, Any]] = {
    "no denoising": {"denoise": False},
    "no split": {"split": False},
    "no sliver step": {"absorb_slivers": False},
    "no size term": {"size_term": False},
    "no colour": {"colour_weight": 0.0},
    "colour everywhere": {"colour_on_borders": False},
    "no shade step": {"shadows": False},
    "no snap": {"snap_pixels": 0},
}
LOOKALIKE = {"border": 10, "pixels": 150, "angle": 0.09, "recall": 0.8}


@dataclass(frozen=True)
class Case:
    """A generated scene with what the fusion is given; `seen_MB` are the materials as unit spectra of the sensor."""

    sensor: str
    seed: int
    kind: str
    scene: Scene
    features: Features
    spatial: Array
    spectral: Array
    seen_MB: Array


def make_cases(sensor_key: str, seed: int, config: AblationConfig, fusion: FusionConfig) -> Iterator[Case]:
    """One generated scene with each kind of spatial masks."""
    sensor, library = sensor_of(sensor_key), make_library(seed)
    scene = make_scene(library, sensor, config.size, [seed, sorted(PLACES).index(sensor_key)], cluttered=True)
    features, rgb = _look(scene, sensor_key, fusion.denoise)
    valid = np.ones(rgb.shape[:2], bool)
    classical = ClassicalConfig()
    spectral = spectral_regions(features.shape_HWK, valid, classical)
    for kind in config.spatial:
        simulated = kind == "simulated"
        spatial = (
            simulated_masks(scene, features.colour_HW3, [seed, 1])
            if simulated
            else spatial_regions(rgb, valid, classical)
        )
        yield Case(sensor_key, seed, kind, scene, features, spatial, spectral, _seen(library, sensor_key))


def _look(scene: Scene, sensor_key: str, denoise: bool) -> tuple[Features, Array]:
    """Features and picture of a generated scene."""
    cube = np.moveaxis(scene.cube_HWB, -1, 0)
    valid, wl = np.ones(cube.shape[1:], bool), np.array(sensor_of(sensor_key).wavelength_nm)
    rgb, _ = render_rgb(cube, wl, valid)
    return features_of(cube, wl, rgb, valid, denoise=denoise), rgb


def _seen(library: Library, sensor_key: str) -> Array:
    seen = library.spectra_ML @ sensor_of(sensor_key).response_BL().T
    return np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True))


def _held(labels: Array, values: Array, region: Array) -> float:
    """Share of a region that gets its own value if each mask takes its most frequent one."""
    owner = joint_counts(labels, values).argmax(1)
    return float((owner[labels[region]] == values[region]).mean())


def lookalikes(case: Case, spatial_cut: Array) -> list[tuple[Array, Array]]:
    """Pairs of touching things of other materials that the spatial masks alone hold in one mask."""
    truth, materials = case.scene.instances.astype(np.int64), case.scene.materials
    size = areas(truth)
    found = []
    for (a, b), length in borders(truth).items():
        if length < LOOKALIKE["border"] or min(size[a], size[b]) < LOOKALIKE["pixels"]:
            continue
        here, there = truth == a, truth == b
        first, second = (case.seen_MB[materials[one][0]] for one in (here, there))
        apart = np.arccos(np.clip(first @ second, -1, 1)) >= LOOKALIKE["angle"]
        together = np.bincount(spatial_cut[here]).argmax() == np.bincount(spatial_cut[there]).argmax()
        if apart and together:
            found.append((here, there))
    return found


def score_cut(case: Case, labels: Array, pairs: list[tuple[Array, Array]]) -> dict[str, float]:
    """All scores of one label map of a case; counts ("... of") are summed over scenes, not averaged."""
    scene = case.scene
    assert scene.clutter is not None
    truth, kinds = scene.instances.astype(np.int64), scene.materials.astype(np.int64)
    row = fit_of(labels, truth) | {"material ASA": achievable_accuracy(labels, kinds)}
    row["shadows cut"], row["shadows of"] = cut_things(labels, truth, scene.clutter.shadow)
    row["prints cut"], row["prints of"] = cut_things(labels, truth, scene.clutter.printed)
    row["look-alikes of"] = len(pairs)
    for name, values in (("look-alikes told", kinds), ("look-alikes as things", truth)):
        told = [min(_held(labels, values, one) for one in pair) >= LOOKALIKE["recall"] for pair in pairs]
        row[name] = float(sum(told))
    return row


def variant_trees(
    spatial: Array, spectral: Array, features: Features, fusion: FusionConfig, raw: Features | None
) -> dict[str, tuple[MergeTree, Array, int]]:
    """(merge tree, what borders snap by, how far) of every method and of the fusion with each switch off.

    `raw` are the features without denoising; without them that switch is left out.
    """
    methods = method_trees(spatial, spectral, features, fusion)
    trees = {name: (*tree, fusion.snap_pixels) for name, tree in methods.items()}
    for name, change in OFF.items():
        off = replace(fusion, **change)
        own = features if off.denoise else raw
        if own is not None:
            trees[name] = (fusion_tree(spatial, spectral, own, off), own.shape_HWK, off.snap_pixels)
    return trees


def evaluate(case: Case, fusion: FusionConfig) -> dict[str, dict[str, float]]:
    """Rows of every method, and of the fusion with each switch off, "NAME at 1 x" and "NAME at 1.5 x"."""
    raw, _ = _look(case.scene, case.sensor, denoise=False)
    trees = variant_trees(case.spatial, case.spectral, case.features, fusion, raw)
    count = int(case.scene.instances.max())
    rows = {}
    for share in SHARES:
        cuts = {
            name: cut_to(tree, snap_by, round(share * count), snap) for name, (tree, snap_by, snap) in trees.items()
        }
        pairs = lookalikes(case, cuts["spatial"])
        for name, labels in cuts.items():
            rows[f"{name} at {share:g} x"] = score_cut(case, labels, pairs) | {"count": float(len(np.unique(labels)))}
    return rows


def evaluate_labels(labels: Labels, truth: Array, fusion: FusionConfig) -> dict[str, dict[str, float]]:
    """The same for a scene of a dataset that has some truth: what its truth can tell."""
    trees = variant_trees(labels.spatial, labels.spectral, labels.features, fusion, None)
    count = true_count(truth)
    rows = {}
    for share in SHARES:
        for name, (tree, snap_by, snap) in trees.items():
            cut = cut_to(tree, snap_by, round(share * count), snap)
            rows[f"{name} at {share:g} x"] = fit_of(cut, truth) | {"count": float(len(np.unique(cut)))}
    return rows


def judged_masks(case: Case, fusion: FusionConfig) -> tuple[Array, Array, Array]:
    """(inputs of the confidence, confidence, whether right) of every fused mask of a case."""
    fused = fuse(case.spatial, case.spectral, case.features, fusion)
    columns = ("pixels", "iou_spatial", "iou_spectral", "spread", "contrast")
    told = [np.array([row[name] for row in fused.records], float) for name in columns]
    right = best_iou(fused.labels, case.scene.instances.astype(np.int64))[1:] >= MATCH_IOU
    return inputs(*told), np.array([row["score"] for row in fused.records]), right
