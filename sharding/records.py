"""The commit protocol and the record that every finished unit leaves: written once, used by every stage.

    temporary name -> fsync -> re-read and verify -> os.replace -> fsync folder -> record (the same way)

The record is the commit: data without one does not exist and is redone. Deletion removes the record first.
A unit is a file or a folder; its record is a small JSON file with the fingerprints of what it was made from,
the sha256 of every file, counts, and the failures with their reasons.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from sharding.errors import HyperVisionError, InputError, writing
from sharding.folders import has_litter

SCHEMA = "hypervision.record/1"
TEMPORARY = ".tmp-"
HASHERS = 2
READ_BYTES = 4 << 20  # at once: between two reads a thread has to wait for its turn
STALE_SECONDS = 24 * 3600
NAMED_BY_UNIT = ("corpus", "ingest", "truth", "pseudolabel", "cache-teacher", "pretrain")
"""Stages whose records are called like their unit."""
SHARD_NAME = re.compile(r".+-\d{5,}")


@dataclass(frozen=True)
class Failure:
    """Something that could not be used: the file or unit, why, and a hash that groups equal tracebacks."""

    item: str
    reason: str
    trace: str = ""

    def __str__(self) -> str:
        """One line; most reasons name their file already."""
        return self.reason if self.reason.startswith(self.item) else f"{self.item}: {self.reason}"

    @classmethod
    def of(cls, item: str, error: BaseException) -> Failure:
        """A failure row from an exception."""
        trace = "".join(traceback.format_exception(error))
        reason = str(error) if isinstance(error, HyperVisionError) else f"{type(error).__name__}: {error}"
        return cls(item, reason, hashlib.sha256(trace.encode()).hexdigest()[:12])


@dataclass
class Body:
    """What a unit's writer tells about the bytes it wrote; `inputs` if only the writer knows their fingerprint."""

    counts: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    inputs: str | None = None


@dataclass
class Record:
    """The committed fact that a unit is done (or failed for good, with `data` None)."""

    stage: str
    unit: str
    inputs: str
    config: dict[str, Any]
    data: str | None = None
    files: dict[str, list[Any]] = field(default_factory=dict)
    sha256: str = ""
    bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    written: str = ""
    schema: str = SCHEMA

    @property
    def done(self) -> bool:
        """Whether the unit has data."""
        return self.data is not None


@dataclass(frozen=True)
class Unit:
    """The smallest thing that is done or not done.

    `inputs` fingerprints what it is made from and `config` holds the configuration fields that change its bytes.
    `change` says in words what of the input is another than in its record.
    """

    stage: str
    id: str
    data: Path
    record: Path
    inputs: str
    config: dict[str, Any]
    payload: Any = None
    change: str = ""


def fingerprint(value: Any) -> str:
    """A short hash of any JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content."""
    digest, room = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(room):
            digest.update(room[:count])
    return digest.hexdigest()


def _files(data: Path) -> list[Path]:
    return [data] if data.is_file() else sorted(path for path in data.rglob("*") if path.is_file())


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle(path: Path) -> list[Any]:
    """[size, sha256] of a file that is on the disk after this."""
    fsync(path)
    return [path.stat().st_size, sha256_file(path)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A fresh name beside `path` that tells `sweep` which process it belongs to."""
    return path.with_name(f".{path.name}{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}")


def _replace(temporary: Path, final: Path) -> None:
    if final.is_dir():  # a folder cannot be replaced in one call: move the old one aside first
        old = temporary_path(final)
        final.rename(old)
        temporary.replace(final)
        shutil.rmtree(old)
    else:
        temporary.replace(final)
    fsync(final.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file so that it is either whole or absent after a kill."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        try:
            temporary.write_bytes(content)
            fsync(temporary)
            _replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def commit(unit: Unit, write: Callable[[Path], Body], check: Callable[[Path], None] | None = None) -> Record:
    """Make one unit: `write` fills a temporary path, `check` re-reads it, then it is published with its record.

    Raises:
        OutputError: the disk is full or not writable; nothing half-written is left.
    """
    started = time.perf_counter()
    with writing(unit.data):
        unit.data.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(unit.data)
        try:
            body = write(temporary)
            return publish(unit, temporary, body, started, check)
        finally:
            _remove(temporary)


def publish(
    unit: Unit, temporary: Path, body: Body, started: float, check: Callable[[Path], None] | None = None
) -> Record:
    """The second half of `commit`, for data that several processes wrote to `temporary` together."""
    paths = _files(temporary)
    names = ["" if path == temporary else path.relative_to(temporary).as_posix() for path in paths]
    with ThreadPoolExecutor(HASHERS) as pool:
        files = dict(zip(names, pool.map(_settle, paths), strict=True))
    for folder in (path for path in (temporary, *temporary.rglob("*")) if path.is_dir()):
        fsync(folder)
    if check is not None:
        check(temporary)
    unit.record.unlink(missing_ok=True)
    _replace(temporary, unit.data)
    record = Record(
        unit.stage, unit.id, unit.inputs if body.inputs is None else body.inputs, unit.config,
        data=os.path.relpath(unit.data, unit.record.parent),
        files=files, sha256=_content_hash(files), bytes=sum(size for size, _ in files.values()),
        counts=body.counts, failures=body.failures, extra=body.extra, seconds=time.perf_counter() - started,
    )  # fmt: skip
    return write_record(unit.record, record)


def commit_failure(unit: Unit, failure: Failure, extra: dict[str, Any] | None = None) -> Record:
    """Record that a unit cannot be made, with the reason; it has no data and is not tried again unasked."""
    record = Record(unit.stage, unit.id, unit.inputs, unit.config, failures=[failure], extra=extra or {})
    return write_record(unit.record, record)


def write_record(path: Path, record: Record) -> Record:
    """Write a record atomically."""
    record.written = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    write_atomic(path, (json.dumps(asdict(record), indent=1, sort_keys=True) + "\n").encode())
    return record


def _content_hash(files: dict[str, list[Any]]) -> str:
    if list(files) == [""]:
        return str(files[""][1])
    return hashlib.sha256(json.dumps(sorted((name, row[1]) for name, row in files.items())).encode()).hexdigest()


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        InputError: not a record, or of a schema this version does not know, or a copy of another unit's.
    """
    try:
        fields = json.loads(path.read_text())
        if fields.get("schema") != SCHEMA:
            raise ValueError(f"schema {fields.get('schema')!r} is not {SCHEMA!r}")
        fields["failures"] = [Failure(**row) for row in fields["failures"]]
        record = Record(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a readable record ({error}); delete it and run its stage again") from error
    refuse_copy(path, record.stage, record.unit)
    return record


def refuse_copy(path: Path, stage: str, unit: str) -> None:
    """Raise an `InputError` if a record lies where that of another unit or dataset belongs."""
    if stage not in NAMED_BY_UNIT:
        return
    dataset, _, name = unit.rpartition("/")
    folder = dataset + {"ingest": ".records", "truth": ".truth"}.get(stage, "") if dataset else path.parent.name
    if stage == "pseudolabel" and SHARD_NAME.fullmatch(unit):
        folder = unit.rpartition("-")[0]
    if (path.parent.name, path.stem) != (folder, name):
        raise InputError(f"{path} is a copy of the record of {unit}, or was renamed; delete it, or put it back")


def is_record(path: Path) -> bool:
    """Whether a JSON file is one of our records (and not, say, a picture's side file)."""
    with path.open("rb") as file:
        head = file.read(1 << 22)
    return b'"schema": "hypervision.record/' in head


def find_records(folder: Path) -> Iterator[Path]:
    """All records below a folder, in order; not those that an editor keeps aside."""
    for path in sorted(folder.rglob("*.json")):
        if TEMPORARY not in path.name and not has_litter(path.relative_to(folder)) and is_record(path):
            yield path


def data_path(record_path: Path, record: Record) -> Path | None:
    """Where the data of a record lies, or None for a failed unit."""
    return None if record.data is None else Path(os.path.normpath(record_path.parent / record.data))


def delete(record_path: Path) -> None:
    """Remove a unit: its record first, so that a kill in between leaves no false claim."""
    data = data_path(record_path, read_record(record_path))
    with writing(record_path):
        record_path.unlink()
        if data is not None:
            _remove(data)


def sweep(folder: Path) -> int:
    """Remove temporary files of dead processes of this host, and old ones of other hosts."""
    removed = 0
    for path in sorted(folder.rglob(f".*{TEMPORARY}*")) if folder.is_dir() else []:
        host, pid = path.name.split(TEMPORARY)[1].rsplit("-", 2)[:2]
        try:
            stale = time.time() - path.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue
        if stale or (host == socket.gethostname() and not Path(f"/proc/{pid}").exists()):
            with writing(path):
                _remove(path)
            removed += 1
    return removed
