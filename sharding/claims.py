"""Several processes, on any hosts that share a disk, take units from one list without a head node.

Before a unit is begun its claim file `.<record>.claim` is made (it can be made once), touched while the work goes on,
and removed at the end. A claim that nobody has touched for two minutes is of a dead process and is taken over. Claims
only save work: two processes that make one unit write the same bytes. What another process made since the stage began
is not made again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sharding.errors import writing
from sharding.records import Record, Unit, read_record
from sharding.stage import check_unchanged

STALE_SECONDS = 120.0
TOUCH_SECONDS = 20.0


def _version(path: Path) -> tuple[int, int] | None:
    """Differs when a file was written anew."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


class Claims:
    """The units that this process has taken, of those that were to do when it began."""

    def __init__(self, todo: Sequence[Unit] = (), stale_seconds: float = STALE_SECONDS) -> None:
        self.held: dict[str, Path] = {}
        self.before = {unit.id: _version(unit.record) for unit in todo}
        self.stale_seconds, self.touched = stale_seconds, time.monotonic()

    def made(self, unit: Unit) -> Record | None:
        """The record of a unit (or of its failure) that another process wrote since we began."""
        if _version(unit.record) in (None, self.before.get(unit.id)):
            return None
        record = read_record(unit.record)
        return record if check_unchanged(unit, record) is None else None

    @staticmethod
    def path(unit: Unit) -> Path:
        """Where the claim of a unit lies."""
        return unit.record.with_name(f".{unit.record.name}.claim")

    def take(self, unit: Unit) -> bool:
        """Whether the unit is now ours."""
        path = self.path(unit)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._make(path) or (self._is_dead(path) and self._take_over(path)):
                self.held[unit.id] = path
        return unit.id in self.held

    def _make(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.write(handle, f"{socket.gethostname()} {os.getpid()}".encode())
        os.close(handle)
        return True

    def _is_dead(self, path: Path) -> bool:
        """Untouched for long, by the clock of the file system; or of a process of this host that is gone."""
        try:
            words = path.read_text().split()
            probe = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
            probe.touch()
            age = probe.stat().st_mtime - path.stat().st_mtime
            probe.unlink()
        except FileNotFoundError:
            return False
        gone = len(words) == 2 and words[0] == socket.gethostname() and not Path(f"/proc/{words[1]}").exists()
        return gone or age > self.stale_seconds

    def _take_over(self, path: Path) -> bool:
        """Of several that find a dead claim one succeeds: a file can be renamed once."""
        aside = path.with_name(f"{path.name}.dead-{socket.gethostname()}-{os.getpid()}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        aside.unlink()
        return self._make(path)

    def touch(self) -> None:
        """Say now and then that this process is alive."""
        if time.monotonic() - self.touched > TOUCH_SECONDS:
            self.touched = time.monotonic()
            for path in self.held.values():
                with suppress(FileNotFoundError):  # we were asleep for so long that it was taken over
                    os.utime(path)

    def release(self, unit: Unit) -> None:
        """The unit is done, or given up."""
        path = self.held.pop(unit.id, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def release_all(self) -> None:
        """Nothing is ours any more."""
        for path in self.held.values():
            path.unlink(missing_ok=True)
        self.held = {}
