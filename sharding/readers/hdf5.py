"""HDF5, and the MATLAB v7.3 files that are HDF5: a dataset by name, or the largest 3-D one, read by slices.

MATLAB stores its arrays column by column, so h5py shows their axes in reverse order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import Array, RawCube, choose_cube, vector_names
from sharding.readers.lazy import LazyCube

CHUNK_CACHE_BYTES = 64 << 20
LARGEST_CHUNK_BYTES = 1 << 30


def _arrays(file: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every numeric array in the file itself; links to elsewhere are not followed."""
    found: dict[str, tuple[int, ...]] = {}

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf":
            found[name] = item.shape

    file.visititems(look)
    return found


def _dataset(file: Any, name: str, path: Path) -> Any:
    """A dataset whose values lie in this very file, in chunks that can be held."""
    dataset = file[name]
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{path}: the values of {name!r} lie in another file, which is not followed")
    chunk = int(np.prod(dataset.chunks or (0,), dtype=np.float64)) * dataset.dtype.itemsize
    if chunk > LARGEST_CHUNK_BYTES:
        raise InputError(f"{path}: {name!r} is stored in chunks of {chunk} bytes, which cannot be read in parts")
    return dataset


def _mask(row: Row, file: Any, path: Path, plane: str) -> Any:
    if row.valid_variable is None:
        return None
    if row.valid_variable not in file:
        raise InputError(f"{path} has no mask {row.valid_variable!r}; mend valid_variable in row {row.key}")
    mask = np.asarray(_dataset(file, row.valid_variable, path)[()]) != 0
    return mask if plane.index("h") < plane.index("w") else mask.T


def read_dataset(path: Path, name: str) -> Array | None:
    """A whole array by its name, in the axes that h5py shows, or None if there is none."""
    with h5py.File(path, "r") as file:
        return np.asarray(_dataset(file, name, path)[()]) if name in _arrays(file) else None


def open_hdf5(row: Row, path: Path, axes: str | None = None) -> RawCube:
    """Open an HDF5 scene; pixels are read when asked.

    Args:
        row: its axes are the order that h5py shows, unless `axes` is given.
        path: the file.
        axes: order of the axes on disk, for MATLAB files.
    """
    axes = axes or row.axes
    file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    arrays = _arrays(file)
    cube = LazyCube(_dataset(file, choose_cube(row, path, arrays), path), axes)
    vectors = [name for name in vector_names(row) if name in arrays][:1]
    wavelength = np.ravel(_dataset(file, vectors[0], path)[()]).astype(float) if vectors else None
    return RawCube(
        cube,
        (path,),
        wavelength_nm=None if wavelength is None else tuple(wavelength.tolist()),
        valid_HW=_mask(row, file, path, axes),
    )
