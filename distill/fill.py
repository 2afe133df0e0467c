"""`cache-teacher`: features of every sample of every shard before training, on Ray workers, one writer per shard.

`pretrain` with teacher.mode=fill does the same while it streams its first epoch; this is for many workers at once, and
for teacher.mode=cache, which computes nothing while it trains.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from distill.cache import FeatureCache, commit_features, pack_features
from distill.teacher import Teacher
from distill.views import TeacherConfig
from sharding.errors import ConfigError
from sharding.manifest import Manifest, open_manifest
from sharding.records import Record, Unit
from sharding.stage import RunOptions, StageResult, run_units
from sharding.workers import map_tasks


@functools.lru_cache(maxsize=1)
def _teacher(told: str) -> Teacher:
    """The teacher of a worker process, built once; on the GPU that Ray gave it, if any."""
    import torch

    return Teacher(TeacherConfig(**json.loads(told)), "cuda" if torch.cuda.is_available() else "cpu")


def teacher_units(workdir: Path, manifest: Manifest, teacher: Teacher) -> list[Unit]:
    """One unit per shard."""
    cache = FeatureCache(workdir / "teacher", teacher.fingerprint, manifest, teacher.config.store)
    units = []
    for refs in cache.by_unit.values():
        own = cache.unit(refs[0])
        payload = (json.dumps(asdict(teacher.config)), workdir / "shards", own.dataset, own.name)
        fields = {"teacher": teacher.fingerprint}
        units.append(Unit("cache-teacher", own.name, own.data, own.record, own.shard_sha256, fields, payload))
    return units


def fill_one(unit: Unit) -> Record:
    """Features of all views of the samples of one shard."""
    told, shards, dataset, name = unit.payload
    teacher = _teacher(told)
    refs = [ref for ref in open_manifest(shards, [dataset]) if ref.shard.stem == name]
    parts = [pack_features(teacher.all_views(ref.picture("rgb")), teacher.config.store) for ref in refs]
    return commit_features(unit, [ref.key for ref in refs], parts)


def cache_teacher(workdir: Path, datasets: Sequence[str], config: TeacherConfig, options: RunOptions) -> StageResult:
    """Compute what is not there yet; features of shards that were made anew since go first.

    Raises:
        ConfigError: the teacher cannot be built, or has no weights, or there is to be none.
        InputError: there are no shards.
    """
    import torch

    began = time.perf_counter()
    if config.mode == "none":
        raise ConfigError("teacher.mode=none wants no features; set teacher.mode=cache")
    manifest = open_manifest(workdir / "shards", datasets)
    teacher = Teacher(config)
    FeatureCache(workdir / "teacher", teacher.fingerprint, manifest, config.store).drop_stale()
    units = teacher_units(workdir, manifest, teacher)
    gpus = torch.cuda.device_count()
    workers = gpus or os.cpu_count() or 1
    result = run_units(
        "cache-teacher", units, workdir / "teacher", options, lambda todo: map_tasks(fill_one, todo, workers, gpus)
    )
    if config.is_random:
        result.notes.append(f"the teacher {config.name} has RANDOM weights (teacher.allow_random)")
    result.seconds = time.perf_counter() - began
    return result
