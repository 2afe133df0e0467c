"""`plan` and `status`: what would run, what is done, from records and the queue; nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.config import Config
from pipeline.console import console, format_bytes, format_seconds, table
from pipeline.queue import ENDED, FOLDER, Job, queued, read_notes, submitted
from pipeline.stages import output_folder, stages_of
from pretrain.checkpoint import Checkpoints
from pretrain.logs import tail
from pseudolabel.units import pseudolabel_units
from sharding.claims import STALE_SECONDS
from sharding.errors import HyperVisionError, StageFailed
from sharding.generator.corpus import corpus_units
from sharding.ingest import ingest_units, truth_units
from sharding.manifest import open_manifest
from sharding.records import Record, Unit, find_records, read_record
from sharding.stage import RunOptions, pending

RATE_RECORDS = 50  # the newest ones, which tell how fast it goes now


@dataclass
class Row:
    """What is known of one stage; `refused` is why it would not go on from what is there."""

    stage: str
    units: int = 0
    todo: int = 0
    failed: int = 0
    bytes: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    note: str = ""
    refused: str = ""
    waits: bool = False


def _per_second(records: Sequence[Record]) -> float:
    """Units a second over the newest records, by when they were written."""
    times = sorted(datetime.fromisoformat(record.written).timestamp() for record in records if record.written)
    times = times[-RATE_RECORDS:]
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0


def _from_units(stage: str, units: Sequence[Unit], options: RunOptions) -> Row:
    row = Row(stage, len(units))
    try:
        row.todo = len(pending(units, RunOptions(retry_failed=options.retry_failed)))
    except HyperVisionError as error:
        row.todo, row.refused = len(units), str(error)
    records = [read_record(unit.record) for unit in units if unit.record.is_file()]
    row.failed = sum(not record.done for record in records)
    row.bytes = sum(record.bytes for record in records)
    row.rate = _per_second(records)
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
    row = Row("pretrain", steps, steps - done, refused=checkpoints.why_changed() or "")
    row.bytes = sum(read_record(path).bytes for _, path in checkpoints.records())
    last = tail(config.run_folder, RATE_RECORDS)
    if last:
        row.rate = len(last) / sum(line["seconds"] for line in last)
    if row.todo and not row.refused and config.teacher.mode in ("fill", "cache"):
        row.note = _teacher_note(config, len(manifest), measured)
    return row


def _row(stage: str, config: Config, options: RunOptions, measured: bool) -> Row:
    """The state of one stage.

    Raises:
        HyperVisionError: what it reads is not there yet.
    """
    if stage == "corpus" and config.corpus is not None:
        return _from_units(stage, corpus_units(config.work, config.corpus), options)
    if stage == "ingest":
        units = ingest_units(config.work, config.datasets)
        return _from_units(stage, [*units, *truth_units(units, config.datasets)[0]], options)
    if stage == "pseudolabel":
        units = pseudolabel_units(config.work, config.training_datasets, config.pseudolabel)
        return _from_units(stage, units, options)
    if stage == "cache-teacher":
        from distill.fill import open_cache, teacher_units

        cache = open_cache(config.work, config.training_datasets, config.teacher)
        return _from_units(stage, teacher_units(cache, config.teacher), options)
    if stage == "pretrain":
        return _training(config, measured)
    made = {
        "export": config.run_folder / "export.json", "evidence": config.run_folder / "evidence.json",
        "report": config.work / "report.png", "compare": config.work / "mlflow.json",
    }  # fmt: skip
    return Row(stage, 1, int(not made[stage].is_file()))


def stage_rows(config: Config, options: RunOptions, measured: bool = False) -> list[Row]:
    """The state of every stage of a recipe; `measured` tries what the teacher costs here."""
    rows: list[Row] = []
    for stage in stages_of(config):
        try:
            rows.append(_row(stage, config, options, measured))
        except HyperVisionError as error:
            rows.append(Row(stage, note=f"waits: {error}", waits=True))
    return rows


def print_plan(config: Config, options: RunOptions, title: str, measured: bool = False) -> None:
    """The state of every stage as a table."""
    rows = [
        [
            row.stage, str(row.units), str(row.units - row.todo - row.failed), str(row.todo), str(row.failed),
            format_bytes(row.bytes), format_seconds(row.seconds) if row.seconds else "-", row.refused or row.note,
        ]
        for row in stage_rows(config, options, measured)
    ]  # fmt: skip
    console.print(f"work folder {config.work}", highlight=False)
    table(title, ["stage", "units", "done", "to do", "failed", "size", "estimate (one worker)", "note"], rows)


def _claimed(folder: Path) -> int:
    """Units that some process is at work on."""
    found = 0
    for path in folder.rglob(".*.claim") if folder.is_dir() else ():
        try:
            found += time.time() - path.stat().st_mtime < STALE_SECONDS
        except FileNotFoundError:
            continue
    return found


def describe_jobs(jobs: Sequence[Job]) -> str:
    """The jobs of a stage in some words: `12 running on n1, 13 waits (Dependency)`."""
    words = []
    for job in jobs:
        state = {"RUNNING": f"running on {job.nodes}", "PENDING": f"waits ({job.reason})"}.get(job.state)
        words.append(f"{job.id} {state or job.state.lower()}")
    return ", ".join(words[:4]) + (f", ... {len(words)} in all" if len(words) > 4 else "")


def _status_row(row: Row, config: Config, jobs: Sequence[Job]) -> list[str]:
    mine = [job for job in jobs if job.stage == row.stage and job.active]
    running = _claimed(output_folder(row.stage, config))
    if row.stage not in ("ingest", "pseudolabel", "cache-teacher"):
        running = min(row.todo, sum(job.state == "RUNNING" for job in mine))
    known, waiting = not row.waits, max(0, row.todo - running)
    left = format_seconds(row.todo / row.rate) if row.rate and running else "-"
    return [
        row.stage, str(row.units - row.todo - row.failed), str(running), str(row.failed),
        str(waiting) if known else "?",
        f"{row.rate:.2f}/s" if row.rate else "-", left, format_bytes(row.bytes), describe_jobs(mine) or "-",
        row.refused or ("" if mine and row.waits else row.note),
    ]  # fmt: skip


def lost_jobs(config: Config, jobs: Sequence[Job]) -> list[str]:
    """A line for every submitted job that is not in the queue any more and did not end well."""
    ended = {row["job"]: row for row in read_notes(config.work / FOLDER / ENDED)}
    lines = []
    for row in submitted(config):
        told = [job for job in jobs if job.base == row.job]
        if any(job.active for job in told):
            continue
        for job in [job for job in told if job.state not in ("COMPLETED", "CANCELLED")]:
            why = ended.get(job.id, {}).get("why", "")
            lines.append(f"{row.stage}: job {job.id} {job.state.lower()}" + (f", {why}" if why else ""))
        if not told:
            bad = [end for number, end in ended.items() if number.partition("_")[0] == row.job and end["code"]]
            lines += [f"{row.stage}: job {end['job']} ended with code {end['code']}, {end['why']}" for end in bad]
    return lines


def _jobs(config: Config) -> list[Job]:
    """The queue, or nothing where Slurm is installed and does not answer: records tell the rest."""
    try:
        return queued(config)
    except StageFailed as error:
        if submitted(config):
            console.print(f"[bold yellow]note[/bold yellow] the queue is not known: {error}", highlight=False)
        return []


def print_status(config: Config, options: RunOptions, retry: str) -> None:
    """Records and queue side by side, failures with their reasons, and the command that goes on."""
    rows, jobs = stage_rows(config, options), _jobs(config)
    console.print(f"work folder {config.work}", highlight=False)
    columns = ["stage", "done", "running", "failed", "waiting", "rate", "left", "size", "jobs", "note"]
    table("Status", columns, [_status_row(row, config, jobs) for row in rows])
    todo = [row.stage for row in rows if row.todo or row.waits]
    if todo and not any(job.active for job in jobs):  # what still stands in the queue has its own word above
        for line in lost_jobs(config, jobs):
            console.print(f"[yellow]lost[/yellow] {line}; log in {config.work / FOLDER}", highlight=False)
    if config.work.is_dir() and print_failures(config.work):
        console.print(f"mend the input, then: {retry} --retry-failed", highlight=False)
    elif todo and not any(job.active for job in jobs):
        console.print(f"to go on: {retry}", highlight=False)


def print_failures(workdir: Path, limit: int = 20) -> int:
    """Every failure row in the records below a folder; returns how many."""
    failures = [(path, failure) for path in find_records(workdir) for failure in read_record(path).failures]
    for path, failure in failures[:limit]:
        console.print(f"[yellow]failed[/yellow] {failure} ({path})", highlight=False)
    if len(failures) > limit:
        console.print(f"... and {len(failures) - limit} more")
    return len(failures)
