"""The cube store: one Zarr v3 group per scene, integers with scale and offset, everything needed to use it beside.

    <scene>/cube   (band, height, width), the sensor's integers or uint16 steps of a float cube
    <scene>/valid  (height, width) uint8, only where some pixels are invalid
    <scene>/companions/<name>  pictures and label maps as the dataset has them, in their own size
    attributes     wavelength_nm, fwhm_nm, bad_band, scale, offset, units, gsd_m, sensor, source files, licence

physical value = stored * scale + offset. Float cubes are rounded to at most half a step, which is declared.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from sharding.catalog import Row
from sharding.companions import Found
from sharding.errors import InputError
from sharding.readers import Array, RawCube
from sharding.records import Body, sha256_file
from sharding.statistics import BLOCK_ROWS, Statistics, blocks, strips, survey

CHUNK_BANDS, CHUNK_SIDE = 16, BLOCK_ROWS
STEPS = 65534
FORMAT = 1


@dataclass(frozen=True)
class Cube:
    """An ingested scene, lazily opened."""

    path: Path
    attrs: dict[str, Any]
    stored: Any
    valid_HW: Array | None

    @property
    def shape_CHW(self) -> tuple[int, int, int]:
        """Bands, height, width."""
        bands, height, width = self.stored.shape
        return bands, height, width

    @property
    def wavelength_nm(self) -> Array:
        """Band centres in nm."""
        return np.asarray(self.attrs["wavelength_nm"], np.float64)

    @property
    def good_band(self) -> Array:
        """Indices of the bands that carry a signal."""
        return np.flatnonzero(~np.asarray(self.attrs["bad_band"], bool))

    def physical(self, stored: Array) -> Array:
        """Stored integers in physical units, float32."""
        scale, offset = np.float32(self.attrs["scale"]), np.float32(self.attrs["offset"])
        return np.asarray(np.asarray(stored, np.float32) * scale + offset)

    def companion(self, name: str) -> Array | None:
        """Pixels of a companion that lies pixel on pixel over the cube, or None."""
        if not self.attrs.get("companions", {}).get(name, {}).get("registered"):
            return None
        return np.asarray(zarr.open_group(self.path, mode="r")[f"companions/{name}"][:])

    def valid(self, rows: slice = slice(None), cols: slice = slice(None)) -> Array:
        """Mask of valid pixels of a window."""
        if self.valid_HW is None:
            return np.ones(self.shape_CHW[1:], bool)[rows, cols]
        return np.asarray(self.valid_HW[rows, cols], bool)


def open_cube(path: Path) -> Cube:
    """Open an ingested scene without reading its pixels.

    Raises:
        InputError: no cube there.
    """
    try:
        group = zarr.open_group(path, mode="r")
        arrays = dict(group.arrays())
        return Cube(path, dict(group.attrs), arrays["cube"], arrays.get("valid"))
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not an ingested cube ({error}); run ingest again") from error


def _quantiser(raw: RawCube, stats: Statistics) -> tuple[np.dtype[Any], float, float]:
    """Stored type, step and offset: integers up to 16 bits stay as they are, the rest becomes uint16 steps."""
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2:
        return raw.dtype, 1.0, 0.0
    low, high = float(stats.low_B.min()), float(stats.high_B.max())
    return np.dtype(np.uint16), (high - low) / STEPS or 1.0, low


def write_cube(path: Path, row: Row, scene: str, raw: RawCube) -> Body:
    """Write one scene in blocks of rows; memory stays that of a block."""
    nodata = row.nodata if row.nodata is not None else raw.nodata
    stats = survey(raw, nodata)
    dtype, step, low = _quantiser(raw, stats)
    height, width, bands = raw.shape_HWB
    group = zarr.create_group(path)
    chunk = (min(CHUNK_BANDS, bands), min(CHUNK_SIDE, height), min(CHUNK_SIDE, width))
    shard = (-(-bands // chunk[0]) * chunk[0], chunk[1], -(-width // chunk[2]) * chunk[2])
    codec = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize)
    array = group.create_array(
        "cube", shape=(bands, height, width), dtype=dtype, chunks=chunk, shards=shard, compressors=codec
    )
    error, crc, saturated = 0.0, 0, 0
    for rows in blocks(height):
        stored_CHW = np.empty((bands, rows.stop - rows.start, width), dtype)
        for part, block in strips(raw, rows):
            stored, worst = _quantise(block, stats.valid_HW[part], dtype, step, low)
            error = max(error, worst)
            stored_CHW[:, part.start - rows.start : part.stop - rows.start] = stored.transpose(2, 0, 1)
            if stats.full_scale is not None:
                saturated += int(((block == stats.full_scale).any(-1) & stats.valid_HW[part]).sum())
        crc = zlib.crc32(stored_CHW.data, crc)
        array[:, rows] = stored_CHW
    if not stats.valid_HW.all():
        group.create_array("valid", data=stats.valid_HW.astype(np.uint8))
    scale = (row.scale if row.scale is not None else raw.scale) or 1.0
    group.attrs.update(_attributes(row, scene, raw, stats, step * scale, low * scale + row.offset))
    group.attrs["statistics"] = stats.attributes(scale, row.offset)
    group.attrs["saturated_pixels"] = saturated
    group.attrs["crc32"] = crc
    group.attrs["largest_error"] = error * abs(scale)
    invalid = int((~stats.valid_HW).sum())
    counts = {"height": height, "width": width, "bands": bands, "invalid_pixels": invalid}
    counts["saturated_pixels"] = saturated
    counts["bad_bands"] = sum(group.attrs["bad_band"])
    return Body(counts, extra={"note": raw.note, "largest_error": error * abs(scale), "dtype": str(dtype)})


def write_companions(path: Path, found: Sequence[Found]) -> None:
    """Put the companions of a scene beside its cube; one of another size is kept as it is and said to be so."""
    group = zarr.open_group(path, mode="r+")
    plane = group["cube"].shape[1:]
    told: dict[str, Any] = {}
    for one in found:
        told[one.name] = {"kind": one.kind, "file": one.source.name, "sha256": sha256_file(one.source)}
        if one.pixels is None:
            told[one.name]["box"] = list(one.box or ())
        else:
            group.create_array(f"companions/{one.name}", data=one.pixels)
            told[one.name]["registered"] = one.pixels.shape[:2] == plane
    group.attrs["companions"] = told


def _quantise(block: Array, valid: Array, dtype: np.dtype[Any], step: float, low: float) -> tuple[Array, float]:
    """Stored integers of a block and the largest rounding error over its valid pixels."""
    if dtype == block.dtype:
        return (block if valid.all() else np.where(valid[..., None], block, 0).astype(dtype)), 0.0
    values = block.astype(np.float64)
    values[~valid] = low
    values -= low
    values /= step
    stored = np.rint(values)
    values -= stored
    worst = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    return stored.astype(dtype), worst * step


def _attributes(row: Row, scene: str, raw: RawCube, stats: Statistics, scale: float, offset: float) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "dataset": row.key,
        "scene": scene,
        "wavelength_nm": list(raw.wavelength_nm or ()),
        "fwhm_nm": None if raw.fwhm_nm is None else list(raw.fwhm_nm),
        "bad_band": (stats.low_B >= stats.high_B).tolist(),
        "scale": scale,
        "offset": offset,
        "units": row.units,
        "gsd_m": row.gsd_m,
        "sensor": row.sensor,
        "licence": row.licence,
        "note": raw.note,
        "sources": [{"file": source.name, "sha256": sha256_file(source)} for source in raw.sources],
    }


def check_cube(path: Path) -> None:
    """Read a written cube back and compare it with what was meant to be written.

    Raises:
        InputError: the bytes on disk decode to something else.
    """
    cube = open_cube(path)
    crc = 0
    for rows in blocks(cube.shape_CHW[1]):
        crc = zlib.crc32(np.ascontiguousarray(cube.stored[:, rows]).data, crc)
    if crc != cube.attrs["crc32"]:
        raise InputError(f"{path} does not read back as it was written: the disk or memory is failing")
