"""The canonical order of samples: a pure function of (seed, epoch, manifest fingerprint, logic version).

Step s of a run takes positions [s * G, (s + 1) * G) of one endless stream, G being the global batch; the tail of an
epoch that does not fill a batch is left out, so every rank makes the same number of steps. Neither the number of
workers nor the world size plays a part, so a run continues exactly, also on another number of ranks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.errors import ConfigError

LOGIC = 1


def keyed_rng(*key: Any) -> np.random.Generator:
    """A random generator that depends on `key` alone (numbers and strings), on any machine."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@dataclass(frozen=True)
class Order:
    """Which samples a step sees."""

    count: int
    manifest: str
    seed: int
    global_batch: int

    def __post_init__(self) -> None:
        """Refuse a batch that the data cannot fill."""
        if self.global_batch > self.count:
            raise ConfigError(
                f"the global batch is {self.global_batch} but there are only {self.count} samples; "
                f"lower pretrain.global_batch or label more scenes"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the data."""
        return self.count // self.global_batch

    def epoch(self, index: int) -> NDArray[np.int64]:
        """The order of all samples in one epoch."""
        return keyed_rng("order", LOGIC, self.seed, index, self.manifest).permutation(self.count)

    def step(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, sample indices) of one step's global batch."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        start = inside * self.global_batch
        return epoch, self.epoch(epoch)[start : start + self.global_batch]
