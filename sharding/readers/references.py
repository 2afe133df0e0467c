"""White and dark references: counts of a scene into reflectance, lazily, as a line scanner's own software does it.

    (scene - dark) / (white - dark) * exposure of white / exposure of scene

Each in the scale of its own file; a reference is its mean over lines, so one number per column and band. Dark is taken
away before exposures count. Where white is not brighter than dark there is no value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.missing import Missing
from sharding.readers.lazy import LazyCube
from sharding.readers.meaning import calibration, joined
from sharding.readers.raw import Array, RawCube

LINES = 64
FULL_SCALES = (255, 1023, 4095, 16383, 65535)
Opener = Callable[[Row, Path], RawCube]


@dataclass(frozen=True)
class Referenced:
    """An array [H, W, B] of reflectance that is read by slices: (stored * scale + offset - dark) * factor."""

    raw: RawCube
    missing: Missing
    scale_B: Array
    offset_B: Array
    dark_WB: Array
    factor_WB: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, bands."""
        return self.raw.shape_HWB

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(np.float32)

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Sides that are best read at once."""
        base = self.raw.base_HWX
        return (base.chunk_rows if isinstance(base, LazyCube) else 1, self.shape[1], self.shape[2])

    def __getitem__(self, wanted: tuple[slice, slice, slice]) -> Array:
        """A window; NaN where there is no value."""
        rows, cols, bands = wanted
        values = _physical(self.raw, self.missing, self.scale_B, self.offset_B, rows, cols, bands)
        values -= self.dark_WB[cols, bands]
        values *= self.factor_WB[cols, bands]
        return values.astype(np.float32)


def _physical(
    raw: RawCube, missing: Missing, scale_B: Array, offset_B: Array, rows: slice, cols: slice, bands: slice
) -> Array:
    """Values of a window in the scale of its file, float64 [h, w, b]; NaN where there are none."""
    planes = raw.planes(rows, cols, bands)
    absent = missing.values(planes)
    values = planes.astype(np.float64)
    if absent is not None:
        values[absent] = np.nan
    values = values.transpose(1, 2, 0)
    values *= scale_B[bands]
    values += offset_B[bands]
    return values


def reference_path(row: Row, scene: Path, kind: str) -> Path | None:
    """The file of a reference of a scene: its own where the reference is an array in it; None without one."""
    place = getattr(row, kind)
    if place is None:
        return None
    return scene if isinstance(place, dict) else scene.parent / place.replace("{name}", scene.stem)


def reference_files(row: Row, scene: Path, kind: str) -> list[Path]:
    """Every file of a reference: of a header the data files of the same stem too."""
    path = reference_path(row, scene, kind)
    if path is None or not path.is_file() or path.suffix.lower() != ".hdr":
        return [] if path is None else [path]
    return sorted(other for other in path.parent.iterdir() if other.stem == path.stem and other.is_file())


def _plain(row: Row) -> Row:
    """A row that says how a file lies, and nothing of its values but what marks a missing one."""
    return replace(
        row, white=None, dark=None, scale=None, offset=None, valid_variable=None, keep_bands=None, shape=None
    )


def _mean(row: Row, scene: RawCube, path: Path, kind: str, opener: Opener) -> tuple[RawCube, Array]:
    """(a reference, its mean over lines [W, B] in the scale of its file; NaN where it has no value).

    Raises:
        InputError: it is missing, or of another size than the scene.
    """
    place = getattr(row, kind)
    file = reference_path(row, path, kind)
    if file is None or not file.is_file():
        raise InputError(f"{path}: its {kind} reference {file} is not there; mend {kind} in row {row.key}")
    plain = _plain(row)
    raw = opener(replace(plain, variable=place["variable"]) if isinstance(place, dict) else plain, file)
    height, width, bands = raw.shape_HWB
    if (width, bands) != scene.shape_HWB[1:]:
        raise InputError(
            f"{path}: its {kind} reference {file.name} is {height} x {width} with {bands} bands, the scene has "
            f"{scene.shape_HWB[1]} columns and {scene.shape_HWB[2]} bands; give one of the same columns and bands"
        )
    missing = Missing.of(row.nodata if row.nodata is not None else raw.nodata, raw.limits)
    scale_B, offset_B = calibration(plain, raw)
    total, count = np.zeros((width, bands)), np.zeros((width, bands))
    for start in range(0, height, LINES):
        rows = slice(start, start + LINES)
        values = _physical(raw, missing, scale_B, offset_B, rows, slice(None), slice(None))
        total += np.nansum(values, 0)
        count += np.isfinite(values).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return raw, np.where(count > 0, total / count, np.nan)


def _exposures(row: Row, path: Path, scene: RawCube, white: RawCube) -> tuple[float, str]:
    """(exposure of white / exposure of the scene, what to note).

    Raises:
        InputError: only one of them tells its exposure.
    """
    if row.exposure is not None:
        return row.exposure["white"] / row.exposure["scene"], ""
    if scene.exposure is None and white.exposure is None:
        return 1.0, "no exposure is told, scene and white reference count as exposed alike"
    if scene.exposure is None or white.exposure is None:
        lacking = "scene" if scene.exposure is None else "white reference"
        raise InputError(
            f"{path}: the {lacking} does not tell its exposure and the other does; "
            f"give exposure: {{scene: T, white: T}} in row {row.key}"
        )
    return white.exposure / scene.exposure, ""


def _saturated(raw: RawCube, kind: str) -> str:
    """A warning about a reference that reaches the end of its camera's range."""
    if raw.dtype.kind not in "iu":
        return ""
    height = raw.shape_HWB[0]
    tops = [int(raw.view(slice(start, start + LINES)).max()) for start in range(0, height, LINES)]
    return f"the {kind} reference is saturated at {max(tops)}" if max(tops) in FULL_SCALES else ""


def with_references(row: Row, path: Path, scene: RawCube, opener: Opener) -> RawCube:
    """A scene with its references applied, if the row names some.

    Raises:
        InputError: a reference cannot be read, or does not fit.
    """
    if row.white is None and row.dark is None:
        return scene
    _, width, bands = scene.shape_HWB
    dark_WB: Array = np.zeros((width, bands))
    factor_WB: Array = np.ones((width, bands))
    sources, notes, bad = list(scene.sources), [scene.note], np.zeros(bands, bool) | np.asarray(scene.bad or False)
    if row.dark is not None:
        dark, dark_WB = _mean(row, scene, path, "dark", opener)
        sources = [*dark.sources, *sources]
    if row.white is not None:
        white, white_WB = _mean(row, scene, path, "white", opener)
        ratio, note = _exposures(row, path, scene, white)
        light_WB = white_WB - dark_WB
        with np.errstate(invalid="ignore", divide="ignore"):
            factor_WB = np.where(light_WB > 0, ratio / light_WB, np.nan)
        lost = int((~np.isfinite(factor_WB)).sum())
        dim = f"white is not brighter than dark in {lost} of {light_WB.size} columns x bands, which have no value"
        notes += [note, dim if lost else "", _saturated(white, "white")]
        sources, bad = [*white.sources, *sources], bad | np.asarray(white.bad or False)
    missing = Missing.of(row.nodata if row.nodata is not None else scene.nodata, scene.limits)
    array = Referenced(scene, missing, *calibration(_plain(row), scene), dark_WB, factor_WB)
    names = " and ".join(kind for kind in ("dark", "white") if getattr(row, kind) is not None)
    return replace(
        scene, base_HWX=LazyCube(array, "hwb"), basis=None, sources=tuple(dict.fromkeys(sources)), scale=None,
        offset=None, nodata=None, limits=None, bad=tuple(bad.tolist()) if bad.any() else None, referenced=True,
        note=joined(*notes, f"{names} reference applied"),
    )  # fmt: skip
