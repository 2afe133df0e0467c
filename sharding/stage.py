"""The stage contract: which units are to do, which are done, and what a stage reports at its end.

Every stage builds its list of `Unit`s from records, asks `pending` what is left, makes it (in any order, on any
worker, with `records.commit`) and returns a `StageResult`. Running it again is resume.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sharding.errors import ChangedError, StageFailed, writing
from sharding.records import Failure, Record, Unit, delete, find_records, read_record, sweep


class Progress(Protocol):
    """Called whenever a unit (or a smaller item) of a stage ends; `health` says what its workers do."""

    def __call__(self, stage: str, done: int, total: int, failed: int, health: str = "") -> None:
        """Report that `done` of `total` are ready, `failed` of them as failures."""


@dataclass(frozen=True)
class RunOptions:
    """How to meet work that is already there."""

    overwrite: bool = False
    retry_failed: bool = False
    max_failed_fraction: float = 0.02
    progress: Progress | None = None


@dataclass
class StageResult:
    """One row of the final table."""

    stage: str
    where: Path
    units: int = 0
    new: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Units made per second in this run."""
        return self.new / self.seconds if self.seconds else 0.0


def describe_change(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configurations, one "field: old -> new" each."""
    rows = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            rows += describe_change(a, b, f"{prefix}{key}.")
        elif a != b:
            rows.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return rows


def _refuse(stage: str, where: Path, what: str) -> ChangedError:
    return ChangedError(
        f"{stage} refuses to mix old and new work in {where}: {what}; "
        f"add --overwrite to redo it, or set another workdir="
    )


def check_unchanged(unit: Unit, record: Record) -> str | None:
    """Why a record does not belong to this unit any more, or None."""
    changes = describe_change(record.config, unit.config)
    if changes:
        return f"the configuration changed ({'; '.join(changes[:4])}{'; ...' if len(changes) > 4 else ''})"
    if record.inputs != unit.inputs:
        return f"the input of {unit.id} changed" + (f" ({unit.change})" if unit.change else "")
    return None


def pending(units: Sequence[Unit], options: RunOptions) -> list[Unit]:
    """The units that are still to be made.

    Raises:
        ChangedError: done work is there that another configuration or input made, and no `overwrite`.
    """
    for path in orphans(units):
        if not options.overwrite:
            raise _refuse(units[0].stage, path.parent, f"{path.name} is there but its input is not any more")
        delete(path)
    todo = []
    for unit in units:
        if not unit.record.is_file():
            todo.append(unit)
            continue
        record = read_record(unit.record)
        why = check_unchanged(unit, record)
        if not record.done:  # nothing was made, so there is nothing to mix
            if why or options.retry_failed:
                todo.append(unit)
            continue
        if why and not options.overwrite:
            raise _refuse(unit.stage, unit.record.parent, why)
        if why or not _present(unit, record) or (options.retry_failed and record.failures):
            todo.append(unit)
    return todo


def orphans(units: Sequence[Unit]) -> list[Path]:
    """Records of the same stage, beside those of `units`, that no unit claims any more."""
    known = {unit.record for unit in units}
    stages = {unit.stage for unit in units}
    folders = sorted({unit.record.parent for unit in units})
    beside = [path for folder in folders if folder.is_dir() for path in find_records(folder) if path not in known]
    return [path for path in beside if path.parent in folders and read_record(path).stage in stages]


def _present(unit: Unit, record: Record) -> bool:
    """Cheap check that committed data is still there at its size; `verify` reads it all."""
    paths = [(unit.data / name if name else unit.data, row[0]) for name, row in record.files.items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def run_units(
    stage: str,
    units: Sequence[Unit],
    where: Path,
    options: RunOptions,
    make: Callable[[list[Unit]], Iterable[Record]],
    reports: bool = False,
    known_bad: Mapping[str, int] | None = None,
) -> StageResult:
    """Make what is pending with `make` (which yields a record per unit, in any order) and sum up.

    A `make` that `reports` tells its progress itself, in smaller steps. `known_bad` says for the first part of units'
    ids (dataset/scene) how many may fail without being counted.

    Raises:
        ChangedError: see `pending`.
        OutputError: the work folder cannot be written.
        StageFailed: more than `max_failed_fraction` of the units failed; the rest is finished.
    """
    started = time.perf_counter()
    with writing(where):
        where.mkdir(parents=True, exist_ok=True)
        sweep(where)
    todo = pending(units, options)
    failed = 0
    if todo:
        for count, record in enumerate(make(todo), 1):
            failed += not record.done
            if options.progress and not reports:
                options.progress(stage, count, len(todo), failed)
    result = StageResult(stage, where, len(units), len(todo), seconds=time.perf_counter() - started)
    lost: dict[str, float] = {}
    for unit in units:  # one after the other: records of shards are long
        record = read_record(unit.record)
        result.bytes += record.bytes
        result.failures += record.failures
        group = unit.id.partition("/")[0]
        lost[group] = lost.get(group, 0.0) + lost_share(record)
    excused = known_bad or {}
    raise_if_failed(result, sum(max(0.0, share - excused.get(group, 0)) for group, share in lost.items()), options)
    return result


def lost_share(record: Record) -> float:
    """Share of a unit that is lost: all of it, or its failed windows or scenes where a unit holds several."""
    if not record.done:
        return 1.0
    failed = len(record.failures)
    return failed / (failed + record.counts.get("windows", record.counts.get("scenes", 0))) if failed else 0.0


def raise_if_failed(result: StageResult, failed: float, options: RunOptions) -> None:
    """Fail the stage when too many units failed, naming the first reasons."""
    if result.units and failed / result.units > options.max_failed_fraction:
        shown = "; ".join(str(row) for row in result.failures[:3])
        raise StageFailed(
            f"{result.stage}: {failed:.3g} of {result.units} units failed "
            f"(limit {options.max_failed_fraction:.3g}, max_failed_fraction): "
            f"{shown}{'; ...' if len(result.failures) > 3 else ''}. Mend the input, then add --retry-failed; "
            f"or allow more: max_failed_fraction={math.ceil(100 * failed / result.units) / 100:g}"
        )
