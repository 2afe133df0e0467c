"""One training sample: the members of a tar that plain `tarfile` and `webdataset` read with no help of ours.

<key>.cube.bands     one Blosc frame per band, one after the other: any band decodes on its own (frames.py); of a
                     low-rank cube one per component, which `basis` in the json turns into any bands
<key>.instances.png  uint16 mask ids, 0 = unlabelled
<key>.materials.png  uint16 material ids of the scene, 0 = unlabelled
<key>.valid.png      255 where the pixel is good, 128 where some band is saturated, 0 where it is invalid or padding
<key>.rgb.png        how the teacher sees it (the rule is in the json)
<key>.json           wavelengths, scale, window, mask records, ...; `frame_bytes` cuts the bands apart
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sharding.frames import PackingConfig, encode_frames
from sharding.planes import Planes

FORMAT = "hypervision.sample/2"
FORMAT_BY_BAND = "hypervision.sample/3"  # the same with a scale and an offset for each band
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


def encode_sample(
    key: str, planes: Planes, pictures: dict[str, Array], meta: dict[str, Any], packing: PackingConfig | None = None
) -> dict[str, Any]:
    """The members of one sample as `webdataset.TarWriter` takes them."""
    frames, told = encode_frames(planes.stored_XHW, packing or PackingConfig())
    head = {
        "format": FORMAT
        if isinstance(planes.scale, float | int) and isinstance(planes.offset, float | int)
        else FORMAT_BY_BAND,
        "shape_CHW": list(planes.shape_CHW),
        "scale": planes.scale,
        "offset": planes.offset,
        **told,
        **meta,
    }
    if planes.basis is not None:
        head["basis"] = dict(zip(("mean", "coeff"), (part.tolist() for part in planes.basis), strict=True))
    members: dict[str, Any] = {"__key__": key, "cube.bands": frames}
    members |= {f"{name}.png": encode_png(array) for name, array in pictures.items()}
    members["json"] = json.dumps(head, sort_keys=True).encode()
    return members
