"""Ingest against its bounds: `python benchmarks/ingest.py FOLDER [--gigabytes 2] [--repeats 5]`.

Every measurement is a process of its own (its peak memory is its own), and the repeats of all are interleaved.

    window    512 x 512 of a 1422 x 1889 x 128 .hsd of 12 components
    hsd       that whole scene ingested, by rank and expanded; bound: one matrix multiply of its size, its bytes written
    envi      a plain uint16 cube ingested
    hdf5      the same in gzip chunks
    decode    bound of hdf5: unpacking those chunks once
    disk      bound of envi and hdf5: the cube's bytes read, written and brought to disk, nothing else

Ingested means all that `ingest` does with a scene: its hash, statistics, packing, hashing what was written, reading
it back, the record.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sharding.catalog import Row, load_row

HSD_HWBD = (1422, 1889, 128, 12)
BANDS = 64
AXIS = {"start": 400.0, "stop": 1000.0, "count": BANDS}
ENVI, HDF5 = Row("e", "envi", "*", AXIS, 0.01), Row("h", "hdf5", "*", AXIS, 0.01)


def smooth_counts(rng: np.random.Generator, side: int) -> np.ndarray:
    """A strip of 64 rows of uint16 with some structure and noise, as cameras give it."""
    field = rng.normal(size=(64 // 8, -(-side // 8), BANDS)).repeat(8, 0).repeat(8, 1)[:, :side]
    return np.clip(2000 + 300 * field + rng.normal(0, 8, (64, side, BANDS)), 0, 4095).astype(np.uint16)


def prepare(folder: Path, gigabytes: float) -> None:
    """Write the three scenes once."""
    import h5py

    from sharding.generator.formats import write_envi

    rng = np.random.default_rng(0)
    height, width, bands, rank = HSD_HWBD
    if not (folder / "a.hsd").is_file():
        scores = (rng.normal(size=(height // 6 + 1, width // 6 + 1, rank)) * 5 / np.arange(1, rank + 1)).repeat(6, 0)
        scores = scores.repeat(6, 1)[:height, :width] + rng.normal(0, 0.01, (height, width, rank))
        coeff = np.linalg.qr(rng.normal(size=(bands, rank)))[0].T
        head = np.array([height, width, bands, rank, 449], "<i4").tobytes()
        head += np.array([4.0], "<f4").tobytes() + np.array([957], "<i4").tobytes()
        parts = (rng.random(bands), coeff, scores)
        (folder / "a.hsd").write_bytes(head + b"".join(part.astype("<f4").tobytes() for part in parts))
    side = int((gigabytes * 1e9 / 2 / BANDS) ** 0.5) // 64 * 64
    if not (folder / "a.h5").is_file():
        write_envi(folder / "a.hdr", np.zeros((1, side, BANDS), np.float32), None, "bil", "<u2")
        header = (folder / "a.hdr").read_text().replace("lines = 1\n", f"lines = {side}\n")
        with h5py.File(folder / "a.h5", "w") as file, (folder / "a.dat").open("wb") as flat:
            chunks = {"chunks": (64, 64, BANDS), "compression": "gzip", "compression_opts": 1}
            cube = file.create_dataset("cube", (side, side, BANDS), "u2", **chunks)
            for start in range(0, side, 64):
                strip = smooth_counts(rng, side)
                cube[start : start + 64] = strip
                flat.write(strip.transpose(0, 2, 1).tobytes())
        (folder / "a.hdr").write_text(header)


def into_store(row: Row, path: Path, expand: bool = False) -> None:
    """What `ingest` does with a scene."""
    from sharding.ingest import ingest_one
    from sharding.records import Unit

    out = path.with_suffix(".store")
    shutil.rmtree(out, ignore_errors=True)
    config = {"logic": 0, "row": row.bytes_config(), "expand": expand}
    record = ingest_one(Unit("ingest", "a", out / "a", out / "a.json", "", config, (row, "a", path, path.parent)))
    assert record.done, record.failures


def window(folder: Path) -> None:
    """Read one window."""
    from sharding.readers import open_raw

    open_raw(load_row("hyperspectralcityv2"), folder / "a.hsd").read(slice(400, 912), slice(600, 1112))


def hsd_bound(folder: Path) -> None:
    """One multiply of the scene's size, in blocks, and its float32 bytes written."""
    _, width, bands, rank = HSD_HWBD
    scores = np.fromfile(folder / "a.hsd", "<f4", offset=28 + 4 * bands * (rank + 1)).reshape(-1, rank)
    coeff = np.ones((rank, bands), np.float32)
    with (folder / "bound.bin").open("wb") as file:
        for start in range(0, len(scores), width * 16):
            file.write((scores[start : start + width * 16] @ coeff).data)
        os.fsync(file.fileno())


def decode(folder: Path) -> None:
    """Unpack every chunk once."""
    import h5py

    with h5py.File(folder / "a.h5") as file:
        for start in range(0, file["cube"].shape[0], 64):
            file["cube"][start : start + 64]


def disk(folder: Path) -> None:
    """The cube's bytes from disk to disk."""
    with (folder / "a.dat").open("rb") as source, (folder / "bound.bin").open("wb") as file:
        shutil.copyfileobj(source, file, 16 << 20)
        os.fsync(file.fileno())


CASES: dict[str, Callable[[Path], None]] = {
    "window": window,
    "hsd": lambda folder: into_store(load_row("hyperspectralcityv2"), folder / "a.hsd"),
    "hsd expanded": lambda folder: into_store(load_row("hyperspectralcityv2"), folder / "a.hsd", True),
    "hsd bound": hsd_bound,
    "envi": lambda folder: into_store(ENVI, folder / "a.hdr"),
    "hdf5": lambda folder: into_store(HDF5, folder / "a.h5"),
    "decode": decode,
    "disk": disk,
}


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case")
    given = parser.parse_args()
    if given.case:
        import h5py  # noqa: F401 - a worker imports once, not per scene

        import sharding.cube_writer
        import sharding.ingest
        import sharding.readers.hsd  # noqa: F401

        began = time.perf_counter()
        CASES[given.case](given.folder)
        seconds = time.perf_counter() - began
        # Not getrusage: a child inherits the peak of the process that started it.
        high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(json.dumps([seconds, int(high.split()[1]) / 1000]))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    prepare(given.folder, given.gigabytes)
    found: dict[str, list[list[float]]] = {name: [] for name in CASES}
    for _ in range(given.repeats):
        for name in CASES:
            command = [sys.executable, __file__, str(given.folder), "--case", name]
            found[name].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    for name, rows in found.items():
        seconds, peaks = zip(*rows, strict=True)
        every = " ".join(f"{one:.2f}" for one in seconds)
        print(f"{name:12s} {statistics.median(seconds):7.2f} s  peak {max(peaks):6.0f} MB  ({every})")


if __name__ == "__main__":
    main()
