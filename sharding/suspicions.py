"""What is odd about the values of an array that nobody has described yet, each in one sentence that says what to do."""

from __future__ import annotations

import numpy as np

from sharding.peek import Held
from sharding.readers import Array

FEW_ZEROS = 0.005
PLATEAU = 0.002
FULL_SCALES = (255, 1023, 4095, 16383, 65535)
NM, UM = (300.0, 3000.0), (0.3, 3.0)


def wavelength_unit(held: Held) -> str:
    """The unit, nm or um, of a vector that looks like wavelengths; empty for any other."""
    if not held.is_vector or held.values is None:
        return ""
    values = np.ravel(held.values).astype(float)
    if not np.isfinite(values).all() or len(np.unique(values)) < len(values):
        return ""
    for unit, (low, high) in (("nm", NM), ("um", UM)):
        # Counts from 1 are within the range of neither, or are all whole numbers one apart.
        if (
            low <= values.min()
            and values.max() <= high
            and not (unit == "um" and np.array_equal(values, values.round()))
        ):
            return unit
    return ""


def value_range(held: Held) -> str:
    """Lowest and highest value in words."""
    if held.values is None or held.values.size == 0:
        return "-"
    finite = held.values[np.isfinite(held.values)] if held.values.dtype.kind == "f" else held.values
    return f"{finite.min():g} to {finite.max():g}" if finite.size else "no finite value"


def _missing(values: Array) -> list[str]:
    words = []
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(1, bool)
    if not finite.all():
        words.append(f"{1 - finite.mean():.1%} of the values are NaN or infinite: those pixels become invalid")
    zeros = float((values == 0).mean())
    if zeros > FEW_ZEROS:
        words.append(f"{zeros:.1%} of the values are 0: if that means missing, set nodata: 0")
    return words


def plateaus(values: Array) -> list[tuple[float, float]]:
    """(value, share) of values at either end that occur far more often than others do: fill or full scale."""
    kept = values[np.isfinite(values)] if values.dtype.kind == "f" else np.ravel(values)
    if not kept.size:
        return []
    found, count = np.unique(kept, return_counts=True)
    if len(found) < 3:
        return []
    usual = float(np.median(count))
    ends = [index for index in (0, len(found) - 1) if found[index] != 0]
    share = {index: count[index] / kept.size for index in ends}
    return [
        (float(found[index]), float(share[index]))
        for index in ends
        if share[index] > PLATEAU and count[index] > 10 * usual
    ]


def _ends(values: Array) -> list[str]:
    words = []
    for value, share in plateaus(values):
        full = value in FULL_SCALES
        what = "full scale of the sensor, or" if full else "a"
        words.append(f"{share:.1%} of the values are {value:g}, {what} fill value: if missing, set nodata: {value:g}")
    return words


def _bands(values: Array, axes: str) -> list[str]:
    planes = np.moveaxis(values, axes.index("b"), 0).reshape(values.shape[axes.index("b")], -1)
    with np.errstate(invalid="ignore"):
        flat = np.flatnonzero(planes.min(1) == planes.max(1)).tolist()
    shown = ", ".join(str(band) for band in flat[:12]) + (", ..." if len(flat) > 12 else "")
    return [f"{len(flat)} bands are constant ({shown}): they are marked as bad"] if flat else []


def _scale(values: Array, says_reflectance: bool) -> list[str]:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return []
    high = float(np.percentile(finite, 99))
    if values.dtype.kind in "iu" and says_reflectance:
        return [
            f"the file speaks of reflectance, but holds integers up to {finite.max():g}: "
            "scale: 0.0001 if 10000 stands for 1"
        ]
    if values.dtype.kind == "f" and 1.5 < high <= 150 and says_reflectance:
        return [f"reflectance up to {high:g} (99th percentile): per cent? then scale: 0.01"]
    return []


def suspicions(held: Held, axes: str, says_reflectance: bool) -> list[str]:
    """Sentences about a cube; `axes` are its axes as far as they are known, letters h, w, b."""
    if held.values is None or not held.values.size:
        return []
    words = _missing(held.values) + _ends(held.values)
    if len(axes) == held.values.ndim == 3 and "b" in axes:
        words += _bands(held.values, axes)
    return words + _scale(held.values, says_reflectance)


def axis_suspicions(held: Held) -> list[str]:
    """Sentences about a vector of wavelengths."""
    words = []
    values = np.ravel(held.values).astype(float) if held.values is not None else np.empty(0)
    if wavelength_unit(held) == "um":
        words.append(f"{held.name} is in micrometres, rows are in nanometres: give the values times 1000")
    if len(values) > 1 and not (np.diff(values) > 0).all():
        words.append(f"{held.name} does not rise: bands may lie in any order, that is read as it is")
    return words
