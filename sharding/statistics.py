"""What one pass over a raw scene tells: extremes, mean and spread of every band, invalid and saturated pixels.

A pass goes in strips of rows of some megabytes, so memory does not follow the scene. Sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.readers import Array, RawCube
from sharding.readers.lazy import LazyCube

BLOCK_ROWS = 256
STRIP_BYTES = 32 << 20
FULL_SCALES = tuple(float((1 << bits) - 1) for bits in (8, 10, 12, 14, 16))


@dataclass
class Statistics:
    """Of the valid pixels of a scene, in the values of its file: per band [B], and the mask [H, W].

    `full_scale` is the highest value, if an integer camera of 8 to 16 bits ends there.
    """

    low_B: Array
    high_B: Array
    mean_B: Array
    std_B: Array
    valid_HW: Array
    full_scale: float | None

    def attributes(self, scale: float, offset: float) -> dict[str, Any]:
        """What goes beside the cube, in physical values."""
        low, high = self.low_B * scale + offset, self.high_B * scale + offset
        return {
            "min": np.minimum(low, high).tolist(),
            "max": np.maximum(low, high).tolist(),
            "mean": (self.mean_B * scale + offset).tolist(),
            "std": (self.std_B * abs(scale)).tolist(),
        }


def blocks(height: int) -> Iterator[slice]:
    """The rows of a scene in the blocks that are written at once."""
    for start in range(0, height, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, height))


def strips(raw: RawCube, rows: slice) -> Iterator[tuple[slice, Array]]:
    """(rows, pixels) of some rows, in strips that are small even in float64.

    A container that is read in chunks is asked once for all the rows, since strips would unpack its chunks again.
    """
    _, width, bands = raw.shape_HWB
    step = max(1, STRIP_BYTES // (8 * width * bands))
    whole = raw.read(rows) if isinstance(raw.base_HWX, LazyCube) else None
    for start in range(rows.start, rows.stop, step):
        part = slice(start, min(start + step, rows.stop))
        yield part, raw.read(part) if whole is None else whole[part.start - rows.start : part.stop - rows.start]


def _invalid(block: Array, nodata: float | None) -> Array:
    """Pixels that are not finite in some band, or missing in every band."""
    bad = ~np.isfinite(block).all(-1) if block.dtype.kind == "f" else np.zeros(block.shape[:2], bool)
    if nodata is not None:
        bad |= (block == np.asarray(nodata).astype(block.dtype)).all(-1)
    return np.asarray(bad)


def survey(raw: RawCube, nodata: float | None) -> Statistics:
    """Go over a scene once.

    Raises:
        InputError: a mask of another size, or no valid pixel at all.
    """
    height, width, bands = raw.shape_HWB
    low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
    total, square, count = np.zeros(bands), np.zeros(bands), 0
    valid = np.ones((height, width), bool) if raw.valid_HW is None else raw.valid_HW.astype(bool).copy()
    if valid.shape != (height, width):
        raise InputError(f"{raw.sources[0]}: the valid mask is {valid.shape}, the cube {(height, width)}")
    for rows in blocks(height):
        for part, block in strips(raw, rows):
            valid[part] &= ~_invalid(block, nodata)
            pixels = block.reshape(-1, bands) if valid[part].all() else block[valid[part]]
            if len(pixels):
                low, high = np.minimum(low, pixels.min(0)), np.maximum(high, pixels.max(0))
                wide = pixels.astype(np.float64)
                total, square = total + wide.sum(0), square + np.einsum("nb,nb->b", wide, wide)
                count += len(pixels)
    if not count:
        raise InputError(f"{raw.sources[0]}: no pixel is valid (all are NaN, missing or masked)")
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean * mean, 0.0))
    full = float(high.max()) if raw.dtype.kind in "iu" and float(high.max()) in FULL_SCALES else None
    return Statistics(low, high, mean, std, valid, full)
