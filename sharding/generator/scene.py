"""One scene: instances of a few materials, mixed at their borders, shaded and lit, seen by one sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label

from sharding.generator.clutter import Clutter, make_clutter
from sharding.generator.materials import GRID_NM, Floats, Library

MIN_PIXELS = 40


@dataclass(frozen=True)
class Sensor:
    """A camera: band centres and widths in nm, and the standard deviation of its noise (share of the signal)."""

    wavelength_nm: tuple[float, ...]
    fwhm_nm: float
    noise: tuple[float, float] = (0.015, 0.06)

    def response_BL(self) -> Floats:
        """Gaussian response of each band on the wavelength grid, rows sum to 1."""
        sigma = self.fwhm_nm / 2.3548
        curve = np.exp(-0.5 * ((GRID_NM[None] - np.array(self.wavelength_nm)[:, None]) / sigma) ** 2)
        return np.asarray(curve / curve.sum(1, keepdims=True))


@dataclass(frozen=True)
class Scene:
    """A generated cube (height, width, band) with its truth: instance ids from 1, material ids from 0."""

    cube_HWB: NDArray[np.float32]
    instances: NDArray[np.uint16]
    materials: NDArray[np.uint8]
    clutter: Clutter | None = None


def _smooth(rng: np.random.Generator, size: int, sigma: float) -> Floats:
    field = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="reflect")
    return np.asarray(field / (field.std() + 1e-9))


def _cells(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Voronoi cells with wavy borders: the ground of the scene."""
    count = rng.integers(5, 9)
    seeds = rng.uniform(0, size, (count, 2))
    y, x = np.mgrid[:size, :size].astype(float)
    y, x = y + 3 * _smooth(rng, size, 6), x + 3 * _smooth(rng, size, 6)
    distance = (y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2
    return np.asarray(distance.argmin(-1))


def _objects(rng: np.random.Generator, size: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ellipses and tilted boxes on top of the ground."""
    y, x = np.mgrid[:size, :size].astype(float)
    for index in range(rng.integers(6, 10)):
        cy, cx = rng.uniform(0.08, 0.92, 2) * size
        a, b = rng.uniform(0.07, 0.17, 2) * size
        turn = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        inside = (u / a) ** 2 + (v / b) ** 2 < 1 if rng.random() < 0.6 else (abs(u) < a) & (abs(v) < b)
        ids = np.where(inside, 100 + index, ids)
    return ids


def _instances(rng: np.random.Generator, size: int) -> NDArray[np.uint16]:
    """Connected regions numbered from 1; slivers join their largest neighbour."""
    ids = _objects(rng, size, _cells(rng, size))
    regions = np.zeros((size, size), np.int64)
    count = 0
    for value in np.unique(ids):
        parts, found = label(ids == value)
        regions[parts > 0] = parts[parts > 0] + count
        count += found
    for region in range(1, count + 1):
        mask = regions == region
        if 0 < mask.sum() < MIN_PIXELS:
            ring = gaussian_filter(mask.astype(float), 1) > 0.02
            around = regions[ring & ~mask]
            regions[mask] = np.bincount(around).argmax()
    _, packed = np.unique(regions, return_inverse=True)
    return np.asarray(packed.reshape(size, size) + 1, np.uint16)


def _assign(rng: np.random.Generator, library: Library, count: int) -> NDArray[np.int64]:
    """A material for each instance: 4-7 kinds, with a pair of RGB twins in most scenes, each used at least twice."""
    total = len(library.spectra_ML)
    kinds = list(rng.permutation(total)[: rng.integers(4, 8)])
    if rng.random() < 0.8:
        pair = list(library.twins[rng.integers(len(library.twins))])
        kinds = pair + [kind for kind in kinds if kind not in pair][: max(2, len(kinds) - 2)]
    base = np.resize(np.repeat(kinds, 1), count)
    return np.asarray(rng.permutation(base))


def _join_alike(instances: NDArray[np.uint16], kind_I: NDArray[np.int64], gain_I: Floats) -> NDArray[np.uint16]:
    """Touching things of one material and within 15 % of one brightness are one: no camera sees a border."""
    owner = np.arange(len(kind_I))
    ids = instances.astype(int) - 1
    for shift in (ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1]):
        for a, b in np.unique(np.stack([part.ravel() for part in shift], 1), axis=0):
            alike = kind_I[a] == kind_I[b] and abs(np.log(gain_I[a] / gain_I[b])) < 0.15
            if alike and owner[a] != owner[b]:
                owner[owner == owner[a]] = owner[b]
    _, packed = np.unique(owner[ids], return_inverse=True)
    return np.asarray(packed.reshape(ids.shape) + 1, np.uint16)


def make_scene(library: Library, sensor: Sensor, size: int, seed: list[int], *, cluttered: bool = False) -> Scene:
    """Render one square scene; everything is a function of `seed`, the library and the sensor.

    `cluttered` adds shadows and printed patterns.

    Light: smooth shading, a brightness per instance, a tilt of the illumination over wavelength. The borders
    are mixed by a blur of the abundances, texture scales single pixels, noise is a share of the mean signal.
    """
    rng = np.random.default_rng(seed)
    instances = _instances(rng, size)
    kind_I = _assign(rng, library, int(instances.max()))
    materials = kind_I[instances.astype(int) - 1].astype(np.uint8)
    blur = rng.uniform(0.4, 0.8)
    used = np.unique(kind_I)
    abundance = np.stack([gaussian_filter((materials == kind).astype(float), blur) for kind in used], -1)
    tilt = 1 + rng.uniform(-0.15, 0.15) * (GRID_NM - 900) / 700
    seen_MB = (library.spectra_ML[used] * tilt) @ sensor.response_BL().T
    gain_I = np.clip(rng.normal(1, 0.12, len(kind_I)), 0.6, 1.4)
    gain = gaussian_filter(gain_I[instances.astype(int) - 1], 0.6)
    light = np.exp(0.2 * _smooth(rng, size, size / 5)) * gain * (1 + 0.04 * _smooth(rng, size, 0.7))
    if cluttered:
        instances = _join_alike(instances, kind_I, gain_I)
    cube = (abundance @ seen_MB) * light[..., None]
    clutter = make_clutter(seed, instances, np.array(sensor.wavelength_nm)) if cluttered else None
    noise = rng.uniform(*sensor.noise) * cube.mean()
    if clutter is not None:
        cube = cube * clutter.gain_HWB
    cube = cube + noise * rng.standard_normal(cube.shape)
    return Scene(np.clip(cube * 0.6, 0, 1.2).astype(np.float32), instances, materials, clutter)
