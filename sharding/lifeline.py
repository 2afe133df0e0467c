"""How processes end: not later than the one that started them, and not before they have saved their work."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""With these a scheduler announces that it will take the node."""


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, so that a killed run leaves nothing behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class StopFlag:
    """Remembers that a stop signal came; made in the main thread."""

    def __init__(self) -> None:
        self.asked = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True
