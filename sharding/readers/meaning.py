"""What a file says of its numbers, in one form for every container: used, refused or noted, never passed over.

    physical = stored * scale + offset, of what is neither `nodata` nor outside of `limits`, in bands that are not `bad`

A row goes before the file, and the note says where the two differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.raw import RawCube

T = TypeVar("T")
Array = NDArray[Any]
Numbers = float | tuple[float, ...]
MATTERS = re.compile(
    r"scal|gain|offset|factor|fill|no_?data|missing|ignore|(?<![a-z])units?(?![a-z])|bad|bbl|good_|dn_to|to_refl|"
    r"to_rad|zero_?point|mult|(?<![a-z])c[01](?![a-z0-9])|nan_?val|slope|intercept|bias|calib|coeff|valid|quantif|"
    r"compress|percent|gamma|reflectance_max|max_?value|saturat",
    re.IGNORECASE,
)
MOST_TOLD = 8


@dataclass(frozen=True)
class Meaning:
    """What a file says of its values.

    Fields:
        scale, offset: one number, or one per band of the file; None = it says nothing.
        nodata: stored values that mean "none".
        limits: lowest and highest stored value that is one.
        bad: per band of the file, True where it says that the band is no good.
        notes: what else must be told.
    """

    scale: Numbers | None = None
    offset: Numbers | None = None
    nodata: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None
    bad: tuple[bool, ...] | None = None
    notes: tuple[str, ...] = ()

    def add(self, *notes: str) -> Meaning:
        """The same with more to tell."""
        return replace(self, notes=self.notes + tuple(note for note in notes if note and note not in self.notes))

    def over(self, raw: RawCube) -> RawCube:
        """A cube with this meaning."""
        return replace(
            raw, scale=self.scale, offset=self.offset, nodata=self.nodata or None, limits=self.limits, bad=self.bad,
            note=joined(raw.note, *self.notes),
        )  # fmt: skip


def joined(*notes: str) -> str:
    """Notes as one text, each once."""
    return "; ".join(dict.fromkeys(note for note in notes if note))


def as_text(value: Any) -> str:
    """An attribute as text, whatever kind of string or array it is; "" if it is none."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return value.strip() if isinstance(value, str) else ""


def as_numbers(value: Any) -> Array | None:
    """An attribute as float64 numbers [N], or None if it is something else."""
    try:
        numbers = np.ravel(np.asarray(value))
        return numbers.astype(np.float64) if numbers.dtype.kind in "biufSU" and numbers.size else None
    except (TypeError, ValueError):
        return None


def per_band(value: Any, bands: int, name: str, path: Path) -> Numbers:
    """A number, or one per band.

    Raises:
        InputError: it is neither, or not finite.
    """
    numbers = as_numbers(value)
    if numbers is None or len(numbers) not in (1, bands) or not np.isfinite(numbers).all():
        shown = as_text(value) or ("nothing" if numbers is None else f"{len(numbers)} values: {shown_value(numbers)}")
        raise InputError(
            f"{path}: {name} is {shown}, not one finite number or one for each of {bands} bands; "
            f"give scale and offset in the row"
        )
    return float(numbers[0]) if len(numbers) == 1 else tuple(numbers.tolist())


def by_band(values: Mapping[int, float], bands: int, otherwise: float) -> Numbers:
    """Numbers that some bands have, and `otherwise` for the rest."""
    numbers = [values.get(band, otherwise) for band in range(bands)]
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def divided(value: Numbers) -> Numbers:
    """The scale that a divisor stands for (0 is left as it is, which is refused later)."""
    with np.errstate(divide="ignore"):
        factor = 1.0 / np.asarray(value, np.float64)
    factor = np.where(np.isfinite(factor), factor, 0.0)
    return float(factor) if factor.ndim == 0 else tuple(factor.tolist())


def bad_bands(value: Any, bands: int, good: bool) -> tuple[bool, ...] | None:
    """Bands that a vector of flags calls bad: anything but 1 in a list of good ones, anything but 0 in one of bad ones.

    None if it is no vector of one number per band.
    """
    numbers = as_numbers(value)
    if numbers is None or len(numbers) != bands:
        return None
    return tuple((numbers != (1 if good else 0)).tolist())


def fill_notes(nodata: Iterable[float], dtype: np.dtype[Any]) -> list[str]:
    """A sentence for each fill value that the stored type cannot hold."""
    notes = []
    for value in nodata:
        if dtype.kind not in "iu" or not np.isfinite(value):
            continue
        info = np.iinfo(dtype)
        if value != int(value) or not info.min <= int(value) <= info.max:
            notes.append(
                f"the fill value {value:g} of the file does not fit its type {dtype.name}, so no pixel can hold it; "
                f"give nodata in the row if another value means none"
            )
    return notes


def several_fills(nodata: Sequence[float]) -> str:
    """A sentence about fill values that differ from band to band, or ""."""
    words = ", ".join(f"{value:g}" for value in nodata)
    return f"fill values {words} count in every band" if len(nodata) > 1 else ""


def shown_value(value: Any) -> str:
    """An attribute in a few words."""
    text = as_text(value)
    if not text:
        numbers = as_numbers(value)
        text = "..." if numbers is None else " ".join(f"{number:g}" for number in numbers[:4])
        text += " ..." if numbers is not None and len(numbers) > 4 else ""
    return " ".join(text.split())[:40]


def unread_note(found: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """A sentence about keys that are not used here and that may matter, or ""."""
    left_out = set(known)
    told = [name for name in found if name not in left_out and MATTERS.search(name.replace(" ", "_"))]
    told = [name for name in told if not _changes_nothing(name, found[name])]
    if not told:
        return ""
    words = ", ".join(f"{name} = {shown_value(found[name])}" for name in told[:MOST_TOLD])
    more = f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return f"not used, though it may matter: {words}{more} (give scale, offset or nodata in the row if it does)"


def _changes_nothing(name: str, value: Any) -> bool:
    """Whether it is a factor of 1 or an offset of 0."""
    numbers = as_numbers(value)
    if numbers is None or len(numbers) != 1:
        return False
    return bool(numbers[0] == (0 if re.search("offset|bias|intercept", name, re.IGNORECASE) else 1))


def calibration(row: Row, raw: RawCube) -> tuple[Array, Array]:
    """(scale, offset) of each band of the cube [B], float64: the row's, else the file's, else 1 and 0.

    Raises:
        InputError: one is not finite, or a scale is 0.
    """
    bands = raw.shape_HWB[2]
    found = []
    for name, own, told, otherwise in (
        ("scale", row.scale, raw.scale, 1.0),
        ("offset", row.offset, raw.offset, 0.0),
    ):
        value = own if own is not None else told if told is not None else otherwise
        value_B = np.broadcast_to(np.asarray(value, np.float64), (bands,)).copy()
        if not np.isfinite(value_B).all() or (name == "scale" and not value_B.all()):
            source = raw.sources[0] if raw.sources else "a cube in memory"
            wrong = value_B[~np.isfinite(value_B) | (value_B == 0)][0]
            raise InputError(f"{source}: a {name} of {wrong:g} makes no values; give {name} in row {row.key}")
        found.append(value_B)
    return found[0], found[1]


def unless_row(row: Row, read: Callable[[], T], otherwise: T) -> T:
    """What a file says of its scale and offset, or `otherwise` if that makes no sense and the row gives both.

    Raises:
        InputError: it makes no sense, and the row does not give both.
    """
    try:
        return read()
    except InputError:
        if row.scale is None or row.offset is None:
            raise
        return otherwise


def row_notes(row: Row, raw: RawCube) -> list[str]:
    """Where the row goes before what the file says."""
    notes = []
    for name, own, told in (("scale", row.scale, raw.scale), ("offset", row.offset, raw.offset)):
        if own is not None and told is not None and not np.allclose(told, own, rtol=1e-6, atol=0):
            notes.append(f"{name} {own:g} of the row is used, the file says {_range(told)}")
    told_fill = () if raw.nodata is None else tuple(np.atleast_1d(raw.nodata).tolist())
    if row.nodata is not None and any(value != row.nodata for value in told_fill):
        fills = ", ".join(f"{value:g}" for value in told_fill)
        notes.append(f"nodata {row.nodata:g} of the row is used, the file says {fills}")
    if row.nodata is not None and fill_notes((row.nodata,), raw.dtype) and not raw.referenced:
        notes.append(
            f"nodata {row.nodata:g} of the row does not fit the type {raw.dtype.name}, so no pixel can hold it"
        )
    return notes


def _range(value: float | Sequence[float]) -> str:
    low, high = float(np.min(value)), float(np.max(value))
    return f"{low:g}" if low == high else f"{low:g} to {high:g} by band"
