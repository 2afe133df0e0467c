"""`submit`: the stages of a recipe as a chain of Slurm jobs, each after the one before it.

resolved recipe -> <work>/slurm/recipe-<hash>.yaml -> one script a stage -> sbatch --dependency=afterok

What is done is not submitted, what is in the queue is not submitted twice: the same command again is resume.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Config
from pipeline.console import console, format_seconds, short_path, table
from pipeline.queue import (
    FOLDER,
    Job,
    job_name,
    note_submitted,
    queued,
    require_slurm,
    send,
    submitted,
)
from pipeline.site import Options, Site, lead_note, render, signal_lead
from pipeline.stages import output_folder
from pipeline.status import Row, describe_jobs, stage_rows
from pretrain.checkpoint import save_seconds
from sharding.errors import ChangedError, InputError, StageFailed, writing
from sharding.records import fingerprint, write_atomic
from sharding.stage import RunOptions

POLL_SECONDS = 5.0


@dataclass
class Link:
    """One stage of the chain: is it done, in the queue, or to be sent as this script."""

    stage: str
    row: Row
    jobs: list[Job]
    done: bool = False
    options: Options = field(default_factory=dict)
    script: str = ""
    job: str = ""
    after: str = ""


def chain_of(config: Config, options: RunOptions, jobs: Sequence[Job], site: Site) -> list[Link]:
    """The stages of the recipe in order; a stage is done if it and all before it have nothing to do.

    Raises:
        ChangedError: a stage would refuse to go on from what is there.
        InputError: the first stage has nothing to read.
    """
    links, all_done = [], True
    for row in stage_rows(config, options):
        if row.refused and not options.overwrite:
            raise ChangedError(row.refused)
        if row.waits and all_done:  # nothing before it will bring what it reads
            raise InputError(row.note.removeprefix("waits: "))
        mine = [job for job in jobs if job.stage == row.stage and job.active]
        all_done = all_done and not (row.todo or row.waits or options.overwrite or mine)
        link = Link(row.stage, row, mine, all_done)
        if not all_done and not mine:
            link.options = options_of(row, config, site)
            link.script = render(row.stage, link.options, site)
        links.append(link)
    return links


def options_of(row: Row, config: Config, site: Site) -> Options:
    """The options of a stage's script; an array has no more elements than there are units, if they are known."""
    options = site.options(row.stage)
    several = "array" in options
    if several and row.todo:
        options["array"] = _at_most(str(options["array"]), row.todo)
    options["job-name"] = job_name(row.stage, config)
    options["output"] = str(config.work / FOLDER / f"{row.stage}-{'%A_%a' if several else '%j'}.log")
    return options


def _at_most(array: str, count: int) -> str:
    """`0-7%4` cut to `count` elements; other forms are left alone."""
    span, percent, limit = array.partition("%")
    first, dash, last = span.partition("-")
    if not (dash and first.isdigit() and last.isdigit()):
        return array
    return f"{first}-{min(int(last), int(first) + count - 1)}{percent}{limit}"


def _words(config: Config, stage: str, recipe: Path, site: Site, options: RunOptions) -> list[str]:
    words = [str(recipe), f"--folder={config.work / FOLDER}", f"--output={output_folder(stage, config)}"]
    words += [f"--restarts={site.restarts}", f"--ray={site.ray}"]
    return words + ["--overwrite"] * options.overwrite + ["--retry-failed"] * options.retry_failed


def _refuse_others(config: Config, jobs: Sequence[Job], recipe: Path) -> None:
    """Raise ChangedError if jobs of another configuration of this run are in the queue."""
    active = {job.base for job in jobs if job.active}
    other = sorted(row.job for row in submitted(config) if row.job in active and row.recipe != str(recipe))
    if other:
        raise ChangedError(
            f"jobs {', '.join(other)} of another configuration of {config.run_folder} are in the queue; "
            f"end them first (scancel {' '.join(other)}), or set another workdir= or pretrain.run="
        )


def submit(config: Config, site: Site, options: RunOptions, dry_run: bool = False) -> list[Link]:
    """Send what is not done and not in the queue; with `dry_run` only print the scripts.

    Raises:
        ConfigError: no Slurm here, or the recipe cannot run.
        ChangedError: done work or queued jobs are of another configuration.
        InputError: the first stage has nothing to read.
        StageFailed: sbatch refused.
    """
    config.check()
    if not dry_run:
        require_slurm()
    jobs = queued(config) if not dry_run or submitted(config) else []
    text = config.yaml()
    recipe = config.work / FOLDER / f"recipe-{fingerprint(text)[:8]}.yaml"
    _refuse_others(config, jobs, recipe)
    links = chain_of(config, options, jobs, site)
    if dry_run:
        _show_scripts(links, config, recipe, site, options)
        return links
    if any(link.script for link in links):
        with writing(recipe):
            write_atomic(recipe, text.encode())
    before: list[str] = []
    for link in links:
        if link.done:
            continue
        if link.script:
            script = recipe.with_name(f"{link.stage}.sbatch")
            write_atomic(script, link.script.encode())
            words = _words(config, link.stage, recipe, site, options)
            link.job, link.after = send(script, words, before, config.work), " ".join(before)
            note_submitted(config, link.stage, link.job, str(recipe))
        before = [link.job] if link.job else sorted({job.base for job in link.jobs})
    _show(links, config)
    _check_lead(links, config)
    return links


def _show_scripts(links: Sequence[Link], config: Config, recipe: Path, site: Site, options: RunOptions) -> None:
    for link in links:
        if link.script:
            words = " ".join(_words(config, link.stage, recipe, site, options))
            console.print(f"# sbatch {link.stage}.sbatch {words}", style="bold", highlight=False)
            console.print(link.script, markup=False, highlight=False)
        else:
            console.print(f"# {link.stage}: {'done' if link.done else describe_jobs(link.jobs)}", highlight=False)


def _show(links: Sequence[Link], config: Config) -> None:
    rows = []
    for link in links:
        state = "done" if link.done else "submitted" if link.job else f"in the queue: {describe_jobs(link.jobs)}"
        todo = "-" if link.done else "?" if link.row.waits else str(link.row.todo)
        shape = [str(link.options.get(name, "-")) for name in ("nodes", "array", "time")]
        rows.append([link.stage, link.job or "-", *shape, todo, link.after or "-", state])
    table("Jobs", ["stage", "job", "nodes", "array", "time", "units to do", "after", "state"], rows)
    if any(link.job for link in links):
        where = short_path(config.work / FOLDER)
        console.print(f"logs and scripts in {where}; hypervision status shows how far it is", highlight=False)
    else:
        console.print("nothing to submit: everything is done or in the queue", style="bold")


def _check_lead(links: Sequence[Link], config: Config) -> None:
    script = next((link.script for link in links if link.stage == "pretrain"), "")
    note = lead_note(signal_lead(script), save_seconds(config.run_folder)) if script else None
    if note:
        console.print(f"[bold yellow]note[/bold yellow] {note}", highlight=False)


def wait(config: Config, links: Sequence[Link]) -> None:
    """Stay until no job of the chain is left in the queue, saying what changes.

    Raises:
        StageFailed: some stage is not done then.
    """
    told, began = "", time.monotonic()
    while True:
        active = [job for job in queued(config) if job.active]
        running = [f"{job.stage} {describe_jobs([job])}" for job in active if job.state != "PENDING"]
        state = "; ".join([*running[:6], f"{len(active) - len(running)} wait"])
        if state != told and active:
            console.print(f"{format_seconds(time.monotonic() - began)}: {state}", highlight=False)
            told = state
        if not active:
            break
        time.sleep(POLL_SECONDS)
    left = [row.stage for row in stage_rows(config, RunOptions()) if row.todo or row.waits or row.refused]
    names = [link.stage for link in links]
    if left:
        raise StageFailed(
            f"the queue is empty and {', '.join(left)} is not done (of {', '.join(names)}); the reason is in the logs "
            f"below {config.work / FOLDER}, and hypervision status tells what failed"
        )
    console.print(f"all stages are done ({format_seconds(time.monotonic() - began)})", style="bold green")
