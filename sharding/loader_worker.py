"""What a worker of the loader does: plan, read ahead, decode into a slot, and stand in for what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from sharding.errors import HyperVisionError, InputError
from sharding.frames import Array, Frames
from sharding.local import Files, LoaderConfig, NodeCache, on_network
from sharding.manifest import LazyFrames, SampleRef, SmallMembers
from sharding.order import Draws
from sharding.ring import Layout, Ring, Watch
from sharding.stream import Stream

B_co = TypeVar("B_co", covariant=True)
STAND_INS = 8
NETWORK_READS = 8


@dataclass(frozen=True)
class Plan:
    """What a worker is about to read of one sample: some frames of the cube, and all that was chosen before."""

    ref: SampleRef
    small: SmallMembers
    frames: Frames
    needed: list[int]
    chosen: Any


class Assembler(Protocol[B_co]):
    """What a batch is made of. All but `batch` run in workers, with numpy alone."""

    @property
    def members(self) -> Sequence[str]:
        """The small members that are read of a sample, json among them."""

    def plan(self, ref: SampleRef, small: SmallMembers, seed: int, visit: int) -> Plan:
        """Choose bands and views of a sample, from (seed, visit, sample) alone."""

    def layout(self, plans: Sequence[Plan]) -> Layout:
        """The arrays of a batch; the same for any choice that these samples could have had."""

    def fill(self, plan: Plan, frames: Mapping[int, bytes], row: int, arrays: dict[str, Array]) -> Any:
        """Decode a sample into its row of the arrays, every byte of it; returns what else is to be told."""

    def batch(self, arrays: dict[str, torch.Tensor], told: list[Any], indices: list[int]) -> B_co:
        """The batch, in the process that asked for it; `indices` of its samples in the manifest."""


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, at a position of the stream, and why."""

    position: int
    shard: str
    key: str
    reason: str


@dataclass
class Made:
    """What a worker sends back; `arrays` only where the slot was too small."""

    slot: int
    layout: Layout
    told: list[Any]
    skipped: list[Skipped]
    indices: list[int]
    arrays: dict[str, Array] | None = None
    error: str | None = None


class Worker(Generic[B_co]):
    """Makes one batch in a slot; lives in every worker process."""

    def __init__(self, stream: Stream, assembler: Assembler[B_co], config: LoaderConfig, ring: Ring, watch: Watch):
        self.stream, self.assembler, self.config, self.ring, self.watch = stream, assembler, config, ring, watch
        manifest = stream.manifest
        near = None
        if config.cache is not None:
            near = NodeCache(Path(config.cache).expanduser(), config.cache_bytes, manifest.known)
        self.files = Files(config.open_files, near)
        self.reads = config.reads or (NETWORK_READS if on_network(manifest.shards[0].path) else 0)
        self._bad: dict[int, str] = {}

    def __getitems__(self, job: tuple[int, Draws]) -> Made:  # called by torch with what the batch sampler gave
        """One batch; what goes wrong is sent back as a sentence."""
        try:
            return self.make(*job)
        except HyperVisionError as error:
            return Made(job[0], {}, [], [], [], error=str(error))
        finally:
            self.watch.at(None)

    def make(self, slot: int, draws: Draws) -> Made:
        """Read, decode, assemble; a damaged sample is replaced and the batch begun again.

        Raises:
            InputError: a sample is damaged, and `corrupt` is "raise" or its dataset holds no whole one.
        """
        skipped: dict[tuple[int, int], Skipped] = {}
        while True:
            chosen = [
                self._choose(*row, skipped) for row in zip(draws.position.tolist(), draws.index.tolist(), strict=True)
            ]
            try:
                return self._make(slot, chosen, draws.visit.tolist(), list(skipped.values()))
            except DamagedError as error:
                if self.config.corrupt == "raise":
                    raise InputError(error.reason) from error
                self._bad[error.index] = error.reason

    def _choose(self, position: int, index: int, skipped: dict[tuple[int, int], Skipped]) -> int:
        """The sample at a position, or what stands in for it."""
        for attempt in range(STAND_INS):
            if index not in self._bad:
                return index
            ref = self.stream.manifest.ref(index)
            skipped[position, index] = Skipped(position, str(ref.shard), ref.key, self._bad[index])
            index = self.stream.order.stand_in(position, index, attempt)
        raise InputError(f"{STAND_INS} damaged samples in a row; the last: {self._bad.get(index, 'not read')}")

    def _make(self, slot: int, chosen: list[int], visits: list[int], skipped: list[Skipped]) -> Made:
        plans = self._plans(chosen, visits)
        layout = self.assembler.layout(plans)
        arrays = self.ring.arrays(slot, layout)
        fresh = arrays is None
        if arrays is None:
            arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}
        told = []
        for row, (index, plan, frames) in enumerate(zip(chosen, plans, self._fetched(plans), strict=True)):
            self.watch.at(index)
            with _damage(index), plan.ref.naming():
                told.append(self.assembler.fill(plan, frames(), row, arrays))
        return Made(slot, layout, told, skipped, chosen, arrays if fresh else None)

    def _plans(self, chosen: list[int], visits: list[int]) -> list[Plan]:
        seed, manifest = self.stream.order.seed, self.stream.manifest
        refs = [manifest.ref(index, self.files) for index in chosen]
        readers: list[Callable[[], SmallMembers]] = [partial(ref.small_members, self.assembler.members) for ref in refs]
        if self.reads:
            readers = [self.pool.submit(reader).result for reader in readers]
        plans = []
        for index, visit, ref, read in zip(chosen, visits, refs, readers, strict=True):
            self.watch.at(index)
            with _damage(index), ref.naming():
                plans.append(self.assembler.plan(ref, read(), seed, visit))
        return plans

    def _fetched(self, plans: Sequence[Plan]) -> list[Callable[[], Mapping[int, bytes]]]:
        """A call per sample that gives its frames; before the first, all reads are begun or asked of the kernel."""
        runs = [plan.ref.runs(plan.frames, plan.needed) for plan in plans]
        if not self.reads:
            for plan, own in zip(plans, runs, strict=True):
                self.files.will_need(plan.ref.shard, [(run.offset, run.size) for run in own])
            return [partial(LazyFrames, plan.ref, plan.frames, own) for plan, own in zip(plans, runs, strict=True)]
        begun = [
            [self.pool.submit(plan.ref.read_run, plan.frames, run) for run in own]
            for plan, own in zip(plans, runs, strict=True)
        ]
        return [partial(_gather, own) for own in begun]

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Threads that read; made where they are used, since threads do not survive a fork."""
        return ThreadPoolExecutor(self.reads)


def _gather(reads: Sequence[Future[dict[int, bytes]]]) -> dict[int, bytes]:
    return {frame: data for read in reads for frame, data in read.result().items()}


class DamagedError(Exception):
    """A sample that cannot be used, by its number."""

    def __init__(self, index: int, reason: str) -> None:
        self.index, self.reason = index, reason


@contextmanager
def _damage(index: int) -> Iterator[None]:
    """Turns what cannot be read into a DamagedError that knows the sample."""
    try:
        yield
    except InputError as error:
        raise DamagedError(index, str(error)) from error
