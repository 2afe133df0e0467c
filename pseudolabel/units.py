"""What there is to label: shards as units, the scenes of each, and the windows of each scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pseudolabel.config import PseudolabelConfig
from pseudolabel.windows import Window, tiled_pixels, windows
from sharding.errors import InputError
from sharding.records import Unit, data_path, find_records, fingerprint, read_record

Scene = tuple[str, Path, str, tuple[int, int, int]]
"""Id, cube, its hash, (bands, height, width)."""


def pseudolabel_units(workdir: Path, datasets: Sequence[str], config: PseudolabelConfig) -> list[Unit]:
    """One unit per shard, from the cube records.

    Raises:
        InputError: a dataset has no finished cube.
    """
    fields = config.bytes_config()
    units = []
    for dataset in datasets:
        group: list[Scene] = []
        size = index = 0
        scenes = list(_scenes(workdir, dataset, config.tile))
        if not scenes:
            raise InputError(f"{workdir / 'cubes' / dataset}.zarr holds no finished cube; run ingest first")
        for scene, count in [*scenes, (None, config.shard_bytes + 1)]:
            if group and size + count > config.shard_bytes:
                name = f"{dataset}-{index:05d}"
                data = workdir / "shards" / dataset / f"{name}.tar"
                inputs = fingerprint([(scene_id, sha) for scene_id, _, sha, _ in group])
                units.append(Unit("pseudolabel", name, data, data.with_suffix(".json"), inputs, fields, group))
                group, size, index = [], 0, index + 1
            if scene is not None:
                group.append(scene)
            size += count
    return units


def _scenes(workdir: Path, dataset: str, tile: int) -> Iterator[tuple[Scene, int]]:
    """The finished scenes of a dataset, and the bytes of cube in the tiles of each."""
    folder = workdir / "cubes" / f"{dataset}.records"
    for path in find_records(folder) if folder.is_dir() else ():
        record = read_record(path)
        data = data_path(path, record)
        if data is not None:
            shape = (record.counts["bands"], record.counts["height"], record.counts["width"])
            tiled = tiled_pixels(*shape[1:], tile)
            yield (
                (path.stem, data, record.sha256, shape),
                record.counts["stored_bytes"] * tiled // (shape[1] * shape[2]),
            )


def scene_windows(scene: Scene, config: PseudolabelConfig) -> list[Window]:
    """What the models see of a scene, one after the other."""
    _, height, width = scene[3]
    return windows(height, width, config.window_side, config.shared)


def unit_windows(unit: Unit, config: PseudolabelConfig) -> int:
    """How many windows a unit has."""
    return sum(len(scene_windows(scene, config)) for scene in unit.payload)


def window_bytes(units: Sequence[Unit], config: PseudolabelConfig) -> int:
    """Memory that the largest window takes while it is looked at: its stored planes and two float32 copies."""
    side = config.window_side
    cubes = [
        bands * min(side, height) * min(side, width) for unit in units for *_, (bands, height, width) in unit.payload
    ]
    return max(cubes, default=0) * (2 + 4 + 4)
