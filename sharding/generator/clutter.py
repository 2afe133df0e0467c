"""What fools segmenters: shadows that fall across things, and printed patterns on them. Neither is a thing of its own.

Both are drawn from a generator of their own, so that a scene without them is the same scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
LEAST = 240
"""Pixels of a thing that is large enough for print."""


@dataclass(frozen=True)
class Clutter:
    """Gain of every pixel and band [H, W, B] by shadow and print, and where they are."""

    gain_HWB: Floats
    shadow: Mask
    printed: Mask


def _plane(size: int) -> tuple[Floats, Floats]:
    y, x = np.mgrid[:size, :size].astype(float)
    return y, x


def _shadow(rng: np.random.Generator, size: int) -> Mask:
    """A long ellipse, or the strip behind a tilted edge."""
    y, x = _plane(size)
    cy, cx = rng.uniform(0.2, 0.8, 2) * size
    turn = rng.uniform(0, np.pi)
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
    a, b = rng.uniform(0.18, 0.4) * size, rng.uniform(0.08, 0.16) * size
    return np.asarray((u / a) ** 2 + (v / b) ** 2 < 1 if rng.random() < 0.5 else abs(v) < b)


def _stripes(rng: np.random.Generator, size: int) -> Mask:
    y, x = _plane(size)
    turn, period = rng.uniform(0, np.pi), rng.uniform(8, 14)
    return np.asarray(np.sin((x * np.cos(turn) + y * np.sin(turn)) * 2 * np.pi / period) > 0.1)


def make_clutter(seed: list[int], instances: NDArray[np.uint16], wl_B: Floats) -> Clutter:
    """One or two shadows, and stripes on up to two things.

    A shadow is lit by the sky: its share of the full light falls with wavelength, d (0.55 + 0.45 (l / 550 nm)^-n) with
    d 0.25-0.5 and n 1-3, which no power law fits. Print is neutral: 0.6-0.8 of the light in all bands.
    """
    rng = np.random.default_rng([*seed, 53])
    size = instances.shape[0]
    gain = np.ones((*instances.shape, len(wl_B)))
    shadow = np.zeros(instances.shape, bool)
    for _ in range(rng.integers(1, 3)):
        one = _shadow(rng, size)
        sky_B = rng.uniform(0.25, 0.5) * (0.55 + 0.45 * (wl_B / 550.0) ** -rng.uniform(1, 3))
        soft = gaussian_filter((one & ~shadow).astype(float), 0.8)[..., None]
        gain *= 1 + soft * (sky_B - 1)
        shadow |= one
    printed = np.zeros(instances.shape, bool)
    areas = np.bincount(instances.ravel())
    large = rng.permutation(np.flatnonzero(areas >= LEAST))[:2]
    for thing in large:
        ink = _stripes(rng, size) & (instances == thing)
        gain *= 1 + gaussian_filter(ink.astype(float), 0.5)[..., None] * (rng.uniform(0.6, 0.8) - 1)
        printed |= ink
    return Clutter(gain, shadow, printed)
