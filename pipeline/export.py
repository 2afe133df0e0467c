"""`export`: the newest checkpoint -> `model.safetensors` + `model.json`, read back through `create_model`."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from hypervision import card, create_model
from hypervision.checkpoint import read_state
from pipeline.config import Config
from pretrain.checkpoint import MEAN_WEIGHTS, WEIGHTS, Checkpoints
from pretrain.launch import datasets_without_visible
from sharding.errors import InputError
from sharding.manifest import open_manifest
from sharding.records import Body, Unit, read_record
from sharding.records import commit as commit_unit
from sharding.stage import RunOptions, StageResult, pending


def export_unit(config: Config, checkpoint_sha: str) -> Unit:
    """The export of a run, made from one checkpoint."""
    folder = config.run_folder / "export"
    return Unit("export", config.pretrain.run, folder, config.run_folder / "export.json", checkpoint_sha, {})


def provenance(config: Config, step: int) -> dict[str, Any]:
    """What a user of the weights wants to know of their making."""
    manifest = open_manifest(config.work / "shards", config.training_datasets)
    records = (read_record(shard.path.with_suffix(".json")) for shard in manifest.shards)
    labelled_by = sorted({record.extra["labelled_by"] for record in records})
    axes = {name: ref.meta()["wavelength_nm"] for name, ref in sorted(manifest.firsts.items())}
    with torch.device("meta"):  # shapes are all that the card tells of
        model = create_model(config.model.name, input_mode=config.model.input_mode, **config.model.options)
    return card(model) | {
        "trained_on_nm": {name: [min(axis), max(axis), len(axis)] for name, axis in axes.items()},
        "steps": step,
        "mean_of_weights": config.pretrain.ema or None,
        "seed": config.seed,
        "datasets": manifest.counts,
        "shards": manifest.fingerprint,
        "labelled_by": labelled_by,
        "teacher": None if config.teacher.mode == "none" else config.teacher.name,
        "teacher_without_visible": dict.fromkeys(datasets_without_visible(manifest), config.teacher.without_visible),
        "teacher_has_random_weights": config.teacher.mode != "none" and config.teacher.is_random,
    }


def check_export(folder: Path, name: str) -> None:
    """Build the model from the exported file alone and compare every tensor."""
    path = folder / "model.safetensors"
    own = create_model(name, checkpoint=path).state_dict()
    for key, value in read_state(path).items():
        if not torch.equal(own[key], value):
            raise InputError(f"{path}: {key} does not read back as it was exported")


def export(config: Config, options: RunOptions) -> StageResult:
    """Export the newest valid checkpoint of the run.

    Raises:
        InputError: there is none.
    """
    started = time.perf_counter()
    manifest = open_manifest(config.work / "shards", config.training_datasets)
    checkpoints = Checkpoints.of(config.run_spec(), manifest)
    newest = checkpoints.newest_valid()
    if newest is None:
        raise InputError(f"{checkpoints.folder} holds no valid checkpoint; run pretrain first")
    step, data, record = newest
    unit = export_unit(config, record.sha256)

    def write(temporary: Path) -> Body:
        temporary.mkdir()
        shutil.copyfile(data / (MEAN_WEIGHTS if config.pretrain.ema else WEIGHTS), temporary / "model.safetensors")
        (temporary / "model.json").write_text(json.dumps(provenance(config, step), indent=1) + "\n")
        return Body({"step": step})

    # A newer checkpoint replaces an older export: that is what exporting again means.
    todo = pending([unit], RunOptions(overwrite=True, retry_failed=options.retry_failed))
    for one in todo:
        commit_unit(one, write, lambda folder: check_export(folder, config.model.name))
    done = read_record(unit.record)
    where = unit.data / "model.safetensors"
    return StageResult("export", where, 1, len(todo), done.bytes, time.perf_counter() - started)
