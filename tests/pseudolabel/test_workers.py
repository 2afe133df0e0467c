"""Ray actors: a killed worker costs no unit, a unit that kills its worker is quarantined by name, nothing is left."""

import os
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from sharding.errors import ConfigError
from sharding.records import Body, Unit, commit
from sharding.workers import PREFIX, map_actors, map_tasks


def units(folder, names):
    return [Unit("s", n, folder / f"{n}.bin", folder / f"{n}.json", "in", {}, str(folder)) for n in names]


class Worker:
    """Dies once on `once`, always on `poison`."""

    def make(self, unit):
        marker = Path(unit.payload) / "died"
        if unit.id == "poison" or (unit.id == "once" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(unit, lambda path: (path.write_text(unit.id), Body())[1])


def ray_processes():
    names = ("raylet", "gcs_server", "ray::")
    return [p for p in psutil.Process().children(recursive=True) if any(name in p.name() for name in names)]


def test_kills_cost_nothing_poison_is_quarantined_and_nothing_is_left(tmp_path):
    rows = units(tmp_path, ["a", "once", "poison", "b"])
    records = {record.unit: record for record in map_actors(Worker, rows, workers=2)}
    assert set(records) == {"a", "once", "poison", "b"}
    assert [name for name, record in records.items() if not record.done] == ["poison"]
    assert "worker died 3 times" in records["poison"].failures[0].reason
    assert not ray_processes()
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*"))


def test_a_worker_that_cannot_be_set_up_says_why(tmp_path):
    def factory():
        raise RuntimeError("checkpoint is torn")

    with pytest.raises(ConfigError, match="a worker cannot be set up: RuntimeError: checkpoint is torn"):
        list(map_actors(factory, units(tmp_path, "ab"), workers=1))


def test_an_unexpected_error_in_a_task_is_a_failure_row(tmp_path):
    def make(unit):
        if unit.id == "bad":
            raise RuntimeError("surprise")
        return commit(unit, lambda path: (path.write_text("x"), Body())[1])

    records = {record.unit: record for record in map_tasks(make, units(tmp_path, ["bad", "good"]), 2)}
    assert records["good"].done and records["bad"].failures[0].reason == "RuntimeError: surprise"
