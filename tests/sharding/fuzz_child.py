"""Ingest corrupted variants of one container's fake in this process; prints what became of them as JSON.

Run by test_fuzz.py as a process of its own, since a reader that crashes takes its process with it.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np

from sharding.catalog import load_row
from sharding.generator.fakes import write_fake
from sharding.ingest import DatasetConfig, ingest_one, ingest_units

KEYS = {
    "mat": "cave", "mat73": "hs_sod", "hdf5": "hs_sod", "envi": "deephsvis", "npy": "hsidrive20", "npz": "hyperdrive",
    "tiff": "hsiroad", "mosaic-png": "hotvis", "png-bands": "cave_png",
    "hsd": "hyperspectralcityv2",
}  # fmt: skip
HOSTILE = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 10**12, 2**63 - 1, 2**40)


def corrupt(good: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One of: cut, flipped bytes near the start or anywhere, a hostile number, another container's file."""
    kind = rng.integers(6)
    data = bytearray(good)
    if kind == 0:
        return bytes(data[: int(rng.integers(0, len(data)))])
    if kind == 5 and rng.random() < 0.3:
        return others[int(rng.integers(len(others)))]
    reach = min(len(data), 600) if kind in (1, 3) else len(data)
    if kind in (1, 2):
        for at in rng.integers(0, reach, rng.integers(1, 9)):
            data[at] ^= 1 << int(rng.integers(8))
        return bytes(data)
    width = int(rng.choice([4, 8]))
    at = int(rng.integers(0, max(1, reach - width)))
    data[at : at + width] = (HOSTILE[int(rng.integers(len(HOSTILE)))] % 256**width).to_bytes(width, "little")
    return bytes(data)


def corrupt_text(good: bytes, rng: np.random.Generator) -> bytes:
    """A header in words: one of its numbers becomes another, or a line goes."""
    text = good.decode()
    if rng.random() < 0.3:
        lines = text.splitlines()
        del lines[int(rng.integers(len(lines)))]
        return "\n".join(lines).encode()
    spots = list(re.finditer(r"= *(\w+)", text))
    spot = spots[int(rng.integers(len(spots)))]
    new = str(rng.choice(["0", "-1", str(10**12), "9" * 30, "nan", "../../../etc/passwd", "", "7", "{", "1e9"]))
    return (text[: spot.start(1)] + new + text[spot.end(1) :]).encode()


def peak_kb() -> int:
    """Highest resident memory of this process (getrusage would begin with the parent's)."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1])


def main(container: str, count: int, folder: Path) -> None:
    """Write, corrupt, ingest."""
    key = KEYS[container]
    row = load_row(key)
    axis = list(row.known_wavelength_nm) or np.linspace(449, 957, 128).tolist()
    root = folder / "raw"
    write_fake(key, root, axis)
    config = DatasetConfig(key, str(root))
    if container == "hdf5":
        (path,) = root.rglob("*.mat")
        with h5py.File(path, "r") as file:
            cube = file["hypercube"][()]
        with h5py.File(path, "w") as file:
            file.create_dataset("hypercube", data=cube, chunks=(9, 3, 3), compression="gzip", shuffle=True)
    (unit,) = ingest_units(folder, [config])
    assert ingest_one(unit).done, "the fake itself must be read"
    path = unit.payload[2]
    parts = [path, *path.parent.glob("*.bin")] if container == "envi" else [path]
    good = {part: part.read_bytes() for part in parts}
    others = [
        b"",
        b"\x89HDF\r\n\x1a\n" * 9,
        b"PK\x03\x04" + bytes(64),
        b"\x93NUMPY\x01\x00v\x00{",
        b"II*\x00" + bytes(99),
    ]
    rng = np.random.default_rng(sum(map(ord, container)))
    found = {"done": 0, "failed": 0, "sentences": []}
    before = peak_kb()
    for _ in range(count):
        part = parts[int(rng.integers(len(parts)))]
        text = part.suffix == ".hdr" and rng.random() < 0.7
        part.write_bytes(corrupt_text(good[part], rng) if text else corrupt(good[part], others, rng))
        shutil.rmtree(folder / "cubes", ignore_errors=True)
        (unit,) = ingest_units(folder, [config])
        record = ingest_one(unit)
        found["done" if record.done else "failed"] += 1
        found["sentences"] += [failure.reason for failure in record.failures]
        part.write_bytes(good[part])
    found["grown_kb"] = peak_kb() - before
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
