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
from sharding.readers import RawCube
from sharding.readers.lazy import LazyCube
from sharding.readers.mosaic import GREY_MODES

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
                _check(path, image, self.shape, self.dtype)
                planes.append(np.asarray(image).astype(self.dtype)[rows, cols])
        return np.stack(planes) if planes else np.empty((0, 0, 0), self.dtype)


def _depth(image: Image.Image) -> np.dtype[Any]:
    return np.dtype(np.uint8 if image.mode == "L" else np.uint16)


def _check(path: Path, image: Image.Image, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
    if image.mode not in GREY_MODES:
        raise InputError(f"{path} is a {image.mode} picture, a band has one grey channel")
    if (image.height, image.width) != shape[1:] or _depth(image) != dtype:
        raise InputError(
            f"{path} is {image.height} x {image.width} {_depth(image)}, the first band {shape[1:]} {dtype}"
        )


def band_files(path: Path) -> dict[int, Path]:
    """Number -> file of every picture beside `path` that is named like it, itself included."""
    first = NUMBER.fullmatch(path.stem)
    if first is None:
        return {}
    found = ((NUMBER.fullmatch(other.stem), other) for other in sorted(path.parent.glob(f"*{path.suffix}")))
    return {int(match[2]): other for match, other in found if match and match[1] == first[1]}


def open_png_bands(row: Row, path: Path) -> RawCube:  # noqa: ARG001 - same signature for every container
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
        shape, dtype = (len(paths), image.height, image.width), _depth(image)
        _check(path, image, shape, dtype)
    return RawCube(LazyCube(PngStack(paths, shape, dtype), "bhw"), paths)
