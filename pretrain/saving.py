"""Save and restore with the commit protocol over all ranks.

Every rank writes its part of the DeepSpeed state into one temporary folder; then rank 0 adds the student's weights
under their public names, verifies, publishes and writes the record.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from hypervision import save_weights
from pretrain.checkpoint import ENGINE_TAG, MEAN_WEIGHTS, STREAM, WEIGHTS, Checkpoints
from pretrain.optimizing import MeanWeights
from pretrain.ranks import barrier, from_rank0, rank, world
from sharding.errors import ConfigError, writing
from sharding.records import Body, Record, publish, temporary_path


def save(engine: Any, checkpoints: Checkpoints, step: int, keep: int, mean: MeanWeights | None = None) -> None:
    """Write a checkpoint; every rank calls it.

    Raises:
        OutputError: on every rank, if rank 0 or this rank could not write.
    """
    started = time.perf_counter()
    unit = checkpoints.unit(step)

    def prepare() -> Path:
        with writing(checkpoints.folder):
            temporary = temporary_path(unit.data)
            temporary.mkdir(parents=True)
            return temporary

    def finish() -> Record:
        with writing(unit.data):
            (temporary / "latest").unlink(missing_ok=True)
            student = engine.module.student
            save_weights(student, temporary / WEIGHTS)
            if mean is not None:
                mean.save(temporary / MEAN_WEIGHTS)
            state = checkpoints.stream.state(step * checkpoints.stream.global_batch)
            (temporary / STREAM).write_text(json.dumps(state))
            counts = {"step": step, "world": world()}
            record = publish(unit, temporary, Body(counts), started)
            checkpoints.trim(keep)
            return record

    temporary = from_rank0(prepare)
    try:
        with writing(unit.data):
            engine.save_checkpoint(str(temporary), tag=ENGINE_TAG, save_latest=False)
        barrier()
        from_rank0(finish)
    finally:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def restore(engine: Any, checkpoints: Checkpoints, zero_stage: int, mean: MeanWeights | None = None) -> int:
    """Load the newest valid checkpoint into the engine; returns the step to continue with (0 = from the start).

    Raises:
        ConfigError: ZeRO state of another number of ranks.
        ChangedError: the samples are not those of the checkpoint, or in another order.
    """
    found = from_rank0(checkpoints.newest_valid)
    if found is None:
        return 0
    step, data, record = found
    if zero_stage and record.counts["world"] != world():
        raise ConfigError(
            f"{data} was written by {record.counts['world']} ranks and ZeRO-{zero_stage} state cannot be read by "
            f"{world()}; set pretrain.ranks={record.counts['world']}, or start a new pretrain.run"
        )
    checkpoints.stream.resume(json.loads((data / STREAM).read_text()))
    engine.load_checkpoint(str(data), tag=ENGINE_TAG)
    if mean is not None:
        mean.load(data / MEAN_WEIGHTS)
    return step
