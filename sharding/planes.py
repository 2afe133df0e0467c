"""A window of a cube as it is stored, and the one way from there to physical values.

    integers [C, H, W] with scale and offset      physical = stored * scale + offset, one for all bands or one per band
    float32 scores [D, H, W] of a low-rank cube   physical = mean + scores . coeff, for the bands that are asked for

A low-rank cube of 128 bands and 12 components is a tenth of its expanded size, on disk and on the way to training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PIECE_BYTES = 1 << 20
Basis = tuple[Array, Array]
"""(mean_B, coeff_DB), float32."""
PerBand = float | Sequence[float]
"""One number for all bands, or one per band."""


def of_bands(value: PerBand, bands: Any = slice(None)) -> Array:
    """A scale or offset of some bands as float32 that goes over their planes: [] or [K, 1, 1]."""
    numbers = np.asarray(value, np.float32)
    return numbers if numbers.ndim == 0 else numbers[bands][:, None, None]


def shortest(value_B: Any) -> PerBand:
    """The same as one number where all bands have the same, else as a list."""
    numbers = np.asarray(value_B, np.float64)
    return float(numbers.flat[0]) if (numbers == numbers.flat[0]).all() else [float(number) for number in numbers]


def expand_scores(scores_DHW: Array, basis: Basis, bands: Any = slice(None)) -> Array:
    """Bands [K, H, W] float32 of a low-rank window."""
    mean_B, coeff_DB = basis
    rank, height, width = scores_DHW.shape
    planes = coeff_DB[:, bands].T @ scores_DHW.reshape(rank, height * width)
    planes += mean_B[bands][:, None]
    return np.asarray(planes.reshape(-1, height, width))


def as_planes(window_HWB: Array, room_BHW: Array | None = None) -> Array:
    """A (b, h, w) copy of a (h, w, b) view, into `room_BHW` if given; in pieces that stay in the processor's cache."""
    height, width, bands = window_HWB.shape
    out = np.empty((bands, height, width), window_HWB.dtype.newbyteorder("=")) if room_BHW is None else room_BHW
    step = max(1, PIECE_BYTES // max(1, width * bands * out.itemsize))
    for start in range(0, height, step):
        out[:, start : start + step] = np.moveaxis(window_HWB[start : start + step], 2, 0)
    return out


@dataclass(frozen=True)
class Planes:
    """A stored window; X is the band axis, or the component axis if there is a basis (in physical units)."""

    stored_XHW: Array
    scale: PerBand = 1.0
    offset: PerBand = 0.0
    basis: Basis | None = None

    @property
    def shape_CHW(self) -> tuple[int, int, int]:
        """Bands, height, width."""
        stored, height, width = self.stored_XHW.shape
        return stored if self.basis is None else len(self.basis[0]), height, width

    def physical(self, bands: Any = slice(None)) -> Array:
        """Physical values float32 [K, H, W] of some bands."""
        if self.basis is not None:
            return expand_scores(self.stored_XHW, self.basis, bands)
        planes = self.stored_XHW[bands].astype(np.float32)
        return np.asarray(planes * of_bands(self.scale, bands) + of_bands(self.offset, bands))

    def padded(self, side: int) -> Planes:
        """The same with zeros below and to the right, up to a square."""
        _, height, width = self.stored_XHW.shape
        return replace(self, stored_XHW=np.pad(self.stored_XHW, ((0, 0), (0, side - height), (0, side - width))))
