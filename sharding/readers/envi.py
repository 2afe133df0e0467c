"""ENVI: a text header beside a flat binary, mapped and never loaded whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.envi_header import READ, Header, misspelt, nearest, read_header
from sharding.readers.meaning import (
    Meaning,
    Numbers,
    bad_bands,
    divided,
    fill_notes,
    joined,
    per_band,
    unless_row,
    unread_note,
)
from sharding.readers.raw import RawCube
from sharding.readers.sidecar import sidecar, with_sidecar
from sharding.readers.units import band_numbers, in_nm, unit_factor

DTYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = (6, 9)
EXPOSURES = ("tint", "integration time", "exposure time", "exposure", "shutter time")
TO_MS = {"s": 1e3, "sec": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "μs": 1e-3}
EXTENSIONS = (
    "", ".img", ".dat", ".raw", ".bin", ".float", ".sli", ".hyspex", ".bsq", ".bil", ".bip", ".pix", ".cube", ".spe",
)  # fmt: skip
LAYOUT = {
    "bsq": (("bands", "lines", "samples"), (1, 2, 0)),
    "bil": (("lines", "bands", "samples"), (0, 2, 1)),
    "bip": (("lines", "samples", "bands"), (0, 1, 2)),
}
OTHER_FILES = ("classification", "library", "meta", "tiff", "jpeg", "jp2", "hdf", "nitf", "virtual", "roi", "compress")
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}


@dataclass(frozen=True)
class Layout:
    """How the pixels lie in the data file."""

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    to_hwb: tuple[int, int, int]
    offset: int
    major: tuple[int, int]
    minor: tuple[int, int]

    @property
    def strides(self) -> tuple[int, int, int]:
        """Bytes from one value to the next of each axis, with the bytes around frames."""
        minor = self.shape[2] * self.dtype.itemsize + sum(self.minor)
        return self.shape[1] * minor + sum(self.major), minor, self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Size that the data file must have."""
        return self.offset + self.shape[0] * self.strides[0]

    def mapped(self, data: Path) -> Any:
        """The pixels [H, W, B]."""
        if not any(self.major + self.minor):
            return np.memmap(data, self.dtype, "r", self.offset, self.shape).transpose(self.to_hwb)
        values = np.memmap(data, np.uint8, "r")
        start = self.offset + self.major[0] + self.minor[0]
        framed: Any = np.ndarray(self.shape, self.dtype, values, start, self.strides)
        return framed.transpose(self.to_hwb)


def _with_endings(stem: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files named like `stem` with one of some endings, in any case."""
    names = {f"{stem.name}{ending}".lower() for ending in endings}
    quick = [Path(f"{stem}{ending}") for low in endings for ending in (low, low.upper())]
    found = [path for path in dict.fromkeys(quick) if path.is_file()]
    if found or not stem.parent.is_dir():
        return found
    return sorted(path for path in stem.parent.iterdir() if path.name.lower() in names and path.is_file())


def find_pair(path: Path, need: int | None = None) -> tuple[Path, Path]:
    """(header, data file) of a scene that is named by either.

    Args:
        path: the one that is known.
        need: bytes that the header asks for, to tell several data files apart.

    Raises:
        InputError: the other is not there, or several fit.
    """
    if path.suffix.lower() != ".hdr":
        headers = _with_endings(path, (".hdr",)) or _with_endings(path.with_suffix(""), (".hdr",))
        if not headers:
            raise InputError(f"{path}: no header beside it ({path.name}.hdr or {path.stem}.hdr)")
        return headers[0], path
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    stem = path.with_suffix("")
    found = [other for other in _with_endings(stem, EXTENSIONS) if other != path]
    if not found:
        raise InputError(f"{path}: no data file beside it ({stem.name} with one of {', '.join(EXTENSIONS[1:])})")
    fitting = found if need is None or len(found) == 1 else [other for other in found if other.stat().st_size == need]
    if len({(other.stat().st_dev, other.stat().st_ino) for other in fitting}) > 1 and need is not None:
        raise InputError(
            f"{path}: several data files lie beside it ({', '.join(other.name for other in fitting)}); "
            f"name the right ones in files of the row, or take the others away"
        )
    return path, (fitting or found)[0]


def _layout(header: Header) -> Layout:
    """How the pixels lie.

    Raises:
        InputError: it is not a layout that is read.
    """
    sizes = {key: header.whole(key) for key in ("lines", "samples", "bands")}
    interleave = header.text("interleave").strip().lower()
    code = header.whole("data type")
    if code in COMPLEX:
        raise InputError(f"{header.path}: data type {code} is complex numbers, which are no spectra")
    if interleave not in LAYOUT or code not in DTYPES:
        raise InputError(
            f"{header.path}: interleave {interleave!r} with data type {code} is not read "
            f"(interleave {', '.join(LAYOUT)}; data types {', '.join(map(str, DTYPES))})"
        )
    order = header.whole("byte order", 0, 0)
    if order > 1:
        raise InputError(f"{header.path}: byte order is {order}, it must be 0 (little-endian) or 1 (big-endian)")
    (first, second, third), to_hwb = LAYOUT[interleave]
    return Layout(
        np.dtype("<>"[order] + DTYPES[code]),
        (sizes[first], sizes[second], sizes[third]),
        to_hwb,
        header.whole("header offset", 0, 0),
        _frame(header, "major frame offsets"),
        _frame(header, "minor frame offsets"),
    )


def _frame(header: Header, key: str) -> tuple[int, int]:
    """Bytes before and after each frame."""
    words = header.words(key)
    try:
        before, after = (int(word) for word in (words if len(words) != 1 else [words[0], "0"])) if words else (0, 0)
    except ValueError as error:
        raise InputError(f"{header.path}: {key} is {header.text(key)[:40]!r}, not two whole numbers") from error
    if min(before, after) < 0:
        raise InputError(f"{header.path}: {key} is {header.text(key)[:40]!r}, which cannot be meant")
    return before, after


def _refuse_other_files(header: Header) -> str:
    """What to note of the type of the file.

    Raises:
        InputError: it is compressed, or no picture of spectra.
    """
    packed = header.text("file compression", "0").strip().lower()
    if packed not in ("", "0", "none", "false"):
        raise InputError(
            f"{header.path}: the data file is compressed (file compression = {packed}); unpack it (it is a gzip "
            f"stream) and set file compression = 0"
        )
    kind = header.text("file type").strip()
    if any(word in kind.lower() for word in OTHER_FILES):
        raise InputError(f"{header.path}: file type is {kind!r}, which is no ENVI Standard cube; export it as one")
    return f"file type {kind!r} is read as ENVI Standard" if kind and "envi" not in kind.lower() else ""


def _check_size(header: Header, layout: Layout, data: Path) -> str:
    """What to note of the size of the data file.

    Raises:
        InputError: it is too small, or so large that the header must be of another file.
    """
    size, need = data.stat().st_size, layout.bytes
    with data.open("rb") as file:
        start = file.read(8)
    packed = next((name for magic, name in PACKED.items() if start.startswith(magic)), "") if size != need else ""
    if packed:
        raise InputError(f"{data}: it is {packed}, compressed or of another format; unpack it to plain pixels")
    if size < need:
        raise InputError(f"{data} is cut short: {size} bytes, its header asks for {need}; get the file again")
    more = size - need
    line = need // header.whole("lines")
    if not more:
        return ""
    if any(layout.major + layout.minor) or more > line or more % (need - layout.offset) == 0:
        values = int(np.prod(layout.shape))
        fits = [f"{code} ({np.dtype(kind).name})" for code, kind in DTYPES.items()
                if layout.offset + values * np.dtype(kind).itemsize == size]  # fmt: skip
        hint = (
            f"data type {' or '.join(fits)} would fit" if fits else "lines, bands, data type or header offset is wrong"
        )
        raise InputError(f"{data} has {size} bytes, its header asks for {need}: {hint}; mend the header")
    return f"{more} bytes behind the pixels are left out"


def _list(header: Header, key: str, bands: int) -> Numbers | None:
    """One number per band of a list that changes values."""
    return per_band(header.words(key), bands, key, header.path) if header.words(key) else None


def _calibrated(row: Row, header: Header, bands: int) -> Meaning:
    """Scale and offset.

    Raises:
        InputError: the header says two ways at once, and the row none.
    """
    plain, reflectance = ("data gain values", "data offset values"), (
        "data reflectance gain values", "data reflectance offset values",
    )  # fmt: skip
    told = [pair for pair in (plain, reflectance) if any(header.words(key) for key in pair)]
    chosen = reflectance if told == [reflectance] or (len(told) == 2 and row.units == "reflectance") else plain
    notes = (
        [f"{chosen[0]} are used, not {(plain if chosen is reflectance else reflectance)[0]}"] if len(told) == 2 else []
    )
    gain, offset = (_list(header, key, bands) for key in chosen)
    factor = _list(header, "reflectance scale factor", bands)
    trivial = (gain is None or np.all(np.asarray(gain) == 1)) and (offset is None or not np.any(offset))
    if factor is not None and not np.all(np.asarray(factor) == 1) and not trivial and row.scale is None:
        raise InputError(
            f"{header.path} has both data gain values and a reflectance scale factor; "
            f"give scale and offset in row {row.key}"
        )
    if factor is not None and trivial:
        gain = divided(factor)
    return Meaning(gain, offset).add(*notes)


def _ignored(header: Header) -> tuple[tuple[float, ...], str]:
    """(fill values, what to note)."""
    words = header.words("data ignore value")
    try:
        return tuple(dict.fromkeys(float(word) for word in words if word)), ""
    except ValueError:
        return (), f"data ignore value {header.text('data ignore value')[:40]!r} is no number and left out"


def _meaning(row: Row, header: Header, layout: Layout, bands: int) -> Meaning:
    nodata, note = _ignored(header)
    meaning = unless_row(row, lambda: _calibrated(row, header, bands), Meaning()).add(note, *header.notes)
    flags = header.words("bbl")
    bad = bad_bands(flags, bands, good=True) if flags else None
    if flags and bad is None:
        meaning = meaning.add(f"bbl is left out: {len(flags)} values, not one number for each of {bands} bands")
    wrong = misspelt(header)
    meaning = meaning.add(*(f"header key {name!r} is not read; is {key!r} meant?" for name, key in wrong.items()))
    others = {key: value for key, value in header.values.items() if key not in READ and key not in wrong}
    return replace(meaning, nodata=nodata, bad=bad).add(unread_note(others), *fill_notes(nodata, layout.dtype))


def _axis(header: Header) -> tuple[tuple[float, ...] | None, str]:
    """(wavelengths in nm or None, why there are none)."""
    if "wavelength" not in header:
        near = nearest(header, "wavelength")
        return None, f"the header has no key 'wavelength', but {near!r}: mend its name" if near else ""
    try:
        factor = unit_factor(header.text("wavelength units"))
        return in_nm(band_numbers(header.words("wavelength"), "wavelength"), factor), ""
    except ValueError as error:
        return None, str(error)


def _widths(header: Header) -> tuple[tuple[float, ...] | None, str]:
    """(fwhm in nm or None, what to note)."""
    if "fwhm" not in header:
        return None, ""
    try:
        factor = unit_factor(header.text("wavelength units"))
        return in_nm(band_numbers(header.words("fwhm"), "fwhm"), factor), ""
    except ValueError as error:
        return None, f"fwhm is left out: {error}"


def _exposure(header: Header) -> float | None:
    """Exposure in milliseconds by any of the keys that cameras give it."""
    for key in EXPOSURES:
        number, unit = (*header.text(key).replace("{", "").split(), "", "")[:2]
        try:
            value = float(number)
        except ValueError:
            continue
        factor = TO_MS.get(unit.lower().strip("()[]"), None if unit else 1.0)
        if factor is not None and np.isfinite(value) and value > 0:
            return value * factor
    return None


def open_envi(row: Row, path: Path) -> RawCube:
    """Open an ENVI scene by its header, or by its data file if the header lies beside it.

    What the header says of its values is used, refused or noted (docs/reading.md); a header without `byte order` is
    read as little-endian.
    """
    header_path, data = find_pair(path)
    header = read_header(header_path)
    kind_note = _refuse_other_files(header)
    layout = _layout(header)
    if path == header_path:
        _, data = find_pair(path, layout.bytes)
    size_note = _check_size(header, layout, data)
    bands = header.whole("bands")
    meaning = with_sidecar(row, _meaning(row, header, layout, bands), data, bands)
    wavelength_nm, untold = _axis(header)
    fwhm_nm, width_note = _widths(header)
    beside = sidecar(data)
    order_note = "" if "byte order" in header else "header lacks byte order, read as little-endian"
    raw = RawCube(
        layout.mapped(data),
        (header_path, *([beside] if beside else []), data),
        wavelength_nm,
        fwhm_nm,
        untold=untold,
        exposure=_exposure(header),
        note=joined(order_note, kind_note, size_note, width_note),
    )
    return meaning.over(raw)
