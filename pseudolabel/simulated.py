"""A stand-in for a good spatial segmenter on generated scenes, made FROM their truth: never for labels.

It shows what fusion gains from object masks as SAM2's might be: things of little contrast are one mask, borders are
off by a pixel, gaps lie between masks, 8 % of them are missing, some are cut by shadows and prints.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

from pseudolabel.descriptors import Array
from pseudolabel.regions import borders, means, relabel
from sharding.generator.scene import Scene

CONTRAST = 0.05
MISSING, CUT_SHADOW, CUT_PRINT = 0.08, 0.35, 0.1
LEAST = 60


def _joined(instances: Array, colour_HW3: Array) -> Array:
    """Things that touch and differ by less than `CONTRAST` in mean Lab / 100 are one."""
    mean = means(instances, colour_HW3)
    owner = np.arange(len(mean))
    for a, b in sorted(borders(instances)):
        if np.linalg.norm(mean[a] - mean[b]) < CONTRAST and owner[a] != owner[b]:
            owner[owner == owner[b]] = owner[a]
    return np.asarray(owner[instances])


def _cut(rng: np.random.Generator, labels: Array, part: Array, chance: float) -> Array:
    fresh = int(labels.max())
    for label in np.unique(labels):
        inside = (labels == label) & part
        if rng.random() < chance and inside.sum() >= LEAST:
            fresh += 1
            labels = np.where(inside, fresh, labels)
    return labels


def _jitter(rng: np.random.Generator, labels: Array) -> Array:
    """Borders move by up to one pixel."""
    height, width = labels.shape
    y, x = np.mgrid[:height, :width]
    moves = [np.rint(4 * gaussian_filter(rng.standard_normal(labels.shape), 2)).clip(-1, 1).astype(int) for _ in "yx"]
    return np.asarray(labels[np.clip(y + moves[0], 0, height - 1), np.clip(x + moves[1], 0, width - 1)])


def simulated_masks(scene: Scene, colour_HW3: Array, seed: list[int]) -> Array:
    """A label map with gaps (0) for a generated scene."""
    rng = np.random.default_rng([*seed, 71])
    labels = _joined(scene.instances.astype(int), colour_HW3)
    if scene.clutter is not None:
        labels = _cut(rng, labels, scene.clutter.shadow, CUT_SHADOW)
        labels = _cut(rng, labels, scene.clutter.printed, CUT_PRINT)
    labels = _jitter(rng, labels)
    missing = [label for label in np.unique(labels) if rng.random() < MISSING]
    edge = maximum_filter(labels, 3) != minimum_filter(labels, 3)
    return relabel(np.where(edge | np.isin(labels, missing), 0, labels + 1))
