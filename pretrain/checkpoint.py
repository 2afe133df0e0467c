"""Where checkpoints lie and which of them count: `runs/<run>/checkpoints/step_<n>/` and its record.

The newest checkpoint whose bytes are those of its record is where any start continues. How the ranks write one
is in saving.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.config import RunSpec
from sharding.manifest import Manifest
from sharding.records import Record, Unit, data_path, delete, find_records, read_record
from sharding.stage import check_unchanged
from sharding.stream import Stream, changes
from sharding.verify import verify_unit

FOLDER = "checkpoints"
ENGINE_TAG = "engine"
WEIGHTS = "weights.safetensors"
MEAN_WEIGHTS = "mean_weights.safetensors"
STREAM = "stream.json"


def save_seconds(run: Path) -> float | None:
    """How long the slowest of the kept checkpoints of a run took to save, or None before the first."""
    folder = run / FOLDER
    return max((read_record(path).seconds for path in find_records(folder)), default=None) if folder.is_dir() else None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint folder of a run."""

    folder: Path
    stream: Stream
    config: dict[str, Any]

    @classmethod
    def of(cls, spec: RunSpec, manifest: Manifest) -> Checkpoints:
        """The folder of a run's specification, trained on these shards."""
        folder = Path(spec.workdir) / "runs" / spec.pretrain.run / FOLDER
        stream = Stream(manifest, spec.pretrain.global_batch, spec.seed, spec.pretrain.mixing)
        return cls(folder, stream, spec.bytes_config())

    def unit(self, step: int) -> Unit:
        """The unit of a step."""
        name = f"step_{step:08d}"
        data = self.folder / name
        return Unit("pretrain", name, data, self.folder / f"{name}.json", self.stream.manifest.fingerprint, self.config)

    def records(self) -> list[tuple[int, Path]]:
        """(step, record path) of every committed checkpoint, oldest first."""
        paths = find_records(self.folder) if self.folder.is_dir() else ()
        return sorted((int(path.stem.split("_")[1]), path) for path in paths)

    def why_changed(self) -> str | None:
        """Why the checkpoints that are there belong to another run, or None."""
        for step, path in self.records():
            record = read_record(path)
            unit = self.unit(step)
            why = check_unchanged(unit, record)
            if why:
                same_settings = record.config == unit.config
                return (self._what_changed(data_path(path, record)) if same_settings else None) or why
        return None

    def _what_changed(self, data: Path | None) -> str | None:
        """Which datasets or shards are not those that a checkpoint was trained on."""
        try:
            state = json.loads((data / STREAM).read_text()) if data is not None else {}
            return "; ".join(changes(state["identity"], self.stream.identity)) or None
        except (OSError, ValueError, KeyError):
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
