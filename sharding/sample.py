"""One training sample: the members of a tar that plain `tarfile` and `webdataset` read with no help of ours.

<key>.cube.bands     one Blosc-zstd frame per band, one after the other: any band decodes on its own; of a low-rank
                     cube one per component, which `basis` in the json turns into any bands
<key>.instances.png  uint16 mask ids, 0 = unlabelled
<key>.materials.png  uint16 material ids of the scene, 0 = unlabelled
<key>.valid.png      255 where the pixel is good, 128 where some band is saturated, 0 where it is invalid or padding
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

from sharding.planes import Planes

FORMAT = "hypervision.sample/1"
CODEC = Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)
GOOD, SATURATED = 255, 128
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


def encode_bands(stored_XHW: Array) -> tuple[bytes, list[int]]:
    """One compressed frame per stored plane, and the length of each."""
    frames = [CODEC.encode(np.ascontiguousarray(plane)) for plane in stored_XHW]
    return b"".join(frames), [len(frame) for frame in frames]


def encode_sample(key: str, planes: Planes, pictures: dict[str, Array], meta: dict[str, Any]) -> dict[str, Any]:
    """The members of one sample as `webdataset.TarWriter` takes them."""
    frames, lengths = encode_bands(planes.stored_XHW)
    head = {
        "format": FORMAT,
        "shape_CHW": list(planes.shape_CHW),
        "dtype": planes.stored_XHW.dtype.str,
        "frame_bytes": lengths,
        "scale": planes.scale,
        "offset": planes.offset,
        **meta,
    }
    if planes.basis is not None:
        head["basis"] = dict(zip(("mean", "coeff"), (part.tolist() for part in planes.basis), strict=True))
    members: dict[str, Any] = {"__key__": key, "cube.bands": frames}
    members |= {f"{name}.png": encode_png(array) for name, array in pictures.items()}
    members["json"] = json.dumps(head, sort_keys=True).encode()
    return members


def band_slices(meta: dict[str, Any]) -> list[slice]:
    """Where the frame of each band (or component) lies inside `cube.bands`."""
    ends = np.cumsum([0, *meta["frame_bytes"]]).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


def decode_frames(frames: Sequence[bytes], meta: dict[str, Any]) -> Planes:
    """The given frames as stored; of a low-rank sample all of them are needed."""
    _, height, width = meta["shape_CHW"]
    out = np.empty((len(frames), height, width), meta["dtype"])
    for index, frame in enumerate(frames):
        CODEC.decode(frame, out[index])
    told = meta.get("basis")
    basis = None if told is None else (np.array(told["mean"], np.float32), np.array(told["coeff"], np.float32))
    return Planes(out, meta["scale"], meta["offset"], basis)
