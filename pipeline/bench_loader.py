"""`bench loader`: how fast samples come, against what bounds them and what else one would use.

    bound       one process, one buffer: pread of the wanted frames and Blosc decode, nothing else
    null decode our loader, but nothing is decoded: reading, planning, hand-over
    ours        our loader into nothing (a null model), without and with worker processes
    peers       webdataset, MosaicML Streaming and LitData holding the same arrays, where they are installed

Every contestant gives batches of stored integers [B, K, H, W] and runs in turn, round after round, from page cache.
What was read ahead while others ran is taken off before the clock starts.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs import blosc

from pipeline.bench_peers import once, peers
from pipeline.console import format_bytes, notes, table
from sharding.batches import Bands, choose_bands
from sharding.errors import ConfigError
from sharding.frames import Array, Frames
from sharding.generator.tiles import make_tiles, write_tiles
from sharding.loader import Loader
from sharding.local import LoaderConfig
from sharding.manifest import CUBE, Manifest, open_manifest
from sharding.order import keyed_rng
from sharding.stream import Stream

SHARD_SAMPLES = 4
READ_AHEAD = 2  # batches that a loader holds ready
SECONDS = 2.0
Pass = Callable[[], Iterator[int]]
"""Begins a pass; yields the number of samples in each batch that came."""


@dataclass
class BenchConfig:
    """What is measured: shards (None = generated ones), bands wanted (0 = all), and how."""

    shards: Path | None = None
    folder: Path = Path("work/bench")
    bands: int = 204
    side: int = 512
    wanted: int = 40
    samples: int = 16
    batch: int = 4
    workers: int = 1
    cores: int = 1
    repeats: int = 5
    peers: bool = True

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: with what to change.
        """
        if min(self.bands, self.side, self.samples, self.batch, self.repeats) < 1 or self.samples % self.batch:
            raise ConfigError("bench: sizes must be at least 1, and samples a multiple of the batch")


@dataclass
class Contestant:
    """Something that gives samples, the bytes it holds them in, and its rates so far."""

    name: str
    begin: Pass
    bytes: int
    peer: bool = False
    rates: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def try_run(self) -> None:
        """One timed pass; a peer that fails is reported and does not end the others'."""
        try:
            self.run()
        except Exception as error:
            if not self.peer:
                raise
            self.failures.append(f"{type(error).__name__}: {error}")

    def run(self) -> None:
        """One timed pass over some batches, for some seconds at least."""
        batches = self.begin()
        for _ in range(READ_AHEAD):
            next(batches)
        began, seen, number = time.perf_counter(), 0, 0
        while number < READ_AHEAD or time.perf_counter() - began < SECONDS:
            seen += next(batches)
            number += 1
        self.rates.append(seen / (time.perf_counter() - began))

    def row(self) -> dict[str, Any]:
        """What is printed and written."""
        return {
            "name": self.name,
            "samples_per_second": round(statistics.median(self.rates), 3) if self.rates else None,
            "runs": [round(rate, 3) for rate in self.rates],
            "failures": self.failures,
            "bytes": self.bytes,
        }


def wanted_bands(bands: int, wanted: int) -> Array:
    """The bands that every contestant gives: one of each of `wanted` equal parts, or all."""
    wl_C = np.arange(bands, dtype=float)
    count = wanted or bands
    return choose_bands(np.arange(bands), wl_C, count, False, keyed_rng("bench", bands, count))


def prepare(config: BenchConfig) -> Manifest:
    """The shards to read; generated ones are kept for the next time."""
    if config.shards is not None:
        return open_manifest(config.shards)
    name = f"b{config.bands}s{config.side}n{config.samples}"
    sizes = [SHARD_SAMPLES] * (config.samples // SHARD_SAMPLES) or [config.samples]
    tiles = make_tiles(config.bands, config.side, sum(sizes))
    place = once(config.folder / name, lambda folder: write_tiles(folder / "shards", "bench", tiles, sizes))
    return open_manifest(place / "shards", ["bench"])


def bare_loop(manifest: Manifest, config: BenchConfig) -> Pass:
    """The bound: nothing but pread and decode of the same bytes, into one buffer."""
    samples, out = [], np.empty(0)
    for ref in manifest[: config.samples]:
        frames, base = Frames.of(ref.meta()), ref.members[CUBE][0]
        bands = wanted_bands(frames.shape_CHW[0], config.wanted).tolist()
        ranges = [(frames.start[b + 1] - frames.start[b], base + frames.start[b]) for b in bands]
        samples.append((os.open(ref.shard, os.O_RDONLY), ranges))
        out = np.empty((len(bands), *frames.shape_CHW[1:]), frames.dtype)

    def begin() -> Iterator[int]:
        source = cycle(samples)
        while True:
            for handle, ranges in islice(source, config.batch):
                for index, (size, offset) in enumerate(ranges):
                    blosc.decompress(os.pread(handle, size, offset), out[index])
            yield config.batch

    return begin


class NullDecode(Bands):
    """Reads the frames of the wanted bands and decodes none."""

    def fill(self, plan: Any, frames: Any, row: int, arrays: dict[str, Array]) -> Any:  # noqa: ARG002
        """Touch every frame."""
        meta, bands, flipped = plan.chosen
        for band in bands.tolist():
            frames[band]
        return plan.ref.key, plan.ref.dataset, [], float(meta["gsd_m"]), 1.0, 0.0, flipped


def ours(manifest: Manifest, config: BenchConfig, workers: int, assembler: type[Bands] = Bands) -> Pass:
    """Our loader, warm: its workers stay between passes, as they do between epochs."""
    stream = Stream(manifest, config.batch)
    made = Loader(stream, assembler(config.wanted or None, values="stored"), LoaderConfig(workers))
    batches = iter(made)

    def begin() -> Iterator[int]:
        return (len(batch.keys) for batch in batches)

    return begin


def contestants(manifest: Manifest, config: BenchConfig) -> list[Contestant]:
    """Bounds, ours and the peers that are installed."""
    size = sum(shard.bytes for shard in manifest.shards)
    found = [Contestant("bound: pread + decode", bare_loop(manifest, config), size)]
    for workers in dict.fromkeys((0, config.workers)):
        found.append(Contestant(f"null decode, {workers} workers", ours(manifest, config, workers, NullDecode), size))
        found.append(Contestant(f"ours, {workers} workers", ours(manifest, config, workers), size))
    if config.peers:
        bands = wanted_bands(manifest[0].meta()["shape_CHW"][0], config.wanted)
        folder = config.folder / manifest.fingerprint
        for name, begin, held in peers(manifest[: config.samples], folder, bands, config.batch, config.workers):
            found.append(Contestant(name, begin, held, peer=True))
    return found


def bench_loader(config: BenchConfig) -> dict[str, Any]:
    """Measure all contestants in turn; returns what `show` prints and a program reads.

    Raises:
        ConfigError, InputError: what cannot be measured.
    """
    config.check()
    blosc.use_threads = False
    torch.set_num_threads(config.cores or torch.get_num_threads())
    if config.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-config.cores :])
    manifest = prepare(config)
    field_ = contestants(manifest, config)
    for one in field_:  # a pass that does not count: page cache, workers, first epochs
        one.try_run()
        one.rates.clear()
    for number in range(config.repeats):
        for one in field_:
            one.try_run()
        notes.print(f"round {number + 1} of {config.repeats}", style="dim")
    meta = manifest[0].meta()
    return {
        "shape_CHW": meta["shape_CHW"],
        "dtype": meta["dtype"],
        "wanted": config.wanted or meta["shape_CHW"][0],
        "samples": min(config.samples, len(manifest)),
        "batch": config.batch,
        "workers": config.workers,
        "cores": config.cores or os.cpu_count(),
        "repeats": config.repeats,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": [one.row() for one in field_],
    }


def show(result: dict[str, Any]) -> None:
    """The table."""
    rows = {row["name"]: row for row in result["rows"]}
    best = max(row["samples_per_second"] for name, row in rows.items() if name.startswith("ours"))
    bound = result["rows"][0]["samples_per_second"]
    lines = []
    for row in result["rows"]:
        rate, runs = row["samples_per_second"], row["runs"]
        if rate is None:
            lines.append([row["name"], "failed", row["failures"][-1][:60], "", "", ""])
            continue
        spread, held = f"{min(runs):.2f}-{max(runs):.2f}", format_bytes(row["bytes"] / result["samples"])
        lines.append([row["name"], f"{rate:.2f}", spread, f"{rate / bound:.0%}", f"{best / rate:.1f}x", held])
    shape = " x ".join(str(side) for side in result["shape_CHW"])
    title = (
        f"{shape} {result['dtype']}, {result['wanted']} bands wanted, batches of {result['batch']}, {result['cores']} "
        f"core(s), medians of {result['repeats']}, {result['date']}"
    )
    table(title, ["", "samples/s", "range", "of the bound", "ours is", "bytes a sample"], lines)


def as_json(result: dict[str, Any]) -> str:
    """For programs."""
    return json.dumps(result, indent=1)
