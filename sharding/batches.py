"""Which bands of a sample are read, and the plain batch that anyone can train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from sharding.errors import ConfigError
from sharding.frames import Array, Frames
from sharding.loader_worker import Plan
from sharding.manifest import SampleRef, SmallMembers
from sharding.order import keyed_rng
from sharding.planes import PerBand
from sharding.ring import Layout

VALUES = ("physical", "stored")


def choose_bands(good: Array, wl_C: Array, count: int, window: bool, rng: np.random.Generator) -> Array:
    """`count` bands without replacement, one from each of `count` equal parts of the spectrum, in its order.

    With `window` they come from one contiguous part of it. All good bands if there are no more than `count`.
    """
    ordered = good[np.argsort(wl_C[good], kind="stable")]
    if window and len(ordered) > count:
        span = int(rng.integers(count, len(ordered) + 1))
        start = int(rng.integers(0, len(ordered) - span + 1))
        ordered = ordered[start : start + span]
    if len(ordered) <= count:
        return ordered
    edges = np.linspace(0, len(ordered), count + 1).astype(int)
    return ordered[[int(rng.integers(a, b)) for a, b in pairwise(edges)]]


def _of(value: PerBand, bands: Array) -> PerBand:
    """A scale or offset of some bands."""
    return [float(value[band]) for band in bands.tolist()] if isinstance(value, Sequence) else float(value)


@dataclass
class BandBatch:
    """Samples side by side: cube [B, K, H, W] with zeros where a camera has fewer bands, and what belongs to it.

    physical = cube * scale + offset, per sample, either one number or one per band of the sample; both are done already
    (1 and 0) where values are physical.
    `indices` are those of the manifest, `pictures` are [B, H, W] or [B, H, W, 3] by name; `flipped` tells which
    samples are mirrored.
    """

    indices: list[int]
    keys: list[str]
    datasets: list[str]
    cube: Tensor
    wavelength_nm: list[list[float]]
    gsd_m: list[float]
    scale: list[PerBand]
    offset: list[PerBand]
    flipped: list[bool]
    pictures: dict[str, Tensor]


class Bands:
    """Assembles `BandBatch`es of K bands a sample, drawn from (seed, visit, sample)."""

    def __init__(
        self, count: int | None = 40, *, pictures: Sequence[str] = (), values: str = "physical", flip: bool = False
    ) -> None:
        """What a sample gives.

        Args:
            count: bands, one from each of as many equal parts of the spectrum (None = all good ones).
            pictures: members that come along: instances, materials, valid, rgb.
            values: "physical" float32, or "stored" integers (half the bytes; every sample must be of one type).
            flip: mirror half of the samples, the one view beside the plain one that teacher features exist for.

        Raises:
            ConfigError: unknown values.
        """
        if values not in VALUES:
            raise ConfigError(f"values {values!r} is not one of {', '.join(VALUES)}")
        self.count, self.pictures, self.values, self.flip = count, tuple(pictures), values, flip
        self.members = ("json", *(f"{name}.png" for name in pictures))

    def plan(self, ref: SampleRef, small: SmallMembers, seed: int, visit: int) -> Plan:
        """Choose the bands and the view."""
        meta = small.meta()
        frames = Frames.of(meta)
        rng = keyed_rng("bands", seed, visit, ref.dataset, ref.key)
        wl_C = np.asarray(meta["wavelength_nm"], float)
        good = np.flatnonzero(~np.asarray(meta["bad_band"], bool))
        bands = choose_bands(good, wl_C, self.count or len(good), False, rng)
        flipped = self.flip and bool(rng.integers(2))
        if self.values == "stored" and frames.basis is not None:
            raise ConfigError(f"{ref.key} is of low rank and has no stored bands; take values='physical'")
        return Plan(ref, small, frames, frames.needed(bands), (meta, bands, flipped))

    def layout(self, plans: Sequence[Plan]) -> Layout:
        """Room for the most bands that these samples can give."""
        _, height, width = plans[0].frames.shape_CHW
        bands = max(len(plan.chosen[1]) for plan in plans)
        types = {plan.frames.dtype.str for plan in plans} if self.values == "stored" else {"<f4"}
        if len(types) > 1:
            raise ConfigError(f"samples are stored as {', '.join(sorted(types))}; take values='physical'")
        room: Layout = {"cube": ((len(plans), bands, height, width), types.pop())}
        for name in self.pictures:
            shape = (len(plans), height, width, 3) if name == "rgb" else (len(plans), height, width)
            room[name] = (shape, "|u1" if name in ("rgb", "valid") else "<u2")
        return room

    def fill(self, plan: Plan, frames: Mapping[int, bytes], row: int, arrays: dict[str, Array]) -> Any:
        """Decode one sample into its row."""
        meta, bands, flipped = plan.chosen
        cube_KHW = arrays["cube"][row]
        decode = plan.frames.stored_into if self.values == "stored" else plan.frames.physical_into
        decode(frames, bands, cube_KHW[: len(bands)])
        cube_KHW[len(bands) :] = 0
        if flipped:
            cube_KHW[: len(bands)] = cube_KHW[: len(bands), :, ::-1].copy()
        for name in self.pictures:
            picture = plan.small.picture(name)
            arrays[name][row] = picture[:, ::-1] if flipped else picture
        scale, offset = (
            (_of(meta["scale"], bands), _of(meta["offset"], bands)) if self.values == "stored" else (1.0, 0.0)
        )
        wl = [float(meta["wavelength_nm"][band]) for band in bands.tolist()]
        return plan.ref.key, plan.ref.dataset, wl, float(meta["gsd_m"]), scale, offset, flipped

    def batch(self, arrays: dict[str, Tensor], told: list[Any], indices: list[int]) -> BandBatch:
        """Everything side by side."""
        keys, datasets, wl, gsd, scale, offset, flipped = (list(column) for column in zip(*told, strict=True))
        pictures = {name: arrays[name] for name in self.pictures}
        return BandBatch(indices, keys, datasets, arrays["cube"], wl, gsd, scale, offset, flipped, pictures)
