"""A place in the endless stream of samples, and all that must not change while a run goes on.

Order -> Stream (this rank's share of every step) -> jobs for the loader
state = {"consumed": n} + what the stream is; another stream is refused by naming what changed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from sharding.errors import ChangedError, ConfigError
from sharding.manifest import Manifest, open_manifest
from sharding.order import Draws, MixingConfig, Order
from sharding.stage import describe_change

VERSION = 1
SHOWN = 4


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two identities of a stream, a phrase each; empty if nothing does."""
    rows = describe_change(
        {k: v for k, v in old.items() if k != "datasets"}, {k: v for k, v in new.items() if k != "datasets"}
    )
    before, after = dict(old["datasets"]), dict(new["datasets"])
    rows += [f"dataset {name} is gone" for name in before if name not in after]
    rows += [f"dataset {name} is new" for name in after if name not in before]
    stayed = [name for name in before if name in after], [name for name in after if name in before]
    if stayed[0] != stayed[1]:
        rows.append(f"the order of the datasets: {', '.join(stayed[0])} -> {', '.join(stayed[1])}")
    for name in stayed[0]:
        was, now = before[name], after[name]
        replaced = [unit for unit in was if unit in now and was[unit] != now[unit]]
        gone, added = [unit for unit in was if unit not in now], [unit for unit in now if unit not in was]
        told = ((replaced, "was replaced"), (gone, "is gone"), (added, "is new"))
        rows += [f"{name}: shard {_shown(units)} {what}" for units, what in told if units]
    return rows


class Stream:
    """The steps of one rank over the shards of some datasets."""

    def __init__(
        self,
        manifest: Manifest,
        global_batch: int,
        seed: int = 0,
        mixing: MixingConfig | None = None,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ) -> None:
        """One rank's share.

        Args:
            manifest: the samples.
            global_batch: samples in a step over all ranks.
            seed: of the order and of everything drawn for a sample.
            mixing: shares of the datasets.
            rank: number of this process.
            world: how many there are.
            micro_batch: samples in a batch (default: all of this rank's in a step).

        Raises:
            ConfigError: the batch does not divide over the ranks.
        """
        share = global_batch // world
        self.micro_batch = micro_batch or share
        if global_batch % world or share % self.micro_batch or not share:
            raise ConfigError(
                f"a global batch of {global_batch} does not divide into batches of {self.micro_batch} on {world} ranks"
            )
        self.manifest, self.global_batch, self.rank, self.world = manifest, global_batch, rank, world
        self.order = Order(manifest.layout, manifest.fingerprint, seed, mixing)

    @classmethod
    def open(cls, shards: Path | str, global_batch: int, **options: Any) -> Stream:
        """Over all datasets in a shards folder, or those in `datasets`."""
        datasets = options.pop("datasets", None)
        return cls(open_manifest(Path(shards), datasets), global_batch, **options)

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the stream: order, datasets in order, a short hash of every shard."""
        shards: dict[str, dict[str, str]] = {name: {} for name in self.manifest.datasets}
        for shard in self.manifest.shards:
            shards[shard.dataset][shard.unit] = shard.sha256[:8]
        return {**self.order.identity(), "datasets": [[name, units] for name, units in shards.items()]}

    def state(self, consumed: int) -> dict[str, Any]:
        """What a checkpoint keeps when `consumed` samples (over all ranks) have been trained on."""
        return {"version": VERSION, "consumed": consumed, "identity": self.identity}

    def resume(self, state: Mapping[str, Any]) -> int:
        """The samples consumed at a state, where any number of ranks can go on.

        Raises:
            ChangedError: it is the state of another stream; names what changed.
        """
        if state.get("version") != VERSION:
            raise ChangedError(f"the stream's state is of version {state.get('version')}, this one reads {VERSION}")
        rows = changes(state["identity"], self.identity)
        if rows:
            raise ChangedError(
                f"the stream is not the one that was interrupted: {_shown(rows)}; "
                f"put it back as it was, or start a new run"
            )
        return int(state["consumed"])

    def seen(self, consumed: int) -> dict[str, int]:
        """Samples of each dataset among the first `consumed`; what stood in for a damaged one is of its dataset."""
        epochs, rest = divmod(consumed, self.order.epoch_size)
        inside = self.order.counts(self.order.draws(epochs * self.order.epoch_size, rest))
        return {name: epochs * quota + inside[name] for name, quota in self.order.quotas.items()}

    def counts(self, step: int) -> dict[str, int]:
        """Samples of each dataset in one step."""
        return self.order.counts(self.order.draws(step * self.global_batch, self.global_batch))

    def jobs(self, start: int) -> Iterator[Draws]:
        """The batches of this rank from a position on, for ever.

        The samples of a step are dealt to its batches and those to the ranks, so that the batches are the same on any
        number of ranks: what is averaged over a batch is, too.
        """
        batches = self.global_batch // self.micro_batch
        for position in count(start, self.global_batch):
            draws = self.order.draws(position, self.global_batch)
            for number in range(self.rank, batches, self.world):
                yield draws[number::batches]
