"""Every switch of the fusion off in turn, on generated scenes with look-alikes, shadows and printed patterns.

Spatial masks are the classical ones (weak) and simulated ones (good, made from the truth, see `simulated`); spectral
masks are the classical ones. A scene gives a row per method and per variant, at 1.0 and 1.5 times the true count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pseudolabel.classical import spatial_regions, spectral_regions
from pseudolabel.comparison import SHARES, cut_to, fit_of, method_trees
from pseudolabel.confidence import MATCH_IOU, inputs
from pseudolabel.config import ClassicalConfig, FusionConfig
from pseudolabel.descriptors import Array, Features, features_of
from pseudolabel.fusion import best_iou, fuse, fusion_tree
from pseudolabel.metrics import achievable_accuracy, cut_things
from pseudolabel.regions import areas, borders
from pseudolabel.simulated import simulated_masks
from sharding.errors import ConfigError
from sharding.generator.corpus import PLACES, sensor_of
from sharding.generator.materials import Library, make_library
from sharding.generator.scene import Scene, make_scene
from sharding.render import render_rgb

OFF: dict[str, dict[str, Any]] = {
    "no denoising": {"denoise": False},
    "spatial masks not split by material": {"split": False},
    "slivers stay": {"absorb_slivers": False},
    "no size term": {"size_term": False},
    "no colour": {"colour_weight": 0.0},
    "colour on all borders": {"colour_on_borders": False},
    "shade is not light": {"shadows": False},
    "no border snap": {"snap_pixels": 0},
}
LOOKALIKE = {"border": 10, "pixels": 150, "angle": 0.09, "recall": 0.8}


@dataclass
class AblationConfig:
    """What is generated: seeds per sensor from the first one on, side of a scene, which spatial masks.

    `fit` fits the confidence on these scenes and prints its weights (take other seeds than for the table).
    """

    seeds: int = 20
    first_seed: int = 900
    size: int = 128
    sensors: list[str] = field(default_factory=lambda: sorted(PLACES))
    spatial: list[str] = field(default_factory=lambda: ["simulated", "classical"])
    workers: int = 0
    fit: bool = False

    def check(self) -> None:
        """Raises ConfigError: an unknown sensor or kind of masks."""
        for name, known in [(one, PLACES) for one in self.sensors] + [(one, SOURCES) for one in self.spatial]:
            if name not in known:
                raise ConfigError(f"ablation: {name!r} is not one of {', '.join(sorted(known))}")


@dataclass(frozen=True)
class Case:
    """A generated scene with what the fusion is given; `angle` tells materials apart (radians)."""

    sensor: str
    seed: int
    kind: str
    scene: Scene
    features: Features
    spatial: Array
    spectral: Array
    seen_MB: Array


SOURCES = ("simulated", "classical")


def make_cases(sensor_key: str, seed: int, config: AblationConfig, fusion: FusionConfig) -> Iterator[Case]:
    """One generated scene with each kind of spatial masks."""
    sensor, library = sensor_of(sensor_key), make_library(seed)
    scene = make_scene(library, sensor, config.size, [seed, sorted(PLACES).index(sensor_key)], cluttered=True)
    cube = np.moveaxis(scene.cube_HWB, -1, 0)
    valid, wl = np.ones(cube.shape[1:], bool), np.array(sensor.wavelength_nm)
    rgb, _ = render_rgb(cube, wl, valid)
    features = features_of(cube, wl, rgb, valid, denoise=fusion.denoise)
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


def _seen(library: Library, sensor_key: str) -> Array:
    seen = library.spectra_ML @ sensor_of(sensor_key).response_BL().T
    return np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True))


def _held(labels: Array, values: Array, region: Array) -> float:
    """Share of a region that gets its own value if each mask takes its most frequent one."""
    count = int(values.max()) + 1
    joint = np.bincount(labels.ravel().astype(np.int64) * count + values.ravel(), minlength=(labels.max() + 1) * count)
    owner = joint.reshape(-1, count).argmax(1)
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


def evaluate(case: Case, fusion: FusionConfig) -> dict[str, dict[str, float]]:
    """Rows of every method, and of the fusion with each switch off, "NAME at 1 x" and "NAME at 1.5 x"."""
    trees = method_trees(case.spatial, case.spectral, case.features, fusion)
    snaps = dict.fromkeys(trees, fusion.snap_pixels)
    for name, change in OFF.items():
        off = replace(fusion, **change)
        features = case.features if off.denoise else _raw(case)
        trees[name] = (fusion_tree(case.spatial, case.spectral, features, off), features.shape_HWK)
        snaps[name] = off.snap_pixels
    count = int(case.scene.instances.max())
    rows = {}
    for share in SHARES:
        cuts = {name: cut_to(*trees[name], round(share * count), snaps[name]) for name in trees}
        pairs = lookalikes(case, cuts["spatial"])
        for name, labels in cuts.items():
            rows[f"{name} at {share:g} x"] = score_cut(case, labels, pairs) | {"count": float(len(np.unique(labels)))}
    return rows


def _raw(case: Case) -> Features:
    sensor = sensor_of(case.sensor)
    cube = np.moveaxis(case.scene.cube_HWB, -1, 0)
    valid, wl = np.ones(cube.shape[1:], bool), np.array(sensor.wavelength_nm)
    features = features_of(cube, wl, render_rgb(cube, wl, valid)[0], valid, denoise=False)
    return features


def judged_masks(case: Case, fusion: FusionConfig) -> tuple[Array, Array, Array]:
    """(inputs of the confidence, confidence, whether right) of every fused mask of a case."""
    fused = fuse(case.spatial, case.spectral, case.features, fusion)
    columns = ("pixels", "iou_spatial", "iou_spectral", "spread", "contrast")
    told = [np.array([row[name] for row in fused.records], float) for name in columns]
    right = best_iou(fused.labels, case.scene.instances.astype(np.int64))[1:] >= MATCH_IOU
    return inputs(*told), np.array([row["score"] for row in fused.records]), right
