"""`pseudolabel`: cubes -> `shards/<dataset>/<unit>.tar`, on Ray actors that load their models once.

A unit is a shard: some whole scenes of one dataset, in order, up to a number of bytes. Every scene is cut into
tiles, each tile gets spatial masks, spectral masks and fused masks, and materials are clustered over the scene.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pseudolabel.classical import spatial_regions, spectral_regions
from pseudolabel.config import PseudolabelConfig
from pseudolabel.descriptors import colour, spectral_shape
from pseudolabel.fusion import Fused, fuse, scene_materials
from pseudolabel.regions import clean_means
from sharding.errors import InputError
from sharding.planes import Planes
from sharding.records import Body, Failure, Record, Unit, commit, data_path, find_records, fingerprint, read_record
from sharding.render import companion_rgb, covers_visible, render_rgb
from sharding.sample import GOOD, SATURATED, encode_sample
from sharding.shards import index_shard, write_shard
from sharding.stage import RunOptions, StageResult, run_units
from sharding.store import Cube, open_cube

Array = NDArray[Any]


def windows(height: int, width: int, tile: int) -> list[tuple[int, int]]:
    """Top-left corners of the tiles of a scene."""
    return [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]


def pseudolabel_units(workdir: Path, datasets: Sequence[str], config: PseudolabelConfig) -> list[Unit]:
    """One unit per shard, from the cube records.

    Raises:
        InputError: a dataset has no finished cube.
    """
    fields = config.bytes_config()
    units = []
    for dataset in datasets:
        group: list[tuple[str, Path, str]] = []
        size = index = 0
        scenes = list(_scenes(workdir, dataset))
        if not scenes:
            raise InputError(f"{workdir / 'cubes' / dataset}.zarr holds no finished cube; run ingest first")
        for scene, path, digest, count in [*scenes, ("", Path(), "", config.shard_bytes + 1)]:
            if group and size + count > config.shard_bytes:
                name = f"{dataset}-{index:05d}"
                data = workdir / "shards" / dataset / f"{name}.tar"
                inputs = fingerprint([(scene_id, sha) for scene_id, _, sha in group])
                units.append(Unit("pseudolabel", name, data, data.with_suffix(".json"), inputs, fields, group))
                group, size, index = [], 0, index + 1
            group.append((scene, path, digest))
            size += count
    return units


def _scenes(workdir: Path, dataset: str) -> Iterator[tuple[str, Path, str, int]]:
    folder = workdir / "cubes" / f"{dataset}.records"
    for path in find_records(folder) if folder.is_dir() else ():
        record = read_record(path)
        data = data_path(path, record)
        if data is not None:
            yield path.stem, data, record.sha256, record.counts["stored_bytes"]


@dataclass
class _Tile:
    """One tile on its way: its cube as stored, pictures, masks."""

    key: str
    window: tuple[int, int, int, int]
    planes: Planes
    quality: Array
    rgb: Array
    rgb_rule: str
    sources: tuple[Array, Array]
    fused: Fused
    spectra_NC: Array


class LabelWorker:
    """Holds the segmenters; makes one shard per call."""

    def __init__(self, config: PseudolabelConfig, threads: int = 1) -> None:
        self.config = config
        if config.segmenters == "models":
            import torch

            from pseudolabel.spatial import Sam2Masks
            from pseudolabel.spectral import HyperfreeMasks

            torch.set_num_threads(threads)
            device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
            self.sam2, self.hyperfree = Sam2Masks(config.sam2, device), HyperfreeMasks(config.hyperfree, device)

    def segment(self, cube_CHW: Array, wl_C: Array, cube: Cube, rgb: Array, valid: Array) -> tuple[Array, Array, Array]:
        """(spatial, spectral, shape coordinates) of one tile of the good bands of a cube."""
        shape = spectral_shape(cube_CHW, valid)
        if self.config.segmenters == "classical":
            spatial = spatial_regions(rgb, valid, self.config.classical)
            return spatial, spectral_regions(shape, valid, self.config.classical), shape
        spectral = self.hyperfree(cube_CHW / cube.maximum, wl_C, float(cube.attrs["gsd_m"]), valid)
        return self.sam2(rgb, valid), spectral, shape

    def _tile(self, cube: Cube, scene: str, y: int, x: int) -> _Tile | None:
        tile = self.config.tile
        rows, cols = slice(y, y + tile), slice(x, x + tile)
        valid = cube.valid(rows, cols)
        if not valid.any():
            return None
        good = cube.good_band
        planes = cube.window(rows, cols)
        physical = planes.physical(good) * valid
        wl_C = cube.wavelength_nm[good]
        rgb, rule = self._picture(cube, (rows, cols), physical, valid)
        spatial, spectral, shape = self.segment(physical, wl_C, cube, rgb, valid)
        saturated = cube.saturated(rows, cols)
        fused = fuse(spatial, spectral, shape, colour(rgb), self.config.fusion)
        unit = np.moveaxis(physical, 0, -1)
        unit = unit / np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
        window = (y, x, *planes.shape_CHW[1:])
        key = f"{cube.attrs['dataset']}-{scene}-y{y:05d}-x{x:05d}"
        spectra = clean_means(fused.labels, unit, saturated)
        quality = np.where(valid, np.where(saturated, SATURATED, GOOD), 0)
        return _Tile(key, window, planes, quality, rgb, rule, (spatial, spectral), fused, spectra)

    @staticmethod
    def _picture(cube: Cube, window: tuple[slice, slice], physical: Array, valid: Array) -> tuple[Array, str]:
        """RGB of a tile and where it is from: the dataset's own picture if it lies pixel on pixel over the cube."""
        own = cube.companion("rgb", *window)
        if own is None:
            return render_rgb(physical, cube.wavelength_nm[cube.good_band], valid)
        return companion_rgb(own) * valid[..., None], "companion"

    def samples(self, scene: str, path: Path) -> list[dict[str, Any]]:
        """All samples of one scene; materials are numbered over the whole scene."""
        cube = open_cube(path)
        corners = windows(*cube.shape_CHW[1:], self.config.tile)
        tiles = [tile for tile in (self._tile(cube, scene, y, x) for y, x in corners) if tile is not None]
        spectra = np.concatenate([tile.spectra_NC for tile in tiles])
        materials = scene_materials(spectra, self.config.fusion)
        samples, start = [], 0
        for tile in tiles:
            own = materials[start : start + len(tile.spectra_NC)]
            start += len(own)
            samples.append(self._sample(cube, tile, own))
        return samples

    def _sample(self, cube: Cube, tile: _Tile, materials: Array) -> dict[str, Any]:
        side = self.config.tile
        pad = [(0, side - tile.window[2]), (0, side - tile.window[3])]

        def padded(array: Array, dtype: Any) -> Array:
            return np.pad(array, [*pad, (0, 0)][: array.ndim]).astype(dtype)

        pictures = {
            "instances": padded(tile.fused.labels, np.uint16),
            "materials": padded(np.concatenate([[0], materials])[tile.fused.labels], np.uint16),
            "valid": padded(tile.quality, np.uint8),
            "rgb": padded(tile.rgb, np.uint8),
        }
        if self.config.keep_sources:
            spatial, spectral = tile.sources
            pictures |= {"spatial": padded(spatial, np.uint16), "spectral": padded(spectral, np.uint16)}
        names = (
            "dataset", "scene", "wavelength_nm", "fwhm_nm", "bad_band", "units", "gsd_m", "sensor", "licence",
            "sources", "split",
        )  # fmt: skip
        meta = {name: cube.attrs[name] for name in names}
        masks = [row | {"material": int(kind)} for row, kind in zip(tile.fused.records, materials, strict=True)]
        meta["scene_max"] = cube.maximum
        meta["covers_visible"] = covers_visible(cube.wavelength_nm[cube.good_band])
        meta |= {"window_yxhw": tile.window, "rgb_rule": tile.rgb_rule, "masks": masks}
        meta["labelled_by"] = self.config.describe
        return encode_sample(tile.key, tile.planes.padded(side), pictures, meta)

    def make(self, unit: Unit) -> Record:
        """Write one shard; a scene that cannot be labelled becomes a failure row of the shard's record."""
        failures: list[Failure] = []
        counts = {"scenes": 0}

        def stream() -> Iterator[dict[str, Any]]:
            for scene, path, _ in unit.payload:
                try:
                    samples = self.samples(scene, path)
                except (InputError, ValueError, IndexError, np.linalg.LinAlgError) as error:
                    failures.append(Failure.of(str(path), error))
                    continue
                counts["scenes"] += 1
                yield from samples

        def write(temporary: Path) -> Body:
            counts["samples"] = write_shard(temporary, stream())
            index = index_shard(temporary) if counts["samples"] else {}
            return Body(counts, failures, {"index": index, "labelled_by": self.config.describe})

        def check(temporary: Path) -> None:
            if counts["samples"] and len(index_shard(temporary)) != counts["samples"]:
                raise InputError(f"{temporary} does not read back the {counts['samples']} samples written")

        return commit(unit, write, check)


def worker_factory(config: PseudolabelConfig) -> Callable[[], LabelWorker]:
    """What each actor builds when it starts."""
    return lambda: LabelWorker(config)


def _gpus(config: PseudolabelConfig) -> int:
    """GPUs that the segmenters use."""
    if config.segmenters != "models" or config.device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def pseudolabel(workdir: Path, datasets: Sequence[str], config: PseudolabelConfig, options: RunOptions) -> StageResult:
    """Label every scene of the datasets."""
    from sharding.workers import map_actors

    config.check()
    units = pseudolabel_units(workdir, datasets, config)
    gpus = _gpus(config)
    workers = config.workers or gpus or os.cpu_count() or 1
    result = run_units(
        "pseudolabel", units, workdir / "shards", options,
        lambda todo: map_actors(worker_factory(config), todo, workers, gpus_per_worker=1.0 if gpus else 0.0),
    )  # fmt: skip
    if config.segmenters == "classical" or "RANDOM" in config.describe:
        result.notes.append(f"labels are made by {config.describe}")
    return result
