"""Runs are imported into MLflow once; a run that went on replaces itself; two runs are told apart."""

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from pipeline import tracking
from pipeline.compare import compare, compare_runs
from pipeline.config import load_config
from pipeline.runs import POINTS
from pipeline.tracking import TrackingConfig
from sharding.errors import ConfigError, InputError

SECRET = "s3cr3t-token"


def write_run(work, name, steps, **settings):
    run = work / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": s, "loss": 2.0 - s / 10, "lr": 0.1, "grad_norm": None, "images_per_second": 5.0, "samples": {"a": s}}
        for s in range(steps)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 99, "lo')
    (run / "spec.json").write_text(json.dumps({"seed": 0, "datasets": [], "pretrain": {"lr": 0.1, **settings}}))
    return run


def client_of(work):
    return tracking.quiet_client(f"sqlite:///{work / 'mlflow.db'}")


def stored(work):
    client = client_of(work)
    experiment = client.get_experiment_by_name("hypervision")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: (run, client.get_metric_history(run.info.run_id, "loss")) for run in runs}


def test_import_is_idempotent_and_follows_a_run(tmp_path, capsys):
    config = TrackingConfig()
    write_run(tmp_path, "a", 3)
    write_run(tmp_path, "b", 4)
    assert compare(tmp_path, config).new == 3 and compare(tmp_path, config).new == 0
    (tmp_path / "mlflow.json").unlink()
    assert compare(tmp_path, config).new == 0, "what is there is known by its tags"
    write_run(tmp_path, "b", 6)
    assert compare(tmp_path, config).new == 1
    found = stored(tmp_path)
    assert {name: len(history) for name, (_, history) in found.items()} == {"a": 3, "b": 6, tmp_path.name: 0}
    run, history = found["b"]
    assert run.data.params["pretrain.lr"] == "0.1" and run.data.metrics["loss"] == pytest.approx(1.5)
    assert [(one.step, one.value) for one in history] == [(s, pytest.approx(2 - s / 10)) for s in range(6)]
    parent = found[tmp_path.name][0]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id and parent.data.tags["hv.stage"] == "recipe"
    assert "loss 1.750" in capsys.readouterr().out


def test_long_curves_are_thinned_evenly_and_keep_their_ends(tmp_path):
    write_run(tmp_path, "long", 3 * POINTS)
    compare(tmp_path, TrackingConfig())
    steps = [one.step for one in stored(tmp_path)["long"][1]]
    assert len(steps) == POINTS and steps[0] == 0 and steps[-1] == 3 * POINTS - 1
    assert {b - a for a, b in itertools.pairwise(steps)} <= {3, 4}


def test_points_go_by_mlflows_own_calls_where_its_tables_are_not_as_known(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "METRIC_COLUMNS", ("key", "something", "else"))
    write_run(tmp_path, "a", 5)
    compare(tmp_path, TrackingConfig())
    assert [one.step for one in stored(tmp_path)["a"][1]] == list(range(5))


def test_on_a_shared_file_system_sqlite_is_written_elsewhere_and_moved(tmp_path, monkeypatch):
    opened = []
    real = tracking.quiet_client
    monkeypatch.setattr(tracking, "file_system", lambda _: "nfs4")
    monkeypatch.setattr(tracking, "quiet_client", lambda uri: opened.append(uri) or real(uri))
    write_run(tmp_path, "a", 3)
    compare(tmp_path, TrackingConfig())
    write_run(tmp_path, "b", 3)
    compare(tmp_path, TrackingConfig())
    assert len(opened) == 2 and not any(str(tmp_path) in uri for uri in opened)
    monkeypatch.undo()
    assert set(stored(tmp_path)) == {"a", "b", tmp_path.name}
    assert not list(tmp_path.glob("*.tmp-*")) and not list(tmp_path.glob("*-journal"))


def test_the_file_system_of_a_path_is_found():
    from pathlib import Path

    assert tracking.file_system(Path("/proc/self")) == "proc"


def test_two_runs_side_by_side(tmp_path, capsys):
    write_run(tmp_path, "a", 30)
    write_run(tmp_path, "b", 40, clip=0.5)
    picture = compare_runs(["a", str(tmp_path / "runs" / "b")], tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"pretrain\.clip\s+│ -\s+│ 0.5", out) and "pretrain.lr" not in out and "data: the same" in out
    assert re.search(r"steps\s+│ 30\s+│ 40", out) and re.search(r"loss\s+│ 0.05\s+│ -0.95\s+│ -1", out), out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match=r"no run 'c': .* holds a, b; name one of them"):
        compare_runs(["a", "c"], tmp_path)


def test_nothing_to_compare_says_so(tmp_path):
    with pytest.raises(InputError, match="holds no run with metrics; run pretrain first"):
        compare(tmp_path, TrackingConfig())


def test_an_address_with_a_password_is_refused_and_tokens_are_written_nowhere(tmp_path):
    write_run(tmp_path, "a", 3)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD"):
        compare(tmp_path, TrackingConfig(uri=f"https://me:{SECRET}@mlflow.example"))
    with pytest.raises(ConfigError, match="would be written down") as caught:
        load_config("fakes", [f"workdir={tmp_path}", f"tracking.uri=https://me:{SECRET}@mlflow.example"])
    assert SECRET not in str(caught.value)
    environ = {**os.environ, "MLFLOW_TRACKING_TOKEN": SECRET, "MLFLOW_TRACKING_PASSWORD": SECRET}
    words = [sys.executable, "-m", "pipeline.cli", "compare", "fakes", f"workdir={tmp_path}"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True)
    assert done.returncode == 0 and SECRET not in done.stdout + done.stderr
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        assert db.execute("select count(*) from tags").fetchone()[0] > 3
