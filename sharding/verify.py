"""`verify`: read everything below a folder again and compare it with its records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sharding.errors import InputError
from sharding.folders import has_litter
from sharding.records import Failure, Record, data_path, delete, find_records, read_record, sha256_file
from sharding.shards import damaged_samples

SHOWN = 5


@dataclass
class VerifyResult:
    """How many units were read, what of them is not as their record says, and the records of those that are broken."""

    units: int = 0
    bytes: int = 0
    failed_units: int = 0
    bad: list[Failure] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)


def verify_unit(record_path: Path) -> list[Failure]:
    """Compare one unit with its record; an empty list means that every byte is as committed."""
    record = read_record(record_path)
    data = data_path(record_path, record)
    if data is None:
        return []
    bad = []
    for name, (size, digest) in record.files.items():
        path = data / name if name else data
        why = None
        if not path.is_file():
            why = "missing"
        elif path.stat().st_size != size:
            why = f"{path.stat().st_size} bytes, its record says {size}"
        elif sha256_file(path) != digest:
            why = "content differs from its record (sha256)"
        if why is not None:
            bad.append(Failure(str(path), why + _gone(path, record)))
    if data.is_dir():
        known = {data / name for name in record.files}
        extra = [path for path in data.rglob("*") if path.is_file() and path not in known]
        extra = [path for path in extra if not has_litter(path.relative_to(data))]
        bad += [Failure(str(path), "not in the record") for path in extra]
    return bad


def _gone(path: Path, record: Record) -> str:
    """Which samples a broken shard has lost."""
    if "crc32" not in record.extra:
        return ""
    keys = damaged_samples(path, record)
    shown = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
    return f"; {len(keys)} of {len(record.extra['crc32'])} samples gone" + (f": {shown}" if keys else "")


def discard(result: VerifyResult) -> int:
    """Remove the broken units, each record first, so that their stage makes them again; returns how many."""
    for path in result.broken:
        try:
            delete(path)
        except InputError:  # the record itself is damaged
            path.unlink(missing_ok=True)
    return len(result.broken)


def verify(folder: Path, progress: Callable[[int, int], None] | None = None) -> VerifyResult:
    """Verify every record below `folder`; a broken unit is named with what is gone.

    Raises:
        InputError: no such folder, or no record in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the work folder or a part of it")
    paths = list(find_records(folder))
    if not paths:
        raise InputError(f"{folder} holds no records: nothing was committed there")
    result = VerifyResult()
    for index, path in enumerate(paths):
        try:
            record = read_record(path)
            result.units += 1
            result.bytes += record.bytes
            result.failed_units += not record.done
            bad = verify_unit(path)
        except InputError as error:
            bad = [Failure(str(path), str(error))]
        result.bad += bad
        result.broken += [path] if bad else []
        if progress is not None:
            progress(index + 1, len(paths))
    return result
