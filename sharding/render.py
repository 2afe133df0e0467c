"""An RGB picture of a cube for SAM2 and the teacher, with the rule that made it recorded.

A registered RGB companion is taken as it is. Without one, a sensor that covers the visible is integrated with the
CIE 1931 colour matching functions (analytic fit of Wyman, Sloan and Shirley, JCGT 2013) to sRGB; any other gets three
bands as false colour, longest as red.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
VISIBLE_NM = (470.0, 640.0)
XYZ_TO_SRGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
# Each lobe: weight, centre, width below, width above (nm).
LOBES = (
    ((1.056, 599.8, 37.9, 31.0), (0.362, 442.0, 16.0, 26.7), (-0.065, 501.1, 20.4, 26.2)),
    ((0.821, 568.8, 46.9, 40.5), (0.286, 530.9, 16.3, 31.1)),
    ((1.217, 437.0, 11.8, 36.0), (0.681, 459.0, 26.0, 13.8)),
)


def _matching_C3(wl_C: Array) -> Array:
    columns = []
    for lobes in LOBES:
        curve = np.zeros(len(wl_C))
        for weight, centre, below, above in lobes:
            width = np.where(wl_C < centre, below, above)
            curve += weight * np.exp(-0.5 * ((wl_C - centre) / width) ** 2)
        columns.append(curve)
    return np.stack(columns, 1)


def covers_visible(wl_C: Array) -> bool:
    """Whether a picture in true colour can be made of these bands."""
    return bool(np.min(wl_C) <= VISIBLE_NM[0] and np.max(wl_C) >= VISIBLE_NM[1])


def rendering_weights(wl_C: Array) -> tuple[Array, str]:
    """Weights [C, 3] from bands to linear RGB, and the name of the rule; the bands may lie in any order."""
    order = np.argsort(wl_C, kind="stable")
    weights, rule = _sorted_weights(np.asarray(wl_C, float)[order])
    return weights[np.argsort(order)], rule


def _sorted_weights(wl_C: Array) -> tuple[Array, str]:
    """The same of wavelengths that rise: each counts for the stretch of spectrum between its neighbours."""
    if covers_visible(wl_C):
        spacing = np.abs(np.gradient(wl_C)) if len(wl_C) > 1 else np.ones(1)
        xyz = _matching_C3(wl_C) * spacing[:, None]
        xyz = xyz / xyz[:, 1].sum()
        white = xyz.sum(0)
        return (xyz / white) @ (XYZ_TO_SRGB / XYZ_TO_SRGB.sum(1, keepdims=True)).T, "cie1931-srgb"
    low, high = wl_C.min(), wl_C.max()
    chosen = [int(np.abs(wl_C - (low + share * (high - low))).argmin()) for share in (5 / 6, 1 / 2, 1 / 6)]
    weights = np.zeros((len(wl_C), 3))
    weights[chosen, [0, 1, 2]] = 1.0
    return weights, "false-colour " + "/".join(f"{wl_C[band]:.0f}" for band in chosen) + " nm"


def _linear(cube_CN: Array, wl_C: Array) -> tuple[Array, str]:
    """Linear RGB [3, N] of pixels, and its rule; bands are added up by wavelength, so that their order is no matter."""
    order = np.argsort(wl_C, kind="stable")
    weights, rule = rendering_weights(wl_C)
    if (order[1:] < order[:-1]).any():
        cube_CN, weights = cube_CN[order], weights[order]
    return np.asarray(np.einsum("cn,ck->kn", cube_CN, weights.astype(np.float32))), rule


def white_of(cube_CHW: Array, wl_C: Array, valid_HW: Array) -> Array:
    """Linear RGB that is rendered as white: the 99th percentile of the valid pixels.

    Bands of a false-colour picture have unequal gain: each has its own.
    """
    rgb_3N, rule = _linear(cube_CHW[:, valid_HW], wl_C)
    if rule.startswith("false"):
        return np.asarray(np.percentile(rgb_3N, 99, axis=1))
    return np.full(3, np.percentile(rgb_3N.max(0), 99))


def render_rgb(
    cube_CHW: Array, wl_C: Array, valid_HW: Array, white: Array | None = None
) -> tuple[NDArray[np.uint8], str]:
    """An sRGB picture (height, width, 3) of a physical cube, and the rule that made it; invalid pixels are black.

    `white` is the scene's (see `white_of`), so that all windows of a scene look alike; without it, the window's own.
    """
    white = white_of(cube_CHW, wl_C, valid_HW) if white is None else white
    rgb_3N, rule = _linear(cube_CHW.reshape(len(cube_CHW), -1), wl_C)
    rgb = rgb_3N.T.reshape(*valid_HW.shape, 3)
    linear = np.clip(rgb / np.maximum(white, 1e-12), 0, 1) * valid_HW[..., None]
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(gamma * 255).astype(np.uint8), rule


def companion_rgb(pixels_HW3: Array) -> NDArray[np.uint8]:
    """A dataset's own picture in 8 bits; one of another type is scaled so that its largest value is white."""
    if pixels_HW3.dtype == np.uint8:
        return pixels_HW3
    values = np.nan_to_num(pixels_HW3.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(np.clip(values / max(float(values.max()), 1e-12), 0, 1) * 255).astype(np.uint8)
