"""Readers, one per container and none per dataset. They need neither torch nor ray.

    open_raw(row, path)  ->  RawCube: header (shape, dtype, wavelengths) at once, pixels when asked

A cube is a lazily mapped view (height, width, X); for low-rank containers X is the number of components and
the bands are expanded on reading, so turns of the image plane are views too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sharding.catalog import Row, check_wavelengths, expand_bands, expand_wavelength
from sharding.errors import InputError
from sharding.readers.meaning import calibration, joined, row_notes
from sharding.readers.raw import LARGEST_RATIO, Array, RawCube, as_hwb, reading, turn_plane
from sharding.readers.references import with_references

__all__ = ["LARGEST_RATIO", "Array", "RawCube", "as_hwb", "open_raw", "reading", "turn_plane"]
MAX_VALUES = 1 << 40
OPENERS = {
    "mat": ("mat", "open_mat"),
    "hdf5": ("hdf5", "open_hdf5"),
    "envi": ("envi", "open_envi"),
    "npy": ("numpy_files", "open_npy"),
    "npz": ("numpy_files", "open_npz"),
    "tiff": ("tiff", "open_tiff"),
    "mosaic-png": ("mosaic", "open_mosaic"),
    "png-bands": ("png_bands", "open_png_bands"),
    "hsd": ("hsd", "open_hsd"),
}


def _reader(container: str) -> Callable[[Row, Path], RawCube]:
    name, function = OPENERS[container]
    module = import_module(f"sharding.readers.{name}")  # at need: each brings its own library
    return getattr(module, function)  # type: ignore[no-any-return]


def open_raw(row: Row, path: Path) -> RawCube:
    """Open one scene of a dataset; its wavelengths are checked, its image plane is turned as the row says.

    Raises:
        InputError: the file is missing, cut short, or does not fit its row.
    """
    with reading(path, f"{row.container} scene"):
        if path.is_file() and not path.stat().st_size:
            raise InputError(f"{path} is empty; get the file again")
        raw = _reader(row.container)(row, path)
        raw = with_references(row, path, raw, _reader(row.container))
        raw = _with_kept(raw, _kept(row, path, raw.shape_HWB[2]))
        height, width, bands = raw.shape_HWB
        if min(raw.base_HWX.shape) < 1 or height * width * bands > MAX_VALUES:
            raise InputError(f"{path}: a cube of {height} x {width} x {bands} cannot be meant; check the header")
        calibration(row, raw)
        raw = replace(raw, valid_HW=_valid(row, path, raw))
        try:
            wavelength_nm, source, note = _wavelengths(row, raw)
            wavelength_nm = check_wavelengths(list(wavelength_nm), bands, source)
            fwhm_nm, width_note = _fwhm(row, raw, bands)
        except ValueError as error:
            raise InputError(f"{path}: {error}; mend wavelength or fwhm_nm in row {row.key}") from error
        if row.bands is not None and bands != row.bands:
            raise InputError(
                f"{path} has {bands} bands, row {row.key} says {row.bands}; mend bands, or the row is wrong"
            )
        valid = None if raw.valid_HW is None else turn_plane(raw.valid_HW, row.spatial_ops)
        base = turn_plane(raw.base_HWX, row.spatial_ops)
        note = joined(raw.note, note, width_note, *row_notes(row, raw))
    return replace(raw, base_HWX=base, valid_HW=valid, wavelength_nm=wavelength_nm, fwhm_nm=fwhm_nm, note=note)


def _valid(row: Row, path: Path, raw: RawCube) -> Array | None:
    """The valid mask on disk, less the lines that the row knows to be without signal."""
    if not row.invalid_rows:
        return raw.valid_HW
    height, width, _ = raw.shape_HWB
    if not 0 <= min(row.invalid_rows) <= max(row.invalid_rows) < height:
        raise InputError(f"{path} has {height} lines, invalid_rows of row {row.key} names others; mend it")
    valid = np.ones((height, width), bool) if raw.valid_HW is None else raw.valid_HW.copy()
    valid[row.invalid_rows] = False
    return valid


def _kept(row: Row, path: Path, bands: int) -> tuple[int, ...] | None:
    """Bands that the row keeps of a file of `bands` bands."""
    if row.keep_bands is None:
        return None
    kept = expand_bands(row.keep_bands)
    if max(kept) >= bands:
        raise InputError(f"{path} has {bands} bands, row {row.key} keeps band {max(kept)}; mend keep_bands")
    return kept


def _with_kept(raw: RawCube, kept: tuple[int, ...] | None) -> RawCube:
    """A cube of some bands of its file, with what the file says of those."""
    if kept is None:
        return raw
    bands = raw.shape_HWB[2]

    def of_kept(values: Any) -> Any:
        return tuple(values[band] for band in kept) if isinstance(values, tuple) and len(values) == bands else values

    return replace(
        raw, kept=kept, scale=of_kept(raw.scale), offset=of_kept(raw.offset), bad=of_kept(raw.bad),
        fwhm_nm=of_kept(raw.fwhm_nm),
    )  # fmt: skip


def _wavelengths(row: Row, raw: RawCube) -> tuple[tuple[float, ...], str, str]:
    """(wavelengths, where they are from, what to note)."""
    bands = raw.shape_HWB[2]
    spec = row.wavelength
    note = ""
    if spec == "file" or (isinstance(spec, dict) and "variable" in spec):
        axis = raw.wavelength_nm
        if axis is not None:
            if raw.kept is not None and len(axis) > max(raw.kept) and len(axis) != bands:
                axis = tuple(axis[band] for band in raw.kept)
            return axis, "the file", ""
        if row.wavelength_else is None:
            raise ValueError(raw.untold or "the file does not tell its wavelengths, give them in the row")
        spec, note = row.wavelength_else, raw.untold and f"wavelengths are the row's: {raw.untold}"
    if not isinstance(spec, (list, dict)):
        raise ValueError(f"wavelength {spec!r} is not understood")
    return tuple(expand_wavelength(spec, bands)), "the row", note


def _fwhm(row: Row, raw: RawCube, bands: int) -> tuple[tuple[float, ...] | None, str]:
    """(widths or None, what to note)."""
    if row.fwhm_nm is None or row.fwhm_nm == "file":
        widths = raw.fwhm_nm
        if widths is None:
            return None, "the file tells no fwhm that can be used" if row.fwhm_nm == "file" else ""
        if len(widths) != bands or not all(np.isfinite(widths)) or min(widths) <= 0:
            return None, f"the file's fwhm is left out: {len(widths)} values from {min(widths):g} for {bands} bands"
        return widths, ""
    widths = tuple([float(row.fwhm_nm)] * bands if isinstance(row.fwhm_nm, (int, float)) else map(float, row.fwhm_nm))
    if len(widths) != bands:
        raise ValueError(f"fwhm_nm has {len(widths)} values but the cube has {bands} bands")
    return widths, ""
