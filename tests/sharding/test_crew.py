"""Ray actors: a killed worker costs nothing, what kills or hangs its worker is quarantined by name, nothing is left."""

import os
import signal
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
import ray

from sharding.crew import Crew, Job, Limits
from sharding.errors import ConfigError, InputError
from sharding.records import Body, Unit, commit
from sharding.workers import PREFIX, map_tasks, ray_session
from tests.waiting import HangClock, wait_for


class Worker:
    """Dies once on "once", always on "poison"; hangs on "hang"; raises on "bad"; lacks memory once on "tight"."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def make(self, word):
        marker = self.folder / f"{word}.seen"
        seen = marker.exists()
        marker.touch()
        if word == "poison" or (word == "once" and not seen):
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            threading.Event().wait()  # for ever
        if word == "bad":
            raise InputError(f"{word} cannot be read")
        if word == "tight" and not seen:
            raise MemoryError
        return word.upper()


def crew_of(folder, workers, pool, seconds):
    """A crew for which time passes only when all but "hang" is done: a slow machine is no reason to kill a job."""
    clock = HangClock(lambda word: word == "hang")
    clock.crew = Crew(lambda: Worker(folder), workers, pool, Limits(seconds, attempts=2), clock=clock)
    return clock.crew


def run(crew, words, function=None):
    """Key -> what came of each job."""
    for word in words:
        job = Job(word, word, (word,), function)
        (crew.call if function else crew.submit)(job)
    found = {}
    while crew.busy:
        for done in crew.wait():
            found[done.key] = done.failure.reason if done.failure else ray.get(done.ref)
    return found


def ray_processes():
    names = ("raylet", "gcs_server", "ray::")
    return [p for p in psutil.Process().children(recursive=True) if any(name in p.name() for name in names)]


def test_only_what_kills_or_hangs_its_worker_is_quarantined_and_nothing_is_left(tmp_path):
    words = ["a", "once", "poison", "b", "hang", "c", "bad", "tight", "d", "e"]
    with ray_session(3):
        crew = crew_of(tmp_path, 2, 1, seconds=3.0)
        found = run(crew, words)
        crew.close()
    assert set(found) == set(words)
    for word in ("a", "once", "b", "c", "tight", "d", "e"):
        assert found[word] == word.upper()
    assert "its worker died (ActorDiedError), 2 times; quarantined" in found["poison"]
    assert "took longer than 3 s, 2 times" in found["hang"] and found["bad"] == "bad cannot be read"
    wait_for(lambda: not ray_processes(), "the end of Ray's processes")
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*"))


def shout(word):
    if word == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        threading.Event().wait()  # for ever
    return word.upper()


def test_the_pool_quarantines_too_and_health_names_what_is_done(tmp_path):
    with ray_session(2):
        crew = crew_of(tmp_path, 1, 2, seconds=2.0)
        found = run(crew, ["x", "poison", "hang", "y"], shout)
        assert (found["x"], found["y"]) == ("X", "Y")
        assert "worker died" in found["poison"] and "took longer" in found["hang"]
        run(crew, ["a"])
        assert "#0 idle, 1 done" in crew.health() and "GB" in crew.health()
        crew.close()


def test_a_job_is_too_long_at_work_by_the_clock_and_health_tells_since_when(tmp_path):
    times = [0.0]
    with ray_session(1):
        crew = Crew(lambda: Worker(tmp_path), 1, 1, Limits(60.0, attempts=1), clock=lambda: times[0])
        crew.submit(Job("hang", "hang", ("hang",)))
        wait_for(lambda: crew.wait() == [] and (tmp_path / "hang.seen").exists(), "the job at work")
        times[0] = 60.0
        assert crew.wait() == [] and "#0 hang 60 s, 0 done" in crew.health()
        times[0] = 61.0
        (ended,) = crew.wait()
        assert "took longer than 60 s, 1 times" in ended.failure.reason and "restarted 1x" in crew.health()
        crew.close()


def test_a_worker_that_cannot_be_set_up_says_why():
    def factory():
        raise RuntimeError("checkpoint is torn")

    with ray_session(1):
        crew = Crew(factory, 1, 1, Limits())
        with pytest.raises(ConfigError, match="a worker cannot be set up: RuntimeError: checkpoint is torn"):
            run(crew, ["a"])
        crew.close()


def test_workers_that_die_while_they_start_stop_the_stage():
    with ray_session(1):
        crew = Crew(lambda: os.kill(os.getpid(), signal.SIGKILL), 1, 1, Limits())
        with pytest.raises(ConfigError, match=r"die while they load .* set pseudolabel.workers= lower"):
            run(crew, ["a"])
        crew.close()


def test_no_cluster_at_an_address_is_one_sentence():
    with (
        pytest.raises(ConfigError, match=r"no Ray cluster answers at '127.0.0.1:1'.*ray start --head"),
        ray_session(1, address="127.0.0.1:1"),
    ):
        pass


def test_an_unexpected_error_in_a_task_is_a_failure_row(tmp_path):
    def make(unit):
        if unit.id == "bad":
            raise RuntimeError("surprise")
        return commit(unit, lambda path: (path.write_text("x"), Body())[1])

    units = [Unit("s", n, tmp_path / f"{n}.bin", tmp_path / f"{n}.json", "in", {}) for n in ("bad", "good")]
    records = {record.unit: record for record in map_tasks(make, units, 2)}
    assert records["good"].done and records["bad"].failures[0].reason == "RuntimeError: surprise"
