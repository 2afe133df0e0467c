"""The loader: exact batches on any workers and ranks, damage and stalls told by name, nothing grows."""

import json
import os
import re
import shutil
import socket
import threading
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from sharding.batches import Bands
from sharding.errors import ChangedError, ConfigError, InputError, StageFailed
from sharding.generator.tiles import write_tiles
from sharding.loader import Loader
from sharding.local import LoaderConfig, NodeCache
from sharding.manifest import open_manifest
from sharding.order import MixingConfig
from sharding.records import delete
from sharding.ring import Watch
from sharding.stream import Stream
from tests.waiting import HeldFile, wait_for


def tiles(count, bands=9, side=16, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 4000, (bands, side, side)).astype(np.uint16) for _ in range(count))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    write_tiles(folder, "a", tiles(13), [5, 5, 3])
    write_tiles(folder, "b", tiles(6, bands=6, seed=1), [4, 2])
    return folder


@pytest.fixture
def own(tmp_path):
    write_tiles(tmp_path / "own", "a", tiles(12), [4, 4, 4])
    return tmp_path / "own"


def loader(folder, batch=4, workers=0, bands=5, state=None, config=None, **options):
    stream = Stream.open(folder, batch, **options)
    made = Loader(stream, Bands(bands, pictures=("instances",), flip=True), config or LoaderConfig(workers=workers))
    if state is not None:
        made.load_state_dict(json.loads(json.dumps(state)))
    return made


def seen(made, steps):
    return [(b.keys, b.flipped, b.wavelength_nm, b.cube.clone()) for b in islice(made, steps)]


def same(a, b):
    return len(a) == len(b) and all(x[:3] == y[:3] and torch.equal(x[3], y[3]) for x, y in zip(a, b, strict=True))


def test_a_batch_holds_the_bands_it_names(shards):
    manifest = open_manifest(shards)
    for batch in islice(loader(shards), 6):
        for row, index in enumerate(batch.indices):
            ref = manifest.ref(index)
            meta = ref.meta()
            assert batch.keys[row] == ref.key and batch.datasets[row] == ref.dataset
            bands = [meta["wavelength_nm"].index(nm) for nm in batch.wavelength_nm[row]]
            want = ref.bands(meta, bands)
            want = want[..., ::-1] if batch.flipped[row] else want
            np.testing.assert_array_equal(batch.cube[row, : len(bands)], want)
            assert len(set(bands)) == 5
    wide = next(iter(loader(shards, batch=19, bands=None)))
    short = [row for row, name in enumerate(wide.datasets) if name == "b"]
    assert wide.cube.shape == (19, 9, 16, 16) and not wide.cube[short][:, 6:].any()
    assert wide.pictures["instances"].dtype == torch.uint16


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(shards, workers):
    assert same(seen(loader(shards, workers=workers), 15), seen(loader(shards), 15))


def test_stored_values_are_the_integers_and_their_scale(shards):
    stream = Stream.open(shards, 4)
    physical = next(iter(Loader(stream, Bands(5), LoaderConfig(workers=0))))
    stored = next(iter(Loader(Stream.open(shards, 4), Bands(5, values="stored"), LoaderConfig(workers=0))))
    assert stored.cube.dtype == torch.uint16 and stored.keys == physical.keys
    scale = torch.tensor(stored.scale)[:, None, None, None]
    torch.testing.assert_close(stored.cube.float() * scale, physical.cube)


def test_ranks_share_each_step_and_take_equal_numbers(shards):
    whole = seen(loader(shards, batch=12), 5)
    for world in (2, 3, 4):
        parts = [seen(loader(shards, batch=12, rank=r, world=world), 5) for r in range(world)]
        for step in range(5):
            keys = [None] * 12
            for r in range(world):
                keys[r::world] = parts[r][step][0]
            assert keys == whole[step][0]


def test_batches_are_the_same_on_any_number_of_ranks(shards):
    one = seen(loader(shards, batch=12, micro_batch=2), 12)
    for world in (2, 3):
        parts = [seen(loader(shards, batch=12, rank=r, world=world, micro_batch=2), 12 // world) for r in range(world)]
        assert same([parts[i % world][i // world] for i in range(12)], one)


def test_the_state_counts_what_was_given_out_not_what_was_read_ahead(shards):
    made = loader(shards, workers=3)
    assert made.state_dict()["consumed"] == 0
    batches = iter(made)
    for step in range(1, 9):
        next(batches)
        assert made.state_dict()["consumed"] == 4 * step
    del batches
    rest = seen(loader(shards, state=made.state_dict(), workers=1), 4)
    assert same(rest, seen(loader(shards), 12)[8:])


@pytest.mark.parametrize("at", [0, 4, 5, 9])
def test_a_second_resume_and_epoch_ends_lose_nothing(shards, at):
    """19 samples in batches of 4: steps 4 and 9 hold the end of an epoch and the beginning of the next."""
    whole = seen(loader(shards), 14)
    first = loader(shards)
    got = seen(first, at)
    second = loader(shards, state=first.state_dict(), workers=1)
    got += seen(second, 2)
    got += seen(loader(shards, state=second.state_dict(), rank=0, world=1), 12 - at)
    assert same(got, whole)
    counts = Counter(key for batch in whole for key in batch[0])
    assert set(counts.values()) <= {2, 3}


def test_observed_counts_are_those_of_the_batches(shards):
    made = loader(shards, mixing=MixingConfig(temperature=3.0))
    counts = Counter()
    for step, batch in enumerate(islice(made, 12), 1):
        counts.update(batch.datasets)
        assert made.stream.seen(4 * step) == dict(counts)


def test_another_stream_is_refused_by_what_changed(own, tmp_path):
    write_tiles(own, "b", tiles(4, seed=3), [2, 2])
    state = loader(own, datasets=["a", "b"]).state_dict()

    def refused(match, **options):
        with pytest.raises(ChangedError, match=match):
            loader(own, state=state, **options)

    refused(r"seed: 0 -> 1; put it back as it was, or start a new run", datasets=["a", "b"], seed=1)
    refused("the order of the datasets: a, b -> b, a", datasets=["b", "a"])
    refused("dataset b is gone", datasets=["a"])
    refused(r"mixing\.temperature: 1\.0 -> 2\.0", datasets=["a", "b"], mixing=MixingConfig(temperature=2.0))
    old = {**state, "identity": {**state["identity"], "logic": 1}}
    with pytest.raises(ChangedError, match=r"logic: 1 -> \d"):
        loader(own, state=old, datasets=["a", "b"])
    delete(own / "a" / "a-00001.json")
    refused("a: shard a-00001 is gone", datasets=["a", "b"])
    for path in (own / "a").glob("*"):
        path.unlink()
    write_tiles(own, "a", [*tiles(4), *tiles(4, seed=9), *list(tiles(12))[8:]], [4, 4, 4])
    refused("a: shard a-00001 was replaced", datasets=["a", "b"])


def test_a_batch_that_does_not_divide_is_refused(shards):
    with pytest.raises(ConfigError, match="global batch of 10 does not divide into batches of 3 on 3 ranks"):
        Stream.open(shards, 10, world=3)


def damage(folder, unit, key, at=40):
    manifest = open_manifest(folder)
    ref = next(ref for ref in manifest if ref.key == key)
    with ref.shard.open("r+b") as file:
        file.seek(ref.members["cube.bands"][0] + at)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    return ref


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_named(own, workers):
    damage(own, "a-00001", "a-00001-002")
    match = r"a-00001\.tar: sample a-00001-002: frame \d of its cube is damaged .*verify --discard, then pseudolabel"
    with pytest.raises(InputError, match=match):
        seen(loader(own, workers=workers, bands=None), 3)


def test_skipping_stands_in_another_sample_and_counts(own):
    damage(own, "a-00001", "a-00001-002")
    whole = seen(loader(own, batch=6, bands=None, config=LoaderConfig(0, corrupt="skip")), 8)
    for workers in (0, 2):
        made = loader(own, batch=6, bands=None, config=LoaderConfig(workers, corrupt="skip"))
        assert same(seen(made, 8), whole)
        assert len(made.skipped) == 4 and {row.key for row in made.skipped} == {"a-00001-002"}
        assert "checksum" in made.skipped[0].reason and len(made.take_skipped()) == 4 and not made.take_skipped()
    assert all("a-00001-002" not in keys for keys, *_ in whole)
    halves = [
        seen(loader(own, batch=6, bands=None, rank=r, world=2, config=LoaderConfig(0, corrupt="skip")), 8)
        for r in (0, 1)
    ]
    assert all(set(a[0]) | set(b[0]) == set(w[0]) for a, b, w in zip(*halves, whole, strict=True))


def test_too_many_skipped_samples_are_an_error_that_names_the_worst_shard(own):
    for index in range(4):
        damage(own, "a-00001", f"a-00001-00{index}")
    config = LoaderConfig(0, corrupt="skip", max_skipped=3)
    with pytest.raises(InputError, match=r"4 damaged samples were skipped, loader\.max_skipped is 3.*a-00001\.tar"):
        seen(loader(own, bands=None, config=config), 9)


def test_a_dataset_without_a_whole_sample_is_an_error(own):
    for ref in open_manifest(own):
        damage(own, ref.shard.stem, ref.key)
    with pytest.raises(InputError, match="damaged samples in a row"):
        seen(loader(own, bands=None, config=LoaderConfig(0, corrupt="skip")), 3)


def test_a_shard_that_was_cut_or_is_gone_is_named(own):
    path = own / "a" / "a-00000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a-00000\.tar is cut short at sample a-00000-00\d"):
        seen(loader(own, workers=1), 6)
    path.unlink()
    with pytest.raises(InputError, match=r"a-00000\.tar: No such file or directory; run pseudolabel again"):
        seen(loader(own, workers=1), 6)


def test_a_stall_is_an_error_that_names_the_shard(own, monkeypatch):
    boards = []
    monkeypatch.setattr("sharding.loader.Watch", lambda workers: boards.append(Watch(workers)) or boards[0])
    made = loader(own, config=LoaderConfig(1, stall_seconds=1))
    jobs, held = made.stream.jobs, []

    def jobs_of_a_dead_disk(consumed):
        """The first batch hangs, and the second is asked for when a worker is at the first."""
        held.extend(HeldFile(path) for path in (own / "a").glob("*.tar"))
        drawn = jobs(consumed)
        yield next(drawn)
        wait_for(lambda: ".tar" in boards[0].describe(made.stream.manifest), "a worker at a shard")
        yield from drawn

    made.stream.jobs = jobs_of_a_dead_disk
    match = r"no batch for 1 s: worker 0 at .*a-0000\d\.tar \(sample a-0000\d-00\d\) for \d+ s"
    with pytest.raises(InputError, match=match):
        seen(made, 20)
    assert len(held) == 3


def test_a_stall_without_workers_warns(own, monkeypatch):
    alarms = []

    class Alarm(threading.Timer):
        """Rings when the test says so."""

        def start(self):
            alarms.append(self)

    monkeypatch.setattr("sharding.loader.threading.Timer", Alarm)
    made = loader(own, config=LoaderConfig(0, stall_seconds=0.2))
    fill = made.assembler.fill

    def slow_fill(*given):
        alarms[-1].function(*alarms[-1].args)
        return fill(*given)

    made.assembler.fill = slow_fill
    with pytest.warns(RuntimeWarning, match=r"no batch for 0\.2 s: worker 0 at .*a-0000\d\.tar"):
        seen(made, 1)
    (alarm,) = alarms
    assert alarm.interval == 0.2 and alarm.finished.is_set(), "a batch that came stops its alarm"


def zombies():
    """Children of this process that are dead and not yet seen to be."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            found |= {child.pid} if child.status() == psutil.STATUS_ZOMBIE else set()
    return found


@pytest.mark.parametrize("when", ["while it is waited for", "while the next job is drawn"])
def test_a_worker_that_dies_is_told(own, when):
    made = loader(own, config=LoaderConfig(1))
    made.assembler.fill = lambda *_: os.kill(os.getpid(), 9)
    if when == "while the next job is drawn":
        jobs, before = made.stream.jobs, zombies()

        def jobs_beside_a_death(consumed):
            drawn = jobs(consumed)
            yield next(drawn)
            wait_for(lambda: zombies() - before, "the death of the worker")
            yield from drawn

        made.stream.jobs = jobs_beside_a_death
    with pytest.raises(StageFailed, match=r"a loader worker died \(worker 0 at .*\.tar .*if memory ran out, lower"):
        seen(made, 2)


def test_a_batch_stands_while_it_is_held(shards):
    held = []
    for number, batch in enumerate(islice(loader(shards, workers=2), 12)):
        held = [*held[-1:], (batch, batch.cube.clone())]
        assert all(torch.equal(one.cube, copy) for one, copy in held), number


def test_tiles_of_another_size_than_the_first_go_another_way_and_are_right(tmp_path):
    write_tiles(tmp_path, "a", [*tiles(2, side=8), *tiles(2, side=16)], [2, 2])
    made = loader(tmp_path, batch=1)
    assert {tuple(batch.cube.shape[2:]) for batch in islice(made, 8)} == {(8, 8), (16, 16)}


def test_reads_in_flight_give_the_same(shards):
    config = LoaderConfig(1, reads=4)
    assert same(seen(loader(shards, config=config), 9), seen(loader(shards), 9))


def test_what_cannot_be_is_refused():
    for wrong in ({"corrupt": "ignore"}, {"workers": -1}, {"prefetch": 0}):
        with pytest.raises(ConfigError, match="loader"):
            LoaderConfig(**wrong).check()
    with pytest.raises(ConfigError, match="values 'raw' is not one of physical, stored"):
        Bands(values="raw")


def cached(own, near, limit=1 << 30, workers=0):
    return LoaderConfig(workers, cache=str(near), cache_bytes=limit, open_files=2)


def test_shards_come_near_and_are_read_there(own, tmp_path):
    near = tmp_path / "near"
    whole = seen(loader(own), 12)
    batches = iter(loader(own, config=cached(own, near)))
    for number in range(12):
        assert next(batches).keys == whole[number][0]
    # One shard after the other is copied in the background, begun by whoever reads it.
    wait_for(lambda: next(batches) and len(list(near.glob("*.tar"))) == 3, "the copies")
    for path in (own / "a").glob("*.tar"):
        if path.stem != "a-00000":  # whose first sample is looked at where it is
            path.rename(path.with_suffix(".away"))
    assert same(seen(loader(own, config=cached(own, near, workers=2)), 12), whole)


def test_the_cache_keeps_its_limit_and_never_a_damaged_or_half_copy(own, tmp_path):
    near = tmp_path / "near"
    manifest = open_manifest(own)
    size = manifest.shards[0].bytes
    cache = NodeCache(near, int(2.5 * size), manifest.known)
    paths = [shard.path for shard in manifest.shards]
    for path in (*paths, paths[0]):
        assert cache.fetch(path)
        assert sum(one.stat().st_size for one in near.glob("*.tar")) <= 2.5 * size
    assert cache.find(paths[0]) and cache.find(paths[2]) and len(list(near.glob("*.tar"))) == 2
    dead = near / f".x.tar.tmp-{socket.gethostname()}-999999999-aa"
    dead.write_bytes(b"cut")
    damage(own, "a-00001", "a-00001-000")
    fresh = NodeCache(near, 10 * size, manifest.known)
    assert not dead.exists() and not fresh.fetch(paths[1]) and not fresh.wants(paths[1])
    assert len(list(near.iterdir())) == 3  # two copies and the lock
    assert not NodeCache(near, size // 2, manifest.known).wants(paths[0])


def test_a_cache_that_cannot_be_written_does_no_harm(own, tmp_path):
    manifest = open_manifest(own)
    cache = NodeCache(tmp_path / "near", 1 << 30, manifest.known)
    shutil.rmtree(tmp_path / "near")
    assert not cache.fetch(manifest.shards[0].path) and "No such file" in cache.why_off
    assert cache.find(manifest.shards[0].path) is None


def test_the_code_of_the_readme_loads_batches(shards):
    page = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"```py\n(.*?)```", page, re.S)
    code = code.replace("/scratch/hv/shards", str(shards)).replace("global_batch=64", "global_batch=4")
    endless = "for batch in loader:\n    ..."
    assert endless in code
    scope = {}
    exec(code.replace(endless, "batch = next(iter(loader))\n"), scope)
    assert scope["batch"].cube.shape == (4, 9, 16, 16) and scope["state"]["consumed"] == 4


def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def family():
    """Resident bytes of this process and its workers."""
    pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


@pytest.mark.slow
def test_memory_stays_flat_for_an_hour_of_ten_batches_a_second(shards):
    made = iter(loader(shards, batch=8, workers=2, bands=3))
    sizes = []
    for number in range(36_000):
        next(made)
        if number in (3_600, 35_999):
            sizes.append(family())
    print(f"at 10 % {sizes[0] / 1e6:.1f} MB, at 100 % {sizes[1] / 1e6:.1f} MB")
    assert sizes[1] - sizes[0] < 4 << 20


def test_memory_is_flat(shards):
    made = iter(loader(shards, batch=8, workers=0, bands=3))
    for _ in islice(made, 200):
        pass
    before, files = rss(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in islice(made, 1800):
        pass
    assert rss() - before < 8 << 20 and len(list(Path("/proc/self/fd").iterdir())) == files
