"""Snapshot-mosaic PNG: one grey frame whose c x c filter cell repeats, read as unnormalised integers.

band b of pixel (i, j) is png[i*c + b // c, j*c + b % c]; sides that c does not divide lose their rest.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sharding.catalog import Mosaic, Row
from sharding.readers.grey import grey_depth, grey_values, picture_meaning
from sharding.readers.raw import RawCube
from sharding.readers.sidecar import sidecar


def open_mosaic(row: Row, path: Path) -> RawCube:
    """Open a mosaic frame at its native depth, without demosaicking."""
    layout = row.mosaic or Mosaic()
    with Image.open(path) as image:
        frame = grey_values(path, image, grey_depth(path, image, "mosaic frame"))
        meaning = picture_meaning(row, path, image, 1)
    cell = layout.cell
    height, width = frame.shape[0] // cell, frame.shape[1] // cell
    cells = frame[: height * cell, : width * cell].reshape(height, cell, width, cell)
    cube = cells.transpose(0, 2, 1, 3).reshape(height, width, cell * cell)
    kept = [band for band in range(cell * cell) if band not in layout.drop]
    rest = (frame.shape[0] % cell, frame.shape[1] % cell)
    note = f"{rest[0]} rows and {rest[1]} columns beyond whole cells left out" if any(rest) else ""
    beside = sidecar(path)
    return meaning.over(RawCube(cube[..., kept], (*([beside] if beside else []), path), note=note))
