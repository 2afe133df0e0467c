"""What lies beside a cube: an RGB picture, label maps, tracking boxes. Found by a rule on paths, turned as the cube is.

Pictures are files, or arrays of an .npz or .mat, which may be the scene's own file.

A companion of another size is stored as it is and marked as not registered; nothing is ever resized.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from sharding.catalog import Companion, Row
from sharding.errors import InputError
from sharding.label_maps import label_ids, read_array, read_label_map
from sharding.readers import Array, reading, turn_plane

BOXES = "groundtruth_rect.txt"


@dataclass(frozen=True)
class Found:
    """One companion of a scene: pixels [H, W] or [H, W, 3], or one box (x, y, width, height) in pixels."""

    name: str
    kind: str
    source: Path
    pixels: Array | None = None
    box: tuple[float, ...] | None = None


def companion_path(companion: Companion, root: Path, scene: Path) -> Path:
    """Where the companion of a scene must lie: whole folder names are replaced, never parts of them."""
    relative = PurePosixPath(scene.relative_to(root).as_posix())
    if companion.kind == "boxes":
        return scene.parent.parent / BOXES
    if not companion.suffix:
        return scene
    folders = [companion.folders.get(part, part) for part in relative.parts[:-1]]
    stem = relative.stem
    for old, new in companion.stem.items():
        stem = stem.replace(old, new)
    return root.joinpath(*[part for part in folders if part], f"{companion.prefix}{stem}{companion.suffix}")


def _box(path: Path, scene: Path) -> tuple[float, ...]:
    """The line of a sequence's box file that belongs to a frame (frames are numbered from 1)."""
    lines = path.read_text().split("\n")
    number = int(scene.stem)
    if not 1 <= number <= len(lines) or not lines[number - 1].strip():
        raise InputError(f"{path} has no line for frame {number}")
    values = tuple(float(word) for word in lines[number - 1].replace(",", " ").split())
    if len(values) != 4 or not all(np.isfinite(values)):
        raise InputError(f"{path}: line {number} is not x, y, width, height")
    return values


def _picture(companion: Companion, path: Path) -> Array:
    if companion.kind == "labels":
        return read_label_map(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB") if companion.kind == "rgb" else image)


def _pixels(companion: Companion, path: Path, ops: list[str]) -> Array | None:
    pixels = read_array(path, companion.variable) if companion.variable else _picture(companion, path)
    if pixels is None:
        return None
    if companion.kind == "rgb" and (pixels.ndim != 3 or pixels.shape[2] != 3):
        raise InputError(f"{path} holds a {pixels.shape} {companion.name}, a colour picture has three channels")
    if companion.kind == "labels":
        pixels = label_ids(pixels, path, companion.name)
    if companion.order == "bgr":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(turn_plane(pixels, ops)) if companion.turned else pixels


def find_companions(row: Row, root: Path, scene: Path) -> tuple[list[Found], list[str]]:
    """The companions of one scene that are there, and a sentence for each that is missing.

    Raises:
        InputError: a companion is damaged; take it away to have the cube without it.
    """
    found, missing = [], []
    for companion in row.companions:
        path = companion_path(companion, root, scene)
        if not path.is_file():
            missing.append(f"no {companion.name} at {path.relative_to(root) if path.is_relative_to(root) else path}")
            continue
        with reading(path, companion.name):
            if companion.kind == "boxes":
                found.append(Found(companion.name, "boxes", path, box=_box(path, scene)))
            else:
                pixels = _pixels(companion, path, row.spatial_ops)
                if pixels is None:
                    missing.append(f"no {companion.name} in {path.name}: it holds no array {companion.variable!r}")
                    continue
                found.append(Found(companion.name, companion.kind, path, pixels))
    return found, missing
