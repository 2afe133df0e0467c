"""Runs are imported into MLflow once; a run that went on replaces itself."""

import json

import pytest

from pipeline.compare import compare
from sharding.errors import InputError


def write_run(work, name, steps):
    run = work / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": s, "loss": 2.0 - s / 10, "lr": 0.1, "grad_norm": None, "images_per_second": 5.0} for s in range(steps)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 99, "lo')
    (run / "spec.json").write_text(json.dumps({"seed": 0, "pretrain": {"lr": 0.1}}))


def stored(work):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hypervision")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: (run, client.get_metric_history(run.info.run_id, "loss")) for run in runs}


def test_import_is_idempotent_and_follows_a_run(tmp_path, capsys):
    write_run(tmp_path, "a", 3)
    write_run(tmp_path, "b", 4)
    assert compare(tmp_path).new == 2 and compare(tmp_path).new == 0
    (tmp_path / "mlflow.json").unlink()
    assert compare(tmp_path).new == 0
    write_run(tmp_path, "b", 6)
    assert compare(tmp_path).new == 1
    found = stored(tmp_path)
    assert {name: len(history) for name, (_, history) in found.items()} == {"a": 3, "b": 6}
    assert found["a"][0].data.params["pretrain.lr"] == "0.1"
    assert "loss 1.900" in capsys.readouterr().out


def test_nothing_to_compare_says_so(tmp_path):
    with pytest.raises(InputError, match="holds no run with metrics; run pretrain first"):
        compare(tmp_path)
