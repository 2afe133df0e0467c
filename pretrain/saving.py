"""Save and restore with the commit protocol over all ranks.

Every rank writes its part of the DeepSpeed state into one temporary folder; then rank 0 adds the student's weights
under their public names, verifies, publishes and writes the record.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hypervision import save_weights
from pretrain.checkpoint import ENGINE_TAG, MEAN_WEIGHTS, STREAM, WEIGHTS, Checkpoints
from pretrain.optimizing import MeanWeights, whole_weights
from pretrain.ranks import barrier, from_rank0, rank, world
from sharding.errors import StageFailed, writing
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
        with whole_weights(engine):
            from_rank0(finish)
    finally:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def restore(engine: Any, checkpoints: Checkpoints, zero_stage: int, mean: MeanWeights | None = None) -> int:
    """Load the newest valid checkpoint into the engine; returns the step to continue with (0 = from the start).

    Raises:
        StageFailed: ZeRO state of another number of ranks could not be brought into parts for these.
        ChangedError: the samples are not those of the checkpoint, or in another order.
    """
    found = from_rank0(checkpoints.newest_valid)
    if found is None:
        return 0
    step, data, record = found
    checkpoints.stream.resume(json.loads((data / STREAM).read_text()))
    if zero_stage and record.counts["world"] != world():
        _load_of_others(engine, data, record.counts["world"])
    else:
        engine.load_checkpoint(str(data), tag=ENGINE_TAG)
    if mean is not None:
        mean.load(data / MEAN_WEIGHTS)
    return step


def _load_of_others(engine: Any, data: Path, wrote: int) -> None:
    """Load ZeRO state that another number of ranks wrote, through DeepSpeed's universal form."""
    universal = data.with_name(f"{data.name}-universal.tmp")

    def convert() -> None:
        shutil.rmtree(universal, ignore_errors=True)
        words = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        words += ["--input_folder", str(data / ENGINE_TAG), "--output_folder", str(universal)]
        words += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
        told = subprocess.run(words, capture_output=True, text=True)
        if told.returncode:
            last = told.stderr.strip().splitlines()[-1:]
            raise StageFailed(
                f"{data} was written by {wrote} ranks and its optimiser state could not be brought into parts for "
                f"{world()} ({' '.join(last)}); set pretrain.ranks={wrote}, or start a new pretrain.run from "
                f"model.checkpoint={data / WEIGHTS}"
            )

    from_rank0(convert)
    try:
        engine._config.load_universal_checkpoint = True
        engine.load_checkpoint(str(universal.parent), tag=universal.name)
    finally:
        engine._config.load_universal_checkpoint = False
        barrier()
        if rank() == 0:
            shutil.rmtree(universal, ignore_errors=True)
