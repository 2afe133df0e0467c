"""What one pass over a raw scene tells: extremes, mean and spread of every band, invalid and saturated pixels.

A pass goes in strips of rows of some megabytes, so memory does not follow the scene. Sums are float64.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.missing import Missing
from sharding.planes import as_planes
from sharding.readers import Array, RawCube
from sharding.readers.lazy import LazyCube

BLOCK_ROWS, LEAST_ROWS = 256, 16
BLOCK_BYTES = 160 << 20
STRIP_BYTES = 16 << 20
PIECE = 1 << 16
LEAST_SAMPLE, MOST_SAMPLE, SAMPLE_VALUES = 1000, 5000, 1_000_000
FULL_SCALES = tuple(float((1 << bits) - 1) for bits in (8, 10, 12, 14, 16))


@dataclass
class Statistics:
    """Of the valid pixels of a scene, in the values of its file: per band [B], and masks [H, W].

    `invalid_share_B` is the share of pixels without a value in a band; a pixel is valid if it has one in all live
    bands, those that have a value somewhere and that the file does not call bad. `saturated_HW` are the valid pixels
    that reach the highest value in some live band, if an integer camera of 8 to 16 bits ends there. Between `first_B`
    and `last_B` lie 98 % of the values other than the extremes, as far as a sample of the pixels tells; within
    `half_B` the middle half.
    """

    low_B: Array
    high_B: Array
    mean_B: Array
    std_B: Array
    invalid_share_B: Array
    valid_HW: Array
    saturated_HW: Array
    live_B: Array
    first_B: Array
    last_B: Array
    half_B: Array

    @property
    def dead_B(self) -> Array:
        """Bands that hold one value everywhere or none, or that the file calls bad."""
        return np.asarray((self.low_B >= self.high_B) | ~self.live_B)

    @property
    def spread_B(self) -> Array:
        """How far the values of each band reach but for the odd one."""
        spread_B = self.last_B - self.first_B
        return np.where(spread_B > 0, spread_B, self.std_B)

    def attributes(self, scale: Array, offset: Array) -> dict[str, Any]:
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


def find_live(raw: RawCube, missing: Missing) -> Array:
    """Bands [B] that count: not called bad by the file, and with a value somewhere.

    Read only as far as it takes, which is one strip of most scenes, and nothing where no value can be missing.

    Raises:
        InputError: there are none.
    """
    height, width, bands = raw.shape_HWB
    good_B = np.ones(bands, bool) if raw.bad is None else ~np.asarray(raw.bad, bool)
    source = raw.sources[0] if raw.sources else "a cube in memory"
    if not good_B.any():
        raise InputError(f"{source}: the file calls every band bad; mend its list of bad bands")
    if not missing.possible(raw.dtype):
        return good_B
    valid_HW = np.ones((height, width), bool) if raw.valid_HW is None else raw.valid_HW.astype(bool)
    live_B = np.zeros(bands, bool)
    for _, part, block_BHW in strips(raw):
        absent = missing.values(block_BHW)
        valid = valid_HW[part]
        live_B |= valid.any() if absent is None else (~absent & valid).any((1, 2))
        if live_B[good_B].all():
            break
    live_B &= good_B
    if not live_B.any():
        raise InputError(f"{source}: no pixel is valid (all are NaN, missing or masked)")
    return live_B


def _stride(height: int, width: int, bands: int) -> int:
    """Every how many pixels one is looked at, so that neither the picture's columns nor memory play a part."""
    stride = max(1, height * width // max(LEAST_SAMPLE, min(MOST_SAMPLE, SAMPLE_VALUES // bands)))
    while math.gcd(stride, width) > 1:
        stride += 1
    return stride


class Survey:
    """Takes a scene strip by strip, each once, and tells its statistics at the end."""

    def __init__(self, raw: RawCube, missing: Missing, live_B: Array | None = None) -> None:
        """Begin.

        Args:
            raw: the scene.
            missing: what marks a value as none.
            live_B: the bands that count (None = look for them first).

        Raises:
            InputError: a valid mask of another size than the cube, or no band with a value.
        """
        height, width, bands = raw.shape_HWB
        self.source, self.missing = raw.sources[0] if raw.sources else "a cube in memory", missing
        self.valid_HW = np.ones((height, width), bool) if raw.valid_HW is None else raw.valid_HW.astype(bool).copy()
        if self.valid_HW.shape != (height, width):
            raise InputError(f"{self.source}: the valid mask is {self.valid_HW.shape}, the cube {(height, width)}")
        self.live_B = find_live(raw, missing) if live_B is None else live_B
        self.integer = raw.dtype.kind in "iu"
        self.low_B, self.high_B = np.full(bands, np.inf), np.full(bands, -np.inf)
        self.total_B, self.square_B = np.zeros(bands), np.zeros(bands)
        self.count_B, self.invalid_B = np.zeros(bands), np.zeros(bands)
        self.top = -np.inf
        self.top_HW = np.zeros((height, width), bool)
        self.stride = _stride(height, width, bands)
        self.sample: list[Array] = []

    def add(self, part: slice, block_BHW: Array) -> None:
        """One strip: rows of the scene and their planes."""
        valid = self.valid_HW[part]
        absent = self.missing.values(block_BHW)
        if absent is None:
            self.invalid_B += valid.size - int(valid.sum())
        else:
            self.invalid_B += (absent | ~valid).sum((1, 2))
            valid &= ~(absent if self.live_B.all() else absent[self.live_B]).any(0)
        if not valid.any():
            return
        if self.live_B.all():
            self._values(slice(None), block_BHW.reshape(len(block_BHW), -1) if valid.all() else block_BHW[:, valid])
        else:
            self._values(self.live_B, block_BHW[self.live_B][:, valid])
            for band in np.flatnonzero(~self.live_B).tolist():
                there = valid if absent is None else valid & ~absent[band]
                self._values([band], block_BHW[band][there][None])
        if self.integer:
            self._saturation(part, block_BHW, valid)
        if not (self.integer and block_BHW.dtype.itemsize <= 2):  # of those, steps are chosen
            self._take_sample(part, block_BHW, valid)

    def _values(self, bands: Any, values_BN: Array) -> None:
        """Values of some bands into their extremes and sums."""
        if not values_BN.size:
            return
        self.low_B[bands] = np.minimum(self.low_B[bands], values_BN.min(1))
        self.high_B[bands] = np.maximum(self.high_B[bands], values_BN.max(1))
        total_B, square_B = _sums(values_BN)
        self.total_B[bands] += total_B
        self.square_B[bands] += square_B
        self.count_B[bands] += values_BN.shape[1]

    def _take_sample(self, part: slice, block_BHW: Array, valid: Array) -> None:
        """Every so many pixels, the same ones however a scene is cut into strips."""
        first = -(part.start * valid.shape[1]) % self.stride
        values_BN = block_BHW.reshape(len(block_BHW), -1)[:, first :: self.stride]
        self.sample.append(values_BN[:, valid.ravel()[first :: self.stride]].astype(np.float64))

    def _saturation(self, part: slice, block_BHW: Array, valid: Array) -> None:
        """Remember the pixels at the highest value so far; a higher one forgets them."""
        if self.high_B[self.live_B].max() > self.top:
            self.top = float(self.high_B[self.live_B].max())
            self.top_HW[: part.start] = False
        if self.top in FULL_SCALES:
            live_BHW = block_BHW if self.live_B.all() else block_BHW[self.live_B]
            self.top_HW[part] = (live_BHW == int(self.top)).any(0) & valid

    def finish(self) -> Statistics:
        """The statistics of all that was added.

        Raises:
            InputError: no pixel is valid.
        """
        if not self.valid_HW.any():
            raise InputError(
                f"{self.source}: no pixel is valid (none has a value in every band: NaN, missing or masked)"
            )
        there = self.count_B > 0
        low_B, high_B = np.where(there, self.low_B, 0.0), np.where(there, self.high_B, 0.0)
        count_B = np.maximum(self.count_B, 1)
        mean_B = self.total_B / count_B
        std_B = np.sqrt(np.maximum(self.square_B / count_B - mean_B * mean_B, 0.0))
        share_B = self.invalid_B / self.valid_HW.size
        return Statistics(
            low_B, high_B, mean_B, std_B, share_B, self.valid_HW, self.top_HW, self.live_B, *self._middle(low_B, high_B)
        )

    def _middle(self, low_B: Array, high_B: Array) -> tuple[Array, Array, Array]:
        """1st and 99th percentile, and distance of the quartiles, of what equals no extreme."""
        first_B, last_B, half_B = low_B.copy(), high_B.copy(), high_B - low_B
        if self.sample:
            for band, values in enumerate(np.concatenate(self.sample, 1)):
                inner = values[(values > low_B[band]) & (values < high_B[band])]
                if self.live_B[band] and inner.size:
                    first_B[band], low, high, last_B[band] = np.percentile(inner, (1, 25, 75, 99))
                    half_B[band] = high - low
        return first_B, last_B, half_B
