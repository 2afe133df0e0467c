"""HDF5 (netCDF-4, MATLAB v7.3): a dataset by name, or the only largest 3-D one, read by slices.

MATLAB stores its arrays column by column, so h5py shows their axes in reverse order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.attributes import attribute_meaning, is_used, key_of, unit_of, unpacked, with_beside
from sharding.readers.choosing import Held, choose_cube, find_vector, vector_names
from sharding.readers.lazy import LazyCube
from sharding.readers.matrix import unfolded
from sharding.readers.meaning import Meaning, as_numbers, as_text, fill_notes
from sharding.readers.raw import Array, RawCube
from sharding.readers.units import in_nm, unit_factor

CHUNK_CACHE_BYTES = 64 << 20
LARGEST_CHUNK_BYTES = 1 << 30
STRUCTURE = ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "MATLAB_class", "MATLAB_int_decode", "_Netcdf4Dimid",
             "_Netcdf4Coordinates", "_NCProperties", "MATLAB_fields", "H5PATH")  # fmt: skip
NETCDF_FILLS = {"i2": -32767, "i4": -2147483647, "i8": -9223372036854775806, "u2": 65535, "u4": 4294967295,
                "f4": 9.969209968386869e36, "f8": 9.969209968386869e36}  # fmt: skip
NETCDF_MARKS = ("_Netcdf4Dimid", "_Netcdf4Coordinates")


def _held(file: Any, matlab: bool = False) -> dict[str, Held]:
    """Every array in the file itself, in the axes that MATLAB shows if it is MATLAB's; links are not followed."""
    found: dict[str, Held] = {}

    def look(name: str, item: Any) -> None:
        kind = as_text(item.attrs.get("MATLAB_class", ""))
        if isinstance(item, h5py.Group):
            if kind in ("struct", "table") and not name.startswith("#"):
                found[name] = Held((), "", f"{kind} of {', '.join(list(item)[:8])}")
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            numeric = item.dtype.kind in "iuf"
            shape = item.shape[::-1] if matlab else item.shape
            word = kind if kind in ("cell", "struct", "string") else f"{shape} of {item.dtype.name}, no numbers"
            found[name] = Held(shape, item.dtype.name, "" if numeric else word)

    file.visititems(look)
    return found


def _dataset(file: Any, name: str, path: Path) -> Any:
    """A dataset whose values lie in this very file, in chunks that can be held, packed by filters that are here."""
    dataset = file[name]
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{path}: the values of {name!r} lie in another file, which is not followed")
    chunk = int(np.prod(dataset.chunks or (0,), dtype=np.float64)) * dataset.dtype.itemsize
    if chunk > LARGEST_CHUNK_BYTES:
        raise InputError(f"{path}: {name!r} is stored in chunks of {chunk} bytes, which cannot be read in parts")
    plist = dataset.id.get_create_plist()
    for index in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(index)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{path}: {name!r} is packed with the HDF5 filter {label.decode('latin-1') or code}, which is not "
                f"installed; repack it (h5repack -f GZIP=1 IN OUT)"
            )
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
        held = _held(file)
        return np.asarray(_dataset(file, name, path)[()]) if name in held and not held[name].kind else None


def _vector(file: Any, name: str, path: Path) -> Array:
    """A vector in physical values, by its own attributes."""
    dataset = _dataset(file, name, path)
    return unpacked(dataset[()], dict(dataset.attrs))


def _axis(row: Row, file: Any, held: Mapping[str, Held], path: Path) -> tuple[tuple[float, ...] | None, str, str]:
    """(wavelengths in nm or None, why there are none, name of their vector): an array, or an attribute of the file."""
    name, untold = find_vector(row, held, path)
    if not name:
        told = next((file.attrs[want] for want in vector_names(row) if want in file.attrs), None)
        numbers = None if told is None else as_numbers(told)
        return (None, untold, "") if numbers is None else (tuple(numbers.tolist()), "", "")
    try:
        factor = unit_factor(unit_of(dict(file[name].attrs)))
        return in_nm(_vector(file, name, path).tolist(), factor), "", name
    except ValueError as error:
        return None, str(error), name


def _widths(row: Row, file: Any, held: Mapping[str, Held], axis: str, path: Path) -> tuple[float, ...] | None:
    """Widths in a vector named fwhm beside that of the wavelengths, if the row asks for them."""
    folder = axis.rpartition("/")[0]
    beside = [name for name in held if name.rpartition("/")[0] == folder and key_of(name.rpartition("/")[2]) == "fwhm"]
    if row.fwhm_nm != "file" or not beside or held[beside[0]].kind:
        return None
    unit = unit_of(dict(file[beside[0]].attrs)) or unit_of(dict(file[axis].attrs) if axis else {})
    return in_nm(_vector(file, beside[0], path).tolist(), unit_factor(unit))


def _default_fill(file: Any, dataset: Any) -> tuple[tuple[float, ...], str]:
    """(fill value without an attribute, what to note): one that the file was made with, or netCDF's own.

    By netCDF's convention bytes have none of their own.
    """
    netcdf = "_NCProperties" in file.attrs or any(name in dataset.attrs for name in NETCDF_MARKS)
    if netcdf and dataset.dtype.itemsize == 1:
        return (), ""
    made = dataset.id.get_create_plist().fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    if made and dataset.fillvalue != 0 and np.isfinite(dataset.fillvalue):
        value = float(dataset.fillvalue)
        return (value,), f"no fill value is told; {value:g}, that of the dataset, is taken as missing"
    fill = NETCDF_FILLS.get(dataset.dtype.str[1:]) if netcdf else None
    return ((float(fill),), f"no fill value is told; netCDF's own, {fill:g}, is taken as missing") if fill else ((), "")


def _ancestors(file: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of the attributes of the groups that an array lies in."""
    parts = name.split("/")[:-1]
    for depth in range(len(parts) + 1):
        group = file["/".join(parts[:depth]) or "/"]
        yield from group.attrs.items()


def _meaning(
    row: Row, file: Any, held: Mapping[str, Held], name: str, bands: int, used: set[str], path: Path
) -> Meaning:
    dataset = file[name]
    attrs = dict(dataset.attrs)
    meaning = attribute_meaning(row, attrs, dataset.dtype, bands, path)
    if not meaning.nodata:
        nodata, note = _default_fill(file, dataset)
        meaning = replace(meaning, nodata=nodata).add(note, *fill_notes(nodata, dataset.dtype))
    left = dict(_ancestors(file, name)) | {other: value for other, value in attrs.items() if not is_used(other)}
    left = {other: value for other, value in left.items() if other not in STRUCTURE}
    return with_beside(meaning, held, lambda other: _dataset(file, other, path)[()], bands, used | {name}, left)


def open_hdf5(row: Row, path: Path, axes: str | None = None) -> RawCube:
    """Open an HDF5 scene; pixels are read when asked.

    Args:
        row: its axes are the order that h5py shows, unless `axes` is given.
        path: the file.
        axes: order of the axes on disk, for MATLAB files.
    """
    matlab, axes = axes is not None, axes or row.axes
    file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    held = _held(file, matlab)
    name, choice = choose_cube(row, path, held)
    cube = LazyCube(unfolded(_dataset(file, name, path), row.shape, axes, path), axes)
    wavelength_nm, untold, axis = _axis(row, file, held, path)
    raw = RawCube(
        cube, (path,), wavelength_nm, _widths(row, file, held, axis, path), valid_HW=_mask(row, file, path, axes),
        note=choice, variable=name, untold=untold,
    )  # fmt: skip
    used = {axis, row.valid_variable or ""}
    return _meaning(row, file, held, name, cube.shape[2], used, path).over(raw)
