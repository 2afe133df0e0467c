"""A cube as frames, one per stored plane, of which any subset decodes without touching the others.

    stored [X, H, W] -> (round below the noise) -> (differences to the middle plane of a group) -> Blosc frames

Both steps in brackets are off by default. Rounding clears low bits, so no reader needs to know of it; of a group
any plane takes its own frame and that of the middle one, never more. A Blosc frame says itself how it is packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc, blosc
from numpy.typing import NDArray

from sharding.errors import ConfigError, InputError
from sharding.planes import Basis, PerBand, expand_scores

Array = NDArray[Any]
# Which packs best depends on the camera (benchmarks/codec_...): bits of few counts, bytes of many.
FAST = Blosc("lz4hc", 3, Blosc.BITSHUFFLE)
CODECS = (FAST, Blosc("zstd", 3, Blosc.BITSHUFFLE), Blosc("zstd", 3, Blosc.SHUFFLE))
TRIED = 8
ROBUST = 1 / 0.6745  # standard deviation from the median of absolute deviations


@dataclass
class PackingConfig:
    """How cubes are packed into frames.

    Fields:
        group: planes that share one reference (1 = none): 11-28 % fewer bytes at 4, but a subset of bands reads
            up to twice as many frames.
        rounding: largest error as a share of the noise of each band (0 = exact).
        slack: the codec that decodes fastest is taken up to this many times the bytes of the smallest.
    """

    group: int = 1
    rounding: float = 0.0
    slack: float = 1.04

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: a group below 1, or a negative error.
        """
        if self.group < 1 or not 0 <= self.rounding <= 4:
            raise ConfigError("pseudolabel.packing: group must be at least 1, rounding between 0 and 4 (of the noise)")


def anchor_of(plane: Array | int, group: int, planes: int) -> Any:
    """The plane that a plane is a difference to: the middle one of its group (itself for that one)."""
    return np.minimum(np.asarray(plane) // group * group + group // 2, planes - 1)


def _unsigned(plane: Array) -> Array:
    return plane.view(plane.dtype.str.replace("i", "u"))


def _difference(plane: Array, anchor: Array) -> Array:
    """Wrapped difference, small ones of either sign as small unsigned numbers (zigzag)."""
    signed = (_unsigned(plane) - _unsigned(anchor)).view(plane.dtype.str.replace("u", "i"))
    return _unsigned((signed << 1) ^ (signed >> (8 * plane.itemsize - 1)))


def _undo_difference(packed: Array, anchor: Array) -> None:
    """The plane itself, in place."""
    raw = _unsigned(packed)
    sign = raw & 1
    np.right_shift(raw, 1, out=raw)
    np.negative(sign, out=sign)  # 0 or all bits
    np.bitwise_xor(raw, sign, out=raw)
    np.add(raw, _unsigned(anchor), out=raw)


def noise_of(stored_CHW: Array) -> Array:
    """Standard deviation of the noise of each band in stored units, [C]; 0 where it cannot be told.

    The smaller of two robust estimates from second differences, along the spectrum and along rows: structure that
    only one of them removes makes the other too large, never both too small.
    """
    if len(stored_CHW) < 3 or stored_CHW.shape[2] < 3:
        return np.zeros(len(stored_CHW))
    found = np.zeros(len(stored_CHW))
    for band in range(len(stored_CHW)):
        middle = min(max(band, 1), len(stored_CHW) - 2)
        a, b, c = (stored_CHW[index].astype(np.float32) for index in (middle - 1, middle, middle + 1))
        own = stored_CHW[band].astype(np.float32)
        along = np.median(np.abs(b - (a + c) / 2)) * ROBUST / np.sqrt(1.5)
        across = np.median(np.abs(own[:, 1:-1] - (own[:, :-2] + own[:, 2:]) / 2)) * ROBUST / np.sqrt(1.5)
        found[band] = min(along, across)
    return found


def round_planes(stored_CHW: Array, share: float) -> tuple[Array, list[int]]:
    """Values rounded to a power of two per band, with an error of at most `share` of its noise; and the errors.

    Zeros stay zeros (they mark what is invalid) and nothing leaves the range of its type.
    """
    bits = np.floor(np.log2(np.maximum(2 * share * noise_of(stored_CHW), 1))).astype(int)
    out = stored_CHW.copy()
    top = np.iinfo(stored_CHW.dtype).max
    for plane, shift in zip(out, bits.tolist(), strict=True):
        if shift:
            wide = plane.astype(np.int64)
            rounded = ((wide + (1 << (shift - 1))) >> shift) << shift
            plane[:] = np.where(rounded > top, wide, rounded)  # what would leave its type stays as it is
    errors = [int(np.abs(a.astype(np.int64) - b).max(initial=0)) for a, b in zip(out, stored_CHW, strict=True)]
    return out, errors


def choose_codec(planes: Sequence[Array], slack: float) -> Blosc:
    """The fastest codec that comes near the smallest, tried on some of the planes."""
    some = [planes[index] for index in np.unique(np.linspace(0, len(planes) - 1, TRIED).astype(int))]
    sizes = [sum(len(codec.encode(plane)) for plane in some) for codec in CODECS]
    return FAST if sizes[0] <= slack * min(sizes) else CODECS[int(np.argmin(sizes))]


def encode_frames(stored_XHW: Array, packing: PackingConfig) -> tuple[bytes, dict[str, Any]]:
    """All frames one after the other, and what the json must tell of them."""
    told: dict[str, Any] = {"dtype": stored_XHW.dtype.str}
    exact = stored_XHW.dtype.kind not in "iu"
    if packing.rounding and not exact:
        stored_XHW, told["rounding_error"] = round_planes(stored_XHW, packing.rounding)
    planes = [np.ascontiguousarray(plane) for plane in stored_XHW]
    if packing.group > 1 and not exact:
        told["group"] = packing.group
        anchors = anchor_of(np.arange(len(planes)), packing.group, len(planes)).tolist()
        planes = [
            plane if anchor == band else _difference(plane, planes[anchor])
            for band, (plane, anchor) in enumerate(zip(planes, anchors, strict=True))
        ]
    codec = choose_codec(planes, packing.slack)
    frames = [codec.encode(plane) for plane in planes]
    told["frame_bytes"] = [len(frame) for frame in frames]
    told["frame_crc32c"] = [google_crc32c.value(frame) for frame in frames]
    return b"".join(frames), told


@dataclass(frozen=True)
class Frames:
    """Where the frames of a cube lie and how they are read; made from the json of a sample."""

    shape_CHW: tuple[int, int, int]
    dtype: np.dtype[Any]
    start: tuple[int, ...]
    crc32c: tuple[int, ...]
    group: int
    scale: PerBand
    offset: PerBand
    basis: Basis | None

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Frames:
        """From the json of a sample."""
        told = meta.get("basis")
        basis = None if told is None else (np.array(told["mean"], np.float32), np.array(told["coeff"], np.float32))
        starts = np.cumsum([0, *meta["frame_bytes"]]).tolist()
        shape = tuple(meta["shape_CHW"])
        return cls(
            (shape[0], shape[1], shape[2]), np.dtype(meta["dtype"]), tuple(starts),
            tuple(meta["frame_crc32c"]), int(meta.get("group", 1)), meta["scale"], meta["offset"], basis,
        )  # fmt: skip

    @property
    def stored(self) -> int:
        """Planes that are stored: bands, or components."""
        return len(self.crc32c)

    def needed(self, bands: Sequence[int] | Array | None = None) -> list[int]:
        """The frames that some bands take (None = all bands), in the order of the file."""
        if bands is None or self.basis is not None:  # of a low-rank cube any band needs every component
            return list(range(self.stored))
        wanted = np.asarray(bands, np.int64)
        return np.unique(np.concatenate([wanted, anchor_of(wanted, self.group, self.stored)])).tolist()  # type: ignore[no-any-return]

    def _decode(self, frame: int, data: bytes, out_HW: Array) -> None:
        if google_crc32c.value(data) != self.crc32c[frame]:
            raise InputError(f"frame {frame} of its cube is damaged (checksum)")
        blosc.decompress(data, out_HW)

    def stored_into(self, frames: Mapping[int, bytes], bands: Sequence[int] | Array, out_KHW: Array) -> None:
        """Decode some bands as they are stored, straight into `out_KHW`.

        Raises:
            InputError: a frame is not as it was written.
        """
        anchors: dict[int, Array] = {}
        for band, out_HW in zip(np.asarray(bands).tolist(), out_KHW, strict=True):
            self._decode(band, frames[band], out_HW)
            anchor = band if self.group == 1 else int(anchor_of(band, self.group, self.stored))
            if anchor != band:
                if anchor not in anchors:
                    anchors = {anchor: np.empty_like(out_HW)}
                    self._decode(anchor, frames[anchor], anchors[anchor])
                _undo_difference(out_HW, anchors[anchor])

    def physical_into(self, frames: Mapping[int, bytes], bands: Sequence[int] | Array, out_KHW: Array) -> None:
        """Physical values of some bands into a float32 `out_KHW`.

        Raises:
            InputError: a frame is not as it was written.
        """
        _, height, width = self.shape_CHW
        if self.basis is not None:
            scores_DHW = np.empty((self.stored, height, width), self.dtype)
            self.stored_into(frames, range(self.stored), scores_DHW)
            out_KHW[:] = expand_scores(scores_DHW, self.basis, np.asarray(bands))
            return
        plane_1HW = np.empty((1, height, width), self.dtype)  # stays in the processor's cache
        scale_B, offset_B = (
            np.broadcast_to(np.asarray(value, np.float32), self.stored) for value in (self.scale, self.offset)
        )
        for band, out_HW in zip(np.asarray(bands).tolist(), out_KHW, strict=True):
            self.stored_into(frames, [band], plane_1HW)
            np.multiply(plane_1HW[0], scale_B[band], out=out_HW, dtype=np.float32)
            out_HW += offset_B[band]
