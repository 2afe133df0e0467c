"""Snapshot-mosaic PNG: one grey frame whose c x c filter cell repeats, read as unnormalised integers.

band b of pixel (i, j) is png[i*c + b // c, j*c + b % c]; sides that c does not divide lose their rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharding.catalog import Mosaic, Row
from sharding.errors import InputError
from sharding.readers import RawCube

GREY_MODES = ("L", "I;16", "I;16B", "I")


def grey_depth(path: Path, image: Image.Image, what: str) -> np.dtype[Any]:
    """uint8 or uint16, as deep as a grey picture is.

    Raises:
        InputError: it has colours.
    """
    if image.mode not in GREY_MODES:
        raise InputError(f"{path} is a {image.mode} picture, a {what} has one grey channel")
    return np.dtype(np.uint8 if image.mode == "L" else np.uint16)


def open_mosaic(row: Row, path: Path) -> RawCube:
    """Open a mosaic frame at its native depth, without demosaicking."""
    layout = row.mosaic or Mosaic()
    with Image.open(path) as image:
        depth = grey_depth(path, image, "mosaic frame")
        frame = np.asarray(image).astype(depth)
    cell = layout.cell
    height, width = frame.shape[0] // cell, frame.shape[1] // cell
    cells = frame[: height * cell, : width * cell].reshape(height, cell, width, cell)
    cube = cells.transpose(0, 2, 1, 3).reshape(height, width, cell * cell)
    kept = [band for band in range(cell * cell) if band not in layout.drop]
    rest = (frame.shape[0] % cell, frame.shape[1] % cell)
    note = f"{rest[0]} rows and {rest[1]} columns beyond whole cells left out" if any(rest) else ""
    return RawCube(cube[..., kept], (path,), note=note)
