"""numpy's own files: `.npy` is mapped, a member of an `.npz` is unpacked into memory. Never pickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import LARGEST_RATIO, Array, RawCube, as_hwb


def _as_cube(row: Row, path: Path, array: Any) -> RawCube:
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise InputError(f"{path} holds a {array.dtype} array of shape {array.shape}, not a cube; mend its row")
    return RawCube(as_hwb(array, row.axes), (path,))


def open_npy(row: Row, path: Path) -> RawCube:
    """Open a `.npy` scene, mapped."""
    return _as_cube(row, path, np.load(path, mmap_mode="r", allow_pickle=False))


def open_npz(row: Row, path: Path) -> RawCube:
    """Open a member of an `.npz`: the one that `variable` names, or the only one.

    A packed member is in memory after this; a file that asks for more than its bytes can hold is refused.
    """
    with zipfile.ZipFile(path) as archive:
        names = _members(archive)
        name = row.variable or (next(iter(names)) if len(names) == 1 else None)
        if name not in names:
            raise InputError(
                f"{path} has no array {name or ''!r} (it holds {', '.join(names) or 'nothing'}); "
                f"name one with variable in row {row.key}"
            )
        return _as_cube(row, path, _member(path, archive, names[name]))


def read_member(path: Path, name: str) -> Array | None:
    """A whole array of an `.npz` by its name, or None if there is none."""
    with zipfile.ZipFile(path) as archive:
        names = _members(archive)
        return _member(path, archive, names[name]) if name in names else None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {Path(info.filename).stem: info for info in archive.infolist() if info.filename.endswith(".npy")}


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    name = Path(info.filename).stem
    if info.file_size > LARGEST_RATIO * max(info.compress_size, 1):
        raise InputError(f"{path}: member {name} claims {info.file_size} bytes, more than its {info.compress_size}")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, fortran, dtype = read_header(stream)
        need = float(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        if dtype.hasobject or stream.tell() + need != info.file_size:
            raise InputError(f"{path}: member {name} is {dtype} {shape}, which its {info.file_size} bytes are not")
        return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if fortran else "C")
