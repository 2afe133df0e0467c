"""A stored array that is read by slicing (HDF5): seen as (height, width, band), turned, without reading it.

Turns of the image plane are kept as one transposition and two flips, and undone on the slices that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _stored_slice(wanted: slice, length: int, flip: bool) -> tuple[slice, bool]:
    """The slice to read of a flipped axis, and whether to turn its result round."""
    index = range(length)[wanted]
    if len(index) == 0:
        return slice(0, 0), False
    first, last = sorted((index[0], index[-1]))
    step = abs(index.step)
    backwards = index.step < 0
    if flip:
        first, last, backwards = length - 1 - last, length - 1 - first, not backwards
    return slice(first, last + 1, step), backwards


def _runs(bands: Array) -> list[slice]:
    """Neighbouring bands as slices, in the given order."""
    cuts = np.flatnonzero(np.diff(bands) != 1) + 1
    return [slice(int(part[0]), int(part[-1]) + 1) for part in np.split(bands, cuts)]


@dataclass(frozen=True)
class LazyCube:
    """An array with `shape`, `dtype` and slicing, whose axes on disk are named by `axes` (letters h, w, b)."""

    array: Any
    axes: str
    swap: bool = False
    flip_rows: bool = False
    flip_cols: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, bands after the turns."""
        height, width, bands = (int(self.array.shape[self.axes.index(letter)]) for letter in "hwb")
        return (width, height, bands) if self.swap else (height, width, bands)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return np.dtype(self.array.dtype)  # type: ignore[no-any-return]

    @property
    def chunk_rows(self) -> int:
        """Rows after the turns that share a chunk: fewer at once would unpack chunks again. 1 if there are none."""
        chunks = getattr(self.array, "chunks", None)
        return 1 if chunks is None else int(chunks[self.axes.index("w" if self.swap else "h")])

    def turned(self, op: str) -> LazyCube:
        """The same after one more turn of the image plane (a name of `catalog.SPATIAL_OPS`)."""
        if op == "fliplr":
            return replace(self, flip_cols=not self.flip_cols)
        if op == "flipud":
            return replace(self, flip_rows=not self.flip_rows)
        swapped = replace(self, swap=not self.swap, flip_rows=self.flip_cols, flip_cols=self.flip_rows)
        after = {"transpose": None, "rot90cw": "fliplr", "rot90ccw": "flipud"}[op]
        return swapped if after is None else swapped.turned(after)

    def read(self, rows: slice, cols: slice, bands: Any) -> Array:
        """A window and some bands as (h, w, b); nothing else is read but what shares their chunks."""
        height, width, count = self.shape
        row, rows_back = _stored_slice(rows, height, self.flip_rows)
        col, cols_back = _stored_slice(cols, width, self.flip_cols)
        plane = {"h": col, "w": row} if self.swap else {"h": row, "w": col}
        chosen = [bands] if isinstance(bands, slice) else _runs(np.arange(count)[np.asarray(bands)])
        order = [self.axes.index(letter) for letter in ("whb" if self.swap else "hwb")]
        parts = [np.transpose(self.array[tuple({**plane, "b": one}[a] for a in self.axes)], order) for one in chosen]
        window = parts[0] if len(parts) == 1 else np.concatenate(parts, 2)
        return window[:: -1 if rows_back else 1, :: -1 if cols_back else 1]
