"""MATLAB files, v5 and v7.3: the largest 3-D array or a named one, with vectors and masks beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import Array, RawCube, as_hwb, choose_cube, vector_names
from sharding.readers.mat5 import list_arrays, read_array

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether a .mat is of version 7.3: the HDF5 signature after MATLAB's own 512 bytes, or at once."""
    with path.open("rb") as file:
        start = file.read(520)
    return HDF5_SIGNATURE in (start[:8], start[512:])


def read_variable(path: Path, name: str) -> Array | None:
    """An array beside the cube, in the axes that MATLAB shows, or None if there is none of that name."""
    if is_hdf5(path):
        from sharding.readers.hdf5 import read_dataset

        stored = read_dataset(path, name)
        return None if stored is None else stored.T
    arrays = list_arrays(path)
    return read_array(path, arrays[name]) if name in arrays else None


def open_mat(row: Row, path: Path) -> RawCube:
    """Open a MATLAB scene by the axes that MATLAB shows.

    v7.3 is read by slices, plain v5 is mapped, packed v5 is in memory after this. Values keep the type that they
    have on disk, which may be smaller than their class in MATLAB.
    """
    if is_hdf5(path):
        from sharding.readers.hdf5 import open_hdf5

        return open_hdf5(row, path, row.axes[::-1])
    arrays = list_arrays(path)
    name = choose_cube(row, path, {name: array.shape for name, array in arrays.items()})
    vectors = [vector for vector in vector_names(row) if vector in arrays][:1]
    if row.valid_variable and row.valid_variable not in arrays:
        raise InputError(f"{path} has no mask {row.valid_variable!r}; mend valid_variable in row {row.key}")
    wavelength = np.ravel(read_array(path, arrays[vectors[0]])).astype(float) if vectors else None
    return RawCube(
        as_hwb(read_array(path, arrays[name]), row.axes),
        (path,),
        wavelength_nm=None if wavelength is None else tuple(wavelength.tolist()),
        valid_HW=read_array(path, arrays[row.valid_variable]) != 0 if row.valid_variable else None,
    )
