"""numpy's own files: `.npy` is mapped, a member of an `.npz` is unpacked into memory. Never pickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.attributes import with_beside
from sharding.readers.choosing import Held, choose_cube, find_vector
from sharding.readers.matrix import cube_shape
from sharding.readers.meaning import Meaning
from sharding.readers.raw import LARGEST_RATIO, Array, RawCube, as_hwb

NPY = ".npy"


def _as_cube(row: Row, path: Path, array: Any) -> Any:
    """An array as [H, W, B]."""
    if row.shape is not None and array.ndim == 1:  # one list of values
        pixels = row.shape[0] * row.shape[1]
        if array.size % pixels:
            raise InputError(
                f"{path} is a list of {array.size} values, which shape {row.shape} does not divide; mend shape"
            )
        array = array.reshape((-1, pixels) if row.axes[0] == "b" else (pixels, -1))
    if row.shape is not None and array.ndim == 2:
        array = array.reshape(cube_shape(array.shape, row.shape, row.axes, path))
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        hint = "give shape: [height, width] if it is bands x pixels; " if array.ndim == 2 else ""
        raise InputError(f"{path} holds a {array.dtype} array of shape {array.shape}, not a cube; {hint}mend its row")
    return as_hwb(array, row.axes)


def open_npy(row: Row, path: Path) -> RawCube:
    """Open a `.npy` scene, mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise InputError(f"{path} holds Python objects, which are never unpickled; save a plain array") from error
        raise
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is an .npz under another name; set container: npz in row {row.key}")
    return RawCube(_as_cube(row, path, array), (path,))


def open_npz(row: Row, path: Path) -> RawCube:
    """Open a member of an `.npz`: the one that `variable` names, or the only one.

    A packed member is in memory after this; a file that asks for more than its bytes can hold is refused.
    """
    with zipfile.ZipFile(path) as archive:
        members = _members(archive)
        held = _held(path, archive, members)
        name, choice = choose_cube(row, path, held)
        cube = _as_cube(row, path, _member(path, archive, name, members[name]))
        vector, untold = find_vector(row, held, path)
        axis = np.ravel(_member(path, archive, vector, members[vector])).astype(float) if vector else None
        mask = _mask(row, path, archive, members)
        used = {name, vector, row.valid_variable or ""}
        read = partial(_named, path, archive, members)
        meaning = with_beside(Meaning(), held, read, cube.shape[2], used)
    wavelength_nm = None if axis is None else tuple(axis.tolist())
    raw = RawCube(cube, (path,), wavelength_nm, valid_HW=mask, note=choice, variable=name, untold=untold)
    return meaning.over(raw)


def _named(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> Array:
    return _member(path, archive, name, members[name])


def _mask(row: Row, path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Array | None:
    if row.valid_variable is None:
        return None
    if row.valid_variable not in members:
        raise InputError(f"{path} has no mask {row.valid_variable!r}; mend valid_variable in row {row.key}")
    mask = _member(path, archive, row.valid_variable, members[row.valid_variable]) != 0
    return np.asarray(mask if row.axes.index("h") < row.axes.index("w") else mask.T)


def read_member(path: Path, name: str) -> Array | None:
    """A whole array of an `.npz` by its name, or None if there is none."""
    with zipfile.ZipFile(path) as archive:
        members = _members(archive)
        found: Array | None = _member(path, archive, name, members[name]) if name in members else None
        return found


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Array name, folders and all -> member."""
    return {info.filename.removesuffix(NPY): info for info in archive.infolist() if info.filename.endswith(NPY)}


def _held(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, Held]:
    """Shape and type of every member."""
    found = {}
    for name, info in members.items():
        with archive.open(info) as stream:
            shape, _, dtype = _npy_header(path, name, stream)
        kind = "" if dtype.kind in "iuf" else f"{shape} of {dtype.name if dtype.kind != 'O' else 'object'}, no numbers"
        found[name] = Held(shape, dtype.name, kind)
    return found


def _npy_header(path: Path, name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if version[0] not in readers:
        raise InputError(f"{path}: member {name} is of npy format {version[0]}, which is not read")
    shape, fortran, dtype = readers[version[0]](stream)
    return tuple(shape), bool(fortran), dtype


def _member(path: Path, archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> Array:
    if info.file_size > LARGEST_RATIO * max(info.compress_size, 1):
        raise InputError(f"{path}: member {name} claims {info.file_size} bytes, more than its {info.compress_size}")
    with archive.open(info) as stream:
        shape, fortran, dtype = _npy_header(path, name, stream)
        need = float(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        if dtype.hasobject or stream.tell() + need != info.file_size:
            raise InputError(f"{path}: member {name} is {dtype} {shape}, which its {info.file_size} bytes are not")
        return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if fortran else "C")
