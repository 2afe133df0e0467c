"""What one pass over a raw scene tells: extremes, mean and spread of every band, invalid and saturated pixels.

A pass goes in strips of rows of some megabytes, so memory does not follow the scene. Sums are float64.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.planes import as_planes
from sharding.readers import Array, RawCube
from sharding.readers.lazy import LazyCube

BLOCK_ROWS = 256
STRIP_BYTES = 16 << 20
FULL_SCALES = tuple(float((1 << bits) - 1) for bits in (8, 10, 12, 14, 16))


@dataclass
class Statistics:
    """Of the valid pixels of a scene, in the values of its file: per band [B], and masks [H, W].

    `full_scale` is the highest value, if an integer camera of 8 to 16 bits ends there; `saturated_HW` are the valid
    pixels that reach it in some band.
    """

    low_B: Array
    high_B: Array
    mean_B: Array
    std_B: Array
    valid_HW: Array
    saturated_HW: Array
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


def strips(raw: RawCube) -> Iterator[tuple[slice, slice, Array]]:
    """(rows of the block, rows of the strip, planes [B, h, W]) of a scene, in strips of some megabytes.

    A container that is read in chunks is asked for whole ones, or it would unpack them again. The next strip is read
    while the last is at work.
    """
    height, width, bands = raw.shape_HWB
    lazy = isinstance(raw.base_HWX, LazyCube)
    step = max(1, STRIP_BYTES // (raw.dtype.itemsize * width * bands))
    if isinstance(raw.base_HWX, LazyCube):
        step = -(-step // raw.base_HWX.chunk_rows) * raw.base_HWX.chunk_rows
    wanted = []
    for block in blocks(height):
        starts = range(block.start, block.stop, step)
        wanted += [(block, slice(start, min(start + step, block.stop))) for start in starts]
    raw.advise(mmap.MADV_SEQUENTIAL)
    fetch = raw.view if lazy else raw.planes
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(fetch, wanted[0][1])
        for index, (block, part) in enumerate(wanted):
            found = ahead.result()
            if index + 1 < len(wanted):
                ahead = pool.submit(fetch, wanted[index + 1][1])
            yield block, part, as_planes(found) if lazy else found
            raw.advise(mmap.MADV_DONTNEED)  # or a scene of any size would end up in memory


def _invalid(block_BHW: Array, nodata: float | None) -> Array:
    """Pixels that are not finite in some band, or missing in every band."""
    bad = np.zeros(block_BHW.shape[1:], bool)
    dtype = block_BHW.dtype
    with np.errstate(all="ignore"):
        if dtype.kind == "f" and not np.isfinite(np.add.reduce(block_BHW, 0)).all():  # NaN and inf survive a sum
            bad |= ~np.isfinite(block_BHW).all(0)
        missing = None if nodata is None else np.asarray(nodata).astype(dtype)
    if missing is not None and (dtype.kind == "f" or float(missing) == nodata):
        bad |= (block_BHW == missing).all(0)
    return bad


class Survey:
    """Takes a scene strip by strip, each once, and tells its statistics at the end."""

    def __init__(self, raw: RawCube, nodata: float | None) -> None:
        """Raises InputError: a valid mask of another size than the cube."""
        height, width, bands = raw.shape_HWB
        self.source, self.nodata = raw.sources[0] if raw.sources else "a cube in memory", nodata
        self.valid_HW = np.ones((height, width), bool) if raw.valid_HW is None else raw.valid_HW.astype(bool).copy()
        if self.valid_HW.shape != (height, width):
            raise InputError(f"{self.source}: the valid mask is {self.valid_HW.shape}, the cube {(height, width)}")
        self.integer = raw.dtype.kind in "iu"
        self.low_B, self.high_B = np.full(bands, np.inf), np.full(bands, -np.inf)
        self.total_B, self.square_B, self.count = np.zeros(bands), np.zeros(bands), 0
        self.wide = np.empty(0)
        self.top = -np.inf
        self.top_HW = np.zeros((height, width), bool)

    def add(self, part: slice, block_BHW: Array) -> None:
        """One strip: rows of the scene and their planes."""
        if len(self.wide) < block_BHW[0].size:
            self.wide = np.empty(block_BHW[0].size)
        valid = self.valid_HW[part]
        valid &= ~_invalid(block_BHW, self.nodata)
        whole = bool(valid.all())
        for band, plane in enumerate(block_BHW):
            values = plane.ravel() if whole else plane[valid]
            if not values.size:
                return
            self.low_B[band] = min(self.low_B[band], values.min())
            self.high_B[band] = max(self.high_B[band], values.max())
            wide = self.wide[: values.size]
            np.copyto(wide, values)
            self.total_B[band] += wide.sum()
            self.square_B[band] += np.einsum("n,n->", wide, wide)  # not BLAS, whose threads would wait for each other
        self.count += int(valid.sum())
        if self.integer:
            self._saturation(part, block_BHW, valid)

    def _saturation(self, part: slice, block_BHW: Array, valid: Array) -> None:
        """Remember the pixels at the highest value so far; a higher one forgets them."""
        if self.high_B.max() > self.top:
            self.top = float(self.high_B.max())
            self.top_HW[: part.start] = False
        if self.top in FULL_SCALES:
            self.top_HW[part] = (block_BHW == int(self.top)).any(0) & valid

    def finish(self) -> Statistics:
        """The statistics of all that was added.

        Raises:
            InputError: no pixel is valid.
        """
        if not self.count:
            raise InputError(f"{self.source}: no pixel is valid (all are NaN, missing or masked)")
        mean_B = self.total_B / self.count
        std_B = np.sqrt(np.maximum(self.square_B / self.count - mean_B * mean_B, 0.0))
        full = self.top if self.integer and self.top in FULL_SCALES else None
        saturated_HW = self.top_HW if full is not None else np.zeros_like(self.top_HW)
        return Statistics(self.low_B, self.high_B, mean_B, std_B, self.valid_HW, saturated_HW, full)
