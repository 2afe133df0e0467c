"""Writes an ingested scene (see `store` for what it looks like), in blocks of rows, memory that of two blocks.

Three ways:
    integers of up to 16 bits   as they are, read once: statistics and invalid pixels are found on the way
    low-rank cubes              their scores as they are, unless they are to be expanded
    everything else             surveyed for its range, then read again as uint16 steps: one step for all bands, or one
                                per band where that would be too coarse for some
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from sharding.catalog import Row
from sharding.companions import Found
from sharding.errors import InputError
from sharding.missing import Missing
from sharding.planes import Basis, shortest
from sharding.readers import Array, RawCube
from sharding.readers.meaning import calibration
from sharding.records import Body, fsync, sha256_file
from sharding.statistics import BLOCK_ROWS, Statistics, Survey, block_rows, blocks, strips
from sharding.steps import blank, choose_steps, coarse, quantise, take, without_outliers
from sharding.store import FORMAT, open_cube

CHUNK_BANDS, CHUNK_SIDE = 16, BLOCK_ROWS
CODEC = "lz4"  # 2-5 % larger than zstd on real cubes, which are noise for the most part, packed 4 times as fast
BLOSC = Blosc(CODEC, 1, Blosc.BITSHUFFLE, 1 << 17)
PACKERS, ABSENT = 2, 2**64 - 1
SHARD_BYTES = 16 << 20  # of pixels in a file: larger ones cost more in fresh memory than they save in calls


class _Sink:
    """Takes blocks of rows; packs, writes and reads back one while the next is being filled."""

    def __init__(self, group: Any, name: str, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        planes, height, width = shape
        self.rows = block_rows(planes * width * dtype.itemsize)
        chunk = (min(CHUNK_BANDS, planes), min(self.rows, height), min(CHUNK_SIDE, width))
        column = -(-planes // chunk[0]) * chunk[0] * chunk[1] * chunk[2] * dtype.itemsize
        across = min(-(-width // chunk[2]), max(1, SHARD_BYTES // column))
        shard = (-(-planes // chunk[0]) * chunk[0], chunk[1], across * chunk[2])
        codec = BloscCodec(cname=CODEC, clevel=1, shuffle="bitshuffle", typesize=dtype.itemsize)
        self.array = group.create_array(
            name, shape=shape, dtype=dtype, chunks=chunk, shards=shard, compressors=[codec, Crc32cCodec()],
            config={"write_empty_chunks": True},  # looking for empty ones costs as much as packing
        )  # fmt: skip
        self.folder = Path(str(group.store.root)) / group.path / name
        self.buffers = [np.empty((planes, chunk[1], width), dtype) for _ in range(2)]
        self.pool, self.packers, self.flusher = (ThreadPoolExecutor(count) for count in (1, PACKERS, 1))
        self.flushes: list[Future[None]] = []
        self.last: Future[None] | None = None

    def part(self, block: slice, rows: slice) -> Array:
        """Room for some rows of a block; there are two blocks, so that one is filled while the other is written."""
        return self.buffers[0][:, rows.start - block.start : rows.stop - block.start]

    def done(self, block: slice, rows: slice) -> None:
        """Rows of a block are filled; its last ones write it, after the block before it."""
        if rows.stop == block.stop:
            self.wait()
            self.last = self.pool.submit(self._write, block, self.part(block, block))
            self.buffers.reverse()

    def _write(self, rows: slice, block_XHW: Array) -> None:
        across = self.array.shards[2]
        for column, start in enumerate(range(0, block_XHW.shape[2], across)):
            path = self.folder / f"c/0/{rows.start // self.array.shards[1]}/{column}"
            path.parent.mkdir(parents=True, exist_ok=True)
            grid = (self.array.shards[0] // self.array.chunks[0], across // self.array.chunks[2])
            write_shard(path, block_XHW[:, :, start : start + across], self.array.chunks, grid, self.packers)
            check_shard(path, math.prod(grid))
            # Begun while later ones are packed, it is not waited for at the end.
            self.flushes.append(self.flusher.submit(fsync, path))

    def wait(self) -> None:
        """Raise what went wrong with the last block."""
        if self.last is not None:
            self.last.result()

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
                for flushed in self.flushes:
                    flushed.result()
        finally:
            for pool in (self.pool, self.packers, self.flusher):
                pool.shutdown()


def pack_chunk(block_XHW: Array, chunk_XHW: tuple[int, ...]) -> bytes:
    """A chunk as the store's codecs make it, filled up with zeros where it reaches over the edge."""
    whole = block_XHW
    if block_XHW.shape != chunk_XHW:
        whole = np.zeros(chunk_XHW, block_XHW.dtype)
        whole[tuple(slice(0, side) for side in block_XHW.shape)] = block_XHW
    packed = BLOSC.encode(np.ascontiguousarray(whole))
    return bytes(packed) + int(google_crc32c.value(packed)).to_bytes(4, "little")


def write_shard(
    path: Path, block_XHW: Array, chunk_XHW: tuple[int, ...], grid: tuple[int, int], packers: Executor
) -> None:
    """Write one file of a sharded array: its chunks in order, then their places, then the crc32c of those.

    The format is Zarr's (ZEP 2, index at the end). Zarr itself writes the same file in twice the processor time, which
    goes into copies. A chunk that lies beyond the array is left out, which its place says.
    """
    step, width = chunk_XHW[0], chunk_XHW[2]
    corners = [(x * step, y * width) for x in range(grid[0]) for y in range(grid[1])]
    there = [(x, y) for x, y in corners if x < block_XHW.shape[0] and y < block_XHW.shape[2]]
    blocks = [block_XHW[x : x + step, :, y : y + width] for x, y in there]
    places, offset = dict.fromkeys(corners, (ABSENT, ABSENT)), 0
    with path.open("wb") as file:
        for corner, packed in zip(there, packers.map(pack_chunk, blocks, [chunk_XHW] * len(blocks)), strict=True):
            file.write(packed)
            places[corner] = (offset, len(packed))
            offset += len(packed)
        index = np.array([places[corner] for corner in corners], "<u8").tobytes()
        file.write(index + google_crc32c.value(index).to_bytes(4, "little"))


def check_shard(path: Path, chunks: int) -> None:
    """Read a file of the store back: each chunk and the index of them at the end carry their crc32c.

    Raises:
        InputError: a checksum is another one.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    index = data[-(16 * chunks + 4) :]
    places = np.frombuffer(index[:-4].tobytes(), "<u8").reshape(chunks, 2)
    parts = [index, *(data[start : start + size] for start, size in places.tolist() if start != ABSENT)]
    if not all(google_crc32c.value(part[:-4]) == int.from_bytes(part[-4:].tobytes(), "little") for part in parts):
        raise InputError(f"{path} does not read back as it was written: disk or memory is failing")


@dataclass(frozen=True)
class _Written:
    """How the values of a scene were stored: physical = stored * scale + offset in the values of the file."""

    stats: Statistics
    step_B: Array
    low_B: Array
    error_B: Array
    note: str = ""


def _as_they_are(stats: Statistics) -> _Written:
    """Stored without a change."""
    return _Written(stats, np.ones_like(stats.low_B), np.zeros_like(stats.low_B), np.zeros_like(stats.low_B))


def _write_integers(group: Any, raw: RawCube, survey: Survey) -> _Written:
    """The sensor's integers as they are, in one pass; 0 where a pixel is invalid."""
    height, width, bands = raw.shape_HWB
    zero_B = np.zeros(bands)
    with _Sink(group, "cube", (bands, height, width), raw.dtype) as sink:
        for rows, part, strip_BHW in strips(raw, sink.rows, sink.part):
            survey.add(part, strip_BHW)
            strip_BHW[:, ~survey.valid_HW[part]] = 0
            blank(strip_BHW, survey, zero_B)
            sink.done(rows, part)
    return _as_they_are(survey.finish())


def _write_steps(group: Any, raw: RawCube, survey: Survey, stats: Statistics) -> _Written:
    """Values as uint16 steps between the lowest and the highest."""
    height, width, bands = raw.shape_HWB
    survey, stats, note = without_outliers(raw, survey, stats)
    step_B, low_B = choose_steps(stats, raw.dtype.kind in "iu")
    error_B = np.zeros(bands)
    with _Sink(group, "cube", (bands, height, width), np.dtype(np.uint16)) as sink:
        for rows, part, strip_BHW in strips(raw, sink.rows):
            blank(strip_BHW, survey, low_B)
            worst_B = quantise(strip_BHW, stats.valid_HW[part], step_B, low_B, sink.part(rows, part))
            error_B = np.maximum(error_B, worst_B)
            sink.done(rows, part)
    error_B *= step_B
    return _Written(stats, step_B, low_B, error_B, "; ".join(filter(None, (note, coarse(stats, step_B, error_B)))))


def _write_scores(group: Any, raw: RawCube, stats: Statistics, basis: Basis) -> _Written:
    """The scores of a low-rank cube as they are, and its basis in physical units."""
    height, width, _ = raw.shape_HWB
    group.create_array("mean", data=basis[0].astype(np.float32))
    group.create_array("coeff", data=basis[1].astype(np.float32))
    with _Sink(group, "scores", (len(basis[1]), height, width), np.dtype(np.float32)) as sink:
        for rows in blocks(height, sink.rows):
            scores_DHW = sink.part(rows, rows)
            scores_DHW[...] = raw.scores(rows)
            scores_DHW[:, ~stats.valid_HW[rows]] = 0
            sink.done(rows, rows)
    return _as_they_are(stats)


def _write_pixels(group: Any, raw: RawCube, survey: Survey, basis: Basis | None) -> _Written:
    if basis is not None:
        return _write_scores(group, raw, take(raw, survey), basis)
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2:
        return _write_integers(group, raw, survey)
    return _write_steps(group, raw, survey, take(raw, survey))


def _physical_basis(raw: RawCube, scale_B: Array, offset_B: Array) -> Basis | None:
    if raw.basis is None:
        return None
    kept = slice(None) if raw.kept is None else list(raw.kept)
    return raw.basis[0][kept] * scale_B + offset_B, raw.basis[1][:, kept] * scale_B


def write_cube(
    path: Path,
    row: Row,
    scene: str,
    raw: RawCube,
    *,
    expand: bool = False,
    split: str | None = None,
    digest: Callable[[Path], str] = sha256_file,
) -> Body:
    """Write one scene in blocks of rows; memory stays that of two blocks.

    Integers of up to 16 bits are kept, and read once. A low-rank cube keeps its rank unless `expand`. Everything else
    becomes uint16 steps between its lowest and its highest value, of all bands or of each. `split` is the published
    split that the scene belongs to, `digest` gives the sha256 of a source file.
    """
    scale_B, offset_B = calibration(row, raw)
    basis = None if expand else _physical_basis(raw, scale_B, offset_B)
    own = row.nodata if row.nodata is not None and not raw.referenced else raw.nodata
    survey = Survey(raw, Missing.of(own, raw.limits))
    group = zarr.create_group(path)
    written = _write_pixels(group, raw, survey, basis)
    stats = written.stats
    if not stats.valid_HW.all():
        group.create_array("valid", data=stats.valid_HW.astype(np.uint8))
    if stats.saturated_HW.any():
        group.create_array("saturated", data=stats.saturated_HW.astype(np.uint8))
    step, offset = shortest(written.step_B * scale_B), shortest(written.low_B * scale_B + offset_B)
    if basis is not None:
        step, offset = 1.0, 0.0
    error_B = written.error_B * np.abs(scale_B)
    raw = replace(raw, note="; ".join(filter(None, (raw.note, written.note))))
    group.attrs.update(_attributes(row, scene, raw, stats, digest) | {"scale": step, "offset": offset, "split": split})
    group.attrs.update({"statistics": stats.attributes(scale_B, offset_B)})
    group.attrs.update({"largest_error": float(error_B.max()), "errors": shortest(error_B)})
    counts = dict(zip(("height", "width", "bands"), raw.shape_HWB, strict=True))
    counts["stored_bytes"] = int(open_cube(path).stored.nbytes)
    counts |= {"invalid_pixels": int((~stats.valid_HW).sum()), "saturated_pixels": int(stats.saturated_HW.sum())}
    counts["bad_bands"] = int(stats.dead_B.sum())
    extra = {"note": raw.note, "largest_error": float(error_B.max()), "dtype": str(raw.dtype), "variable": raw.variable}
    return Body(counts, extra=extra)


def write_companions(path: Path, found: Sequence[Found], digest: Callable[[Path], str] = sha256_file) -> list[str]:
    """Put the companions of a scene beside its cube; one of another size is kept as it is and said to be so.

    Returns a phrase for each label map of another size.
    """
    group = zarr.open_group(path, mode="r+")
    plane = open_cube(path).shape_CHW[1:]
    told: dict[str, Any] = {}
    misfits = []
    for one in found:
        told[one.name] = {"kind": one.kind, "file": one.source.name, "sha256": digest(one.source)}
        if one.pixels is None:
            told[one.name]["box"] = list(one.box or ())
        else:
            group.create_array(f"companions/{one.name}", data=one.pixels)
            told[one.name]["registered"] = one.pixels.shape[:2] == plane
            if one.kind == "labels" and one.pixels.shape[:2] != plane:
                own, cube = (" x ".join(str(side) for side in shape) for shape in (one.pixels.shape[:2], plane))
                misfits.append(f"{one.name} is {own} pixels, the cube {cube}")
    group.attrs["companions"] = told
    return misfits


def _attributes(row: Row, scene: str, raw: RawCube, stats: Statistics, digest: Callable[[Path], str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "dataset": row.key,
        "scene": scene,
        "wavelength_nm": list(raw.wavelength_nm or ()),
        "fwhm_nm": None if raw.fwhm_nm is None else list(raw.fwhm_nm),
        "bad_band": stats.dead_B.tolist(),
        "units": row.units,
        "gsd_m": row.gsd_m,
        "sensor": row.sensor,
        "licence": row.licence,
        "note": raw.note,
        "variable": raw.variable,
        "sources": [{"file": source.name, "sha256": digest(source)} for source in raw.sources],
    }
