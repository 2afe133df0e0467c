"""The canonical order of samples: a pure function of (seed, manifest fingerprint, mixing, logic version).

    dataset -> endless passes (shards shuffled, samples shuffled within blocks of shards) -> one endless stream

A run takes positions [s * G, (s + 1) * G) of the stream in step s, G being the global batch, dealt to its batches and
those to the ranks; so neither workers nor ranks play a part, every rank makes the same number of steps, and a run that
has consumed n samples goes on at position n on any number of ranks.

An epoch is as many draws as there are samples. Each dataset has a fixed number of draws in it, spread evenly over
it; where an epoch ends a dataset goes on in its pass, so all samples of a dataset are seen equally often, whatever
its share. A sample is drawn for the v-th time in pass v, its `visit`, which keys its augmentation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharding.errors import ConfigError

LOGIC = 2
KEPT = 4  # passes and epochs kept in memory
Indices = NDArray[np.int64]
T = TypeVar("T")


def keyed_rng(*key: Any) -> np.random.Generator:
    """A random generator that depends on `key` alone (numbers and strings), on any machine."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@dataclass
class MixingConfig:
    """How datasets share an epoch, and how far apart samples are shuffled.

    Fields:
        temperature: a dataset of n samples has a share of n ^ (1 / temperature): 1 = every sample once an epoch,
            large = every dataset alike.
        weights: of some datasets, multiplied in (1 for those not named).
        block_shards: shards that are read from at the same time, over all datasets (at least one of each): more
            shuffle better, fewer read more in sequence and fit a smaller cache.
    """

    temperature: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)
    block_shards: int = 64

    def check(self, datasets: Sequence[str]) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: with what to change.
        """
        unknown = sorted(set(self.weights) - set(datasets))
        if unknown:
            raise ConfigError(f"mixing.weights names {unknown[0]!r}; the datasets are {', '.join(datasets)}")
        if self.temperature <= 0 or self.block_shards < 1 or any(w <= 0 for w in self.weights.values()):
            raise ConfigError("mixing: temperature and weights must be above 0, and block_shards at least 1")


@dataclass(frozen=True)
class Draws:
    """Consecutive positions of the stream: the sample at each, and for the how many-th time it comes (from 0)."""

    position: Indices
    index: Indices
    visit: Indices

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, part: Any) -> Draws:
        return Draws(self.position[part], self.index[part], self.visit[part])


def _remembered(kept: dict[int, T], number: int, make: Callable[[int], T]) -> T:
    """What `make` gives for a number, of which the last few are kept."""
    if number not in kept:
        kept[number] = make(number)
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
    return kept[number]


class _Dataset:
    """The endless passes of one dataset."""

    def __init__(self, name: str, first: int, sizes: Sequence[int], quota: int, block: int, key: Sequence[Any]) -> None:
        self.name, self.size, self.quota, self.block, self.key = name, sum(sizes), quota, block, tuple(key)
        starts = first + np.cumsum([0, *sizes[:-1]])
        self.shards = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True) if size]
        self._passes: dict[int, Indices] = {}

    def one_pass(self, number: int) -> Indices:
        """All samples once: shards in random order, samples shuffled within blocks of them."""
        return _remembered(self._passes, number, self._shuffle)

    def _shuffle(self, number: int) -> Indices:
        rng = keyed_rng("pass", *self.key, self.name, number)
        order = rng.permutation(len(self.shards))
        blocks = [order[start : start + self.block] for start in range(0, len(order), self.block)]
        return np.concatenate([rng.permutation(np.concatenate([self.shards[i] for i in block])) for block in blocks])

    def draws(self, epoch: int) -> tuple[Indices, Indices]:
        """(sample, visit) of its draws in an epoch."""
        at = np.arange(epoch * self.quota, (epoch + 1) * self.quota)
        visit, inside = np.divmod(at, self.size)
        index = np.empty(len(at), np.int64)
        for number in np.unique(visit).tolist():
            here = visit == number
            index[here] = self.one_pass(number)[inside[here]]
        return index, visit


def _quotas(layout: Mapping[str, Sequence[int]], mixing: MixingConfig) -> dict[str, int]:
    """Draws of each dataset in an epoch: at least one each, as many as there are samples in all."""
    sizes = {name: sum(shards) for name, shards in layout.items()}
    share = {n: sizes[n] ** (1 / mixing.temperature) * mixing.weights.get(n, 1.0) for n in sizes}
    total, unit = sum(sizes.values()), sum(share.values())
    exact = {name: total * value / unit for name, value in share.items()}
    quotas = {name: max(1, int(value)) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: (int(exact[n]) - exact[n], n)):
        if sum(quotas.values()) < total:
            quotas[name] += 1
    while sum(quotas.values()) > total:  # the least were raised to one
        quotas[max(quotas, key=lambda n: (quotas[n], n))] -= 1
    return quotas


class Order:
    """Which sample stands at which position of the endless stream."""

    def __init__(
        self,
        layout: Mapping[str, Sequence[int]],
        fingerprint: str,
        seed: int = 0,
        mixing: MixingConfig | None = None,
    ) -> None:
        """The order over the shards of some datasets.

        Args:
            layout: dataset -> samples in each of its shards, in the order of the manifest.
            fingerprint: of the manifest.
            seed: another seed is another order.
            mixing: shares of the datasets.

        Raises:
            ConfigError: there are no samples, or the mixing cannot be.
        """
        self.mixing = mixing or MixingConfig()
        self.mixing.check(list(layout))
        self.seed, self.fingerprint = seed, fingerprint
        self.epoch_size = sum(sum(sizes) for sizes in layout.values())
        if not self.epoch_size:
            raise ConfigError("there are no samples to order; label some scenes first")
        quotas = _quotas(layout, self.mixing)
        key = (LOGIC, seed, fingerprint)
        self.datasets: list[_Dataset] = []
        first = 0
        for name, sizes in layout.items():
            block = max(1, round(self.mixing.block_shards * quotas[name] / self.epoch_size))
            self.datasets.append(_Dataset(name, first, sizes, quotas[name], block, key))
            first += sum(sizes)
        self._bounds = np.cumsum([d.size for d in self.datasets])
        self._epochs: dict[int, tuple[Indices, Indices]] = {}

    @property
    def quotas(self) -> dict[str, int]:
        """Draws of each dataset in an epoch."""
        return {dataset.name: dataset.quota for dataset in self.datasets}

    def epoch(self, number: int) -> tuple[Indices, Indices]:
        """(sample, visit) at every position of an epoch; the draws of each dataset are spread evenly over it."""
        return _remembered(self._epochs, number, self._interleave)

    def _interleave(self, number: int) -> tuple[Indices, Indices]:
        times, parts = [], []
        for data in self.datasets:
            rng = keyed_rng("mix", LOGIC, self.seed, self.fingerprint, data.name, number)
            times.append((np.arange(data.quota) + rng.random(data.quota)) / data.quota)
            parts.append(data.draws(number))
        order = np.argsort(np.concatenate(times), kind="stable")
        index, visit = (np.concatenate(part)[order] for part in zip(*parts, strict=True))
        return index, visit

    def draws(self, start: int, count: int) -> Draws:
        """What stands at positions [start, start + count)."""
        position = np.arange(start, start + count)
        epochs, inside = np.divmod(position, self.epoch_size)
        index, visit = np.empty(count, np.int64), np.empty(count, np.int64)
        for number in np.unique(epochs).tolist():
            here = epochs == number
            index[here], visit[here] = (part[inside[here]] for part in self.epoch(number))
        return Draws(position, index, visit)

    def counts(self, draws: Draws) -> dict[str, int]:
        """How many of some draws each dataset has."""
        owner = np.searchsorted(self._bounds, draws.index, side="right")
        found = np.bincount(owner, minlength=len(self.datasets))
        return {data.name: int(number) for data, number in zip(self.datasets, found, strict=True)}

    def stand_in(self, position: int, index: int, attempt: int) -> int:
        """Another sample of the same dataset, for one that cannot be read; the same on any rank and worker."""
        owner = int(np.searchsorted(self._bounds, index, side="right"))
        data = self.datasets[owner]
        rng = keyed_rng("stand-in", LOGIC, self.seed, self.fingerprint, position, attempt)
        return int(self._bounds[owner]) - data.size + int(rng.integers(data.size))

    def identity(self) -> dict[str, Any]:
        """All that decides the order, but for the shards."""
        return {"logic": LOGIC, "seed": self.seed, "mixing": asdict(self.mixing)}
