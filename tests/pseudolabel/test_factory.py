"""Chaos: whatever dies, shards are those of an undisturbed run, less what is quarantined by name."""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pseudolabel import factory
from pseudolabel.config import PseudolabelConfig
from pseudolabel.factory import pseudolabel, pseudolabel_units
from pseudolabel.worker import LabelWorker
from sharding.crew import Crew
from sharding.ingest import DatasetConfig, ingest
from sharding.records import find_records, read_record
from sharding.shards import index_shard
from sharding.stage import RunOptions
from tests.waiting import SAFETY_SECONDS, HangClock, meanwhile, taken, wait_for

SCENES, SIDE = 12, 24
OPTIONS = RunOptions(max_failed_fraction=1.0)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    """Small scenes of two materials; the first ones are wide, so that they have two windows."""
    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for index in range(SCENES):
        cube = rng.uniform(0.2, 0.9, (2, 20))[np.arange(SIDE * (2 if index < 3 else 1)) // 12 % 2]
        np.save(root / f"s{index:02d}.npy", np.repeat(cube[None], SIDE, 0).astype(np.float32))
    row = root / "tiny.yaml"
    row.write_text(
        "key: tiny\ncontainer: npy\nfiles: '*.npy'\naxes: hwb\ngsd_m: 0.01\nunits: reflectance\n"
        "wavelength: {start: 450, stop: 700, count: 20}\n"
    )
    ingest(root / "work", [DatasetConfig("tiny", str(root), str(row))], 2, OPTIONS)
    return root / "work" / "cubes"


def config(**fields):
    return PseudolabelConfig(
        segmenters="classical", tile=SIDE, shard_bytes=4 * SIDE * SIDE * 20 * 2, workers=2, **fields
    )


def label(folder, cubes, options=OPTIONS, **fields):
    folder.mkdir(exist_ok=True)
    if not (folder / "cubes").exists():
        (folder / "cubes").symlink_to(cubes)
    result = pseudolabel(folder, ["tiny"], config(**fields), options)
    return result, hashes(folder)


def hashes(folder):
    return {record.unit: record.sha256 for record in map(read_record, find_records(folder / "shards"))}


def samples(folder):
    """Key -> the bytes of all members."""
    found = {}
    for tar in sorted(folder.glob("shards/tiny/*.tar")):
        data = tar.read_bytes()
        for key, members in index_shard(tar).items():
            found[key] = [data[offset : offset + size] for offset, size in members.values()]
    return found


@pytest.fixture(scope="module")
def calm(cubes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    result, found = label(folder, cubes)
    assert not result.failures and len(found) > 3
    return folder, found


class Mortal(LabelWorker):
    """Is killed once at each of some scenes, before it looks at a window or when it has."""

    def __init__(self, config, deaths, scenes):
        super().__init__(config)
        self.deaths, self.scenes = deaths, scenes

    def make(self, path, window):
        mark = self.deaths / Path(path).name
        if mark.name in self.scenes and not mark.exists():
            if self.scenes[mark.name]:
                super().make(path, window)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(path, window)


def test_actors_killed_at_random_cost_nothing(cubes, calm, tmp_path, monkeypatch):
    seed = int.from_bytes(os.urandom(2), "little")
    print(f"seed of the kills: {seed}")
    rng, deaths = random.Random(seed), tmp_path / "deaths"
    deaths.mkdir()
    scenes = {f"s{index:02d}": rng.random() < 0.5 for index in rng.sample(range(SCENES), 5)}
    monkeypatch.setattr(factory, "worker_factory", lambda config: lambda: Mortal(config, deaths, scenes))
    result, found = label(tmp_path, cubes, attempts=10)
    assert {mark.name for mark in deaths.iterdir()} == set(scenes)
    assert not result.failures and found == calm[1]


class Cursed(LabelWorker):
    """Some windows kill their process, hang, run out of memory, or cannot be read."""

    def make(self, path, window):
        name = Path(path).name
        if name == "s04":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "s06":
            threading.Event().wait()  # for ever
        if name == "s08":
            raise MemoryError
        if name == "s10":
            raise ValueError("strange pixels")
        return super().make(path, window)


def crew_with(clock):
    """What makes the crew of a stage, with the clock of a test."""

    def make(*args, **options):
        clock.crew = Crew(*args, **options, clock=clock)
        return clock.crew

    return make


def test_cursed_tiles_are_quarantined_with_their_reasons_and_the_rest_is_as_ever(cubes, calm, tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "worker_factory", lambda config: lambda: Cursed(config))
    monkeypatch.setattr(factory, "Crew", crew_with(HangClock(lambda name: "s06 at row" in name)))
    result, found = label(tmp_path, cubes, attempts=2, item_seconds=20.0)
    reasons = {Path(row.item.split(" at row")[0]).name: row.reason for row in result.failures}
    assert set(reasons) == {"s04", "s06", "s08", "s10"}
    assert "its worker died" in reasons["s04"] and "took longer than 20 s, 2 times" in reasons["s06"]
    assert "ran out of memory" in reasons["s08"] and reasons["s10"] == "ValueError: strange pixels"
    mine, whole = samples(tmp_path), samples(calm[0])
    lost = {key for key in whole if any(name in key for name in reasons)}
    assert set(mine) == set(whole) - lost and all(mine[key] == whole[key] for key in mine)
    untouched = {unit for unit, sha in found.items() if calm[1][unit] == sha}
    assert untouched, "shards without a cursed tile have the hashes of the calm run"
    monkeypatch.undo()
    again, healed = label(tmp_path, cubes, RunOptions(retry_failed=True, max_failed_fraction=1.0))
    assert not again.failures and healed == calm[1]


def test_part_of_a_scene_is_labelled_where_one_window_is_lost(cubes, tmp_path, monkeypatch):
    class Half(LabelWorker):
        def make(self, path, window):
            if Path(path).name == "s00" and window[1] == 0:
                raise ValueError("dead half")
            return super().make(path, window)

    monkeypatch.setattr(factory, "worker_factory", lambda config: lambda: Half(config))
    result, _ = label(tmp_path, cubes)
    (failure,) = result.failures
    assert failure.item.endswith("s00 at row 0, column 0")
    keys = [key for key in samples(tmp_path) if "-s00-" in key]
    assert len(keys) == 2, "the overlap reaches into the first tile"


def test_two_processes_share_the_units_and_a_foreign_claim_is_waited_for(cubes, calm, tmp_path):
    (tmp_path / "cubes").symlink_to(cubes)
    first, *rest = (unit.record for unit in pseudolabel_units(tmp_path, ["tiny"], config()))
    with ExitStack() as claim:
        claim.enter_context(taken(first))

        def let_go_at_last():
            wait_for(lambda: all(record.is_file() for record in rest), "all other shards")
            claim.close()

        with meanwhile(let_go_at_last):
            result, found = label(tmp_path, cubes)
    assert found == calm[1] and result.new == len(found)
    assert max((first, *rest), key=lambda record: record.stat().st_mtime_ns) == first
    assert not list(tmp_path.rglob("*.claim*")) and not list(tmp_path.rglob("*.tmp-*"))


def recipe_of(folder, cubes):
    """A recipe for the command line that makes the shards of `config()`."""
    (folder / "cubes").symlink_to(cubes)
    recipe = folder / "r.yaml"
    recipe.write_text(
        f"workdir: {folder}\ndatasets: [{{name: tiny, root: x}}]\n"
        f"pseudolabel: {{segmenters: classical, tile: {SIDE}, shard_bytes: {config().shard_bytes}, workers: 2}}\n"
    )
    return recipe


def test_two_drivers_beside_each_other_make_one_set_of_shards(cubes, calm, tmp_path, launch):
    recipe = recipe_of(tmp_path, cubes)
    both = [launch("pseudolabel", recipe, "pseudolabel.workers=1") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=SAFETY_SECONDS)
        assert process.returncode == 0, out + err
    assert hashes(tmp_path) == calm[1]
    assert not list(tmp_path.rglob("*.claim*")) and not list(tmp_path.rglob("*.tmp-*"))


def test_a_ray_cluster_is_joined_by_its_address(cubes, calm, tmp_path):
    with tempfile.TemporaryDirectory(prefix="hvr") as folder:  # Ray's sockets need a short path
        command = [
            Path(sys.executable).with_name("ray"), "start", "--head", "--port=0", "--num-cpus=4", "--block",
            "--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=200000000",
            "--disable-usage-stats",
        ]  # fmt: skip
        said = tmp_path / "ray.log"
        with said.open("wb") as log:
            head = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
        try:
            wait_for(lambda: head.poll() is not None or "ray status" in said.read_text(), "Ray's word")
            address = re.search(r"--address='(.+)'", said.read_text())
            assert address, said.read_text()
            _, found = label(tmp_path, cubes, address=address[1])
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
    assert found == calm[1]


def test_shards_of_a_killed_driver_are_finished_by_the_next_run(cubes, calm, tmp_path, launch):
    recipe = recipe_of(tmp_path, cubes)
    *_, last = pseudolabel_units(tmp_path, ["tiny"], config())
    with taken(last.record):
        process = launch("pseudolabel", recipe, start_new_session=True)
        wait_for(lambda: process.poll() is not None or hashes(tmp_path), "a first shard")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert 0 < len(hashes(tmp_path)) < len(calm[1])
    _, found = label(tmp_path, cubes)
    assert found == calm[1] and not list(tmp_path.rglob("*.tmp-*"))
