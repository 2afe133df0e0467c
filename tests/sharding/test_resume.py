"""kill -9 at random moments, on any number of ranks and workers: what was consumed is what an uninterrupted run sees.

Ranks are processes of their own. Each logs what it has consumed and then writes its state; a restart goes on from the
oldest state of them, as a checkpoint that all ranks have written would, and drops what was logged after it.
"""

import hashlib
import json
import os
import random
import signal
import time
from itertools import islice

import numpy as np
import pytest

from sharding.batches import Bands
from sharding.generator.tiles import write_tiles
from sharding.loader import Loader
from sharding.local import LoaderConfig
from sharding.order import MixingConfig
from sharding.records import write_atomic
from sharding.stream import Stream
from tests.waiting import wait_for

BATCH = 12
GRID = [(world, workers) for world in (1, 2, 3, 4) for workers in (0, 1, 3)]
MIXING = MixingConfig(temperature=2.0, block_shards=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    for name, bands, sizes in (("a", 9, [5, 5, 3]), ("b", 6, [4, 2])):
        tiles = (rng.integers(0, 4000, (bands, 8, 8)).astype(np.uint16) for _ in range(sum(sizes)))
        write_tiles(folder, name, tiles, sizes)
    return folder


def make(shards, rank=0, world=1, workers=0):
    stream = Stream.open(shards, BATCH, rank=rank, world=world, mixing=MIXING)
    return Loader(stream, Bands(4, flip=True), LoaderConfig(workers))


def rows(batch):
    """(key, hash of its tensor) of each sample."""
    cubes = batch.cube.numpy()
    return [[key, hashlib.sha1(cube.tobytes()).hexdigest()] for key, cube in zip(batch.keys, cubes, strict=True)]


def consume(shards, folder, rank, world, workers, state):
    """What a rank does until it is killed."""
    loader = make(shards, rank, world, workers)
    if state is not None:
        loader.load_state_dict(state)
    step = loader.consumed // BATCH
    with (folder / f"log-{step:05d}-{rank}-{world}").open("a") as log:
        for batch in loader:
            log.write(json.dumps([step, rows(batch)]) + "\n")
            log.flush()
            step += 1
            write_atomic(folder / f"state-{rank}", json.dumps(loader.state_dict()).encode())


def start(shards, folder, world, workers, state):
    """Start the ranks as one group of processes, so that one signal reaches them and their workers."""
    group = 0
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, group)
                consume(shards, folder, rank, world, workers, state)
            finally:
                os._exit(1)
        os.setpgid(pid, group or pid)
        group = group or pid
    return group


def steps_of(folder, rank):
    path = folder / f"state-{rank}"
    return json.loads(path.read_text())["consumed"] // BATCH if path.is_file() else 0


def segment(shards, folder, world, workers, steps, chance):
    """Run until every rank is some steps further, then kill at a random moment; returns the state to go on from."""
    states = [json.loads(path.read_text()) for path in sorted(folder.glob("state-*"))]
    state = min(states, key=lambda one: one["consumed"]) if states else None
    begun = state["consumed"] // BATCH if state else 0
    for path in folder.glob("state-*"):
        path.unlink()
    if state:
        for rank in range(world):
            write_atomic(folder / f"state-{rank}", json.dumps(state).encode())
    group = start(shards, folder, world, workers, state)
    wait_for(lambda: min(steps_of(folder, rank) for rank in range(world)) >= begun + steps, "the next steps of a rank")
    time.sleep(chance.random() * 0.02)  # any moment will do
    os.killpg(group, signal.SIGKILL)
    for _ in range(world):
        os.waitpid(-group, 0)
    return begun


def whole_lines(path):
    """Lines of a log but for one that the kill cut: no state was written after it, so its step is consumed again."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def concatenated(folder):
    """What the ranks consumed, step by step in the order of the stream; what came after a resumed step counts once."""
    begun = sorted({int(path.name.split("-")[1]) for path in folder.glob("log-*")})
    out = {}
    for number, first in enumerate(begun):
        last = begun[number + 1] if number + 1 < len(begun) else None
        paths = sorted(folder.glob(f"log-{first:05d}-*"))
        world = int(paths[0].name.split("-")[3])
        parts = [dict(json.loads(line) for line in whole_lines(path)) for path in paths]
        stop = last if last is not None else min(max(part, default=first - 1) for part in parts) + 1
        for step in range(first, stop):
            batch = [None] * BATCH
            for path, part in zip(paths, parts, strict=True):
                batch[int(path.name.split("-")[2]) :: world] = part[step]
            out[step] = batch
    return [out[step] for step in sorted(out)]


def check(shards, folder, got):
    whole = [rows(batch) for batch in islice(make(shards), len(got))]
    assert got == whole


def kills(shards, folder, settings, chance):
    for world, workers in settings:
        segment(shards, folder, world, workers, chance.randint(1, 4), chance)
    got = concatenated(folder)
    assert len(got) >= len(settings)
    check(shards, folder, got)


@pytest.mark.parametrize(("world", "workers"), GRID)
@pytest.mark.parametrize("count", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_kills_on_every_number_of_ranks_and_workers(shards, tmp_path, count, world, workers):
    kills(shards, tmp_path, [(world, workers)] * count, random.Random(world * 10 + workers))


def test_thirty_kills_with_another_number_of_ranks_and_workers_after_each(shards, tmp_path):
    chance = random.Random(1)
    kills(shards, tmp_path, [chance.choice(GRID) for _ in range(30)], chance)
