"""Checkpoints with the commit protocol over all ranks: `runs/<run>/checkpoints/step_<n>/` and its record.

Every rank writes its part of the DeepSpeed state into one temporary folder; then rank 0 adds the student's weights
under their public names, verifies, publishes and writes the record. Any start
continues from the newest checkpoint whose bytes are those of its record.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypervision import save_weights
from pretrain.config import RunSpec
from pretrain.ranks import barrier, from_rank0, rank, world
from sharding.errors import ConfigError, writing
from sharding.records import Body, Record, Unit, data_path, delete, find_records, publish, read_record
from sharding.stage import check_unchanged
from sharding.verify import verify_unit

ENGINE_TAG = "engine"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint folder of a run."""

    folder: Path
    inputs: str
    config: dict[str, Any]

    @classmethod
    def of(cls, spec: RunSpec, inputs: str) -> Checkpoints:
        """The folder of a run's specification; `inputs` fingerprints its shards."""
        folder = Path(spec.workdir) / "runs" / spec.pretrain.run / "checkpoints"
        return cls(folder, inputs, spec.bytes_config())

    def unit(self, step: int) -> Unit:
        """The unit of a step."""
        name = f"step_{step:08d}"
        data = self.folder / name
        return Unit("pretrain", name, data, self.folder / f"{name}.json", self.inputs, self.config)

    def records(self) -> list[tuple[int, Path]]:
        """(step, record path) of every committed checkpoint, oldest first."""
        paths = find_records(self.folder) if self.folder.is_dir() else ()
        return sorted((int(path.stem.split("_")[1]), path) for path in paths)

    def why_changed(self) -> str | None:
        """Why the checkpoints that are there belong to another run, or None."""
        for step, path in self.records():
            why = check_unchanged(self.unit(step), read_record(path))
            if why:
                return why
        return None

    def newest_valid(self) -> tuple[int, Path, Record] | None:
        """The newest checkpoint whose every byte is as committed; broken ones are passed over."""
        for step, path in reversed(self.records()):
            record = read_record(path)
            data = data_path(path, record)
            if data is not None and not verify_unit(path):
                return step, data, record
        return None

    def trim(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for _, path in self.records()[:-keep]:
            delete(path)


def save(engine: Any, checkpoints: Checkpoints, step: int, keep: int) -> None:
    """Write a checkpoint; every rank calls it.

    Raises:
        OutputError: on every rank, if rank 0 or this rank could not write.
    """
    started = time.perf_counter()
    unit = checkpoints.unit(step)

    def prepare() -> Path:
        with writing(checkpoints.folder):
            temporary = checkpoints.folder / f".{unit.id}.tmp-{_owner()}-step"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            return temporary

    def finish() -> Record:
        with writing(unit.data):
            (temporary / "latest").unlink(missing_ok=True)
            student = engine.module.student
            save_weights(student, temporary / WEIGHTS)
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


def _owner() -> str:
    import os
    import socket

    return f"{socket.gethostname()}-{os.getpid()}"


def restore(engine: Any, checkpoints: Checkpoints, zero_stage: int) -> int:
    """Load the newest valid checkpoint into the engine; returns the step to continue with (0 = from the start).

    Raises:
        ConfigError: ZeRO state of another number of ranks.
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
    engine.load_checkpoint(str(data), tag=ENGINE_TAG)
    return step
