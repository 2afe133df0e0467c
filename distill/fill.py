"""`cache-teacher`: features of every sample of every shard before training, on Ray workers, one writer per shard.

`pretrain` with teacher.mode=fill does the same while it streams its first epoch; this is for many workers at once, and
for teacher.mode=cache, which computes nothing while it trains.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from distill.cache import FeatureCache, commit_features, pack_features
from distill.teacher import Teacher
from distill.views import VIEWS, TeacherConfig
from sharding.errors import ConfigError
from sharding.manifest import open_manifest, read_shard
from sharding.records import Record, Unit
from sharding.stage import RunOptions, StageResult, run_units
from sharding.workers import map_tasks, slots, spread


@functools.lru_cache(maxsize=1)
def _teacher(told: str) -> Teacher:
    """The teacher of a worker process, built once; on the GPU that Ray gave it, if any."""
    return Teacher(TeacherConfig(**json.loads(told)), "cuda" if torch.cuda.is_available() else "cpu")


def teacher_units(cache: FeatureCache, config: TeacherConfig) -> list[Unit]:
    """One unit per shard."""
    units = []
    for refs in cache.by_unit.values():
        payload = (json.dumps(asdict(config)), refs[0].dataset, refs[0].shard.with_suffix(".json"))
        units.append(cache.stage_unit(cache.unit(refs[0]), payload))
    return units


def open_cache(workdir: Path, datasets: Sequence[str], config: TeacherConfig) -> FeatureCache:
    """The cache of a teacher over the shards of some datasets."""
    manifest = open_manifest(workdir / "shards", datasets)
    return FeatureCache(workdir / "teacher", Teacher(config).fingerprint, manifest)


def fill_one(unit: Unit) -> Record:
    """Features of all views of the samples of one shard."""
    told, dataset, record = unit.payload
    teacher, shard = _teacher(told), read_shard(dataset, record)
    refs = [] if shard is None else shard.refs()
    parts = [pack_features(teacher.all_views(ref.picture("rgb")), teacher.config.store) for ref in refs]
    return commit_features(unit, [ref.key for ref in refs], parts)


@dataclass(frozen=True)
class Rates:
    """Seconds a sample: computing its features (all views), writing them, reading them back."""

    compute: float
    write: float
    read: float

    @property
    def break_even(self) -> float:
        """Epochs after which filling and reading a cache has cost less than computing anew each time."""
        return (self.compute + self.write - self.read) / max(self.compute - self.read, 1e-12)

    def saved(self, samples: int, epochs: float) -> float:
        """Seconds that a cache saves one process in so many epochs."""
        return samples * ((epochs - 1) * (self.compute - self.read) - self.write)


def measure_rates(workdir: Path, datasets: Sequence[str], config: TeacherConfig, count: int = 3) -> Rates:
    """What features cost here: some samples through the teacher, to the disk of the work folder and back.

    Raises:
        ConfigError: the teacher cannot be built.
        InputError: there are no shards.
    """
    manifest = open_manifest(workdir / "shards", datasets)
    refs = [manifest[i] for i in range(min(count + 1, len(manifest)))]
    teacher = Teacher(config, "cuda" if torch.cuda.is_available() else "cpu")
    seconds = {"compute": 0.0, "write": 0.0, "read": 0.0}
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        cache = FeatureCache(Path(folder), teacher.fingerprint, refs)
        for number, ref in enumerate(refs):  # the first is for the engines to wake up
            began = time.perf_counter()
            parts = pack_features(teacher.all_views(ref.picture("rgb")), config.store)
            computed = time.perf_counter()
            cache.put(ref, parts)
            written = time.perf_counter()
            cache.get(ref, VIEWS[0])
            spent = (computed - began, written - computed, time.perf_counter() - written)
            if number or len(refs) == 1:
                for name, value in zip(seconds, spent, strict=True):
                    seconds[name] += value / max(len(refs) - 1, 1)
    return Rates(**seconds)


def cache_teacher(workdir: Path, datasets: Sequence[str], config: TeacherConfig, options: RunOptions) -> StageResult:
    """Compute what is not there yet; features of shards that were made anew since go first.

    Raises:
        ConfigError: the teacher cannot be built, or has no weights, or there is to be none.
        InputError: there are no shards.
    """
    began = time.perf_counter()
    if config.mode == "none":
        raise ConfigError("teacher.mode=none wants no features; set teacher.mode=cache")
    cache = open_cache(workdir, datasets, config)
    cache.drop_stale()
    units = teacher_units(cache, config)
    gpus = torch.cuda.device_count()
    workers = gpus * spread() or slots()
    result = run_units(
        "cache-teacher", units, workdir / "teacher", options, lambda todo: map_tasks(fill_one, todo, workers, gpus)
    )
    result.notes += config.notes
    result.seconds = time.perf_counter() - began
    return result
