"""`verify`: read everything below a folder again and compare it with its records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sharding.errors import InputError
from sharding.records import Failure, data_path, find_records, read_record, sha256_file


@dataclass
class VerifyResult:
    """How many units were read and which of them are not what their record says."""

    units: int = 0
    bytes: int = 0
    failed_units: int = 0
    bad: list[Failure] = field(default_factory=list)


def verify_unit(record_path: Path) -> list[Failure]:
    """Compare one unit with its record; an empty list means that every byte is as committed."""
    record = read_record(record_path)
    data = data_path(record_path, record)
    if data is None:
        return []
    bad = []
    for name, (size, digest) in record.files.items():
        path = data / name if name else data
        if not path.is_file():
            bad.append(Failure(str(path), "missing"))
        elif path.stat().st_size != size:
            bad.append(Failure(str(path), f"{path.stat().st_size} bytes, its record says {size}"))
        elif sha256_file(path) != digest:
            bad.append(Failure(str(path), "content differs from its record (sha256)"))
    if data.is_dir():
        known = {data / name for name in record.files}
        extra = [path for path in data.rglob("*") if path.is_file() and path not in known]
        bad += [Failure(str(path), "not in the record") for path in extra]
    return bad


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
            result.bad += verify_unit(path)
        except InputError as error:
            result.bad.append(Failure(str(path), str(error)))
        if progress is not None:
            progress(index + 1, len(paths))
    return result
