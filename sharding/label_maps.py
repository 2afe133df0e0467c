"""Label maps as people publish them, one class id a pixel: a picture, a TIFF, or an array of .mat, .h5, .npy, .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sharding.errors import InputError
from sharding.readers import Array
from sharding.readers.mat import is_hdf5, read_variable
from sharding.readers.mat5 import list_arrays
from sharding.readers.numpy_files import read_member

HDF5 = (".h5", ".hdf5", ".he5", ".nc")


def label_ids(values: Array, path: Path, name: str = "label map") -> Array:
    """Class ids [H, W] of whatever was read.

    Raises:
        InputError: it has several channels, or values that are no whole numbers.
    """
    if values.dtype.kind == "f":  # MATLAB saves class numbers as doubles
        if not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise InputError(f"{path}: {name} is no label map, its values are not whole numbers")
        values = values.astype(np.int32)
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]  # a grey map that was saved in colour
    if values.ndim == 3 and 1 in values.shape:
        values = values.squeeze(values.shape.index(1))
    if values.ndim != 2:
        raise InputError(f"{path} is a {values.shape} picture, a label map has one channel")
    if values.dtype.kind not in "iub":
        raise InputError(f"{path}: {name} is {values.dtype}, a label map has whole numbers")
    return np.ascontiguousarray(values)


def array_names(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of the numeric arrays of a .mat, HDF5 or .npz file."""
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name].shape for name in archive.files}
    if is_hdf5(path):
        import h5py

        found: dict[str, tuple[int, ...]] = {}
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: found.update({name: item.shape} if _is_numeric(item) else {}))
        return found
    return {name: variable.shape for name, variable in list_arrays(path).items()}


def _is_numeric(item: object) -> bool:
    dtype = getattr(item, "dtype", None)
    return dtype is not None and dtype.kind in "iufb"


def read_array(path: Path, variable: str) -> Array | None:
    """An array of a .mat, HDF5 or .npz file by its name, or None if there is none of that name."""
    if path.suffix.lower() == ".npz":
        return read_member(path, variable)
    if path.suffix.lower() in HDF5:
        from sharding.readers.hdf5 import read_dataset

        return read_dataset(path, variable)
    return read_variable(path, variable)


def _only_map(path: Path) -> str:
    names = array_names(path)
    maps = [name for name, shape in names.items() if len(shape) == 2 and min(shape) > 1]
    if len(maps) == 1:
        return maps[0]
    shown = ", ".join(f"{name} {shape}" for name, shape in names.items()) or "nothing"
    raise InputError(f"{path} holds {len(maps)} arrays that could be the label map (it holds {shown}); say which with "
                     "truth_variable")  # fmt: skip


def read_label_map(path: Path, variable: str = "") -> Array:
    """A label map [H, W] of class ids from any of these files; without `variable` a file of arrays must hold one map.

    Raises:
        InputError: no such array, or it is no label map.
        OSError, ValueError: the file is damaged.
    """
    ending = path.suffix.lower()
    if ending == ".npy":
        return label_ids(np.load(path, allow_pickle=False), path)
    if ending in (".mat", ".npz", *HDF5):
        name = variable or _only_map(path)
        values = read_array(path, name)
        if values is None:
            shown = ", ".join(f"{other} {shape}" for other, shape in array_names(path).items()) or "nothing"
            raise InputError(f"{path} has no array {name!r} (it holds {shown}); mend truth_variable")
        return label_ids(values, path, name)
    if ending in (".tif", ".tiff"):
        import tifffile

        return label_ids(tifffile.imread(path), path)
    with Image.open(path) as image:
        return label_ids(np.asarray(image), path)
