"""The body of a Slurm job: run one stage, hand signals on, and have the job queued again where it was stopped.

    warned of the end of its time (USR1)   the stage saves and ends with code 75; the job is queued again, and goes on
    preempted or cancelled (TERM)          the stage saves and ends; Slurm does what it meant to
    a process was killed, a peer is lost   queued again, unless `restarts` times in a row nothing was finished
    a node died                            Slurm queues the job again by itself; nothing here runs
    anything else                          the job ends with the stage's exit code

Imports are light: a signal may come early.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sharding.allocation import job_id, nodes
from sharding.errors import Killed, Stopped
from sharding.lifeline import STOP_SIGNALS

POLL_SECONDS = 1.0
WAIT_FOR_END = 60.0


class Ears:
    """Which stop signals came."""

    def __init__(self) -> None:
        self.came: list[int] = []
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, _: self.came.append(number))

    @property
    def warned(self) -> bool:
        """Told that time is up, and nothing else."""
        return bool(self.came) and self.came[0] == signal.SIGUSR1


def _hear_interrupts() -> None:
    """A job that a shell put into the background ignores SIGINT, and so would the stage that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(stage: str, words: Sequence[str], ears: Ears) -> int:
    """Run the stage as its own process; a stop is told to it until it is heard. Its exit code."""
    command = [sys.executable, "-m", "pipeline.cli", stage, *words]
    process = subprocess.Popen(command, preexec_fn=_hear_interrupts)
    # Training saves; every other stage keeps its finished units anyway and cleans up on an interrupt.
    word = signal.SIGUSR1 if stage == "pretrain" else signal.SIGINT
    told = False
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if ears.came and not (told and word == signal.SIGINT):
                process.send_signal(word)
                told = True


def outcome(code: int, ears: Ears) -> int:
    """The exit code of the job: 75 for one that was stopped, 71 for one that lost a process."""
    if ears.came and (code in (Stopped.exit_code, 130) or code < 0):
        return Stopped.exit_code
    return Killed.exit_code if code < 0 else code


def did_something(folder: Path, since: float) -> bool:
    """Whether any unit was committed since the job began."""
    from sharding.records import find_records

    return any(path.stat().st_mtime >= since for path in find_records(folder))


def may_restart(code: int, warned: bool, idle: int, restarts: int) -> tuple[bool, str]:
    """Whether the job is to be queued again, and why or why not.

    Args:
        code: how it ended, see `outcome`.
        warned: it was told that its time is up.
        idle: its starts up to this one, in a row, in which nothing was finished.
        restarts: how many of those are allowed, see `site.Site`.
    """
    if code == Stopped.exit_code and not warned:
        return False, "it was cancelled or preempted; Slurm decides whether it comes back"
    if code not in (Stopped.exit_code, Killed.exit_code):
        return False, ""
    why = "its time was up" if code == Stopped.exit_code else "a process was killed"
    if idle <= restarts:
        return True, f"{why}; it goes on where it stopped"
    fix = "give the job more time in the site file" if code == Stopped.exit_code else "see its log"
    return False, f"{why} and nothing was finished in {idle} starts in a row: {fix}"


def idle_starts(notes: Path, job: str, progress: bool) -> int:
    """Starts of a job in a row, up to this one, in which nothing was finished."""
    from pipeline.queue import read_notes

    count = 0
    for row in [{"progress": progress}, *(row for row in reversed(read_notes(notes)) if row["job"] == job)]:
        if row["progress"]:
            break
        count += 1
    return count


def _requeue(job: str) -> None:
    subprocess.run(["scontrol", "requeue", job], check=False)
    time.sleep(WAIT_FOR_END)  # Slurm ends us, so that no other exit code is seen


def lead_of(job: str) -> int | None:
    """Seconds before its end at which this job is warned, from the script that Slurm holds of it."""
    from pipeline.site import signal_lead

    told = subprocess.run(["scontrol", "write", "batch_script", job, "-"], capture_output=True, text=True)
    return signal_lead(told.stdout)


def note_on_lead(job: str, run: Path) -> str | None:
    """What is wrong with the warning, now that it is known how long a checkpoint takes; None if nothing is."""
    from pipeline.site import lead_note
    from pretrain.checkpoint import save_seconds

    took = save_seconds(run)
    return None if took is None else lead_note(lead_of(job), took)


@contextlib.contextmanager
def ray_across_nodes() -> Iterator[None]:
    """One Ray over the nodes of this job; the stage below finds its address in the environment."""
    from pipeline.ray_cluster import start, stop
    from sharding.workers import ALLOCATED

    address, processes = start()
    os.environ[ALLOCATED] = address
    try:
        yield
    finally:
        del os.environ[ALLOCATED]
        stop(processes)


def _runs_on_ray(stage: str) -> bool:
    from pipeline.stages import RAY_STAGES

    return stage in RAY_STAGES


def batch(stage: str, words: Sequence[str], folder: Path, output: Path, restarts: int, ray: str) -> int:
    """Run a stage as the body of a job; returns the exit code.

    Args:
        stage: its name.
        words: recipe, overrides and options.
        folder: where jobs note their end.
        output: where the stage commits its units.
        restarts: see `site.Site`.
        ray: "node" or "job".
    """
    ears, began, job = Ears(), time.time(), job_id()
    across = ray == "job" and nodes() > 1 and _runs_on_ray(stage)
    with ray_across_nodes() if across else contextlib.nullcontext():
        code = outcome(_run(stage, words, ears), ears)
    if job is None:
        return code
    from pipeline.queue import ENDED, note

    progress = code == 0 or did_something(output, began - 1)
    again, why = may_restart(code, ears.warned, idle_starts(folder / ENDED, job, progress), restarts)
    row = {"job": job, "stage": stage, "code": code, "again": again, "why": why, "progress": progress}
    note(folder / ENDED, {**row, "host": socket.gethostname(), "seconds": round(time.time() - began, 1)})
    for line in (why, note_on_lead(job, output) if stage == "pretrain" else None):
        if line:
            sys.stdout.write(f"job {job}: {line}\n")
            sys.stdout.flush()
    if again:
        _requeue(job)
    return code
