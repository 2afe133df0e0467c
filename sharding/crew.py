"""Actors that hold a model, and tasks beside them, on Ray: retries, time limits, quarantine by name, health.

    submit(job) -> queue -> an actor (two jobs each: one is read while the model works on the other) -> Done
    call(function, job) -> a task of the pool -> Done

A job fails at once if its code raises: that would happen again. If its process dies, it takes too long or runs out of
memory, it is tried again, `attempts` times in all, then quarantined by its name. Of two jobs that an actor took with
it nobody knows which one killed it: both are tried again alone, and only a job that was alone is charged. Results stay
in Ray's shared memory: the driver holds references.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from sharding.errors import ConfigError, HyperVisionError, InputError
from sharding.records import Failure

TICK_SECONDS = 0.5
START_DEATHS = 3


@dataclass(frozen=True)
class Limits:
    """Seconds that a job may take (0 = any), and how often it is tried."""

    seconds: float = 900.0
    attempts: int = 3


@dataclass
class Job:
    """A call: `key` is what its owner knows it by, `name` what a person does."""

    key: Any
    name: str
    args: tuple[Any, ...]
    function: Callable[..., Any] | None = None
    deaths: int = 0
    alone: bool = False


@dataclass(frozen=True)
class Done:
    """The end of a job: a reference to what it made, or why there is nothing."""

    key: Any
    ref: Any = None
    failure: Failure | None = None


@dataclass
class _Slot:
    """The place of one actor; a dead one is replaced."""

    actor: Any
    ready: Any
    started: bool = False
    restarts: int = 0
    done: int = 0
    memory: int = 0
    flights: list[_Flight] = field(default_factory=list)


@dataclass(eq=False)
class _Flight:
    job: Job
    told: Any
    made: Any
    since: float
    slot: _Slot | None = None


class Crew:
    """Runs jobs on `workers` actors built by `factory`, and tasks in a pool of `pool` processes."""

    def __init__(
        self,
        factory: Callable[[], Any],
        workers: int,
        pool: int,
        limits: Limits,
        *,
        gpus: float = 0.0,
        cpus: float = 0.0,
        depth: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`gpus` and `cpus` are what Ray sets aside for each process; on one machine the numbers here bound them.

        `clock` tells the seconds by which jobs are too long at work.
        """
        self.limits, self.pool, self.depth, self.cpus, self.clock = limits, pool, depth, cpus, clock
        self.remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_concurrency=depth)(_Actor)
        self.factory = ray.put(factory)
        self.queue: deque[Job] = deque()
        self.tasks: deque[Job] = deque()
        self.running: list[_Flight] = []
        self.start_deaths = 0
        self.slots = [_Slot(*self._hire()) for _ in range(workers)]

    def _hire(self) -> tuple[Any, Any]:
        actor = self.remote.remote(self.factory)
        return actor, actor.ready.remote()

    def hungry(self) -> bool:
        """Whether more jobs are wanted: the actors have few waiting, and the pool keeps up with what they make."""
        return len(self.queue) < 2 * self.depth * len(self.slots) and len(self.tasks) < 2 * self.pool

    def _flights(self) -> list[_Flight]:
        return [*self.running, *(flight for slot in self.slots for flight in slot.flights)]

    def unfinished(self) -> list[Job]:
        """Jobs that wait or are under way."""
        return [*self.queue, *self.tasks, *(flight.job for flight in self._flights())]

    @property
    def busy(self) -> bool:
        """Whether anything is still to come."""
        return bool(self.unfinished())

    def submit(self, job: Job) -> None:
        """Queue a job for the actors."""
        self.queue.append(job)

    def call(self, job: Job) -> None:
        """Queue a job (with a function) for the pool."""
        self.tasks.append(job)

    def wait(self) -> list[Done]:
        """Hand out work, wait for half a second at most, and tell what ended.

        Raises:
            ConfigError: the actors cannot be set up, or die while they are.
        """
        self._feed()
        flights = {flight.told: flight for flight in self._flights()}
        starting = {slot.ready: slot for slot in self.slots if not slot.started}
        ready, _ = ray.wait([*flights, *starting], num_returns=1, timeout=TICK_SECONDS, fetch_local=False)
        if ready:  # everything else that is ready by now
            ready, _ = ray.wait([*flights, *starting], num_returns=len(flights) + len(starting), timeout=0)
        ended: list[Done] = []
        for ref in ready:
            if ref in starting:
                self._started(starting[ref])
            else:
                ended += self._settle(flights[ref])
        return ended + self._overdue()

    def _feed(self) -> None:
        for slot in self.slots:
            while self.queue and slot.started and len(slot.flights) < self.depth:
                if slot.flights and (slot.flights[0].job.alone or self.queue[0].alone):
                    break
                if slot.flights and len(self.queue) < len(self.slots):
                    break  # the last jobs go to whoever is free first
                job = self.queue.popleft()
                told, made = slot.actor.make.options(num_returns=2).remote(*job.args)
                slot.flights.append(_Flight(job, told, made, self.clock(), slot))
        while self.tasks and len(self.running) < self.pool:
            job = self.tasks.popleft()
            call = ray.remote(num_cpus=self.cpus, max_retries=0, num_returns=2)(_run)
            told, made = call.remote(job.function, *job.args)
            self.running.append(_Flight(job, told, made, self.clock()))

    def _started(self, slot: _Slot) -> None:
        try:
            slot.memory = ray.get(slot.ready)
            slot.started = True
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            self.start_deaths += 1
            if self.start_deaths >= START_DEATHS:
                raise ConfigError(
                    f"workers die while they load their models ({type(error).__name__}); most likely memory runs out: "
                    "set pseudolabel.workers= lower, or take smaller models"
                ) from None
            slot.actor, slot.ready = self._hire()

    def _leave(self, flight: _Flight) -> None:
        (self.running if flight.slot is None else flight.slot.flights).remove(flight)

    def _settle(self, flight: _Flight) -> list[Done]:
        """What a finished call leaves; nothing yet if it is to be tried again."""
        job, slot = flight.job, flight.slot
        if flight not in (self.running if slot is None else slot.flights):
            return []  # went down with another job of its actor
        try:
            memory = ray.get(flight.told)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HyperVisionError) and not isinstance(error.cause, InputError):
                raise error.cause from None
            self._leave(flight)
            if isinstance(error.cause, MemoryError) or type(error.cause).__name__ == "OutOfMemoryError":
                return self._charge(job, "it ran out of memory", self.tasks if slot is None else self.queue)
            return [Done(job.key, failure=Failure.of(job.name, error.cause or error))]
        except ray.exceptions.RayError as error:
            return self._lost(flight, f"its worker died ({type(error).__name__})")
        self._leave(flight)
        if slot is not None:
            slot.done, slot.memory = slot.done + 1, memory
            for other in slot.flights:
                other.since = self.clock()
        return [Done(job.key, flight.made)]

    def _lost(self, flight: _Flight, reason: str) -> list[Done]:
        """A process is gone; of several jobs on an actor those that were ready are kept, the rest tried again."""
        slot = flight.slot
        if slot is None:
            self._leave(flight)
            return self._charge(flight.job, reason, self.tasks)
        ended: list[Done] = []
        gone = []
        for one in list(slot.flights):
            ready, _ = ray.wait([one.told], timeout=0)
            try:
                ray.get(ready)
                kept = bool(ready)
            except ray.exceptions.RayError:
                kept = False
            slot.flights.remove(one)
            if kept:
                ended.append(Done(one.job.key, one.made))
            else:
                gone.append(one.job)
        ray.kill(slot.actor)
        slot.actor, slot.ready = self._hire()
        slot.started, slot.restarts = False, slot.restarts + 1
        if len(gone) == 1:
            return ended + self._charge(gone[0], reason, self.queue)
        for job in reversed(gone):
            job.alone = True
            self.queue.appendleft(job)
        return ended

    def _charge(self, job: Job, reason: str, queue: deque[Job]) -> list[Done]:
        job.deaths += 1
        job.alone = True
        if job.deaths < self.limits.attempts:
            queue.appendleft(job)
            return []
        words = f"{reason}, {job.deaths} times; quarantined, --retry-failed tries again"
        return [Done(job.key, failure=Failure(job.name, words))]

    def _overdue(self) -> list[Done]:
        """Kill what takes too long."""
        ended: list[Done] = []
        limit = self.limits.seconds
        now = self.clock()
        for flight in self._flights():
            current = flight in self.running or (flight.slot is not None and flight in flight.slot.flights)
            if limit and current and now - flight.since > limit:
                if flight.slot is None:
                    ray.cancel(flight.told, force=True)
                else:
                    ray.kill(flight.slot.actor)
                ended += self._lost(flight, f"it took longer than {limit:g} s")
        return ended

    def health(self) -> str:
        """A few words per actor: what it does since when, what it has done, its memory."""
        now = self.clock()
        words = []
        for index, slot in enumerate(self.slots):
            state = "starts" if not slot.started else "idle"
            if slot.flights:
                state = f"{slot.flights[0].job.name} {now - slot.flights[0].since:.0f} s"
            again = f", restarted {slot.restarts}x" if slot.restarts else ""
            words.append(f"#{index} {state}, {slot.done} done, {slot.memory / 1e9:.1f} GB{again}")
        return " | ".join(words)

    def close(self) -> None:
        """Let the actors go."""
        for slot in self.slots:
            ray.kill(slot.actor)


def resident_bytes() -> int:
    """Memory that this process holds."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - called once a job
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _run(function: Callable[..., Any], *args: Any) -> tuple[int, Any]:
    return resident_bytes(), function(*args)


class _Actor:
    """Holds what the factory builds; one per slot."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        # An error here would reach the driver as "actor died", without its sentence: keep it for `ready`.
        self.error: HyperVisionError | None = None
        try:
            self.worker = factory()
        except HyperVisionError as error:
            self.error = error
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            self.error = ConfigError(f"a worker cannot be set up: {type(error).__name__}: {reason}")

    def ready(self) -> int:
        if self.error is not None:
            raise self.error
        return resident_bytes()

    def make(self, *args: Any) -> tuple[int, Any]:
        made = self.worker.make(*args)
        return resident_bytes(), made
