"""The loader: worker processes decode batches straight into shared, pinned memory, in the order of the stream.

    Stream.jobs -> worker: plan (json, which bands) -> read -> decode into a slot of the ring -> Assembler.batch

    loader = Loader(Stream.open("work/shards", global_batch=8), Bands(40))
    for batch in loader: ...                     # endless; what it gives lies in a slot: see `Loader.__iter__`
    state = loader.state_dict()                  # goes on exactly here, also on other ranks and workers

torch's DataLoader runs the workers and keeps their order; only slot numbers and small tables pass through its queue.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Generic

import torch
from torch.utils.data import DataLoader

from sharding.errors import InputError, StageFailed
from sharding.lifeline import die_with_parent
from sharding.loader_worker import Assembler, B_co, Made, Skipped, Worker
from sharding.local import LoaderConfig
from sharding.order import Draws
from sharding.ring import Ring, Watch, offsets
from sharding.stream import Stream

DEATHS = ("exited unexpectedly", "is killed by signal")
"""How torch tells of a dead worker: where it waits for a batch, and where its death interrupts something else."""


class Loader(Generic[B_co]):
    """An endless iterable of batches, exact in order and resumable at any of them."""

    def __init__(
        self, stream: Stream, assembler: Assembler[B_co], config: LoaderConfig | None = None, held: int = 2
    ) -> None:
        """Over a stream.

        Args:
            stream: which samples, in which order, of which this rank has which.
            assembler: what a batch is made of.
            config: workers, read-ahead, what to do with damaged samples.
            held: batches that the caller keeps at the same time, the newest among them.

        Raises:
            ConfigError: an impossible configuration.
            InputError: the first sample of some dataset cannot be read.
        """
        self.stream, self.assembler, self.config, self.held = stream, assembler, config or LoaderConfig(), held
        self.config.check()
        self.consumed = 0
        self.skipped: list[Skipped] = []
        self._told = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: samples in all batches that were given out, over all ranks."""
        return self.stream.state(self.consumed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on there; before iterating.

        Raises:
            ChangedError: it is the state of another stream; names what changed.
        """
        self.consumed = self.stream.resume(state)

    def take_skipped(self) -> list[Skipped]:
        """What was skipped since this was asked last."""
        rows, self._told = self.skipped[self._told :], len(self.skipped)
        return rows

    def __iter__(self) -> Iterator[B_co]:
        """Batches from where the state stands.

        The tensors of a batch lie in a slot that is used again: with `held` = 2 they stand until the batch after the
        next one is asked for. Clone what is to be kept longer.

        Raises:
            InputError: a damaged sample, too many of them, or a stall; names the shard.
            StageFailed: a worker process died.
        """
        slots = max(1, self.config.workers) * self.config.prefetch + self.held
        ring, watch = Ring(slots, self._slot_bytes()), Watch(self.config.workers)
        work = Worker(self.stream, self.assembler, self.config, ring, watch)
        per_step = self.stream.global_batch // self.stream.world // self.stream.micro_batch
        jobs = ((number % slots, job) for number, job in enumerate(self.stream.jobs(self.consumed)))
        made = self._made(work, jobs, watch)
        for number, one in enumerate(made, 1):
            self._count(one)
            arrays = ring.arrays(one.slot, one.layout) if one.arrays is None else one.arrays
            assert arrays is not None
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            if number % per_step == 0:
                self.consumed += self.stream.global_batch
            yield self.assembler.batch(tensors, one.told, one.indices)

    def _slot_bytes(self) -> int:
        """Room for a batch of the largest samples, judged by the first of each dataset."""
        most = 0
        for ref in self.stream.manifest.firsts.values():
            try:
                with ref.naming():
                    plan = self.assembler.plan(ref, ref.small_members(self.assembler.members), 0, 0)
                most = max(most, offsets(self.assembler.layout([plan] * self.stream.micro_batch))[1])
            except InputError:
                if self.config.corrupt == "raise":
                    raise
        return most

    def _made(self, work: Worker[B_co], jobs: Iterator[tuple[int, Draws]], watch: Watch) -> Iterator[Made]:
        if self.config.workers == 0:
            for job in jobs:
                alarm = threading.Timer(self.config.stall_seconds, self._warn, (watch,))
                alarm.daemon = True
                alarm.start()
                try:
                    one = work.__getitems__(job)
                finally:
                    alarm.cancel()
                yield one
            return
        loader: Any = DataLoader(
            work,  # type: ignore[arg-type]
            batch_sampler=_Jobs(jobs),  # type: ignore[arg-type]
            num_workers=self.config.workers,
            prefetch_factor=self.config.prefetch,
            collate_fn=_same,
            timeout=self.config.stall_seconds,
            worker_init_fn=_begin_worker,
            multiprocessing_context="fork",
        )
        try:
            yield from loader
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            if "timed out" in first:
                raise InputError(f"{self._stalled(watch)}; check that file system") from error
            if any(word in first for word in DEATHS):
                raise StageFailed(
                    f"a loader worker died ({watch.describe(self.stream.manifest)}): {first}; if memory ran out, "
                    f"lower loader.workers or loader.prefetch"
                ) from error
            raise

    def _stalled(self, watch: Watch) -> str:
        return f"no batch for {self.config.stall_seconds:g} s: {watch.describe(self.stream.manifest)}"

    def _warn(self, watch: Watch) -> None:
        warnings.warn(self._stalled(watch), RuntimeWarning, stacklevel=1)

    def _count(self, one: Made) -> None:
        if one.error is not None:
            raise InputError(one.error)
        self.skipped += one.skipped
        if len(self.skipped) > self.config.max_skipped:
            worst, times = Counter(row.shard for row in self.skipped).most_common(1)[0]
            raise InputError(
                f"{len(self.skipped)} damaged samples were skipped, loader.max_skipped is {self.config.max_skipped}; "
                f"most ({times}) in {worst}: run verify --discard, then pseudolabel again"
            )


class _Jobs:
    """What torch takes for a batch sampler."""

    def __init__(self, jobs: Iterator[tuple[int, Draws]]) -> None:
        self.jobs = jobs

    def __iter__(self) -> Iterator[tuple[int, Draws]]:
        return self.jobs


def _same(made: Any) -> Any:
    return made


def _begin_worker(_: int) -> None:
    die_with_parent()
