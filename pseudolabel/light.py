"""Whether one region is another one in shade: what is left when the light of the sky is put in place of the sun.

A place in shade is lit by some of the same light (a) and by the sky, which is bluer: dark = (a + b r) * bright, with
r = (wavelength / 550 nm)^-2, a >= 0 and b at least a tenth of a + b. Spectra are of unit length, so the residual is
about an angle in radians.

On a narrow range of wavelengths two terms fit anything: the rule holds only where it tells most pairs of regions of
the scene apart (`limit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from pseudolabel.config import FusionConfig
from pseudolabel.descriptors import Array, ShapeBasis

REFERENCE_NM, RAYLEIGH = 550.0, -2.0
LEAST_PIXELS, MOST_REGIONS, LEAST_PAIRS = 40, 60, 6
LEAST_SKY = 0.1
BETTER = 0.25
"""A pair is taken for light and shade if that leaves less than this share of its squared distance."""


def sky_residual(dark_B: Array, bright_B: Array, ratio_B: Array) -> float:
    """Norm of dark - (a + b ratio) * bright for the best a, b (least squares); infinite if no sky is in it.

    Without the sky's share of the light, at least `LEAST_SKY`, something dark is just dark.
    """
    tilted_B = bright_B * ratio_B
    uu, uv, vv = bright_B @ bright_B, bright_B @ tilted_B, tilted_B @ tilted_B
    ud, vd = bright_B @ dark_B, tilted_B @ dark_B
    determinant = max(float(uu * vv - uv * uv), 1e-12)
    a, b = (vv * ud - uv * vd) / determinant, (uu * vd - uv * ud) / determinant
    if a < 0:
        a, b = 0.0, vd / vv
    if b < LEAST_SKY * (a + b):
        return float("inf")
    left_B = dark_B - a * bright_B - b * tilted_B
    return float(np.sqrt(left_B @ left_B))


class ShadowRule:
    """Tells for two regions, by mean coordinates and brightness, how far they are apart if one is in shade."""

    def __init__(self, basis: ShapeBasis, config: FusionConfig) -> None:
        self.basis, self.config = basis, config
        self.ratio_B = (basis.wl_B / REFERENCE_NM) ** RAYLEIGH
        self.limit = config.shadow_residual

    def calibrate(self, means_NK: Array, brightness_N: Array, pixels_N: Array) -> None:
        """Lower the limit to a share of what a pair of regions of this scene leaves as a rule."""
        large: Sequence[int] = np.flatnonzero(pixels_N >= LEAST_PIXELS)[:MOST_REGIONS].tolist()
        pairs = [
            self.residual(means_NK[a], float(brightness_N[a]), means_NK[b], float(brightness_N[b]))
            for a, b in combinations(large, 2)
        ]
        found = [residual for residual in pairs if np.isfinite(residual)]
        if len(found) >= LEAST_PAIRS:
            self.limit = min(self.config.shadow_residual, self.config.shadow_power * float(np.median(found)))

    def residual(self, a_K: Array, bright_a: float, b_K: Array, bright_b: float) -> float:
        """What shade leaves unexplained (radians); infinite if neither is as dark as shade is."""
        low, high = sorted((bright_a, bright_b))
        if high <= 0 or not self.config.darkest <= low / high <= self.config.brightest:
            return float("inf")
        dark_K, lit_K = (a_K, b_K) if bright_a < bright_b else (b_K, a_K)
        return sky_residual(self.basis.spectrum(dark_K), self.basis.spectrum(lit_K), self.ratio_B)

    def __call__(self, a_K: Array, bright_a: float, b_K: Array, bright_b: float, squared: float) -> float | None:
        """The squared distance that shade leaves of `squared`, or None if the two are not light and shade."""
        left = self.residual(a_K, bright_a, b_K, bright_b)
        if left >= self.limit:
            return None
        left = (self.config.shadow_weight * left) ** 2
        return left if left < BETTER * squared else None
