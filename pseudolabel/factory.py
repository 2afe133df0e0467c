"""`pseudolabel`: cubes -> `shards/<dataset>/<unit>.tar`, on Ray actors that load their models once.

    unit (a shard: some whole scenes, in order) -> windows of its scenes -> actors look at them (see `worker`)
    -> a pool assembles scenes (see `assemble`) -> the parts of a unit become one tar, committed

A window that fails, hangs or kills its worker is quarantined by name; the rest of its scene and shard is made.
Processes started side by side (array tasks) share the units through claims.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from pseudolabel.assemble import assemble
from pseudolabel.config import PseudolabelConfig
from pseudolabel.quality import add_up
from pseudolabel.units import Scene, pseudolabel_units, scene_windows, unit_windows, window_bytes
from pseudolabel.windows import Window
from pseudolabel.worker import LabelWorker
from sharding.allocation import cores, memory_bytes
from sharding.claims import Claims
from sharding.crew import Crew, Done, Job, Limits
from sharding.errors import InputError
from sharding.records import (
    Body,
    Failure,
    Record,
    Unit,
    commit,
    commit_failure,
    temporary_path,
)
from sharding.shards import described, index_shard, join_shards
from sharding.stage import Progress, RunOptions, StageResult, run_units
from sharding.workers import allocated_cluster, ray_session, slots, spread


@dataclass
class _Open:
    """A unit on its way: what is still to come, where the parts of its scenes lie, what failed."""

    unit: Unit
    wins: dict[int, int] = field(default_factory=dict)
    looked: dict[int, list[Any]] = field(default_factory=dict)
    parts: dict[int, Path] = field(default_factory=dict)
    quality: dict[int, dict[str, Any]] = field(default_factory=dict)
    left: int = 0
    failures: list[Failure] = field(default_factory=list)
    good: int = 0


def _name(scene: Scene, window: Window) -> str:
    return f"{scene[1]} at row {window[0]}, column {window[1]}"


def _assemble(scene: str, path: Path, refs: list[Any], config: PseudolabelConfig, out: Path) -> dict[str, Any] | None:
    """In a process of the pool: fetch what the workers saw of a scene and write its part."""
    looked = [one for one in ray.get(refs) if one is not None]
    return assemble(scene, path, looked, config, out) if looked else None


class Line:
    """Moves units through the crew, some at a time, and yields a record for each as it is committed."""

    def __init__(self, crew: Crew, config: PseudolabelConfig, claims: Claims, report: Callable[[int], None]) -> None:
        self.crew, self.config, self.claims, self.report = crew, config, claims, report
        self.open: dict[str, _Open] = {}

    def run(self, todo: Sequence[Unit]) -> Iterator[Record]:
        """Make all units; those that another process has claimed come last, or are made by it."""
        waiting = list(reversed(todo))
        theirs: list[Unit] = []
        while waiting or theirs or self.open:
            while waiting and self.crew.hungry():
                unit = waiting.pop()
                if (done := self.claims.made(unit)) is not None:
                    self.report(unit_windows(unit, self.config))
                    yield done
                elif self.claims.take(unit):
                    self._begin(unit)
                else:
                    theirs.append(unit)
            if not waiting and not self.crew.busy and theirs:
                time.sleep(1.0)  # the others are at work on what is left
                waiting, theirs = list(reversed(theirs)), []
            self.claims.touch()
            for ended in self.crew.wait() if self.crew.busy else ():
                yield from self._take(ended)

    def _begin(self, unit: Unit) -> None:
        one = self.open[unit.id] = _Open(unit)
        for index, scene in enumerate(unit.payload):
            wins = scene_windows(scene, self.config)
            one.wins[index], one.looked[index] = len(wins), []
            one.left += 1
            for window in wins:
                self.crew.submit(Job((unit.id, index, window), _name(scene, window), (scene[1], window)))

    def _take(self, ended: Done) -> Iterator[Record]:
        name, index, window = ended.key
        one = self.open[name]
        if index is None:
            yield self._committed(one, ended)
            return
        if window is None:
            self._assembled(one, index, ended)
        else:
            self._looked(one, index, ended)
        if one.left == 0:
            told = [one.quality[scene] for scene in sorted(one.quality)]
            parts = [one.parts[scene] for scene in sorted(one.parts)]
            failures = sorted(one.failures, key=lambda failure: failure.item)
            args = (one.unit, parts, one.good, failures, told, self.config.describe)
            self.crew.call(Job((name, None, None), name, args, commit_parts))

    def _looked(self, one: _Open, index: int, ended: Done) -> None:
        self.report(1)
        one.wins[index] -= 1
        if ended.failure is not None:
            one.failures.append(ended.failure)
        else:
            one.good += 1
            one.looked[index].append(ended.ref)
        if one.wins[index] == 0:
            refs = one.looked.pop(index)
            if not refs:
                one.left -= 1
                return
            scene = one.unit.payload[index]
            part = temporary_path(one.unit.data)
            part.parent.mkdir(parents=True, exist_ok=True)
            one.parts[index] = part
            args = (scene[0], scene[1], refs, self.config, part)
            self.crew.call(Job((one.unit.id, index, None), str(scene[1]), args, _assemble))

    def _assembled(self, one: _Open, index: int, ended: Done) -> None:
        one.left -= 1
        told = None if ended.failure is not None else ray.get(ended.ref)
        if ended.failure is not None:
            one.failures.append(ended.failure)
        if told is None:
            one.parts.pop(index).unlink(missing_ok=True)
        else:
            one.quality[index] = told["quality"]

    def _committed(self, one: _Open, ended: Done) -> Record:
        for part in one.parts.values():
            part.unlink(missing_ok=True)
        self.claims.release(one.unit)
        del self.open[one.unit.id]
        if ended.failure is not None:
            return commit_failure(one.unit, ended.failure)
        record: Record = ray.get(ended.ref)
        return record


def commit_parts(
    unit: Unit, parts: Sequence[Path], good: int, failures: list[Failure], quality: list[dict[str, Any]], by: str
) -> Record:
    """Put the parts of a unit together, in the order of its scenes; returns its record without the long index."""
    counts = {"scenes": len(parts), "windows": good}

    def write(temporary: Path) -> Body:
        join_shards(temporary, parts)
        told = described(temporary)
        counts["samples"] = len(told["index"])
        return Body(counts, failures, told | {"labelled_by": by, "quality": add_up(quality)})

    def check(temporary: Path) -> None:
        if len(index_shard(temporary)) != counts["samples"]:
            raise InputError(f"{temporary} does not read back the {counts['samples']} samples written")

    return replace(commit(unit, write, check), extra={})


def worker_factory(config: PseudolabelConfig) -> Callable[[], LabelWorker]:
    """What each actor builds when it starts."""
    return lambda: LabelWorker(config)


def _gpus(config: PseudolabelConfig) -> int:
    """GPUs that the segmenters use."""
    if config.segmenters != "models" or config.device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def _depth(units: Sequence[Unit], config: PseudolabelConfig, workers: int) -> int:
    """Windows in hand per worker: two, or one where two of each would not fit into the memory."""
    return 2 if 2 * workers * window_bytes(units, config) < 0.6 * memory_bytes() else 1


def label_units(todo: list[Unit], config: PseudolabelConfig, progress: Progress | None) -> Iterator[Record]:
    """Run the units through a crew of actors."""
    address = config.address or allocated_cluster()
    gpus = 0 if config.address else _gpus(config) * spread()
    total = sum(unit_windows(unit, config) for unit in todo)
    workers = max(1, min(config.workers or gpus or slots(), total))
    pool = config.pool or max(1, cores() * spread() // 2)
    depth = _depth(todo, config, workers)
    share = min(1.0, gpus / workers) if gpus else 0.0
    share = config.gpus_per_worker if config.gpus_per_worker is not None else share
    with ray_session(workers + pool, gpus, address, config.object_bytes):
        crew = Crew(
            worker_factory(config), workers, pool, Limits(config.item_seconds, config.attempts),
            gpus=share, cpus=1.0 if address else 0.0, depth=depth,
        )  # fmt: skip
        claims = Claims(todo)
        done = failed = 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress("pseudolabel", done, total, failed, crew.health())

        try:
            for record in Line(crew, config, claims, report).run(todo):
                failed += len(record.failures)
                yield record
        finally:
            crew.close()
            claims.release_all()


def pseudolabel(workdir: Path, datasets: Sequence[str], config: PseudolabelConfig, options: RunOptions) -> StageResult:
    """Label every scene of the datasets."""
    config.check()
    units = pseudolabel_units(workdir, datasets, config)
    result = run_units(
        "pseudolabel", units, workdir / "shards", options,
        lambda todo: label_units(todo, config, options.progress), reports=True,
    )  # fmt: skip
    if config.segmenters == "classical" or "RANDOM" in config.describe:
        result.notes.append(f"labels are made by {config.describe}")
    return result
