"""WebDataset shards: written whole with fixed times and owners, indexed by member offset, checked.

Equal samples give equal bytes. A tar that was cut reads without an error, so the record's member index, count
and sha256 are what is trusted, never the fact that it opens.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sharding.errors import InputError
from sharding.records import Record

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


def described(path: Path) -> dict[str, Any]:
    """What the record of a shard must hold so that its samples can be read at random and checked."""
    index = index_shard(path)
    return {"index": index, "crc32": checksums(path, index)}
