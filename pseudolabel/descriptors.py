"""What pixels and regions are compared by: the shape of a spectrum without its noise, its brightness, its colour.

The basis is fitted once per scene, so that coordinates of all its windows mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
COMPONENTS = 6
NOISE_ROWS = 48


@dataclass(frozen=True)
class ShapeBasis:
    """Coordinates of L2-normalised spectra whose distances are those of denoised spectra (radians), and the way back.

    Noise-scaled PCA: bands are divided by their noise, the leading components kept, and the result expressed in an
    orthonormal basis of the un-scaled spectra, so that distances keep their units.
    """

    wl_B: Array
    mean_B: Array
    forward_BK: Array
    back_BK: Array

    def spectrum(self, coordinates_K: Array) -> Array:
        """The unit spectrum at some coordinates."""
        shape = self.mean_B + self.back_BK @ coordinates_K
        return np.asarray(shape / np.linalg.norm(shape))


@dataclass(frozen=True)
class Features:
    """Of every pixel of a scene or window: shape coordinates, brightness (norm of its spectrum), Lab / 100."""

    shape_HWK: Array
    brightness_HW: Array
    colour_HW3: Array
    basis: ShapeBasis


def noise_B(shape_HWB: Array) -> Array:
    """Noise of each band from differences of horizontal neighbours (median, so that edges do not count)."""
    rows = shape_HWB[:: max(1, shape_HWB.shape[0] // NOISE_ROWS)]
    step = np.abs(np.diff(rows, axis=1)).reshape(-1, shape_HWB.shape[-1])
    return np.asarray(np.median(step, axis=0) / 0.954 + 1e-6)


def _unit(cube_CHW: Array, valid_HW: Array) -> tuple[Array, Array]:
    """(L2-normalised spectra [H, W, B], 0 where invalid; their norms [H, W])."""
    pixels = np.ascontiguousarray(np.moveaxis(cube_CHW, 0, -1), np.float32)
    norm_HW = np.linalg.norm(pixels, axis=-1)
    shape = np.where(valid_HW[..., None], pixels / np.maximum(norm_HW[..., None], 1e-12), 0.0)
    return shape, np.where(valid_HW, norm_HW, 0.0)


def fit_basis(
    cube_CHW: Array, wl_C: Array, valid_HW: Array, components: int = COMPONENTS, denoise: bool = True
) -> ShapeBasis:
    """The basis of a scene from some of its rows (whole rows: neighbours tell the noise)."""
    shape, _ = _unit(cube_CHW, valid_HW)
    bands = shape.shape[-1]
    scale_B = noise_B(shape) if denoise and shape.shape[1] > 1 else np.ones(bands)
    mean_B = shape[valid_HW].mean(0)
    flat = (shape[valid_HW] - mean_B) / scale_B
    _, vectors = np.linalg.eigh((flat.T @ flat).astype(np.float64))
    top_BK = vectors[:, ::-1][:, : min(components, bands)].astype(np.float32)
    q_BK, r_KK = np.linalg.qr(top_BK * scale_B[:, None])
    forward_BK = (top_BK / scale_B[:, None]) @ r_KK.T
    parts = (np.asarray(wl_C, float), mean_B, forward_BK, q_BK)
    return ShapeBasis(*(np.asarray(part, np.float32) for part in parts))


def describe_pixels(cube_CHW: Array, rgb_HW3: Array, valid_HW: Array, basis: ShapeBasis) -> Features:
    """The features of a window of the scene that `basis` was fitted on; 0 where invalid."""
    shape, brightness_HW = _unit(cube_CHW, valid_HW)
    coordinates = (shape - basis.mean_B) @ basis.forward_BK
    coordinates = np.where(valid_HW[..., None], coordinates, 0.0).astype(np.float32)
    return Features(coordinates, brightness_HW.astype(np.float32), colour(rgb_HW3), basis)


def features_of(cube_CHW: Array, wl_C: Array, rgb_HW3: Array, valid_HW: Array, *, denoise: bool = True) -> Features:
    """The features of a whole scene that fits in memory."""
    basis = fit_basis(cube_CHW, wl_C, valid_HW, denoise=denoise)
    return describe_pixels(cube_CHW, rgb_HW3, valid_HW, basis)


def colour(rgb_HW3: Array) -> Array:
    """CIE Lab / 100 of an sRGB picture."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(rgb_HW3) / 100.0, np.float32)
