"""Runs into MLflow, from this one process: sqlite beside the work folder, or a server. A second import changes nothing.

Tokens and passwords go to MLflow by its own variables (MLFLOW_TRACKING_TOKEN, ..._USERNAME, ..._PASSWORD) and are
written nowhere. SQLite over a network file system loses data, so there it is written on a local disk and moved.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.runs import Facts, Point
from sharding.errors import ConfigError, InputError, OutputError, writing
from sharding.lifeline import die_with_parent
from sharding.records import temporary_path

BATCH, PARAMS, TAG_CHARS = 1000, 100, 5000
TOGETHER = 20  # runs whose points are written in one transaction
SHARED_SYSTEMS = (
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb2", "smb3", "ceph", "panfs", "9p", "fuse.sshfs",
    "fuse.glusterfs", "fuse.juicefs", "wekafs", "pvfs2",
)  # fmt: skip
METRIC_COLUMNS = ("key", "value", "timestamp", "run_uuid", "step", "is_nan")


@dataclass
class TrackingConfig:
    """Where runs are compared: a server's address (none = sqlite in the work folder), and the experiment's name."""

    uri: str | None = None
    experiment: str = "hypervision"

    def check(self) -> None:
        """Refuse an address with a password in it, which would be written into every record.

        Raises:
            ConfigError: with what to do.
        """
        if self.uri is not None and "@" in urlsplit(self.uri).netloc:
            raise ConfigError(
                "tracking.uri holds a user or password, which would be written down with the configuration; give the "
                "address alone, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )


def file_system(path: Path) -> str:
    """Type of the file system that a path lies on, as the kernel names it."""
    here, best = path.absolute(), ("", "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        point, kind = words[4], words[words.index("-") + 1]
        if here.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


@contextlib.contextmanager
def local_database(database: Path) -> Iterator[Path]:
    """The database to write: itself, or on a shared file system a copy on a local disk that replaces it at the end."""
    if file_system(database.parent) not in SHARED_SYSTEMS:
        with writing(database):
            yield database
        return
    with tempfile.TemporaryDirectory(prefix="hv-mlflow-") as folder, writing(database):
        copy = Path(folder) / database.name
        if database.is_file():
            shutil.copyfile(database, copy)
        yield copy
        temporary = temporary_path(database)
        shutil.copyfile(copy, temporary)
        temporary.replace(database)


def quiet_client(uri: str) -> Any:
    """An MLflow client that sends no telemetry and does not talk about its database."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


class Importer:
    """Brings facts into one experiment; knows what is there by tags."""

    def __init__(self, client: Any, experiment: str, artifacts: Path | None, database: Path | None) -> None:
        self.client, self.database = client, database
        found = client.get_experiment_by_name(experiment)
        place = None if artifacts is None else artifacts.as_uri()
        self.experiment = (
            found.experiment_id if found else client.create_experiment(experiment, artifact_location=place)
        )
        self.known = {run.data.tags.get("hv.key"): run for run in self._all()}
        self.new = 0
        self.waiting: list[tuple[str, Facts]] = []  # runs whose points are still to come

    def _all(self) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], "tags.`hv.key` != ''", max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def bring(self, facts: Facts, parent: str | None) -> str:
        """Import facts below a parent unless they are there as they are; the number of their run."""
        old = self.known.get(facts.key)
        if old is not None and old.data.tags.get("hv.content") == facts.content:
            if parent is not None and old.data.tags.get("mlflow.parentRunId") != parent:
                self.client.set_tag(old.info.run_id, "mlflow.parentRunId", parent)
            return str(old.info.run_id)
        if old is not None:
            self.client.delete_run(old.info.run_id)
        self.new += 1
        return self._create(facts, parent)

    def _create(self, facts: Facts, parent: str | None) -> str:
        from mlflow.entities import Param

        tags = {"hv.key": facts.key, "hv.stage": facts.stage} | facts.tags
        tags |= {"mlflow.parentRunId": parent} if parent else {}
        made = self.client.create_run(
            self.experiment, run_name=facts.name, tags={key: value[:TAG_CHARS] for key, value in tags.items()}
        )
        number = str(made.info.run_id)
        params = [Param(name, str(value)[:500]) for name, value in facts.settings.items()]
        for start in range(0, len(params), PARAMS):
            self.client.log_batch(number, params=params[start : start + PARAMS])
        self._data(number, facts)
        for path in facts.files:
            if path.is_file():
                folder = path.parent.name if path.name.startswith("quality") else None
                self.client.log_artifact(number, str(path), folder)
        self.waiting.append((number, facts))
        if len(self.waiting) >= TOGETHER:
            self.flush()
        return number

    def flush(self) -> None:
        """Bring the points of the runs that wait for it; then they count as imported."""
        points = {number: facts.points() for number, facts in self.waiting}
        if self.database is None or not _insert(self.database, points):
            self._log(points)
        for number, facts in self.waiting:
            self.client.set_terminated(number)
            # The content last: an import that was killed before is done again.
            self.client.set_tag(number, "hv.content", facts.content)
        self.waiting = []

    def _data(self, number: str, facts: Facts) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    data.name, data.digest, "local", json.dumps({"uri": data.source}), profile=json.dumps(data.counts)
                ),
                [InputTag("mlflow.data.context", facts.stage)],
            )
            for data in facts.data
        ]
        if inputs:
            self.client.log_inputs(number, datasets=inputs)

    def _log(self, points: dict[str, list[Point]]) -> None:
        from mlflow.entities import Metric

        for number, several in points.items():
            metrics = [Metric(name, value, ms, step) for step, name, value, ms in several]
            for start in range(0, len(metrics), BATCH):
                self.client.log_batch(number, metrics=metrics[start : start + BATCH])


def _insert(database: Path, points: dict[str, list[Point]]) -> bool:
    """Write points into MLflow's two tables of metrics, in one go: its own calls take several times as long.

    False if the tables are not those that this code knows.
    """
    places = f"({', '.join(METRIC_COLUMNS)}) VALUES ({', '.join('?' * len(METRIC_COLUMNS))})"
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as db:
        db.execute("PRAGMA cache_size = -262144")
        for name in ("metrics", "latest_metrics"):
            if {row[1] for row in db.execute(f"PRAGMA table_info({name})")} != set(METRIC_COLUMNS):
                return False
        with db:
            for number, several in points.items():
                rows = sorted(
                    (name, 0.0 if math.isnan(value) else value, ms, number, step, math.isnan(value))
                    for step, name, value, ms in several
                )
                latest = {row[0]: row for row in sorted(rows, key=lambda row: row[4])}
                db.executemany(f"INSERT OR REPLACE INTO metrics {places}", rows)
                db.executemany(f"INSERT OR REPLACE INTO latest_metrics {places}", list(latest.values()))
    return True


def import_facts(recipe: Facts, stages: Sequence[Facts], workdir: Path, config: TrackingConfig) -> int:
    """Import a recipe and its stages; returns how many were new or had changed.

    Raises:
        ConfigError: an address with a password, or nothing answers there.
        OutputError: the database cannot be written.
    """
    config.check()
    if config.uri is None:
        with local_database(workdir / "mlflow.db") as database:
            client = quiet_client(f"sqlite:///{database}")
            return _bring_all(Importer(client, config.experiment, workdir / "mlartifacts", database), recipe, stages)
    from mlflow.exceptions import MlflowException

    try:
        return _bring_all(Importer(quiet_client(config.uri), config.experiment, None, None), recipe, stages)
    except MlflowException as error:
        raise OutputError(f"MLflow at {config.uri} refused: {' '.join(str(error).split())[:300]}") from error


def serve(workdir: Path, port: int) -> int:
    """MLflow's pages over the database of a work folder, on this machine's loopback only, until interrupted.

    Raises:
        InputError: nothing was imported yet.
    """
    database = workdir / "mlflow.db"
    if not database.is_file():
        raise InputError(f"{database} is not there: run compare first (hypervision compare RECIPE workdir={workdir})")
    with tempfile.TemporaryDirectory(prefix="hv-mlflow-") as folder:
        if file_system(workdir) in SHARED_SYSTEMS:  # what is changed in the pages is then not kept
            database = Path(shutil.copyfile(database, Path(folder) / database.name))
        words = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--backend-store-uri", f"sqlite:///{database}"]
        extra = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with subprocess.Popen(words, env={**os.environ, **extra}, preexec_fn=die_with_parent) as server:
            try:
                return server.wait()
            except KeyboardInterrupt:
                server.terminate()
                return 0


def _bring_all(importer: Importer, recipe: Facts, stages: Sequence[Facts]) -> int:
    parent = importer.bring(recipe, None)
    for facts in stages:
        importer.bring(facts, parent)
    importer.flush()
    return importer.new
