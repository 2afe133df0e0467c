"""What an actor does: look at one window of a scene with the segmenters.

Two windows are in hand at a time, in threads: one is read and rendered while the models work on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from pseudolabel.classical import spatial_regions, spectral_regions
from pseudolabel.config import PseudolabelConfig
from pseudolabel.descriptors import Array, Features, ShapeBasis, describe_pixels, fit_basis
from pseudolabel.windows import Window, inside
from sharding.planes import Planes
from sharding.render import companion_rgb, render_rgb, white_of
from sharding.store import Cube, open_cube

SURVEY_BYTES = 192 << 20
SURVEY_BLOCKS = 4


@dataclass(frozen=True)
class Survey:
    """What is the same for all windows of a scene: the basis of its spectra, the white of its picture."""

    basis: ShapeBasis
    white: Array


@dataclass(frozen=True)
class Looked:
    """One window: label maps of both sources, and the features and picture that the fusion needs."""

    window: Window
    spatial: Array
    spectral: Array
    shape_HWK: Array
    brightness_HW: Array
    rgb: Array
    rgb_rule: str
    basis: ShapeBasis


def good_pixels(planes: Planes, cube: Cube, valid: Array) -> Array:
    """Physical values [C, H, W] of the good bands, 0 where invalid."""
    return planes.physical(cube.good_band) * valid


def survey(cube: Cube, denoise: bool) -> Survey:
    """From whole rows: all of a small scene, else four blocks of them, evenly spread, up to 192 MB.

    The result is a function of the scene alone, not of the window that is looked at.
    """
    bands, height, width = cube.shape_CHW
    rows = max(SURVEY_BLOCKS, SURVEY_BYTES // (4 * bands * width))
    if rows >= height:
        parts = [slice(0, height)]
    else:
        size = rows // SURVEY_BLOCKS
        starts = np.linspace(0, height - size, SURVEY_BLOCKS).astype(int).tolist()
        parts = [slice(start, start + size) for start in starts]
    valid = np.concatenate([cube.valid(part) for part in parts])
    if not valid.any():
        valid = np.ones_like(valid)
    pixels = np.concatenate([good_pixels(cube.window(part), cube, cube.valid(part)) for part in parts], 1)
    wl_C = cube.wavelength_nm[cube.good_band]
    return Survey(fit_basis(pixels, wl_C, valid, denoise=denoise), white_of(pixels, wl_C, valid))


@lru_cache(maxsize=4)
def _survey_of(path: Path, denoise: bool) -> Survey:
    return survey(open_cube(path), denoise)


class LabelWorker:
    """Holds the segmenters; looks at one window per call."""

    def __init__(self, config: PseudolabelConfig, threads: int = 1) -> None:
        self.config = config
        self.lock = Lock()
        if config.segmenters == "models":
            import torch

            from pseudolabel.spatial import Sam2Masks
            from pseudolabel.spectral import HyperfreeMasks

            torch.set_num_threads(threads)
            device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
            self.sam2, self.hyperfree = Sam2Masks(config.sam2, device), HyperfreeMasks(config.hyperfree, device)

    def segment(self, pixels: Array, cube: Cube, rgb: Array, valid: Array, features: Features) -> tuple[Array, Array]:
        """(spatial, spectral) label maps of one window of the good bands of a cube."""
        if self.config.segmenters == "classical":
            spatial = spatial_regions(rgb, valid, self.config.classical)
            return spatial, spectral_regions(features.shape_HWK, valid, self.config.classical)
        wl_C = cube.wavelength_nm[cube.good_band]
        spectral = self.hyperfree(pixels / cube.maximum, wl_C, float(cube.attrs["gsd_m"]), valid)
        return self.sam2(rgb, valid), spectral

    def make(self, path: Path, window: Window) -> Looked | None:
        """Look at a window of an ingested scene; None if no pixel of it is valid.

        Raises:
            InputError: the cube cannot be read.
        """
        cube = open_cube(path)
        place = inside(window)
        valid = cube.valid(*place)
        if not valid.any():
            return None
        pixels = good_pixels(cube.window(*place), cube, valid)
        told = _survey_of(path, self.config.fusion.denoise)
        rgb, rule = picture_of(cube, window, pixels, valid, told.white)
        features = describe_pixels(pixels, rgb, valid, told.basis)
        with self.lock:
            spatial, spectral = self.segment(pixels, cube, rgb, valid, features)
        planes = (features.shape_HWK, features.brightness_HW, rgb)
        return Looked(window, spatial.astype(np.int32), spectral.astype(np.int32), *planes, rule, told.basis)


def picture_of(cube: Cube, window: Window, pixels: Array, valid: Array, white: Array) -> tuple[Array, str]:
    """RGB of a window and where it is from: the dataset's own picture if it lies pixel on pixel over the cube."""
    own = cube.companion("rgb", *inside(window))
    if own is None:
        return render_rgb(pixels, cube.wavelength_nm[cube.good_band], valid, white)
    return companion_rgb(own) * valid[..., None], "companion"
