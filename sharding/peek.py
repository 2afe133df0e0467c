"""What a file holds, before anybody has said how to read it: arrays with shape, type and some values, header fields.

Nothing is assumed: a reader needs a row, this only looks. Of large arrays every n-th value of an axis is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharding.errors import InputError
from sharding.inputs import scene_pair
from sharding.readers import Array, reading
from sharding.readers.mat import HDF5_SIGNATURE
from sharding.readers.mat5 import list_arrays, read_array
from sharding.readers.numpy_files import read_member
from sharding.readers.png_bands import band_files

MOST_VALUES = 1 << 22
MOST_BYTES = 2 << 30  # of a packed array, which has to be unpacked whole
HEADER_SIGNS = 1 << 20
ENVI_TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
ENVI_ORDER = {"bsq": "bhw", "bil": "hbw", "bip": "hwb"}


@dataclass(frozen=True)
class Held:
    """An array of a file: its name there, its axes if the file tells them (letters h, w, b), some of its values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: Array | None = None
    axes: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def is_vector(self) -> bool:
        """Whether it is a row or a column."""
        return self.values is not None and max(self.shape, default=0) == int(np.prod(self.shape)) > 1

    @property
    def is_cube(self) -> bool:
        """Whether it may be a cube."""
        return self.values is not None and len(self.shape) == 3 and min(self.shape) > 1


@dataclass(frozen=True)
class Peek:
    """A file without a row: the container of a row that would read it, its arrays, what else it says.

    `files` is the pattern of such files, `scene` the file of several that stands for the scene, if it is another.
    """

    container: str
    arrays: tuple[Held, ...]
    header: dict[str, str] = field(default_factory=dict)
    files: str = ""
    scene: Path | None = None


def _some(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Every n-th place of long axes, so that a few million values are read; all of a vector."""
    step, count = 1, int(np.prod(shape, dtype=np.float64))
    while count > MOST_VALUES and step < max(shape):
        step += 1
        count = int(np.prod([-(-side // step) if side > 64 else side for side in shape], dtype=np.float64))
    return tuple(slice(None, None, step if side > 64 else 1) for side in shape)


def _held(name: str, array: Any, **more: Any) -> Held:
    shape = tuple(int(side) for side in array.shape)
    numeric = np.dtype(array.dtype).kind in "iuf"
    values = np.asarray(array[_some(shape)]) if numeric and shape and min(shape) > 0 else None
    return Held(name, shape, str(array.dtype), values, **more)


def _mat(path: Path) -> Peek:
    held = []
    for name, variable in list_arrays(path).items():
        size = float(np.prod(variable.shape, dtype=np.float64)) * variable.dtype.itemsize
        if variable.packed and size > MOST_BYTES:
            held.append(Held(name, variable.shape, str(variable.dtype)))
        else:
            held.append(_held(name, read_array(path, variable)))
    return Peek("mat", tuple(held))


def _hdf5(path: Path) -> Peek:
    import h5py

    matlab = path.suffix.lower() == ".mat"
    held: list[Held] = []
    header: dict[str, str] = {}

    def look(name: str, item: Any) -> None:
        facts = {key: _short(value) for key, value in item.attrs.items() if not key.startswith(("CLASS", "MATLAB_"))}
        if not isinstance(item, h5py.Dataset):
            header.update({f"{name} {key}": text for key, text in facts.items()})
        elif item.external or item.is_virtual or item.dtype.kind not in "iuf":
            held.append(Held(name, item.shape, str(item.dtype), None, facts=facts))
        else:
            found = _held(name, item, facts=facts)
            if matlab and found.values is not None:  # as MATLAB shows it
                found = Held(name, found.shape[::-1], found.dtype, found.values.T, facts=facts)
            held.append(found)

    with h5py.File(path, "r") as file:
        header.update({key: _short(value) for key, value in file.attrs.items()})
        file.visititems(look)
    return Peek("mat" if matlab else "hdf5", tuple(held), header)


def _short(value: Any) -> str:
    array = np.asarray(value)
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return f"{array.shape} {array.dtype}" if array.size > 8 else " ".join(text.split())[:100]


def _npy(path: Path) -> Peek:
    return Peek("npy", (_held("", np.load(path, mmap_mode="r", allow_pickle=False)),))


def _npz(path: Path) -> Peek:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if not names:
        raise InputError(f"{path} is a ZIP archive without arrays of numpy; unpack it and look at the files in it")
    held = [_held(name, array) for name in names if (array := read_member(path, name)) is not None]
    return Peek("npz", tuple(held))


def _tiff(path: Path) -> Peek:
    import tifffile

    held, header = [], {}
    with tifffile.TiffFile(path) as file:
        for number, series in enumerate(file.series):
            name = "" if len(file.series) == 1 else f"series {number}"
            # S is samples of a pixel, else planes or pages come first.
            axes = {"YXS": "hwb"}.get(series.axes, "bhw" if series.axes.endswith("YX") else "")
            size = float(np.prod(series.shape, dtype=np.float64)) * np.dtype(series.dtype).itemsize
            if size > MOST_BYTES:
                held.append(Held(name, tuple(series.shape), str(series.dtype)))
            else:
                held.append(_held(name, series.asarray(), axes=axes if len(series.shape) == 3 else ""))
        for tag in file.pages.first.tags.values():
            if tag.name.startswith(("GDAL", "Image", "Software")) and isinstance(tag.value, str):
                header[tag.name] = _short(tag.value)
    return Peek("tiff", tuple(held), header)


def _envi_header(path: Path) -> dict[str, str]:
    """Keys in small letters; a value in braces may go over several lines."""
    with path.open("rb") as file:
        text = file.read(HEADER_SIGNS).decode("utf-8-sig", errors="replace")
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines()[1:]:
        name, sign, value = line.partition("=")
        if key and found[key].count("{") > found[key].count("}"):
            found[key] += " " + line.strip()
        elif sign and not line.startswith(";"):
            key = " ".join(name.lower().split())
            found[key] = value.strip()
    return {name: value.strip("{} ") for name, value in found.items()}


def _envi(path: Path) -> Peek:
    headers = [other for other in scene_pair(path) if other.suffix.lower() == ".hdr"]
    header = _envi_header(headers[0])
    sizes = {key: int(header[key]) for key in ("lines", "samples", "bands")}
    shape, order = (sizes["lines"], sizes["samples"], sizes["bands"]), header.get("interleave", "").lower()
    dtype = np.dtype(ENVI_TYPES[int(header["data type"])]).newbyteorder(">" if header.get("byte order") == "1" else "<")
    data = [other for other in scene_pair(headers[0]) if other.suffix.lower() != ".hdr"]
    offset, need = int(header.get("header offset", 0)), int(np.prod(shape)) * dtype.itemsize
    held = Held("", shape, str(dtype), None, "hwb")
    if data and order in ENVI_ORDER and data[0].stat().st_size >= offset + need:
        axes = ENVI_ORDER[order]
        stored = np.memmap(data[0], dtype, "r", offset, tuple(shape["hwb".index(letter)] for letter in axes))
        held = _held("", stored.transpose([axes.index(letter) for letter in "hwb"]), axes="hwb")
    arrays = [held]
    for key in ("wavelength", "fwhm"):
        if key in header:
            arrays.append(_held(key, np.array([float(word) for word in header[key].replace(",", " ").split()])))
            header[key] = f"{len(arrays[-1].values if arrays[-1].values is not None else ())} values"
    return Peek("envi", tuple(arrays), header, "**/*.hdr")


def _png(path: Path) -> Peek:
    numbered = band_files(path)
    with Image.open(path) as image:
        if image.mode not in ("L", "I", "I;16", "I;16B"):
            raise InputError(f"{path} is a {image.mode} picture in colours, not a band or a mosaic frame of a camera")
        frame = np.asarray(image)
    if len(numbered) < 2:
        return Peek("mosaic-png", (_held("", frame),))
    first = min(numbered)
    tail = "".join(char for char in path.stem[::-1] if char.isdigit())[::-1]
    planes = []
    for number in sorted(numbered):
        with Image.open(numbered[number]) as image:
            planes.append(np.asarray(image))
    files = f"**/*{path.stem.removesuffix(tail)[-4:]}{first:0{len(tail)}d}{path.suffix}"
    return Peek(
        "png-bands",
        (_held("", np.stack(planes), axes="bhw"),),
        {"bands beside": str(len(numbered))},
        files,
        numbered[first],
    )


def _hsd(path: Path) -> Peek:
    from sharding.catalog import Row
    from sharding.readers import open_raw

    raw = open_raw(Row("hsd", "hsd", "*", "file", 1.0), path)
    height, width, _ = raw.shape_HWB
    return Peek("hsd", (_held("", raw.read(*_some((height, width))), axes="hwb"),), {"note": raw.note})


def _opener(path: Path, start: bytes) -> Callable[[Path], Peek] | None:
    if start[:8] == HDF5_SIGNATURE or start[512:520] == HDF5_SIGNATURE:
        return _hdf5
    if start[126:128] in (b"IM", b"MI") and path.suffix.lower() == ".mat":
        return _mat
    for magic, opener in {
        b"\x93NUMPY": _npy, b"PK\x03\x04": _npz, b"II*\0": _tiff, b"MM\0*": _tiff, b"II+\0": _tiff, b"MM\0+": _tiff,
        b"\x89PNG": _png,
    }.items():  # fmt: skip
        if start.startswith(magic):
            return opener
    if path.suffix.lower() == ".hsd":
        return _hsd
    return _envi if any(other.suffix.lower() == ".hdr" for other in scene_pair(path)) else None


def peek(path: Path) -> Peek:
    """Look into a file of any container.

    Raises:
        InputError: it is none that is known, or damaged.
    """
    with reading(path, "file of a camera"):
        with path.open("rb") as file:
            start = file.read(520)
        opener = _opener(path, start)
        if opener is None:
            if start[:3] == b"CDF":
                raise InputError(f"{path} is NetCDF 3, which is not read; convert it with `nccopy -k nc4`")
            raise InputError(
                f"{path} begins with {start[:8]!r}, which is none of MATLAB, HDF5, NetCDF 4, ENVI with its header "
                "beside, npy, npz, TIFF, grey PNG and .hsd"
            )
        return opener(path)
