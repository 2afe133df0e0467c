"""Materials: smooth parametric reflectance spectra, some pairs equal in the visible, some equal beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID_NM = np.arange(380.0, 1760.0, 2.0)
RED_EDGE_NM = 720.0
MATERIALS = 12
# The first of a pair is copied; (0,1), (2,3), (4,5) look alike in RGB, (6,7), (8,9) only beyond it.
VISIBLE_TWINS = ((0, 1), (2, 3), (4, 5))
INFRARED_TWINS = ((6, 7), (8, 9))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Library:
    """Reflectance spectra [material, wavelength] on `GRID_NM`."""

    spectra_ML: Floats

    @property
    def twins(self) -> tuple[tuple[int, int], ...]:
        """Pairs that an RGB camera cannot tell apart."""
        return VISIBLE_TWINS


def _sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def _spectrum(rng: np.random.Generator) -> Floats:
    """A smooth reflectance: a level, a few edges (pigments) and a few absorption dips (water, minerals)."""
    curve = np.full(len(GRID_NM), rng.uniform(0.1, 0.5))
    for _ in range(rng.integers(2, 5)):
        edge, width = rng.uniform(420, 1650), rng.uniform(12, 60)
        curve += rng.uniform(-0.3, 0.4) * _sigmoid((GRID_NM - edge) / width)
    for _ in range(rng.integers(2, 6)):
        centre, width = rng.uniform(400, 1720), rng.uniform(20, 70)
        curve *= 1 - rng.uniform(0.1, 0.55) * np.exp(-(((GRID_NM - centre) / width) ** 2))
    return curve


def _reflectance(curve: Floats) -> Floats:
    """Squeeze any curve smoothly into 0.03-0.95; equal stays equal."""
    soft = np.logaddexp(0.0, 12.0 * curve) / 12.0
    return 0.03 + 0.92 * (1.0 - np.exp(-1.4 * soft))


def make_library(seed: int) -> Library:
    """Twelve materials; the pairs of `VISIBLE_TWINS` differ only beyond the red edge, the others only below it."""
    rng = np.random.default_rng([seed, 17])
    spectra = np.stack([_spectrum(rng) for _ in range(MATERIALS)])
    beyond = _sigmoid((GRID_NM - RED_EDGE_NM) / 12.0)
    for pairs, keep in ((VISIBLE_TWINS, 1 - beyond), (INFRARED_TWINS, beyond)):
        for first, second in pairs:
            # Meet at the edge, so that the blend leaves no step.
            other = spectra[second] + spectra[first, _edge_index()] - spectra[second, _edge_index()]
            spectra[second] = spectra[first] * keep + other * (1 - keep)
    return Library(_reflectance(spectra))


def _edge_index() -> int:
    return int(np.searchsorted(GRID_NM, RED_EDGE_NM))
