"""MATLAB files: the largest 3-D array or a named one, with vectors and masks beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat, whosmat

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import RawCube, vector_names

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
NUMERIC = {"double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "logical"}


def _cube_name(row: Row, path: Path, listing: list[Any]) -> str:
    arrays: dict[str, tuple[int, ...]] = {
        str(name): shape for name, shape, kind in listing if kind in NUMERIC and len(shape) == 3
    }
    if row.variable is not None:
        if row.variable not in arrays:
            found = ", ".join(f"{name} {shape}" for name, shape, _ in listing) or "nothing"
            raise InputError(f"{path} has no 3-D array {row.variable!r} (it holds {found}); mend variable in its row")
        return row.variable
    if not arrays:
        raise InputError(f"{path} holds no 3-D numeric array; name one with variable in row {row.key}")
    return max(arrays, key=lambda name: int(np.prod(arrays[name])))


def is_hdf5(path: Path) -> bool:
    """Whether a .mat is of version 7.3: the HDF5 signature after MATLAB's own 512 bytes, or at once."""
    with path.open("rb") as file:
        start = file.read(520)
    return HDF5_SIGNATURE in (start[:8], start[512:])


def open_mat(row: Row, path: Path) -> RawCube:
    """Open a MATLAB scene, v5 or v7.3 (HDF5), by the axes that MATLAB shows.

    v5 is packed as a whole, so its pixels are in memory after this; v7.3 is read by slices.
    """
    if is_hdf5(path):
        from sharding.readers.hdf5 import open_hdf5

        return open_hdf5(row, path, row.axes[::-1])
    listing = whosmat(str(path))
    cube_name = _cube_name(row, path, listing)
    beside = [name for name in vector_names(row) if name in {entry[0] for entry in listing}][:1]
    masks = [row.valid_variable] if row.valid_variable else []
    loaded = loadmat(str(path), variable_names=[cube_name, *beside, *masks], chars_as_strings=True)
    if row.valid_variable and row.valid_variable not in loaded:
        raise InputError(f"{path} has no mask {row.valid_variable!r}; mend valid_variable in row {row.key}")
    cube = loaded[cube_name]
    return RawCube(
        np.transpose(cube, [row.axes.index(letter) for letter in "hwb"]),
        (path,),
        wavelength_nm=tuple(np.ravel(loaded[beside[0]]).astype(float).tolist()) if beside else None,
        valid_HW=loaded[row.valid_variable] != 0 if row.valid_variable else None,
    )
