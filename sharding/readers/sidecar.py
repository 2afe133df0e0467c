"""GDAL's notes beside a picture, NAME.aux.xml: fill value, scale and offset of its bands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sharding.errors import InputError
from sharding.readers.meaning import Meaning, by_band

MOST_BYTES = 4 << 20


def sidecar(path: Path) -> Path | None:
    """The file of notes beside a picture, if there is one."""
    beside = path.with_name(f"{path.name}.aux.xml")
    return beside if beside.is_file() else None


def parse_xml(text: bytes | str, source: Path) -> ElementTree.Element:
    """The root of a small document that defines no entities.

    Raises:
        InputError: it is too large, defines some, or is no XML.
    """
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MOST_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError(f"{source}: its XML is too large or defines entities, which is not read")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InputError(f"{source}: its XML cannot be read ({error}); mend or remove it") from error


def with_sidecar(meaning: Meaning, path: Path, bands: int) -> Meaning:
    """What a file says of its values, with what the notes beside it say instead."""
    beside = sidecar(path)
    if beside is None:
        return meaning
    root = parse_xml(beside.read_bytes(), beside)
    fills: dict[int, float] = {}
    scales: dict[int, float] = {}
    offsets: dict[int, float] = {}
    for element in root.iter("PAMRasterBand"):
        band = int(element.get("band", "0")) - 1
        for name, into in (("NoDataValue", fills), ("Scale", scales), ("Offset", offsets)):
            value = element.findtext(name)
            if value is not None:
                into[band] = _number(value, name, beside)
    if not (fills or scales or offsets):
        return meaning
    told = ", ".join(word for word, values in (("nodata", fills), ("scale", scales), ("offset", offsets)) if values)
    return replace(
        meaning,
        nodata=tuple(sorted(set(fills.values()))) or meaning.nodata,
        scale=by_band(scales, bands, 1.0) if scales else meaning.scale,
        offset=by_band(offsets, bands, 0.0) if offsets else meaning.offset,
    ).add(f"{told} of {beside.name} used")


def _number(text: str, name: str, source: Path) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{source}: {name} is {text[:40]!r}, not a number; mend or remove the file") from error
    if name != "NoDataValue" and not np.isfinite(value):
        raise InputError(f"{source}: {name} is {text[:40]!r}, not a finite number; mend or remove the file")
    return value
