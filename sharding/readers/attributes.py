"""Attributes of a stored array by the conventions that give them: CF (netCDF), NEON, EMIT. The name decides.

scale_factor, add_offset        multiply and add (CF)             Scale_Factor  divides (NEON)
_FillValue, missing_value, Data_Ignore_Value, nodata              no value
valid_range, valid_min, valid_max                                 what a value can be, as it is stored (CF)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.choosing import Held
from sharding.readers.meaning import (
    MATTERS,
    Array,
    Meaning,
    Numbers,
    as_numbers,
    as_text,
    bad_bands,
    divided,
    fill_notes,
    per_band,
    unless_row,
    unread_note,
)  # fmt: skip

DIVIDES = ("Scale_Factor", "Reflectance_Scale_Factor", "reflectance_scale_factor")
FILLS = ("_fillvalue", "missing_value", "data_ignore_value", "nodata", "no_data", "nodata_value", "no_data_value",
         "fill_value", "fillvalue", "ignore_value")  # fmt: skip
LIMITS = ("valid_range", "valid_min", "valid_max")
UNITS = ("units", "unit", "wavelength_units", "wavelength_unit", "wavelengthunits")
NO_UNITS = ("", "1", "-", "unitless", "none", "dimensionless")
GOOD = ("good_wavelengths", "good_bands", "good_band", "good_band_list", "bbl")
FEW_VALUES = 4
BAD = ("bad_bands", "bad_band", "badbands", "bad_band_list", "bad_wavelengths")


def key_of(name: str) -> str:
    """An attribute's name without capitals and blanks."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _scale(row: Row, attrs: Mapping[str, Any], bands: int, path: Path) -> tuple[Numbers | None, list[str]]:
    """(what multiplies, names used and notes)."""
    if "scale_factor" in attrs:
        factor = per_band(attrs["scale_factor"], bands, "scale_factor", path)
        large = float(np.max(np.abs(factor))) > 100
        note = f"scale_factor {np.max(factor):g} multiplies, as CF says; give scale in the row if it must divide"
        return factor, [note] if large and row.scale is None else []
    name = next((name for name in DIVIDES if name in attrs), None)
    if name is None:
        return None, []
    divisor = per_band(attrs[name], bands, name, path)
    if float(np.min(np.abs(divisor))) < 1 and row.scale is None:
        raise InputError(
            f"{path}: {name} is {np.min(divisor):g}; by NEON's convention it divides, which makes values larger; "
            f"give scale in row {row.key}"
        )
    return divided(divisor), []


def _linear(
    row: Row, attrs: Mapping[str, Any], bands: int, path: Path
) -> tuple[Numbers | None, Numbers | None, list[str]]:
    """(scale, offset, notes)."""
    scale, notes = _scale(row, attrs, bands, path)
    offset = per_band(attrs["add_offset"], bands, "add_offset", path) if "add_offset" in attrs else None
    return scale, offset, notes


def _limits(attrs: Mapping[str, Any]) -> tuple[tuple[float, float] | None, list[str]]:
    """(lowest and highest stored value, notes)."""
    low, high = -np.inf, np.inf
    pair = as_numbers(attrs.get("valid_range"))
    if pair is not None and len(pair) == 2:
        low, high = pair.tolist()
    for name in ("valid_min", "valid_max"):
        number = as_numbers(attrs.get(name))
        if number is not None and len(number) == 1:
            low, high = (float(number[0]), high) if name == "valid_min" else (low, float(number[0]))
    if not low < high:
        return None, [f"valid_range {low:g} to {high:g} is left out"]
    return ((low, high) if np.isfinite(low) or np.isfinite(high) else None), []


def fills(attrs: Mapping[str, Any]) -> tuple[float, ...]:
    """Every value that an attribute calls none."""
    found: list[float] = []
    for name, value in attrs.items():
        numbers = as_numbers(value) if key_of(name) in FILLS else None
        found += [] if numbers is None else numbers.tolist()
    return tuple(dict.fromkeys(found))


def attribute_meaning(row: Row, attrs: Mapping[str, Any], dtype: np.dtype[Any], bands: int, path: Path) -> Meaning:
    """What the attributes of an array say of its values.

    Raises:
        InputError: they say something that cannot be done, and the row says nothing.
    """
    if as_text(attrs.get("_Unsigned")).lower() == "true" and dtype.kind == "i":
        raise InputError(
            f"{path}: its {dtype.name} values mean unsigned numbers (_Unsigned), which is not read; save them so"
        )
    nothing: tuple[Numbers | None, Numbers | None, list[str]] = (None, None, [])
    scale, offset, notes = unless_row(row, lambda: _linear(row, attrs, bands, path), nothing)
    limits, limit_notes = _limits(attrs)
    nodata = fills(attrs)
    units = as_text(attrs.get("units"))
    alike = key_of(units) in (key_of(row.units), *NO_UNITS)
    unit_note = "" if alike else f"the units of the file are {units!r}"
    return Meaning(scale, offset, nodata, limits).add(*notes, *limit_notes, unit_note, *fill_notes(nodata, dtype))


def is_used(name: str) -> bool:
    """Whether an attribute of this name is used, so that it need not be told."""
    key = key_of(name)
    return name in ("scale_factor", "add_offset", *DIVIDES) or key in (*FILLS, *LIMITS, *UNITS)


def flags_beside(vectors: Mapping[str, Held], read: Callable[[str], Any], bands: int) -> tuple[Any, str]:
    """(bands that a vector of one flag per band calls bad or None, its name)."""
    for name, array in vectors.items():
        last = key_of(name.replace(".", "/").rsplit("/", 1)[-1])
        if last in (*GOOD, *BAD) and int(np.prod(array.shape, dtype=np.float64)) == bands:
            values = read(name)
            found = bad_bands(values, bands, last in GOOD)
            if found is not None and np.isin(np.asarray(values, np.float64), (-1, 0, 1)).all():
                return found, name
    return None, ""


def with_beside(
    meaning: Meaning,
    held: Mapping[str, Held],
    read: Callable[[str], Any],
    bands: int,
    used: set[str],
    attrs: Mapping[str, Any] | None = None,
) -> Meaning:
    """The same with what other arrays of the file say: flags of bands are used, what else may matter is noted.

    Args:
        meaning: what the cube's own attributes say.
        held: every array of the file.
        read: values of one of them.
        bands: of the cube.
        used: names of arrays that are used already.
        attrs: attributes that are not used.
    """
    vectors = {name: array for name, array in held.items() if not array.kind or "bool" in array.dtype}
    bad, flags = flags_beside(vectors, read, bands)
    others: dict[str, Any] = dict(attrs or {})
    for name, array in vectors.items():
        last = name.replace(".", "/").rpartition("/")[2]
        if name not in used | {flags} and not name.startswith("#") and MATTERS.search(last):
            few = int(np.prod(array.shape, dtype=np.float64)) <= FEW_VALUES
            others[name] = read(name) if few else str(array)
    note = f"bad bands are those of {flags}" if flags else ""
    return replace(meaning, bad=bad).add(note, unread_note(others))


def unpacked(values: Any, attrs: Mapping[str, Any]) -> Array:
    """A vector in its physical values by its own CF attributes; NaN where it has none."""
    numbers = np.ravel(np.asarray(values)).astype(np.float64)
    stored = numbers.copy()
    for name, apply in (("scale_factor", np.multiply), ("add_offset", np.add)):
        factor = as_numbers(attrs.get(name))
        if factor is not None and len(factor) == 1:
            numbers = apply(numbers, factor[0])
    return np.where(np.isin(stored, fills(attrs)), np.nan, numbers)


def unit_of(attrs: Mapping[str, Any]) -> str:
    """The unit that a vector's attributes give, or ""."""
    return next((as_text(attrs[name]) for name in attrs if key_of(name) in UNITS and as_text(attrs[name])), "")
