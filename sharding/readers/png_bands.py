"""One grey PNG per band in a folder, as tunable-filter cameras give them.

Only the bands that are asked for are decoded.
The scene is the picture of its first band; the others have the same name but for the number at its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.grey import grey_depth, grey_values, picture_meaning
from sharding.readers.lazy import LazyCube
from sharding.readers.meaning import Meaning, Numbers
from sharding.readers.raw import RawCube
from sharding.readers.sidecar import sidecar

NUMBER = re.compile(r"(.*?)(\d+)$")


@dataclass(frozen=True)
class PngStack:
    """An array (band, height, width) whose bands are pictures."""

    paths: tuple[Path, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def __getitem__(self, wanted: tuple[slice, slice, slice]) -> Any:
        """Some bands of a window."""
        bands, rows, cols = wanted
        planes = []
        for path in self.paths[bands]:
            with Image.open(path) as image:
                depth = grey_depth(path, image, "band")
                if (image.height, image.width) != self.shape[1:] or depth != self.dtype:
                    first = f"the first band {self.shape[1:]} {self.dtype}"
                    raise InputError(f"{path} is {image.height} x {image.width} {depth}, {first}")
                planes.append(grey_values(path, image, self.dtype)[rows, cols])
        return np.stack(planes) if planes else np.empty((0, 0, 0), self.dtype)


def band_files(path: Path) -> dict[int, Path]:
    """Number -> file of every picture beside `path` that is named like it, itself included."""
    first = NUMBER.fullmatch(path.stem)
    if first is None:
        return {}
    found = ((NUMBER.fullmatch(other.stem), other) for other in sorted(path.parent.glob(f"*{path.suffix}")))
    return {int(match[2]): other for match, other in found if match and match[1] == first[1]}


def open_png_bands(row: Row, path: Path) -> RawCube:
    """Open the scene whose first band is `path`."""
    numbered = band_files(path)
    if not numbered:
        raise InputError(f"{path} has no number at the end of its name; mend files in its row")
    paths = tuple(numbered[number] for number in sorted(numbered))
    missing = set(range(min(numbered), max(numbered))) - set(numbered)
    if missing or path != paths[0]:
        gap = f"but not number {min(missing)}" if missing else f"of which {path.name} is not the first"
        raise InputError(f"{path.parent} has {len(paths)} bands named like {path.name}, {gap}")
    with Image.open(path) as image:
        stack = PngStack(paths, (len(paths), image.height, image.width), grey_depth(path, image, "band"))
    beside = [notes for band in paths if (notes := sidecar(band)) is not None]
    return _meaning(row, paths).over(RawCube(LazyCube(stack, "bhw"), (*beside, *paths)))


def _meaning(row: Row, paths: tuple[Path, ...]) -> Meaning:
    """What the pictures say of their values, each of its own."""
    told: list[Meaning] = []
    for path in paths:
        with Image.open(path) as image:
            told.append(picture_meaning(row, path, image, 1))
    notes = dict.fromkeys(
        f"{paths[band].name}{' and others' if len(paths) > 1 else ''}: {note}"
        for note, band in {note: band for band, one in reversed(list(enumerate(told))) for note in one.notes}.items()
    )
    return Meaning(
        _of_each([one.scale for one in told], 1.0), _of_each([one.offset for one in told], 0.0),
        tuple(dict.fromkeys(value for one in told for value in one.nodata)), notes=tuple(notes),
    )  # fmt: skip


def _of_each(values: list[Numbers | None], otherwise: float) -> Numbers | None:
    """One number per band of what each picture says."""
    if all(value is None for value in values):
        return None
    return tuple(otherwise if value is None else float(np.mean(value)) for value in values)
