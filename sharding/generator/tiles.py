"""Shards straight from generated tiles, without scenes and labels: for tests and benchmarks of the stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.frames import PackingConfig
from sharding.generator.materials import make_library
from sharding.generator.scene import Sensor, make_scene
from sharding.planes import Planes
from sharding.records import Body, Record, Unit, commit
from sharding.sample import GOOD, encode_sample
from sharding.shards import described, write_shard

Array = NDArray[Any]
COUNTS = 4095  # of a 12-bit camera
NOISE = 0.01


def make_tiles(bands: int, side: int, count: int, seed: int = 0) -> Iterator[Array]:
    """Tiles [bands, side, side] uint16 of a 12-bit camera over 400-1000 nm; scenes are few, turned and shifted."""
    sensor = Sensor(tuple(np.linspace(400, 1000, bands).tolist()), 7.0, (NOISE, NOISE))
    library = make_library(seed)
    scenes: list[Array] = []
    for index in range(count):
        if index < 2:
            cube_HWB = make_scene(library, sensor, side, [seed, index], cluttered=True).cube_HWB
            scenes.append(np.moveaxis(np.round(cube_HWB / 1.2 * COUNTS).astype(np.uint16), 2, 0))
        turned = np.rot90(scenes[index % 2], index // 2 % 4, (1, 2))
        yield np.ascontiguousarray(np.roll(turned, 37 * (index // 8), 2))


def tile_sample(
    key: str, stored_CHW: Array, packing: PackingConfig | None = None, labels: tuple[Array, Array] | None = None
) -> dict[str, Any]:
    """A sample of one tile, all pixels good; `labels` are ids from 1 of things and materials (none: one of each)."""
    bands, height, width = stored_CHW.shape
    ones = np.ones((height, width), np.uint16)
    instances, materials = labels or (ones, ones)
    pictures: dict[str, Array] = {
        "instances": instances.astype(np.uint16),
        "materials": materials.astype(np.uint16),
        "valid": np.full((height, width), GOOD, np.uint8),
        "rgb": np.zeros((height, width, 3), np.uint8),
    }
    meta = {
        "wavelength_nm": np.linspace(400, 1000, bands).round(3).tolist(),
        "bad_band": [False] * bands,
        "gsd_m": 1.0,
        "scene_max": 1.2,
        "covers_visible": True,
        "masks": [
            {"id": i, "material": int(materials[instances == i][0]), "pixels": int((instances == i).sum())}
            for i in np.unique(instances).tolist()
            if i
        ],
    }
    return encode_sample(key, Planes(stored_CHW, 1.2 / COUNTS), pictures, meta, packing)


def write_tiles(
    shards: Path, dataset: str, tiles: Iterable[Array], sizes: Sequence[int], packing: PackingConfig | None = None
) -> list[Record]:
    """Commit shards of `sizes` samples each, from as many tiles."""
    source, records = iter(tiles), []
    for number, size in enumerate(sizes):
        name = f"{dataset}-{number:05d}"
        data = shards / dataset / f"{name}.tar"

        def write(path: Path, name: str = name, size: int = size) -> Body:
            write_shard(path, (tile_sample(f"{name}-{i:03d}", next(source), packing) for i in range(size)))
            return Body({"samples": size}, extra=described(path))

        records.append(commit(Unit("pseudolabel", name, data, data.with_suffix(".json"), "generated", {}), write))
    return records
