"""One training sample: the members of a tar that plain `tarfile` and `webdataset` read with no help of ours.

<key>.cube.bands     one Blosc-zstd frame per band, one after the other: any band decodes on its own
<key>.instances.png  uint16 mask ids, 0 = unlabelled
<key>.materials.png  uint16 material ids of the scene, 0 = unlabelled
<key>.valid.png      255 where the pixel is real, 0 where it is invalid or padding
<key>.rgb.png        how the teacher sees it (the rule is in the json)
<key>.json           wavelengths, scale, window, mask records, ...; `frame_bytes` cuts the bands apart
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray
from PIL import Image

FORMAT = "hypervision.sample/1"
CODEC = Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)
Array = NDArray[Any]


def encode_png(array: Array) -> bytes:
    """A PNG of an integer mask or an RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=4)
    return buffer.getvalue()


def decode_png(data: bytes) -> Array:
    """The array in a PNG."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def encode_bands(stored_CHW: Array) -> tuple[bytes, list[int]]:
    """One compressed frame per band, and the length of each."""
    frames = [CODEC.encode(np.ascontiguousarray(band)) for band in stored_CHW]
    return b"".join(frames), [len(frame) for frame in frames]


def encode_sample(key: str, stored_CHW: Array, pictures: dict[str, Array], meta: dict[str, Any]) -> dict[str, Any]:
    """The members of one sample as `webdataset.TarWriter` takes them."""
    frames, lengths = encode_bands(stored_CHW)
    head = {
        "format": FORMAT,
        "shape_CHW": list(stored_CHW.shape),
        "dtype": stored_CHW.dtype.str,
        "frame_bytes": lengths,
        **meta,
    }
    members: dict[str, Any] = {"__key__": key, "cube.bands": frames}
    members |= {f"{name}.png": encode_png(array) for name, array in pictures.items()}
    members["json"] = json.dumps(head, sort_keys=True).encode()
    return members


def band_slices(meta: dict[str, Any]) -> list[slice]:
    """Where each band's frame lies inside `cube.bands`."""
    ends = np.cumsum([0, *meta["frame_bytes"]]).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


def decode_frames(frames: Sequence[bytes], meta: dict[str, Any]) -> Array:
    """Physical values float32 [K, H, W] of the given frames."""
    _, height, width = meta["shape_CHW"]
    out = np.empty((len(frames), height, width), meta["dtype"])
    for index, frame in enumerate(frames):
        CODEC.decode(frame, out[index])
    return out.astype(np.float32) * np.float32(meta["scale"]) + np.float32(meta["offset"])
