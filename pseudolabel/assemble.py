"""From what the workers saw to samples: stitch, fuse over the whole scene, number materials, cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pseudolabel.config import PseudolabelConfig
from pseudolabel.descriptors import Array, Features, colour
from pseudolabel.fusion import Fused, fuse, scene_materials
from pseudolabel.quality import scene_quality, tile_counts
from pseudolabel.regions import relabel, sums
from pseudolabel.windows import Window, blocks, inside, paste, stitch, tiles
from pseudolabel.worker import Looked, good_pixels
from sharding.planes import Planes
from sharding.render import covers_visible
from sharding.sample import GOOD, SATURATED, encode_sample
from sharding.shards import write_shard
from sharding.store import Cube, open_cube


@dataclass(frozen=True)
class Labels:
    """All label maps of one scene."""

    spatial: Array
    spectral: Array
    fused: Fused
    features: Features
    rgb: Array
    rgb_rule: str
    seen: Array


def label_scene(looked: Sequence[Looked], shape_HW: tuple[int, int], config: PseudolabelConfig) -> Labels:
    """Stitch the windows of a scene and fuse the two sources over all of it."""
    wins = [one.window for one in looked]
    spatial = stitch(wins, [one.spatial for one in looked], shape_HW)
    spectral = stitch(wins, [one.spectral for one in looked], shape_HW)
    rgb = paste(wins, [one.rgb for one in looked], shape_HW)
    shape = paste(wins, [one.shape_HWK for one in looked], shape_HW)
    brightness = paste(wins, [one.brightness_HW for one in looked], shape_HW)
    features = Features(shape, brightness, colour(rgb), looked[0].basis)
    fused = fuse(spatial, spectral, features, config.fusion)
    seen = np.zeros(shape_HW, bool)
    for window in wins:
        seen[inside(window)] = True
    return Labels(spatial, spectral, fused, features, rgb, looked[0].rgb_rule, seen)


def mask_spectra(cube: Cube, labels: Array, side: int) -> Array:
    """Mean unit spectrum of each mask [n, B], from 1, block by block; saturated pixels count only where all are."""
    count, bands = int(labels.max()) + 1, len(cube.good_band)
    total, spoilt = np.zeros((count, bands + 1)), np.zeros((count, bands + 1))
    for window in blocks(labels.shape[0], labels.shape[1], side):
        place = inside(window)
        own = labels[place]
        if not own.any():
            continue
        values = np.moveaxis(good_pixels(cube.window(*place), cube, cube.valid(*place)), 0, -1)
        values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
        values = np.concatenate([values, np.ones((*own.shape, 1), values.dtype)], -1)  # the last one counts
        total += sums(own, values, count)
        saturated = cube.saturated(*place)
        if saturated.any():
            spoilt += sums(np.where(saturated, own, 0), values, count)
    clean = total - spoilt
    kept = np.where(clean[:, -1:] > 0, clean, total)[1:]
    return np.asarray(kept[:, :-1] / np.maximum(kept[:, -1:], 1))


def _sample(cube: Cube, scene: str, window: Window, labels: Labels, kinds: Array, config: PseudolabelConfig) -> Any:
    """One training tile; of a scene that is smaller than a tile it is padded with an invalid margin."""
    place, side = inside(window), config.tile
    pad = [(0, side - window[2]), (0, side - window[3])]

    def padded(array: Array, dtype: Any) -> Array:
        return np.pad(array, [*pad, (0, 0)][: array.ndim]).astype(dtype)

    valid = cube.valid(*place)
    whole = labels.fused.labels[place]
    ids, own = np.unique(np.concatenate([[0], whole.ravel()]), return_inverse=True)
    own = own[1:].reshape(whole.shape)
    pictures = {
        "instances": padded(own, np.uint16),
        "materials": padded(np.concatenate([[0], kinds])[whole], np.uint16),
        "valid": padded(np.where(valid, np.where(cube.saturated(*place), SATURATED, GOOD), 0), np.uint8),
        "rgb": padded(labels.rgb[place], np.uint8),
    }
    if config.keep_sources:
        for name, source in (("spatial", labels.spatial), ("spectral", labels.spectral)):
            pictures[name] = padded(relabel(source[place]), np.uint16)
    size = np.bincount(own.ravel(), minlength=len(ids))
    rows = [
        labels.fused.records[mask - 1]
        | {"id": index, "scene_id": int(mask), "pixels": int(size[index]), "material": int(kinds[mask - 1])}
        | {"scene_pixels": labels.fused.records[mask - 1]["pixels"]}
        for index, mask in enumerate(ids.tolist())
        if mask
    ]
    planes: Planes = cube.window(*place)
    key = f"{cube.attrs['dataset']}-{scene}-y{window[0]:05d}-x{window[1]:05d}"
    meta = {"window_yxhw": window, "rgb_rule": labels.rgb_rule, "masks": rows, "labelled_by": config.describe}
    return encode_sample(key, planes.padded(side), pictures, _scene_meta(cube) | meta, config.packing)


def _scene_meta(cube: Cube) -> dict[str, Any]:
    names = (
        "dataset", "scene", "wavelength_nm", "fwhm_nm", "bad_band", "units", "gsd_m", "sensor", "licence",
        "sources", "split",
    )  # fmt: skip
    meta = {name: cube.attrs[name] for name in names}
    meta["scene_max"] = cube.maximum
    meta["covers_visible"] = covers_visible(cube.wavelength_nm[cube.good_band])
    return meta


def assemble(scene: str, path: Path, looked: Sequence[Looked], config: PseudolabelConfig, out: Path) -> dict[str, Any]:
    """Write the samples of one scene as a tar at `out`; returns their number and the scene's quality."""
    cube = open_cube(path)
    labels = label_scene(looked, cube.shape_CHW[1:], config)
    kinds = scene_materials(mask_spectra(cube, labels.fused.labels, config.tile), config.fusion)

    held: list[int] = []

    def samples() -> Iterator[dict[str, Any]]:
        for window in tiles(*cube.shape_CHW[1:], config.tile):
            place = inside(window)
            pixels = int(cube.valid(*place).sum())
            if pixels and labels.seen[place].any():
                held.append(pixels)
                yield _sample(cube, scene, window, labels, kinds, config)

    count = write_shard(out, samples())
    quality = scene_quality(labels, cube.valid(), cube.labels(), config.fusion) | tile_counts(held, config.tile)
    return {"samples": count, "quality": quality}
