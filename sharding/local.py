"""Shard files as a reader holds them: a bounded number open, asked for ahead, copied near if there is room.

Files      positional reads by path and offset; safe for threads, and to be inherited by a forked process
NodeCache  whole shards on a disk of this node, at most so many bytes; the least recently opened leave first
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import ConfigError, HyperVisionError, InputError, writing
from sharding.records import sweep, temporary_path

COPY_BYTES = 16 << 20
CORRUPT = ("raise", "skip")
NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "fuse", "9p", "glusterfs", "wekafs")


@dataclass
class LoaderConfig:
    """How batches are read; nothing here changes what they hold, but for `corrupt: skip`.

    Fields:
        workers: processes (0 = read in this one); prefetch: batches each is ahead.
        corrupt: "raise", or "skip": another sample of the same dataset stands in, at most `max_skipped` times.
        stall_seconds: without a batch for so long is an error that names the shard.
        reads: in flight at the same time in each worker (0 = 8 on a network file system, else the kernel reads ahead).
        cache: a folder on a disk of this node for copies of shards; cache_bytes: at most so many there.
        open_files: shards that a worker holds open.
    """

    workers: int = 2
    prefetch: int = 2
    corrupt: str = "raise"
    max_skipped: int = 100
    stall_seconds: float = 300.0
    reads: int = 0
    cache: str | None = None
    cache_bytes: int = 100 << 30
    open_files: int = 64

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: with what to change.
        """
        if self.corrupt not in CORRUPT:
            raise ConfigError(f"loader.corrupt {self.corrupt!r} is not one of {', '.join(CORRUPT)}")
        if self.workers < 0 or self.prefetch < 1 or self.open_files < 1 or self.stall_seconds <= 0:
            raise ConfigError("loader: prefetch, open_files and stall_seconds must be above 0, workers not below")


@dataclass(frozen=True)
class Known:
    """What the record says of a shard file."""

    sha256: str
    bytes: int


class _Handle:
    """An open file that closes when the last who reads from it lets go."""

    def __init__(self, path: Path, near: bool = False) -> None:
        self.number, self.near = os.open(path, os.O_RDONLY), near

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Files:
    """Reads shards by path and offset; keeps at most `limit` files open (0 opens for every read)."""

    def __init__(self, limit: int = 64, cache: NodeCache | None = None) -> None:
        self.limit, self.cache = limit, cache
        self._open: OrderedDict[Path, _Handle] = OrderedDict()
        self._lock = threading.Lock()

    def _handle(self, path: Path) -> _Handle:
        with self._lock:
            held = self._open.get(path)
            if held is not None:
                self._open.move_to_end(path)
        if held is not None and (held.near or self.cache is None or not self.cache.wants(path)):
            return held
        place = self.cache.find(path) if self.cache is not None else None
        if held is not None and place is None:
            return held
        try:
            made = _Handle(place or path, near=place is not None)
        except FileNotFoundError:  # left the cache since
            made = _Handle(path)
        if self.limit:
            with self._lock:
                self._open[path] = made
                while len(self._open) > self.limit:
                    self._open.popitem(last=False)
        return made

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Bytes of a shard at an offset.

        Raises:
            InputError: the shard is gone, unreadable, or shorter than asked for.
        """
        try:
            handle = self._handle(path)
            data = os.pread(handle.number, size, offset)
            while len(data) < size:  # a network file system may give less at once
                more = os.pread(handle.number, size - len(data), offset + len(data))
                if not more:
                    raise InputError(f"{path} is cut short; run verify, then pseudolabel again")
                data += more
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; run pseudolabel again") from error
        return data

    def will_need(self, path: Path, ranges: Iterable[tuple[int, int]]) -> None:
        """Ask the kernel to read (offset, size) ranges in the background."""
        try:
            handle = self._handle(path)
            for offset, size in ranges:
                os.posix_fadvise(handle.number, offset, size, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # only advice: the read itself will tell

    @property
    def open_count(self) -> int:
        """Files that are held open."""
        return len(self._open)

    def close(self) -> None:
        """Let go of every file."""
        with self._lock:
            self._open.clear()


DIRECT = Files(limit=0)
"""Opens a file for every read: for code that meets a shard once, and must see one that was made anew."""


class NodeCache:
    """Copies of shards on a local disk, named by their content; a kill leaves nothing that could be taken for one.

    A shard that is met and not here yet is read from where it is, and one thread on the node copies it meanwhile.
    """

    def __init__(self, folder: Path, limit_bytes: int, known: Mapping[Path, Known]) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.limit, self.known = folder, limit_bytes, known
        self.why_off: str | None = None
        self._given_up: set[Path] = set()
        self._copying = threading.Lock()  # of this process; a file lock is that of the node
        sweep(folder)

    def _place(self, shard: Path) -> Path:
        return self.folder / f"{self.known[shard].sha256[:24]}.tar"

    def wants(self, shard: Path) -> bool:
        """Whether a shard that is not here may come."""
        known = self.known.get(shard)
        fits = known is not None and known.bytes <= self.limit
        return fits and self.why_off is None and shard not in self._given_up

    def find(self, shard: Path) -> Path | None:
        """The local copy, or None; then it is copied in the background."""
        if not self.wants(shard):
            return None
        place = self._place(shard)
        try:
            os.utime(place)
            return place
        except OSError:
            if self._copying.acquire(blocking=False):
                threading.Thread(target=self._fetch_behind, args=(shard,), daemon=True).start()
            return None

    def _fetch_behind(self, shard: Path) -> None:
        try:
            self.fetch(shard)
        finally:
            self._copying.release()

    def fetch(self, shard: Path) -> bool:
        """Copy one shard; False if another process copies at the moment, or it cannot be had."""
        try:
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                place = self._place(shard)
                if not place.exists():
                    self._make_room(self.known[shard].bytes)
                    self._copy(shard, place)
                return True
        except BlockingIOError:
            return False
        except HyperVisionError:  # damaged where it is: its readers will say so
            self._given_up.add(shard)
            return False
        except OSError as error:
            self.why_off = f"{self.folder}: {error.strerror}"
            return False

    def _make_room(self, size: int) -> None:
        held = []
        for path in self.folder.glob("*.tar"):
            stat = path.stat()
            held.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(row[1] for row in held)
        for _, bytes_there, path in sorted(held):
            if total + size <= self.limit:
                break
            path.unlink()
            total -= bytes_there

    def _copy(self, shard: Path, place: Path) -> None:
        temporary = temporary_path(place)
        digest = hashlib.sha256()
        try:
            with shard.open("rb") as source, temporary.open("wb") as sink:
                while piece := source.read(COPY_BYTES):
                    digest.update(piece)
                    sink.write(piece)
            if digest.hexdigest() != self.known[shard].sha256:
                raise InputError(f"{shard} differs from its record (sha256)")
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)


def on_network(path: Path) -> bool:
    """Whether a folder lies on a network file system (as the kernel names it), where many reads must be under way."""
    try:
        rows = [line.split(" ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    where = path.absolute()
    fits = [(len(row[1]), row[2]) for row in rows if len(row) > 2 and where.is_relative_to(row[1])]
    return bool(fits) and max(fits)[1].startswith(NETWORK)
