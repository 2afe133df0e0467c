"""`plan` and `status`: what would run, what is done, from the records alone; nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.console import console, format_bytes, format_seconds, table
from pipeline.stages import stages_of
from pretrain.checkpoint import Checkpoints
from pseudolabel.units import pseudolabel_units
from sharding.errors import HyperVisionError
from sharding.generator.corpus import corpus_units
from sharding.ingest import ingest_units
from sharding.manifest import open_manifest
from sharding.records import Unit, find_records, read_record
from sharding.stage import RunOptions, pending


@dataclass
class Row:
    """What is known of one stage."""

    stage: str
    units: int = 0
    todo: int = 0
    failed: int = 0
    bytes: int = 0
    seconds: float = 0.0
    note: str = ""


def _from_units(stage: str, units: Sequence[Unit], options: RunOptions) -> Row:
    row = Row(stage, len(units))
    try:
        row.todo = len(pending(units, RunOptions(retry_failed=options.retry_failed)))
    except HyperVisionError as error:
        row.todo, row.note = len(units), str(error)
    records = [read_record(unit.record) for unit in units if unit.record.is_file()]
    row.failed = sum(not record.done for record in records)
    row.bytes = sum(record.bytes for record in records)
    if records and row.todo:
        row.seconds = row.todo * sum(record.seconds for record in records) / len(records)
    return row


def _teacher_note(config: Config, samples: int, measured: bool) -> str:
    """Disk that the teacher's features take, and from when on keeping them pays."""
    from distill.fill import measure_rates
    from distill.teacher import cache_bytes

    need = format_bytes(cache_bytes(config.teacher, samples))
    told = f"teacher features of {samples} samples take {need} of disk ({config.teacher.store})"
    if not measured:
        return told
    rates = measure_rates(config.work, config.training_datasets, config.teacher)
    epochs = config.pretrain.steps * config.pretrain.global_batch / samples
    saved = max(rates.saved(samples, epochs), 0.0)
    return (
        f"{told}; one sample: {1e3 * rates.compute:.0f} ms to compute, {1e3 * rates.write:.1f} to write, "
        f"{1e3 * rates.read:.1f} to read (measured now); kept features pay from epoch {rates.break_even:.2f} on, "
        f"this run has {epochs:.1f} and saves {format_seconds(saved)} of one process"
    )


def _training(config: Config, measured: bool) -> Row:
    manifest = open_manifest(config.work / "shards", config.training_datasets)
    checkpoints = Checkpoints.of(config.run_spec(), manifest)
    steps = config.pretrain.steps
    done = max((step for step, _ in checkpoints.records()), default=0)
    row = Row("pretrain", steps, steps - done, note=checkpoints.why_changed() or "")
    row.bytes = sum(read_record(path).bytes for _, path in checkpoints.records())
    if row.todo and not row.note and config.teacher.mode in ("fill", "cache"):
        row.note = _teacher_note(config, len(manifest), measured)
    return row


def stage_rows(config: Config, options: RunOptions, measured: bool = False) -> list[Row]:
    """The state of every stage of a recipe; `measured` tries what the teacher costs here."""
    rows = []
    for stage in stages_of(config):
        try:
            if stage == "corpus" and config.corpus is not None:
                rows.append(_from_units(stage, corpus_units(config.work, config.corpus), options))
            elif stage == "ingest":
                rows.append(_from_units(stage, ingest_units(config.work, config.datasets), options))
            elif stage == "pseudolabel":
                units = pseudolabel_units(config.work, config.training_datasets, config.pseudolabel)
                rows.append(_from_units(stage, units, options))
            elif stage == "cache-teacher":
                from distill.fill import open_cache, teacher_units

                cache = open_cache(config.work, config.training_datasets, config.teacher)
                rows.append(_from_units(stage, teacher_units(cache, config.teacher), options))
            elif stage == "pretrain":
                rows.append(_training(config, measured))
            elif stage == "export":
                there = (config.run_folder / "export.json").is_file()
                rows.append(Row(stage, 1, int(not there)))
        except HyperVisionError as error:
            rows.append(Row(stage, note=f"waits: {error}"))
    return rows


def print_plan(config: Config, options: RunOptions, title: str, measured: bool = False) -> None:
    """The state of every stage as a table."""
    rows = [
        [
            row.stage, str(row.units), str(row.units - row.todo - row.failed), str(row.todo), str(row.failed),
            format_bytes(row.bytes), format_seconds(row.seconds) if row.seconds else "-", row.note,
        ]
        for row in stage_rows(config, options, measured)
    ]  # fmt: skip
    console.print(f"work folder {config.work}", highlight=False)
    table(title, ["stage", "units", "done", "to do", "failed", "size", "estimate (one worker)", "note"], rows)


def print_failures(workdir: Path, limit: int = 20) -> int:
    """Every failure row in the records below a folder; returns how many."""
    failures = [(path, failure) for path in find_records(workdir) for failure in read_record(path).failures]
    for path, failure in failures[:limit]:
        console.print(f"[yellow]failed[/yellow] {failure} ({path})", highlight=False)
    if len(failures) > limit:
        console.print(f"... and {len(failures) - limit} more")
    return len(failures)
