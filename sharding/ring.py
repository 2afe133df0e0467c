"""Where a batch lies: slots of shared memory that workers decode into, and the board on which they say what they do."""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from sharding.manifest import SampleRef

Array = NDArray[Any]
Layout = dict[str, tuple[tuple[int, ...], str]]
"""Name -> (shape, dtype) of the arrays of a batch."""
ALIGN = 64


def offsets(layout: Layout) -> tuple[dict[str, int], int]:
    """Where each array begins, and the bytes of all."""
    at, places = 0, {}
    for name, (shape, dtype) in layout.items():
        places[name] = at
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        at += -(-size // ALIGN) * ALIGN
    return places, at


class Ring:
    """Slots of one anonymous shared mapping: no name to clean up, no limit of /dev/shm, pinned where there is a GPU."""

    def __init__(self, slots: int, size: int) -> None:
        self.slots, self.size = slots, max(size, ALIGN)
        self._map = mmap.mmap(-1, self.slots * self.size)
        self._all = np.frombuffer(self._map, np.uint8)
        self.pinned = False
        if torch.cuda.is_available():
            code = torch.cuda.cudart().cudaHostRegister(self._all.ctypes.data, self._all.nbytes, 0)  # type: ignore[no-untyped-call]
            self.pinned = int(code) == 0

    def arrays(self, slot: int, layout: Layout) -> dict[str, Array] | None:
        """The arrays of a batch inside a slot, or None if they do not fit."""
        places, total = offsets(layout)
        if total > self.size:
            return None
        start = slot * self.size
        return {
            name: np.ndarray(shape, dtype, self._all.data, start + places[name])
            for name, (shape, dtype) in layout.items()
        }

    def __del__(self) -> None:
        if getattr(self, "pinned", False):
            torch.cuda.cudart().cudaHostUnregister(self._all.ctypes.data)  # type: ignore[no-untyped-call]


class Watch:
    """Which sample every worker is at, in shared memory: (sample + 1, since when), 0 = idle."""

    def __init__(self, workers: int) -> None:
        self._map = mmap.mmap(-1, 16 * max(1, workers))
        self._table = np.frombuffer(self._map, np.int64).reshape(-1, 2)

    def at(self, index: int | None) -> None:
        """Said by a worker."""
        info = get_worker_info()
        self._table[info.id if info else 0] = (0, 0) if index is None else (index + 1, time.monotonic_ns())

    def describe(self, manifest: Sequence[SampleRef]) -> str:
        """What the busy workers have been at."""
        told = []
        for worker, (sample, since) in enumerate(self._table.tolist()):
            if sample:
                ref = manifest[sample - 1]
                told.append(
                    f"worker {worker} at {ref.shard} (sample {ref.key}) for {(time.monotonic_ns() - since) / 1e9:.0f} s"
                )
        return "; ".join(told) or "no worker is at a shard"
