"""TIFF and GeoTIFF: bands as pages, planes or samples; mapped where the file is plain, else decoded into memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.choosing import Held, listed
from sharding.readers.matrix import cube_shape
from sharding.readers.meaning import (
    Meaning,
    as_text,
    by_band,
    fill_notes,
    joined,
    several_fills,
    unless_row,
    unread_note,
)
from sharding.readers.raw import LARGEST_RATIO, Array, RawCube, as_hwb, turn_plane
from sharding.readers.sidecar import parse_xml, sidecar, with_sidecar

GDAL_METADATA, GDAL_NODATA, ORIENTATION, PHOTOMETRIC, COMPRESSION = 42112, 42113, 274, 262, 259
DESCRIPTION = 270
TURNS_OF = {
    1: [], 2: ["fliplr"], 3: ["fliplr", "flipud"], 4: ["flipud"], 5: ["transpose"], 6: ["rot90cw"],
    7: ["transpose", "fliplr", "flipud"], 8: ["rot90ccw"],
}  # fmt: skip
NOT_GREY = {3: "a palette", 4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "CIE L*a*b*"}
LOSSY = {6: "JPEG", 7: "JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34892: "JPEG", 50001: "WebP"}


def _series(row: Row, path: Path, file: Any) -> tuple[Any, str, str]:
    """(the series that is the cube, its number, what to note).

    Raises:
        InputError: there is none, or several that could be it.
    """
    axes = 3 if row.shape is None else 2
    found = {str(number): series for number, series in enumerate(file.series)}
    held = {
        f"series {number}": Held(tuple(int(side) for side in one.shape), str(one.dtype))
        for number, one in found.items()
    }
    if row.variable is not None:
        if row.variable not in found:
            raise InputError(f"{path} has no series {row.variable!r} (it holds {listed(held)}); mend variable")
        return found[row.variable], row.variable, ""
    full = {number: one for number, one in found.items() if not _is_reduced(one)}
    cubes = {number: one for number, one in full.items() if len(one.shape) == axes}
    if len(cubes) > 1 or (not cubes and len(full) > 1):
        raise InputError(
            f"{path} holds pictures of several sizes: {listed(held)}; say which is the cube with variable: '0' "
            f"(the number of the series), or save its bands in one size"
        )
    number = next(iter(cubes or full or found))
    others = [words for name, words in held.items() if name != f"series {number}"]
    return found[number], number, f"series {number} of {listed(held)} is the cube" if others else ""


def _is_reduced(series: Any) -> bool:
    """Whether it is an overview or a mask of another picture."""
    return bool(int(getattr(series.keyframe, "subfiletype", 0) or 0) & 5)


def _mask(file: Any, shape_HWB: tuple[int, ...]) -> tuple[Array | None, str]:
    """(valid pixels by the mask that lies in the file itself, what to note)."""
    masks = [one for one in file.series if int(getattr(one.keyframe, "subfiletype", 0) or 0) & 5 == 4]
    if not masks:
        return None, ""
    try:
        mask = np.asarray(masks[0].asarray())
    except ValueError:
        return None, "the mask in the file is not used, it is packed with a codec that is not installed"
    if len(masks) > 1 or mask.shape != shape_HWB[:2]:
        return None, f"masks in the file are not used: {len(masks)} of {mask.shape}"
    return mask != 0, "the mask in the file is used"


def _tag(page: Any, code: int) -> Any:
    tag = page.tags.get(code) if hasattr(page, "tags") else None
    return None if tag is None else tag.value


def _pages(series: Any) -> list[Any]:
    """Every page of a series with its tags."""
    pages = []
    for index in range(len(series.pages)):
        page = series.pages[index]
        if page is not None and not hasattr(page, "tags"):
            page = page.aspage()
        pages.append(series.keyframe if page is None else page)
    return pages


def _one_of(path: Path, pages: Sequence[Any], code: int, name: str, otherwise: Any) -> Any:
    """The value of a tag that all pages must share."""
    values = [otherwise if (value := _tag(page, code)) is None else value for page in pages]
    if len({str(value) for value in values}) > 1:
        raise InputError(
            f"{path}: the {name} of its pages differs ({sorted({str(v) for v in values})}); save them alike"
        )
    return values[0]


def _colours(path: Path, pages: Sequence[Any]) -> str:
    """What to note of how the values are coded.

    Raises:
        InputError: small numbers are bright, or they are no numbers of a sensor.
    """
    photometric = int(_one_of(path, pages, PHOTOMETRIC, "photometric interpretation", 1))
    if photometric == 0:
        raise InputError(f"{path} is stored with white as zero (WhiteIsZero); save it with black as zero (BlackIsZero)")
    if photometric in NOT_GREY:
        raise InputError(f"{path} is {NOT_GREY[photometric]} picture, not a cube of bands")
    lossy = LOSSY.get(int(_one_of(path, pages, COMPRESSION, "compression", 1)))
    return f"{lossy} compression has changed the values" if lossy else ""


def _nodata(pages: Sequence[Any]) -> tuple[tuple[float, ...], str]:
    """(GDAL's fill values of all pages, what to note)."""
    texts = [as_text(value) for page in pages if (value := _tag(page, GDAL_NODATA)) is not None]
    values: list[float] = []
    for text in texts:
        try:
            values += [float(word) for word in text.strip("\0 ").split()[:1]]
        except ValueError:
            return (), f"GDAL_NODATA {text[:40]!r} is no number and left out"
    return tuple(dict.fromkeys(values)), ""


def _items(path: Path, page: Any) -> list[tuple[str, str, int | None, str]]:
    """(name, role, band or None, text) of GDAL's metadata of a page."""
    text = _tag(page, GDAL_METADATA)
    if text is None:
        return []
    text = as_text(text).strip("\0 ")
    root = parse_xml(text, path)
    found = []
    for item in root.iter("Item"):
        sample = item.get("sample")
        band = int(sample) if sample is not None and sample.isdigit() else None
        found.append((item.get("name", ""), item.get("role", ""), band, (item.text or "").strip()))
    return found


def _described(page: Any) -> dict[str, Any]:
    """Keys of a description that is JSON, as writers of arrays leave it."""
    text = as_text(_tag(page, DESCRIPTION) or "")
    try:
        told = json.loads(text) if text.startswith("{") else {}
    except ValueError:
        return {}
    return {name: value for name, value in told.items() if isinstance(value, int | float | str)}


def _gdal(path: Path, pages: Sequence[Any], bands: int) -> Meaning:
    """Scale and offset of GDAL's metadata: of each sample of a page, or of each page where those are the bands."""
    scales: dict[int, float] = {}
    offsets: dict[int, float] = {}
    others: dict[str, str] = {}
    by_page = len(pages) == bands and bands > 1
    for number, page in enumerate(pages):
        for name, role, sample, text in _items(path, page):
            band = number if by_page else sample
            kind = role.lower() or name.lower()
            if kind in ("scale", "offset"):
                value = _number(path, name, text)
                for one in range(bands) if band is None else [band]:
                    (scales if kind == "scale" else offsets)[one] = value
            elif name.lower() not in ("statistics_valid_percent", "description"):
                others[name] = text
    others |= _described(pages[0])
    scale = by_band(scales, bands, 1.0) if scales else None
    offset = by_band(offsets, bands, 0.0) if offsets else None
    return Meaning(scale, offset).add(unread_note(others))


def _number(path: Path, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(
            f"{path}: {name} of GDAL's metadata is {text[:40]!r}, not a finite number; give scale and offset in the row"
        )
    return value


def _pixels(path: Path, file: Any, series: Any, shape: tuple[int, ...]) -> Array:
    """Mapped where the file is plain, else decoded."""
    size = float(np.prod(shape, dtype=np.float64)) * series.dtype.itemsize
    if size > LARGEST_RATIO * path.stat().st_size:
        raise InputError(f"{path} claims {size:.0f} bytes of pixels, more than its {path.stat().st_size} can hold")
    try:
        if series.dataoffset is not None:
            return np.memmap(path, series.dtype.newbyteorder(file.byteorder), "r", series.dataoffset, shape)
        return np.asarray(series.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise InputError(
            f"{path} is packed with a codec that is not installed; pip install imagecodecs, or save it unpacked"
        ) from error


def open_tiff(row: Row, path: Path) -> RawCube:
    """Open the only image series of a TIFF that is a cube; `axes` of the row is the order of its three axes.

    Tags of all its pages count: GDAL's fill value, scale and offset are used, the orientation is applied.

    Raises:
        InputError: it is no cube, or packed in a way that needs a codec which is not installed.
    """
    with tifffile.TiffFile(path) as file:
        series, number, choice = _series(row, path, file)
        shape = tuple(int(side) for side in series.shape)
        wanted = 3 if row.shape is None else 2
        if len(shape) != wanted or series.dtype is None or series.dtype.kind not in "iuf":
            raise InputError(f"{path} is a {series.dtype} picture of shape {shape}, not a cube of bands")
        pages = _pages(series)
        note = joined(choice, _colours(path, pages))
        turn = int(_one_of(path, pages, ORIENTATION, "orientation", 1))
        array = _pixels(path, file, series, shape)
        if row.shape is not None:
            array = array.reshape(cube_shape(shape, row.shape, row.axes, path))
        base = as_hwb(array, row.axes)
        bands = base.shape[2]
        nodata, fill_note = _nodata(pages)
        meaning = replace(unless_row(row, lambda: _gdal(path, pages, bands), Meaning()), nodata=nodata)
        meaning = with_sidecar(row, meaning.add(fill_note, several_fills(nodata)), path, bands)
        valid, mask_note = _mask(file, base.shape)
    meaning = meaning.add(*fill_notes(meaning.nodata, array.dtype))
    if turn not in (0, 1):
        base = turn_plane(base, TURNS_OF.get(turn, []))
        valid = None if valid is None else turn_plane(valid, TURNS_OF.get(turn, []))
        note = joined(note, f"turned as its orientation {turn} says")
    beside = sidecar(path)
    raw = RawCube(
        base,
        (*([beside] if beside else []), path),
        valid_HW=valid,
        note=joined(note, mask_note),
        variable=number if row.variable else None,
    )
    return meaning.over(raw)
