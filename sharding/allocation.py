"""What a process may use: the cores, memory and nodes that Slurm gave its job, or this machine's."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def job_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """The Slurm job that this process belongs to, as `scontrol` wants it, or None.

    An element of an array is named ARRAY_TASK, since the plain number would mean another element after a requeue.
    """
    task = environ.get("SLURM_ARRAY_TASK_ID")
    return f"{environ['SLURM_ARRAY_JOB_ID']}_{task}" if task else environ.get("SLURM_JOB_ID")


def cores(environ: Mapping[str, str] = os.environ) -> int:
    """Cores of this node that are ours; a job seldom owns the machine."""
    told = environ.get("SLURM_CPUS_ON_NODE", "") if job_id(environ) else ""
    return int(told) if told.isdigit() else len(os.sched_getaffinity(0))


def nodes(environ: Mapping[str, str] = os.environ) -> int:
    """Nodes of the job, 1 without one."""
    told = environ.get("SLURM_JOB_NUM_NODES", "") if job_id(environ) else ""
    return int(told) if told.isdigit() else 1


def one_task_a_node(count: int, *options: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The `srun` that starts a command once on each of so many nodes of the job, with all cores of a task."""
    each = environ.get("SLURM_CPUS_PER_TASK")
    words = ["srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", *options]
    return words + ([f"--cpus-per-task={each}"] if each else [])


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def memory_bytes(environ: Mapping[str, str] = os.environ) -> int:
    """Memory that is free to use: the machine's, or less where the job was given less."""
    free = 8 << 30
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    told = environ.get("SLURM_MEM_PER_NODE", "") if job_id(environ) else ""
    return min(free, int(told) << 20) if told.isdigit() and int(told) else free
