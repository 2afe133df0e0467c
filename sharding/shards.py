"""WebDataset shards: written whole with fixed times and owners, indexed by member offset, read at random.

Equal samples give equal bytes. A tar that was cut reads without an error, so the record's member index, count
and sha256 are what is trusted, never the fact that it opens.
"""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import InputError
from sharding.records import Record, data_path, find_records, fingerprint, read_record
from sharding.sample import Array, band_slices, decode_frames, decode_png

COPY_BYTES = 16 << 20
MEMBERS = ("cube.bands", "instances.png", "materials.png", "valid.png", "rgb.png", "json")


def write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> int:
    """Write samples into one tar; returns how many."""
    import webdataset  # imports torch, hence not at the top

    count = 0
    # A file object, since TarWriter chooses compression from the name of a path.
    with path.open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0, user="hv", group="hv") as sink:
        for sample in samples:
            sink.write(sample)
            count += 1
    return count


def join_shards(path: Path, parts: Sequence[Path]) -> None:
    """Put tars one after the other into one, byte for byte what writing all their samples at once gives."""
    with path.open("wb") as out:
        for part in parts:
            with tarfile.open(part) as tar:
                end = 0
                for member in tar:
                    end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            with part.open("rb") as file:
                while end > 0 and (piece := file.read(min(end, COPY_BYTES))):
                    out.write(piece)
                    end -= len(piece)
        out.write(bytes(2 * tarfile.BLOCKSIZE))
        out.write(bytes(-out.tell() % tarfile.RECORDSIZE))


def index_shard(path: Path) -> dict[str, dict[str, list[int]]]:
    """Key -> member -> [offset, size] of every sample in a tar, in order.

    Raises:
        InputError: a sample lacks one of the members that every sample has.
    """
    index: dict[str, dict[str, list[int]]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                index.setdefault(key, {})[name] = [member.offset_data, member.size]
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{path} is not a readable tar ({error}); it is cut short, run pseudolabel again") from error
    for key, members in index.items():
        missing = [name for name in MEMBERS if name not in members]
        if missing:
            raise InputError(f"{path}: sample {key} has no {', '.join(missing)}; the shard is cut short")
    return index


def checksums(path: Path, index: dict[str, dict[str, list[int]]]) -> dict[str, int]:
    """crc32 of each sample of a shard, from its first member to its last; of a cut one, those that are whole."""
    found = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for key, members in index.items():
            start = min(offset for offset, _ in members.values())
            end = max(offset + length for offset, length in members.values())
            file.seek(start)
            if end <= size:
                found[key] = zlib.crc32(file.read(end - start))
    return found


def damaged_samples(path: Path, record: Record) -> list[str]:
    """Keys of the samples of a shard that are not as committed; all of them if the file is gone."""
    known: dict[str, int] = record.extra.get("crc32", {})
    there = checksums(path, record.extra["index"]) if known and path.is_file() else {}
    return [key for key, checksum in known.items() if there.get(key) != checksum]


@dataclass(frozen=True)
class SampleRef:
    """Where one sample lies: its shard file and the offsets of its members."""

    dataset: str
    key: str
    shard: Path
    members: dict[str, list[int]]

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
            handle = os.open(self.shard, os.O_RDONLY)
            try:
                data = os.pread(handle, size, offset)
            finally:
                os.close(handle)
        except OSError as error:
            raise InputError(f"{self.shard}: {error.strerror}; run pseudolabel again") from error
        if len(data) != size:
            raise InputError(f"{self.shard} is cut short at sample {self.key}; run verify, then pseudolabel again")
        return data

    def meta(self) -> dict[str, Any]:
        """The sample's json."""
        loaded: dict[str, Any] = json.loads(self.read("json"))
        return loaded

    def picture(self, name: str) -> Array:
        """A PNG member: instances, materials, valid or rgb."""
        return decode_png(self.read(f"{name}.png"))

    def bands(self, meta: dict[str, Any], chosen: Sequence[int] | Array | None = None) -> Array:
        """Physical values [K, H, W] of the chosen bands; the others are neither read nor decoded."""
        slices = band_slices(meta)
        if "basis" in meta:  # any band needs every component
            return decode_frames(self._frames(slices, slices), meta).physical(slice(None) if chosen is None else chosen)
        wanted = slices if chosen is None else [slices[int(band)] for band in chosen]
        return decode_frames(self._frames(slices, wanted), meta).physical()

    def _frames(self, slices: list[slice], wanted: list[slice]) -> list[bytes]:
        """Some frames of the cube; more than half of them are cut from one read."""
        start, size = self.members["cube.bands"]
        if len(wanted) > len(slices) // 2:
            whole = self.read_at(start, size)
            return [whole[part] for part in wanted]
        return [self.read_at(start + part.start, part.stop - part.start) for part in wanted]


@dataclass(frozen=True)
class Manifest:
    """All samples of some datasets in canonical order, with a fingerprint of their content."""

    samples: tuple[SampleRef, ...]
    fingerprint: str
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[SampleRef]:
        return iter(self.samples)


def open_manifest(shards: Path, datasets: Sequence[str] | None = None) -> Manifest:
    """Every sample below a shards folder, from the records alone.

    Raises:
        InputError: there are none, or a dataset that was asked for has none.
    """
    samples: list[SampleRef] = []
    hashes = []
    names = sorted(path.name for path in shards.iterdir() if path.is_dir()) if shards.is_dir() else []
    for dataset in datasets if datasets is not None else names:
        before = len(samples)
        for path in find_records(shards / dataset):
            record = read_record(path)
            data = data_path(path, record)
            if data is None:
                continue
            hashes.append(record.sha256)
            index = record.extra["index"]
            samples += [SampleRef(dataset, key, data, members) for key, members in index.items()]
        if len(samples) == before:
            raise InputError(f"{shards / dataset} holds no finished shard; run pseudolabel for {dataset} first")
    if not samples:
        raise InputError(f"{shards} holds no finished shard; run pseudolabel first")
    counts = {name: int(np.sum([ref.dataset == name for ref in samples])) for name in {ref.dataset for ref in samples}}
    return Manifest(tuple(samples), fingerprint(hashes), dict(sorted(counts.items())))
