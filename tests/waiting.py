"""Tests wait for what happens and hold the other side still meanwhile; how fast either side is changes no outcome.

    wait_for     until something is so
    HeldFile     a file that holds whoever reads it, and tells that somebody does
    taken        a unit that a stage finds claimed: it makes the rest and waits for this one
    HangClock    the time of a crew of actors: it passes only where nothing but a job that hangs is left

Seconds are a safety net: they end a test whose event never comes, and are far longer than a loaded machine needs.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharding.claims import Claims
from sharding.records import Unit

SAFETY_SECONDS = 600  # for an event
RUN_SECONDS = 3600  # for a whole process
POLL_SECONDS = 0.02
LONG_SECONDS = 86_400.0
FAR_AHEAD = 4_000_000_000  # a time of the year 2096


def wait_for(condition: Callable[[], Any], what: str, every: float = POLL_SECONDS) -> Any:
    """Wait until `condition`, asked every so many seconds, gives something true, and return it.

    Raises:
        AssertionError: it did not come; says `what`.
    """
    end = time.monotonic() + SAFETY_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come within {SAFETY_SECONDS} s"
        time.sleep(every)
    return found


class HeldFile:
    """A named pipe in the place of a file, as a file server that has died: who opens it is held."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.handle = path, path.read_bytes(), -1
        path.unlink()
        os.mkfifo(path)

    def has_reader(self) -> bool:
        """Whether somebody has opened it; from then on he waits for its first byte."""
        try:
            self.handle = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody is there
                raise
        return self.handle >= 0

    def put_back(self) -> None:
        """The file is as it was; who is still held reads its end."""
        self.path.unlink()
        self.path.write_bytes(self.content)
        if self.handle >= 0:
            os.close(self.handle)


@contextmanager
def taken(record: Path) -> Iterator[None]:
    """Claim a unit by the path of its record: while the block lasts no stage can end, or make this one."""
    claims, unit = Claims(), Unit("taken", record.stem, record.with_suffix(".tar"), record, "", {})
    assert claims.take(unit), f"{record} is claimed already"
    os.utime(claims.held[unit.id], (FAR_AHEAD, FAR_AHEAD))  # it never looks like that of a dead process
    try:
        yield
    finally:
        claims.release_all()


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do some work in a thread beside the block; its error is raised at the end of the block."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


class HangClock:
    """A crew's clock: it stands still, and passes every limit where nothing but hanging jobs is left to wait for."""

    def __init__(self, hangs: Callable[[str], bool]) -> None:
        """`hangs` knows a job that never ends by its name."""
        self.hangs, self.crew, self.now = hangs, None, 0.0

    def __call__(self) -> float:
        """The time in seconds."""
        names = [job.name for job in self.crew.unfinished()] if self.crew is not None else []
        if names and all(map(self.hangs, names)):
            self.now += LONG_SECONDS
        return self.now
