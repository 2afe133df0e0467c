"""Which values of a scene are none: NaN, infinity, the file's fill values, what lies outside its limits. One thing.

Dead bands come first: a band that has no value anywhere, or that the file calls bad, says nothing about a pixel.
A pixel is valid if it has a value in every other band.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Missing:
    """What marks a value as none, in stored values.

    Fields:
        nodata: values that mean "none".
        limits: lowest and highest value that is one.
        bounds_B: the same per band, [2, B].
    """

    nodata: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None
    bounds_B: Array | None = None

    @classmethod
    def of(cls, nodata: float | Sequence[float] | None, limits: tuple[float, float] | None = None) -> Missing:
        """From one fill value, several or none."""
        values: Iterable[float] = () if nodata is None else np.atleast_1d(np.asarray(nodata, np.float64)).tolist()
        return cls(tuple(values), limits)

    def possible(self, dtype: np.dtype[Any]) -> bool:
        """Whether values of this type can be none at all."""
        fills = any(_fits(value, dtype) for value in self.nodata)
        return dtype.kind == "f" or fills or self.limits is not None or self.bounds_B is not None

    def values(self, block_BHW: Array) -> Array | None:
        """Where a block of planes has no value [B, h, W], or None if it has one everywhere."""
        marks = [_not_finite(block_BHW)]
        marks += [block_BHW == _cast(value, block_BHW.dtype) for value in self.nodata if _fits(value, block_BHW.dtype)]
        with np.errstate(invalid="ignore"):
            if self.limits is not None:
                marks += [block_BHW < self.limits[0], block_BHW > self.limits[1]]
            if self.bounds_B is not None:
                low_B, high_B = self.bounds_B[:, :, None, None]
                marks += [block_BHW < low_B, block_BHW > high_B]
        found: Array | None = None
        for mark in marks:
            if mark is not None and mark.any():
                found = mark if found is None else found | mark
        return found


def _cast(value: float, dtype: np.dtype[Any]) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(dtype)


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether a type can hold a fill value; NaN and infinity are none already."""
    if not np.isfinite(value):
        return False
    if dtype.kind == "f":
        return True
    info = np.iinfo(dtype)
    return value == int(value) and info.min <= int(value) <= info.max


def _not_finite(block_BHW: Array) -> Array | None:
    """Values [B, h, W] that are not finite, or None if all are."""
    if block_BHW.dtype.kind != "f":
        return None
    with np.errstate(all="ignore"):
        finite = bool(np.isfinite(np.add.reduce(block_BHW, 0)).all())  # NaN and inf survive a sum
    return None if finite else ~np.isfinite(block_BHW)
