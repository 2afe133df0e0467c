"""ENVI: a text header beside a flat binary, mapped and never loaded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from spectral.io.envi import read_envi_header

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import RawCube

DTYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
EXTENSIONS = ("", ".img", ".dat", ".raw", ".bin", ".float", ".sli", ".hyspex", ".bsq", ".bil", ".bip")
LAYOUT = {
    "bsq": (("bands", "lines", "samples"), (1, 2, 0)),
    "bil": (("lines", "bands", "samples"), (0, 2, 1)),
    "bip": (("lines", "samples", "bands"), (0, 1, 2)),
}
UNITS_TO_NM = {"nanometers": 1.0, "nm": 1.0, "micrometers": 1000.0, "um": 1000.0, "µm": 1000.0}


def _data_file(header: Path) -> Path:
    """The binary that belongs to a header: same stem, one of the usual extensions, in either case."""
    stem = header.with_suffix("") if header.suffix.lower() == ".hdr" else header
    for extension in EXTENSIONS:
        for candidate in (Path(f"{stem}{extension}"), Path(f"{stem}{extension.upper()}")):
            if candidate.is_file() and candidate != header:
                return candidate
    raise InputError(f"{header}: no data file beside it ({stem.name} with one of {', '.join(EXTENSIONS[1:])})")


def _number(header: dict[str, Any], key: str, path: Path) -> int:
    try:
        value = int(header[key])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: the header key {key!r} is missing or not a whole number") from error
    if value < (0 if key in ("header offset", "byte order") else 1):
        raise InputError(f"{path}: the header key {key!r} is {value}, which cannot be meant")
    return value


def _vector(header: dict[str, Any], key: str, factor: float = 1.0) -> tuple[float, ...] | None:
    if key not in header:
        return None
    values = header[key] if isinstance(header[key], list) else [header[key]]
    return tuple(float(value) * factor for value in values)


def open_envi(row: Row, path: Path) -> RawCube:  # noqa: ARG001 - same signature for every container
    """Open an ENVI scene by its header, or by its data file if the header lies beside it.

    A header without `byte order` is read as little-endian; `reflectance scale factor` divides the values.
    """
    header_path = path if path.suffix.lower() == ".hdr" else path.with_suffix(".hdr")
    header = read_envi_header(str(header_path))
    data = path if path != header_path else _data_file(header_path)
    sizes = {key: _number(header, key, header_path) for key in ("lines", "samples", "bands")}
    interleave = str(header.get("interleave", "")).lower()
    code = _number(header, "data type", header_path)
    if interleave not in LAYOUT or code not in DTYPES:
        raise InputError(f"{header_path}: interleave {interleave!r} with data type {code} is not read")
    note = "" if "byte order" in header else "header lacks byte order, read as little-endian"
    order = ">" if _number({"byte order": 0, **header}, "byte order", header_path) == 1 else "<"
    offset = _number({"header offset": 0, **header}, "header offset", header_path)
    dtype = np.dtype(order + DTYPES[code])
    axes, to_hwb = LAYOUT[interleave]
    need = offset + dtype.itemsize * sizes["lines"] * sizes["samples"] * sizes["bands"]
    if data.stat().st_size < need:
        raise InputError(f"{data} is cut short: {data.stat().st_size} bytes, its header asks for {need}")
    array = np.memmap(data, dtype, "r", offset, tuple(sizes[axis] for axis in axes))
    unit = str(header.get("wavelength units", "nanometers")).strip().lower()
    factor = UNITS_TO_NM.get(unit, 1.0)
    scale_factor = float(header.get("reflectance scale factor", 1.0))
    return RawCube(
        array.transpose(to_hwb),
        (header_path, data),
        wavelength_nm=_vector(header, "wavelength", factor),
        fwhm_nm=_vector(header, "fwhm", factor),
        scale=1.0 / scale_factor if scale_factor else None,
        nodata=float(header["data ignore value"]) if "data ignore value" in header else None,
        note=note,
    )
