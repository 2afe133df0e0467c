"""What packing of cubes gains and costs, on ingested scenes: bytes, all bands, and a fifth of the bands.

    python benchmarks/codec.py WORKDIR/cubes [--repeats 5]

One row per dataset and packing: bytes against stored integers, decode of all bands, and for a fifth of the bands the
bytes that are read and the time, against the plain packing. The bound is memcpy of the same integers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from sharding.batches import choose_bands
from sharding.frames import Frames, PackingConfig, encode_frames, noise_of
from sharding.order import keyed_rng
from sharding.store import open_cube

PACKINGS = {
    "as shipped": PackingConfig(),
    "smallest codec (slack 1)": PackingConfig(slack=1.0),
    "fastest codec (slack 9)": PackingConfig(slack=9.0),
    "group 2": PackingConfig(group=2),
    "group 4": PackingConfig(group=4),
    "group 8": PackingConfig(group=8),
    "rounding 0.5": PackingConfig(rounding=0.5),
    "group 4, rounding 0.5": PackingConfig(group=4, rounding=0.5),
}


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median of some runs."""
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def copy_all(pairs: list[tuple[Any, Any]]) -> None:
    """Memcpy of every scene."""
    for to, source in pairs:
        to[...] = source


def measure(stored: Any, packing: PackingConfig, repeats: int) -> dict[str, float]:
    """Bytes and times of one scene."""
    data, told = encode_frames(stored, packing)
    frames = Frames.of({"shape_CHW": stored.shape, "scale": 1.0, "offset": 0.0, **told})
    parts = {i: data[frames.start[i] : frames.start[i + 1]] for i in range(len(stored))}
    out = np.empty_like(stored)
    count = max(1, len(stored) // 5)
    axis = np.arange(len(stored), dtype=float)
    some = choose_bands(np.arange(len(stored)), axis, count, False, keyed_rng("codec"))
    return {
        "bytes": len(data),
        "all": seconds(lambda: frames.stored_into(parts, range(len(stored)), out), repeats),
        "read": sum(len(parts[i]) for i in frames.needed(some)),
        "some": seconds(lambda: frames.stored_into(parts, some, out[:count]), repeats),
        "error": float(np.max(np.array(told.get("rounding_error", [0])) / np.maximum(noise_of(stored), 1))),
        "zstd": float(blosc.cbuffer_complib(parts[0]) != "LZ4"),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cubes", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    blosc.use_threads = False
    print(
        "| dataset | packing | codec | smaller by | all bands GB/s | fifth: bytes read | fifth: time | error / noise |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for folder in sorted(args.cubes.glob("*.zarr")):
        scenes = [np.ascontiguousarray(open_cube(path).stored[:]) for path in sorted(folder.iterdir())]
        scenes = [scene for scene in scenes if scene.dtype.kind in "iu"]
        size = sum(scene.nbytes for scene in scenes)
        plain: dict[str, float] = {}
        for name, packing in PACKINGS.items():
            rows = [measure(scene, packing, args.repeats) for scene in scenes]
            total = {key: sum(row[key] for row in rows) for key in rows[0]}
            plain = plain or total
            print(
                f"| {folder.stem} | {name} | {'zstd' if total['zstd'] else 'lz4hc'} | {size / total['bytes']:.3f} | "
                f"{size / total['all'] / 1e9:.2f} | {total['read'] / plain['read']:.2f}x | "
                f"{total['some'] / plain['some']:.2f}x | {max(row['error'] for row in rows):.2f} |"
            )
        copies = [(np.empty_like(scene), scene) for scene in scenes]
        took = seconds(partial(copy_all, copies), args.repeats)
        print(f"| {folder.stem} | memcpy (bound) | - | 1 | {size / took / 1e9:.2f} | | | |")


if __name__ == "__main__":
    main()
