"""What there is to train on: every sample of some datasets, in canonical order, and how one is read at random.

    records -> Manifest (shards, members by offset) -> SampleRef -> members, or any bands

Offsets come from the records, so opening ten thousand shards opens no shard at all.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.folders import is_litter
from sharding.frames import Array, Frames
from sharding.local import DIRECT, Files, Known
from sharding.records import SCHEMA, TEMPORARY, fingerprint, refuse_copy
from sharding.sample import FORMAT, FORMAT_BY_BAND, decode_png

CUBE = "cube.bands"
GAP_BYTES = 64 << 10  # reading over a smaller gap is cheaper than a second read
RUN_BYTES = 1 << 20  # of one read: what is read stays in the processor's cache until it is decoded


@dataclass(frozen=True)
class Run:
    """One read of a shard, and the frames of a cube that it brings."""

    offset: int
    size: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class SampleRef:
    """Where one sample lies: its shard file and the offsets of its members."""

    dataset: str
    key: str
    shard: Path
    members: dict[str, list[int]]
    files: Files = field(default=DIRECT, compare=False, repr=False)

    def read(self, name: str) -> bytes:
        """The bytes of one member."""
        offset, size = self.members[name]
        return self.read_at(offset, size)

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes of the shard at an offset.

        Raises:
            InputError: the shard is shorter than its record says, or gone.
        """
        try:
            return self.files.read(self.shard, offset, size)
        except InputError as error:
            raise InputError(str(error).replace("cut short;", f"cut short at sample {self.key};", 1)) from error

    def small_members(self, names: Sequence[str] = ("json",)) -> SmallMembers:
        """Json and some pictures with one read: they lie side by side behind the cube."""
        places = [self.members[name] for name in names]
        start = min(offset for offset, _ in places)
        return SmallMembers(self, start, self.read_at(start, max(offset + size for offset, size in places) - start))

    def meta(self) -> dict[str, Any]:
        """The sample's json.

        Raises:
            InputError: damaged, or written by another version of the format.
        """
        with self.naming():
            return self._checked(json.loads(self.read("json")))

    def _checked(self, meta: dict[str, Any]) -> dict[str, Any]:
        if meta.get("format") not in (FORMAT, FORMAT_BY_BAND):
            raise InputError(
                f"{self.shard}: sample {self.key} is of format {meta.get('format')!r}, this version reads {FORMAT} "
                f"and {FORMAT_BY_BAND}; run pseudolabel again with --overwrite"
            )
        return meta

    def picture(self, name: str) -> Array:
        """A PNG member: instances, materials, valid or rgb."""
        with self.naming():
            return decode_png(self.read(f"{name}.png"))

    def runs(self, frames: Frames, needed: Sequence[int]) -> list[Run]:
        """The reads that bring some frames (numbers in rising order); neighbours come with one read."""
        runs: list[list[int]] = []
        start = frames.start
        for index in needed:
            near = bool(runs) and start[index] - start[runs[-1][-1] + 1] <= GAP_BYTES
            if near and start[index + 1] - start[runs[-1][0]] <= RUN_BYTES:
                runs[-1].append(index)
            else:
                runs.append([index])
        base = self.members[CUBE][0]
        return [Run(base + start[run[0]], start[run[-1] + 1] - start[run[0]], tuple(run)) for run in runs]

    def read_run(self, frames: Frames, run: Run) -> dict[int, bytes]:
        """The bytes of the frames of one run."""
        whole, base = self.read_at(run.offset, run.size), run.offset - self.members[CUBE][0]
        return {i: whole[frames.start[i] - base : frames.start[i + 1] - base] for i in run.frames}

    def lazily(self, frames: Frames, bands: Sequence[int] | Array | None = None) -> LazyFrames:
        """The frames that some bands take (None = all bands), read when they are asked for."""
        return LazyFrames(self, frames, self.runs(frames, frames.needed(bands)))

    def bands(self, meta: Mapping[str, Any], chosen: Sequence[int] | Array | None = None) -> Array:
        """Physical values [K, H, W] float32 of the chosen bands; the others are neither read nor decoded.

        Raises:
            InputError: a frame is damaged, naming file and sample.
        """
        frames = Frames.of(meta)
        bands = np.arange(frames.shape_CHW[0]) if chosen is None else np.asarray(chosen, np.int64)
        out_KHW = np.empty((len(bands), *frames.shape_CHW[1:]), np.float32)
        with self.naming():
            frames.physical_into(self.lazily(frames, bands), bands, out_KHW)
        return out_KHW

    @contextmanager
    def naming(self) -> Iterator[None]:
        """A context in which a failure of decoding is told with file and sample."""
        try:
            yield
        except (InputError, ValueError, RuntimeError, KeyError, OSError, SyntaxError) as error:
            if self.key in str(error):
                raise
            raise InputError(
                f"{self.shard}: sample {self.key}: {error}; run verify --discard, then pseudolabel again"
            ) from error


class LazyFrames(Mapping[int, bytes]):
    """Frames of a cube that are read when they are asked for; the last two reads are kept."""

    def __init__(self, ref: SampleRef, frames: Frames, runs: Iterable[Run]) -> None:
        self.ref, self.table = ref, frames
        self.runs = {frame: run for run in runs for frame in run.frames}
        self._held: list[dict[int, bytes]] = []

    def __getitem__(self, frame: int) -> bytes:
        for held in self._held:
            if frame in held:
                return held[frame]
        self._held = [self.ref.read_run(self.table, self.runs[frame]), *self._held[:1]]
        return self._held[0][frame]

    def __iter__(self) -> Iterator[int]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class SmallMembers:
    """Json and pictures of a sample in one piece."""

    ref: SampleRef
    start: int
    data: bytes

    def _member(self, name: str) -> bytes:
        offset, size = self.ref.members[name]
        return self.data[offset - self.start : offset - self.start + size]

    def meta(self) -> dict[str, Any]:
        """The sample's json."""
        with self.ref.naming():
            return self.ref._checked(json.loads(self._member("json")))

    def picture(self, name: str) -> Array:
        """A PNG member."""
        with self.ref.naming():
            return decode_png(self._member(f"{name}.png"))


@dataclass(frozen=True)
class Shard:
    """One committed shard: its samples and where their members lie, places [N, members, 2] (offset, size)."""

    dataset: str
    path: Path
    sha256: str
    bytes: int
    keys: tuple[str, ...]
    members: tuple[str, ...]
    places: Array

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return self.path.stem

    def ref(self, index: int, files: Files = DIRECT) -> SampleRef:
        """One of its samples."""
        rows = self.places[index].tolist()
        members = {name: row for name, row in zip(self.members, rows, strict=True) if row[1] >= 0}
        return SampleRef(self.dataset, self.keys[index], self.path, members, files)

    def refs(self) -> list[SampleRef]:
        """All of its samples."""
        return [self.ref(index) for index in range(len(self.keys))]


class Manifest(Sequence[SampleRef]):
    """All samples of some datasets in canonical order, with a fingerprint of their content."""

    def __init__(self, shards: Sequence[Shard], datasets: Sequence[str]) -> None:
        self.shards, self.datasets = tuple(shards), tuple(datasets)
        self.starts = np.cumsum([0, *(len(shard.keys) for shard in shards)]).tolist()
        self.fingerprint = fingerprint([shard.sha256 for shard in shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.ref(i) for i in range(*index.indices(len(self)))]
        return self.ref(index)

    def __iter__(self) -> Iterator[SampleRef]:
        return (ref for shard in self.shards for ref in shard.refs())

    def place(self, index: int) -> tuple[int, int]:
        """(shard, sample in it) of a sample."""
        shard = bisect.bisect_right(self.starts, index) - 1
        return shard, index - self.starts[shard]

    def ref(self, index: int, files: Files = DIRECT) -> SampleRef:
        """One sample, read through `files`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard, inside = self.place(int(index) % len(self))
        return self.shards[shard].ref(inside, files)

    @property
    def firsts(self) -> dict[str, SampleRef]:
        """The first sample of each dataset."""
        return {shard.dataset: shard.ref(0) for shard in reversed(self.shards) if shard.keys}

    @property
    def layout(self) -> dict[str, list[int]]:
        """Samples in each shard of each dataset, in order."""
        found: dict[str, list[int]] = {name: [] for name in self.datasets}
        for shard in self.shards:
            found[shard.dataset].append(len(shard.keys))
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each dataset."""
        return {name: sum(sizes) for name, sizes in sorted(self.layout.items())}

    @property
    def known(self) -> dict[Path, Known]:
        """Hash and size of every shard file."""
        return {shard.path: Known(shard.sha256, shard.bytes) for shard in self.shards}


def read_shard(dataset: str, path: Path) -> Shard | None:
    """The shard of a record, or None for a failed unit or another file; with as little work as there can be."""
    text = path.read_bytes()
    if b'"schema": "hypervision.record/' not in text:
        return None
    try:
        record = json.loads(text)
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']!r} is not {SCHEMA!r}")
        refuse_copy(path, record["stage"], record["unit"])
        if record["data"] is None:
            return None
        data = Path(os.path.normpath(path.parent / record["data"]))
        index = record["extra"]["index"]
        names = tuple(dict.fromkeys(name for members in index.values() for name in members))
        absent = [-1, -1]
        flat = [members.get(name, absent) for members in index.values() for name in names]
        places = np.array(flat, np.int64).reshape(len(index), len(names), 2)
        return Shard(dataset, data, record["sha256"], record["bytes"], tuple(index), names, places)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not the record of a shard ({error}); delete it, run pseudolabel again") from error


def _record_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".json")]
    return [folder / name for name in sorted(names) if TEMPORARY not in name and not is_litter(name)]


def open_manifest(shards: Path, datasets: Sequence[str] | None = None) -> Manifest:
    """Every sample below a shards folder, from the records alone.

    Raises:
        InputError: there are none, or a dataset that was asked for has none.
    """
    found: list[Shard] = []
    folders = shards.iterdir() if shards.is_dir() else ()
    names = sorted(path.name for path in folders if path.is_dir() and not is_litter(path.name))
    if datasets is not None:
        names = list(datasets)
    for dataset in names:
        own = [shard for path in _record_paths(shards / dataset) if (shard := read_shard(dataset, path)) is not None]
        if not any(shard.keys for shard in own):
            raise InputError(f"{shards / dataset} holds no finished shard; run pseudolabel for {dataset} first")
        found += own
    if not found:
        raise InputError(f"{shards} holds no finished shard; run pseudolabel first")
    return Manifest(found, names)
