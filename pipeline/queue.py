"""Slurm as the pipeline sees it: which jobs of a work folder are in the queue, what became of others, one more job.

Jobs are found by their name, `hv-<stage>-<tag>`, where the tag stands for work folder and run. What was submitted is
also noted in `<work>/slurm/jobs.jsonl`, and each job notes its own end in `ended.jsonl`, since not every site keeps
accounts.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pretrain.logs import append, read_rows
from sharding.errors import ConfigError, StageFailed, writing
from sharding.records import fingerprint

ACTIVE = (
    "PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
    "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING",
)  # fmt: skip
FOLDER, SUBMITTED, ENDED = "slurm", "jobs.jsonl", "ended.jsonl"


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array, as Slurm tells of it."""

    id: str
    stage: str
    state: str
    reason: str
    nodes: str

    @property
    def active(self) -> bool:
        """Whether it is still to end."""
        return self.state in ACTIVE

    @property
    def base(self) -> str:
        """Its number without the element of an array."""
        return self.id.partition("_")[0]


@dataclass(frozen=True)
class Submitted:
    """A line of `jobs.jsonl`."""

    stage: str
    job: str
    recipe: str
    at: str


def have_slurm() -> bool:
    """Whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def require_slurm() -> None:
    """Raise ConfigError where there is no Slurm."""
    if not have_slurm():
        raise ConfigError("there is no Slurm here (no sbatch on the PATH); without it: hypervision run RECIPE")


def tag(config: Config) -> str:
    """What stands for the work folder and run in the names of its jobs."""
    return fingerprint([str(config.work), config.pretrain.run])[:8]


def job_name(stage: str, config: Config) -> str:
    """The name of a stage's job."""
    return f"hv-{stage}-{tag(config)}"


def _call(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode:
        last = " ".join(done.stderr.split())[:400]
        raise StageFailed(f"{words[0]} failed: {last or f'exit code {done.returncode}'}")
    return done.stdout


def queued(config: Config) -> list[Job]:
    """All jobs of this work folder and run that Slurm still knows, ended ones too for some minutes."""
    if not have_slurm():
        return []
    shape = "%i|%j|%T|%r|%N"
    out = _call(["squeue", "-h", "-r", "-u", getpass.getuser(), "--states=all", "-o", shape])
    end = f"-{tag(config)}"
    jobs = []
    for line in out.splitlines():
        number, name, state, reason, nodes = line.strip().split("|", 4)
        if name.startswith("hv-") and name.endswith(end):
            jobs.append(Job(number, name[3 : -len(end)], state, reason, nodes))
    return jobs


def send(script: Path, words: Sequence[str], after: Sequence[str], folder: Path) -> str:
    """Submit a script; it starts when all jobs in `after` have ended well, and never if one has not. Its number.

    Raises:
        StageFailed: sbatch refused.
    """
    options = ["--parsable", f"--chdir={folder}"]
    if after:
        options += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
    return _call(["sbatch", *options, str(script), *words]).strip().split(";")[0]


def note(path: Path, row: dict[str, Any]) -> None:
    """Append a line to one of the lists."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        append(path, [row])


def read_notes(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a list."""
    return read_rows(path) if path.is_file() else []


def submitted(config: Config) -> list[Submitted]:
    """What was submitted for this work folder and run."""
    names = set(Submitted.__dataclass_fields__)
    rows = [row for row in read_notes(config.work / FOLDER / SUBMITTED) if row.get("tag") == tag(config)]
    return [Submitted(**{key: row[key] for key in names}) for row in rows]


def note_submitted(config: Config, stage: str, job: str, recipe: str) -> None:
    """Remember a job."""
    row = asdict(Submitted(stage, job, recipe, time.strftime("%Y-%m-%dT%H:%M:%S%z")))
    note(config.work / FOLDER / SUBMITTED, {**row, "tag": tag(config)})
