"""GDAL's notes beside a picture, NAME.aux.xml: fill value, scale and offset of its bands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.meaning import Meaning, by_band, several_fills, unless_row

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


def with_sidecar(row: Row, meaning: Meaning, path: Path, bands: int) -> Meaning:
    """What a file says of its values, with what the notes beside it say instead."""
    beside = sidecar(path)
    return meaning if beside is None else unless_row(row, lambda: _with(meaning, beside, bands), meaning)


def _with(meaning: Meaning, beside: Path, bands: int) -> Meaning:
    root = parse_xml(beside.read_bytes(), beside)
    told: dict[str, dict[int, float]] = {"NoDataValue": {}, "Scale": {}, "Offset": {}}
    for element in root.iter("PAMRasterBand"):
        band = int(element.get("band", "0")) - 1
        for name, values in told.items():
            text = element.findtext(name)
            if text is not None:
                values[band] = _number(text, name, beside)
    words = ", ".join(("nodata" if name == "NoDataValue" else name.lower()) for name, values in told.items() if values)
    nodata = tuple(sorted(set(told["NoDataValue"].values()))) or meaning.nodata
    scale = by_band(told["Scale"], bands, 1.0) if told["Scale"] else meaning.scale
    offset = by_band(told["Offset"], bands, 0.0) if told["Offset"] else meaning.offset
    note = f"{words} of {beside.name} used" if words else ""
    return replace(meaning, nodata=nodata, scale=scale, offset=offset).add(note, several_fills(nodata))


def _number(text: str, name: str, source: Path) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{source}: {name} is {text[:40]!r}, not a number; mend or remove it") from error
    if name != "NoDataValue" and not np.isfinite(value):
        raise InputError(f"{source}: {name} is {text[:40]!r}, not finite; mend it, or give scale and offset")
    return value
