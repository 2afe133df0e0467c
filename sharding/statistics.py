"""What one pass over a raw scene tells: extremes, mean and spread of every band, invalid and saturated pixels.

A pass goes in strips of rows of some megabytes, so memory does not follow the scene. Sums are float64.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.planes import as_planes
from sharding.readers import Array, RawCube
from sharding.readers.lazy import LazyCube

BLOCK_ROWS, LEAST_ROWS = 256, 16
BLOCK_BYTES = 160 << 20
STRIP_BYTES = 16 << 20
PIECE = 1 << 16
FULL_SCALES = tuple(float((1 << bits) - 1) for bits in (8, 10, 12, 14, 16))


@dataclass
class Statistics:
    """Of the valid pixels of a scene, in the values of its file: per band [B], and masks [H, W].

    `invalid_share_B` is the share of pixels without a value in a band; a pixel is valid if it has one in all.
    `saturated_HW` are the valid pixels that reach the highest value in some band, if an integer camera of 8 to 16 bits
    ends there.
    """

    low_B: Array
    high_B: Array
    mean_B: Array
    std_B: Array
    invalid_share_B: Array
    valid_HW: Array
    saturated_HW: Array

    @property
    def dead_B(self) -> Array:
        """Bands that hold one value everywhere."""
        return np.asarray(self.low_B >= self.high_B)

    def attributes(self, scale: float, offset: float) -> dict[str, Any]:
        """What goes beside the cube, in physical values."""
        low, high = self.low_B * scale + offset, self.high_B * scale + offset
        return {
            "min": np.minimum(low, high).tolist(),
            "max": np.maximum(low, high).tolist(),
            "mean": (self.mean_B * scale + offset).tolist(),
            "std": (self.std_B * abs(scale)).tolist(),
            "invalid_share": self.invalid_share_B.tolist(),
        }


def block_rows(row_bytes: int) -> int:
    """Rows that are written at once: 256, or fewer where those of a wide scene of many bands would fill the memory."""
    rows = BLOCK_ROWS
    while rows > LEAST_ROWS and rows * row_bytes > BLOCK_BYTES:
        rows //= 2
    return rows


def blocks(height: int, rows: int) -> Iterator[slice]:
    """The rows of a scene in blocks."""
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def strips(
    raw: RawCube, rows: int = BLOCK_ROWS, room: Callable[[slice, slice], Array] | None = None
) -> Iterator[tuple[slice, slice, Array]]:
    """(rows of the block, rows of the strip, planes [B, h, W]) of a scene, in blocks of `rows` and strips of megabytes.

    A container that is read in chunks is asked for whole ones, or it would unpack them again, and for the next strip
    while the last is at work; the system reads ahead in a mapped one. `room` gives the place for the planes of a
    strip, else they are in fresh memory.
    """
    height, width, bands = raw.shape_HWB
    step = max(1, STRIP_BYTES // (raw.dtype.itemsize * width * bands))
    if isinstance(raw.base_HWX, LazyCube):
        step = -(-step // raw.base_HWX.chunk_rows) * raw.base_HWX.chunk_rows
    wanted = []
    for block in blocks(height, rows):
        starts = range(block.start, block.stop, step)
        wanted += [(block, slice(start, min(start + step, block.stop))) for start in starts]
    raw.advise(mmap.MADV_SEQUENTIAL)
    fetch = raw.view if raw.basis is None else raw.planes
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(fetch, wanted[0][1])
        for index, (block, part) in enumerate(wanted):
            found = ahead.result()
            if index + 1 < len(wanted):
                ahead = pool.submit(fetch, wanted[index + 1][1])
            yield block, part, found if raw.basis else as_planes(found, room and room(block, part))
            raw.advise(mmap.MADV_DONTNEED)  # or a scene of any size would end up in memory


def _missing(block_BHW: Array, nodata: float | None) -> Array | None:
    """Pixels [h, W] that hold `nodata` in every band, or None if there can be none."""
    if nodata is None:
        return None
    with np.errstate(all="ignore"):
        missing = np.asarray(nodata).astype(block_BHW.dtype)
    if block_BHW.dtype.kind != "f" and float(missing) != nodata:
        return None
    return np.asarray((block_BHW == missing).all(0))


def _not_finite(block_BHW: Array) -> Array | None:
    """Values [B, h, W] that are not finite, or None if all are."""
    if block_BHW.dtype.kind != "f":
        return None
    with np.errstate(all="ignore"):
        finite = bool(np.isfinite(np.add.reduce(block_BHW, 0)).all())  # NaN and inf survive a sum
    return None if finite else ~np.isfinite(block_BHW)


def _sums(values_BN: Array) -> tuple[Array, Array]:
    """Sums of values and of their squares [B], in float64."""
    if values_BN.dtype.kind in "iu" and values_BN.dtype.itemsize <= 2:
        return _integer_sums(values_BN)
    # Cast on the way, without a copy; not by BLAS, whose threads would wait for each other.
    squares = np.einsum("bn,bn->b", values_BN, values_BN, dtype=np.float64, casting="unsafe")
    return values_BN.sum(1, dtype=np.float64), squares


def _integer_sums(values_BN: Array) -> tuple[Array, Array]:
    """The same, exact, for integers of up to 16 bits: in 32 bits, in pieces that can neither overflow nor leave the
    processor's cache.
    """
    signed = values_BN.dtype.kind == "i"
    room = np.empty(PIECE, np.int32 if signed else np.uint32)
    wide = np.int64 if signed else np.uint64
    sums = np.zeros((2, len(values_BN)))
    for band, values in enumerate(values_BN):
        for start in range(0, len(values), PIECE):
            piece = room[: min(PIECE, len(values) - start)]
            np.copyto(piece, values[start : start + PIECE])
            sums[0, band] += int(piece.sum(dtype=wide if signed else room.dtype))
            np.multiply(piece, piece, out=piece)
            sums[1, band] += int(piece.sum(dtype=wide))
    return sums[0], sums[1]


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
        self.invalid_B = np.zeros(bands)
        self.top = -np.inf
        self.top_HW = np.zeros((height, width), bool)

    def add(self, part: slice, block_BHW: Array) -> None:
        """One strip: rows of the scene and their planes."""
        valid = self.valid_HW[part]
        missing, broken = _missing(block_BHW, self.nodata), _not_finite(block_BHW)
        if missing is not None:
            valid &= ~missing
        if broken is None:
            self.invalid_B += valid.size - int(valid.sum())
        else:
            self.invalid_B += (broken | ~valid).sum((1, 2))
            valid &= ~broken.any(0)
        values_BN = block_BHW.reshape(len(block_BHW), -1) if valid.all() else block_BHW[:, valid]
        if not values_BN.size:
            return
        self.low_B = np.minimum(self.low_B, values_BN.min(1))
        self.high_B = np.maximum(self.high_B, values_BN.max(1))
        total_B, square_B = _sums(values_BN)
        self.total_B += total_B
        self.square_B += square_B
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
        share_B = self.invalid_B / self.valid_HW.size
        return Statistics(self.low_B, self.high_B, mean_B, std_B, share_B, self.valid_HW, self.top_HW)
