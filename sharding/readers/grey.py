"""Grey pictures as they are stored: their numbers, whatever the library makes of shallow or deep ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers.meaning import Meaning, joined
from sharding.readers.raw import Array
from sharding.readers.sidecar import with_sidecar

GREY_MODES = ("1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I")
LOSSY = ("JPEG", "JPEG2000", "WEBP", "MPO")
DEPTH_AT = 24  # byte of a PNG that says how many bits a value has
WHITE_IS_ZERO, PHOTOMETRIC, ORIENTATION = 0, 262, 274


def grey_depth(path: Path, image: Image.Image, what: str) -> np.dtype[Any]:
    """Type that holds the numbers of a grey picture: uint8, uint16, or int32 where a TIFF has such.

    Raises:
        InputError: it has colours, or is packed in a way that changes its numbers.
    """
    if image.format in LOSSY or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise InputError(f"{path} is packed as {image.format}, which changes the values of a {what}; save it as PNG")
    if image.mode not in GREY_MODES:
        raise InputError(f"{path} is a {image.mode} picture, a {what} has one grey channel")
    tags = getattr(image, "tag_v2", {})
    if tags.get(ORIENTATION, 1) != 1:  # the library turns some types and not others
        raise InputError(f"{path} lies turned (orientation {tags[ORIENTATION]}); save it upright")
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise InputError(f"{path} is stored with white as zero (WhiteIsZero); save it with black as zero")
    if image.mode in ("1", "L"):
        return np.dtype(np.uint8)
    return np.dtype(np.int32 if image.mode == "I" and image.format != "PNG" else np.uint16)


def grey_values(path: Path, image: Image.Image, depth: np.dtype[Any]) -> Array:
    """The numbers of a picture as they are stored.

    Raises:
        InputError: they do not fit the depth.
    """
    values = np.asarray(image)
    if image.mode == "I":
        info = np.iinfo(depth)
        if values.size and not info.min <= int(values.min()) <= int(values.max()) <= info.max:
            raise InputError(f"{path} holds {values.min()} to {values.max()}, which do not fit {depth.name}")
    if image.format == "PNG" and image.mode == "L":
        values = values // (255 // ((1 << png_bits(path)) - 1))  # of 2 and 4 bits the library makes 0-255
    return np.asarray(values).astype(depth)


def png_bits(path: Path) -> int:
    """Bits of a value of a PNG: 8 for whatever is none."""
    with path.open("rb") as file:
        head = file.read(DEPTH_AT + 1)
    bits = head[DEPTH_AT] if len(head) > DEPTH_AT else 8
    return bits if bits in (1, 2, 4) else 8


def picture_meaning(row: Row, path: Path, image: Image.Image, bands: int) -> Meaning:
    """What a picture and GDAL's notes beside it say of its values; what is not used is noted."""
    info = image.info
    notes = []
    if "transparency" in info and "A" not in image.mode:
        notes.append(
            f"a transparent value (tRNS {str(info['transparency'])[:20]}) is not used; give nodata if it means none"
        )
    if "gamma" in info:
        notes.append(f"gAMA {info['gamma']:g} is not applied, values are as stored")
    for name, words in (("icc_profile", "a colour profile"), ("srgb", "sRGB")):
        if name in info:
            notes.append(f"{words} is not applied, values are as stored")
    return with_sidecar(row, Meaning(notes=(joined(*notes),) if notes else ()), path, bands)
