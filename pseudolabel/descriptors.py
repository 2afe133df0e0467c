"""What a pixel is compared by: its spectrum's shape with the noise taken out, and its colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
COMPONENTS = 6
NOISE_ROWS = 48


def noise_B(shape_HWB: Array) -> Array:
    """Noise of each band from differences of horizontal neighbours (median, so that edges do not count)."""
    rows = shape_HWB[:: max(1, shape_HWB.shape[0] // NOISE_ROWS)]
    step = np.abs(np.diff(rows, axis=1)).reshape(-1, shape_HWB.shape[-1])
    return np.asarray(np.median(step, axis=0) / 0.954 + 1e-6)


def spectral_shape(cube_CHW: Array, valid_HW: Array, components: int = COMPONENTS, denoise: bool = True) -> Array:
    """Coordinates (height, width, k) whose distances are those of L2-normalised, denoised spectra (radians).

    Noise-scaled PCA: bands are divided by their noise, the leading components kept, and the result expressed in
    an orthonormal basis of the un-scaled spectra, so that distances keep their units.
    """
    pixels = np.ascontiguousarray(np.moveaxis(cube_CHW, 0, -1), np.float32)
    norm = np.linalg.norm(pixels, axis=-1, keepdims=True)
    shape = np.where(valid_HW[..., None], pixels / np.maximum(norm, 1e-12), 0.0)
    keep = min(components, shape.shape[-1])
    scale_B = noise_B(shape) if denoise else np.ones(shape.shape[-1])
    mean_B = shape[valid_HW].mean(0)
    scaled = (shape - mean_B) / scale_B
    flat = scaled[valid_HW]
    _, vectors = np.linalg.eigh((flat.T @ flat).astype(np.float64))
    top_BK = vectors[:, ::-1][:, :keep].astype(np.float32)
    _, r_KK = np.linalg.qr(top_BK * scale_B[:, None])
    coordinates = (scaled @ top_BK) @ r_KK.T
    return np.where(valid_HW[..., None], coordinates, 0.0).astype(np.float32)


def colour(rgb_HW3: Array) -> Array:
    """CIE Lab / 100 of an sRGB picture."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(rgb_HW3) / 100.0, np.float32)
