"""MATLAB files, v5 and v7.3: the only largest 3-D array or a named one, with vectors and masks beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.attributes import with_beside
from sharding.readers.choosing import Held, choose_cube, find_vector
from sharding.readers.mat5 import Variable, list_arrays, read_array
from sharding.readers.matrix import cube_shape
from sharding.readers.meaning import Meaning
from sharding.readers.raw import Array, RawCube, as_hwb

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
    others: dict[str, str] = {}
    arrays = list_arrays(path, others)
    held = {name: Held(array.shape, array.dtype.name) for name, array in arrays.items()}
    held |= {name: Held((), "", words) for name, words in others.items()}
    name, choice = choose_cube(row, path, held)
    vector, untold = find_vector(row, held, path)
    wavelength = np.ravel(read_array(path, arrays[vector])).astype(float) if vector else None
    cube = read_array(path, arrays[name])
    if row.shape is not None:
        cube = cube.reshape(cube_shape(cube.shape, row.shape, row.axes, path), order="F")
    raw = RawCube(
        as_hwb(cube, row.axes),
        (path,),
        wavelength_nm=None if wavelength is None else tuple(wavelength.tolist()),
        valid_HW=_mask(row, path, arrays),
        note=choice,
        variable=name,
        untold=untold,
    )
    used = {name, vector, row.valid_variable or ""}
    read = partial(_read, path, arrays)
    return with_beside(Meaning(), held, read, raw.shape_HWB[2], used).over(raw)


def _mask(row: Row, path: Path, arrays: Mapping[str, Variable]) -> Array | None:
    if not row.valid_variable:
        return None
    if row.valid_variable not in arrays:
        raise InputError(f"{path} has no mask {row.valid_variable!r}; mend valid_variable in row {row.key}")
    mask = read_array(path, arrays[row.valid_variable]) != 0
    return np.asarray(mask if row.axes.index("h") < row.axes.index("w") else mask.T)


def _read(path: Path, arrays: Mapping[str, Variable], name: str) -> Array:
    return read_array(path, arrays[name])
