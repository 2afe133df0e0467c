"""Ray, thinly: start and stop it cleanly, map units over tasks with retries and quarantine (actors: see `crew`).

Node-local by default, or a cluster by its address. Cubes never travel through Ray: workers read and write files
themselves. Ray's own files lie in a temporary folder that is removed when it stops. Processes that run a stage side by
side (elements of a Slurm array) each have a Ray of their own and share the units through claims.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from sharding.allocation import cores, nodes
from sharding.claims import Claims
from sharding.errors import ConfigError, HyperVisionError
from sharding.records import Failure, Record, Unit, commit_failure

ATTEMPTS = 3
WAIT_SECONDS = 10.0
OBJECT_STORE_BYTES = 128 << 20
PREFIX = "hv-ray-"
ALLOCATED = "HYPERVISION_RAY"  # no option: how the body of a job tells its stage


def _sweep_temporary() -> None:
    """Remove Ray folders of drivers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name[len(PREFIX) :].split("-")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


_kept = 0


@contextmanager
def ray_kept() -> Iterator[None]:
    """Let one Ray, once some stage has started it, serve all stages inside the block."""
    global _kept
    _kept += 1
    try:
        yield
    finally:
        _kept -= 1
        if not _kept:
            _stop()


def _stop() -> None:
    folders = list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*"))
    ray.shutdown()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def allocated_cluster() -> str | None:
    """The address of the Ray that `hypervision batch` started across the nodes of this job."""
    return os.environ.get(ALLOCATED) or None


def spread() -> int:
    """Nodes whose cores the Ray of this process has: those of the job if one was started across them, else this one."""
    return nodes() if allocated_cluster() else 1


def slots(workers: int = 0) -> int:
    """Ray workers: as many as asked for, or one per core."""
    return workers or cores() * spread()


@contextmanager
def ray_session(
    workers: int, gpus: int = 0, address: str | None = None, object_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[None]:
    """A node-local Ray with one slot per worker, or the cluster at an address; nested use joins the one that runs.

    A short path outside the work folder is needed, since Ray puts sockets there (limit 107 characters).

    Raises:
        ConfigError: no cluster answers at the address.
    """
    if ray.is_initialized():
        if ray.cluster_resources().get("GPU", 0) >= gpus:
            yield
            return
        _stop()  # one without GPUs was kept from another stage
    address = address or allocated_cluster()
    if address is not None:
        _join(address)
        try:
            yield
        finally:
            ray.shutdown()
        return
    _sweep_temporary()
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address="local", num_cpus=workers, num_gpus=gpus, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR, object_store_memory=object_bytes, _temp_dir=folder,
        )  # fmt: skip
        yield
    finally:
        if not _kept:
            _stop()


def _join(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"no Ray cluster answers at {address!r} ({reason}); start one with `ray start --head`, "
            "or leave pseudolabel.address out for one on this machine"
        ) from None


def _settle(unit: Unit, ref: Any, attempt: int) -> Record | None:
    """The record of a finished call; None if the unit should be tried again."""
    try:
        record: Record = ray.get(ref)
        return record
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, HyperVisionError):
            raise cause from None
        return commit_failure(unit, Failure.of(unit.id, cause or error))
    except ray.exceptions.RayError as error:
        if attempt < ATTEMPTS:
            return None
        reason = f"its worker died {ATTEMPTS} times ({type(error).__name__}); quarantined"
        return commit_failure(unit, Failure(unit.id, reason))


def map_tasks(
    function: Callable[[Unit], Record], units: Sequence[Unit], workers: int, gpus: int = 0
) -> Iterator[Record]:
    """Run `function` on every unit in Ray tasks, two in flight per worker; records come as they are ready.

    With `gpus` every task has one to itself. Units that another process has claimed come last, or are made by it.
    """
    claims = Claims(units)
    with ray_session(workers, gpus):
        remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=0)(function)
        queue = [(unit, 1) for unit in reversed(units)]
        theirs: list[tuple[Unit, int]] = []
        flying: dict[Any, tuple[Unit, int]] = {}
        try:
            while queue or theirs or flying:
                while queue and len(flying) < 2 * workers:
                    unit, attempt = queue.pop()
                    if (made := claims.made(unit)) is not None:
                        yield made
                    elif claims.take(unit):
                        flying[remote.remote(unit)] = (unit, attempt)
                    else:
                        theirs.append((unit, attempt))
                if not queue and not flying and theirs:
                    time.sleep(1.0)  # the others are at work on what is left
                    queue, theirs = list(reversed(theirs)), []
                claims.touch()
                for ref in ray.wait(list(flying), num_returns=1, timeout=WAIT_SECONDS)[0] if flying else ():
                    unit, attempt = flying.pop(ref)
                    record = _settle(unit, ref, attempt)
                    if record is None:
                        queue.append((unit, attempt + 1))
                    else:
                        claims.release(unit)
                        yield record
        finally:
            claims.release_all()
