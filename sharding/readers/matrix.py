"""A matrix of bands x pixels seen as a cube, in whichever way its pixels are numbered, without reading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import InputError


def cube_shape(stored: Sequence[int], plane: Sequence[int], axes: str, path: Path) -> tuple[int, ...]:
    """Sizes in the order of `axes` of a matrix whose pixels fill a plane of [height, width].

    Raises:
        InputError: it does not have so many pixels where `axes` has them, or its bands would lie between its pixels.
    """
    height, width = plane
    if axes[1] == "b":
        raise InputError(f"{path}: axes {axes} of a bands x pixels matrix must have b first or last; mend axes")
    first = axes[0] == "b"
    pixels, bands = (stored[1], stored[0]) if first else (stored[0], stored[1])
    if pixels != height * width:
        raise InputError(
            f"{path}: the matrix is {tuple(stored)}, shape {list(plane)} with axes {axes} asks for "
            f"{height * width} pixels as its {'second' if first else 'first'} axis; mend shape or axes"
        )
    sizes = {"h": height, "w": width, "b": bands}
    return tuple(sizes[letter] for letter in axes)


@dataclass(frozen=True)
class Unfolded:
    """A stored matrix [pixels, bands] or [bands, pixels] as an array of three axes that is read by slices."""

    matrix: Any
    shape: tuple[int, ...]
    bands_first: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(self.matrix.dtype)  # type: ignore[no-any-return]

    @property
    def chunks(self) -> tuple[int, ...]:
        """Sides that are best read at once: every part of a line takes whole lines from the file."""
        lines = (1, -(-self.shape[-1 if self.bands_first else 1] // 8))
        return (self.shape[0], *lines) if self.bands_first else (*lines, self.shape[2])

    def __getitem__(self, wanted: tuple[slice, slice, slice]) -> Any:
        """A window: the run of pixels that holds its lines is read, and cut."""
        outer, inner, bands = (wanted[1], wanted[2], wanted[0]) if self.bands_first else wanted
        lines, length = (self.shape[1], self.shape[2]) if self.bands_first else (self.shape[0], self.shape[1])
        index = range(lines)[outer]
        if not len(index):
            return np.empty([len(range(side)[part]) for side, part in zip(self.shape, wanted, strict=True)], self.dtype)
        run = slice(index[0] * length, (index[-1] + 1) * length)
        step = slice(None, None, index.step)
        if self.bands_first:
            planes = self.matrix[bands, run]
            return planes.reshape(len(planes), -1, length)[:, step, inner]
        pixels = self.matrix[run, bands]
        return pixels.reshape(-1, length, pixels.shape[1])[step, inner]


def unfolded(dataset: Any, plane: Sequence[int] | None, axes: str, path: Path) -> Any:
    """A dataset as it is, or as the cube that its rows or columns of pixels make."""
    if plane is None:
        return dataset
    return Unfolded(dataset, cube_shape(dataset.shape, plane, axes, path), axes[0] == "b")
