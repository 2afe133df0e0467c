"""Ray, thinly: start and stop it cleanly, map units over tasks or actors with retries and quarantine.

Node-local by default. Big arrays never travel through Ray: workers read and write files themselves and return
small records. Ray's own files lie in a temporary folder that is removed when it stops.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from sharding.errors import ConfigError, HyperVisionError
from sharding.records import Failure, Record, Unit, commit_failure

ATTEMPTS = 3
OBJECT_STORE_BYTES = 128 << 20
PREFIX = "hv-ray-"


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


@contextmanager
def ray_session(workers: int, gpus: int = 0) -> Iterator[None]:
    """A node-local Ray with one slot per worker; nested use joins the one that runs.

    A short path outside the work folder is needed, since Ray puts sockets there (limit 107 characters).
    """
    if ray.is_initialized():
        yield
        return
    _sweep_temporary()
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address="local", num_cpus=workers, num_gpus=gpus, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR, object_store_memory=OBJECT_STORE_BYTES, _temp_dir=folder,
        )  # fmt: skip
        yield
    finally:
        if not _kept:
            _stop()


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


def map_tasks(function: Callable[[Unit], Record], units: Sequence[Unit], workers: int) -> Iterator[Record]:
    """Run `function` on every unit in Ray tasks, two in flight per worker; records come as they are ready."""
    with ray_session(workers):
        remote = ray.remote(num_cpus=1, max_retries=0)(function)
        queue = [(unit, 1) for unit in reversed(units)]
        flying: dict[Any, tuple[Unit, int]] = {}
        while queue or flying:
            while queue and len(flying) < 2 * workers:
                unit, attempt = queue.pop()
                flying[remote.remote(unit)] = (unit, attempt)
            (ref,), _ = ray.wait(list(flying), num_returns=1)
            unit, attempt = flying.pop(ref)
            record = _settle(unit, ref, attempt)
            if record is None:
                queue.append((unit, attempt + 1))
            else:
                yield record


def map_actors(
    factory: Callable[[], Any], units: Sequence[Unit], workers: int, gpus_per_worker: float = 0.0
) -> Iterator[Record]:
    """Run `actor.make(unit)` on actors built by `factory` (a model is loaded once per actor).

    A unit whose worker dies is tried again on a fresh actor, at most three times, then quarantined by name.
    """
    workers = max(1, min(workers, len(units)))
    with ray_session(workers, gpus=round(workers * gpus_per_worker)):
        remote = ray.remote(num_cpus=1, num_gpus=gpus_per_worker, max_restarts=0)(_Actor)
        queue = [(unit, 1) for unit in reversed(units)]
        idle = [remote.remote(factory) for _ in range(workers)]
        flying: dict[Any, tuple[Any, Unit, int]] = {}
        while queue or flying:
            while queue and idle:
                unit, attempt = queue.pop()
                actor = idle.pop()
                flying[actor.make.remote(unit)] = (actor, unit, attempt)
            (ref,), _ = ray.wait(list(flying), num_returns=1)
            actor, unit, attempt = flying.pop(ref)
            record = _settle(unit, ref, attempt)
            if record is None:
                queue.append((unit, attempt + 1))
                actor = remote.remote(factory)
            idle.append(actor)
            if record is not None:
                yield record


class _Actor:
    """Holds what the factory builds; one per slot."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        # An error here would reach the driver as "actor died", without its sentence: keep it for the first call.
        self.error: HyperVisionError | None = None
        try:
            self.worker = factory()
        except HyperVisionError as error:
            self.error = error
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            self.error = ConfigError(f"a worker cannot be set up: {type(error).__name__}: {reason}")

    def make(self, unit: Unit) -> Record:
        if self.error is not None:
            raise self.error
        record: Record = self.worker.make(unit)
        return record
