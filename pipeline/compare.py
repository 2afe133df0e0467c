"""`compare`: runs -> MLflow (sqlite by default), and a printed table. Only this process writes to the database.

Importing is idempotent: a run is known by its folder and content, so a second import changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from pipeline.console import table
from pretrain.config import TERMS
from sharding.errors import InputError, writing
from sharding.records import fingerprint, sha256_file, write_atomic
from sharding.stage import StageResult

EXPERIMENT = "hypervision"
BATCH = 1000
PARAMS = 100  # that MLflow takes at once


def find_runs(workdir: Path) -> list[Path]:
    """Run folders that have metrics."""
    return sorted(path.parent for path in (workdir / "runs").glob("*/metrics.jsonl"))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics; a half-written last line is left out."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def content_key(run: Path) -> str:
    """Changes when anything that is imported changes."""
    names = ("metrics.jsonl", "spec.json", "evidence.json", "export.json")
    return fingerprint([(name, sha256_file(run / name)) for name in names if (run / name).is_file()])


def read_evidence(run: Path) -> dict[str, float]:
    """Scores of a run's evidence as metrics; empty without evidence."""
    path = run / "evidence.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())
    scores = {f"probe/{name}": value for name, value in found["probes"]["trained"].items()}
    scores |= {f"margin/{name}": value for name, value in found["probes"]["margins"].items()}
    for method, row in found["labels"]["scores"].items():
        scores[f"labels/{method}"] = row["ASA at 1 x"]
    return {name.replace(",", "").replace("+", "and"): value for name, value in scores.items()}


def import_run(client: Any, experiment: str, run: Path) -> bool:
    """Import one run; False if it is already there as it is."""
    from mlflow.entities import Metric, Param, RunTag

    key, content = fingerprint(str(run.resolve())), content_key(run)
    known = client.search_runs([experiment], f"tags.`hv.run` = '{key}'")
    if any(row.data.tags.get("hv.content") == content for row in known):
        return False
    for row in known:
        client.delete_run(row.info.run_id)
    rows = read_metrics(run)
    settings = flatten(json.loads((run / "spec.json").read_text()))
    tags = {"hv.run": key, "hv.content": content, "hv.folder": str(run)}
    fresh = client.create_run(experiment, run_name=run.name)
    params = [Param(name, str(value)[:500]) for name, value in settings.items()]
    metrics = [
        Metric(name, float(value), 0, int(row["step"]))
        for row in rows
        for name, value in flatten(row).items()
        if name != "step" and value is not None
    ]
    metrics += [Metric(name, value, 0, len(rows)) for name, value in read_evidence(run).items()]
    client.log_batch(fresh.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
    for start in range(0, len(params), PARAMS):
        client.log_batch(fresh.info.run_id, params=params[start : start + PARAMS])
    for start in range(0, len(metrics), BATCH):
        client.log_batch(fresh.info.run_id, metrics=metrics[start : start + BATCH])
    client.set_terminated(fresh.info.run_id)
    return True


def import_runs(workdir: Path, uri: str, runs: list[Path]) -> int:
    """Import runs into a tracking store; returns how many were new or changed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    place = (workdir / "mlartifacts").as_uri()
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=place)
    return sum(import_run(client, experiment, run) for run in runs)


def print_comparison(runs: list[Path]) -> None:
    """One row a run: its length, its last losses, its evidence."""
    rows = []
    for run in runs:
        metrics = read_metrics(run)
        tail = metrics[-20:]
        losses = [name for name in ("loss", *TERMS) if name in metrics[-1]]
        text = " ".join(f"{name} {sum(row[name] for row in tail) / len(tail):.3f}" for name in losses)
        rate = sum(row["images_per_second"] for row in tail) / len(tail)
        margins = {k[7:]: v for k, v in read_evidence(run).items() if k.startswith("margin/")}
        evidence = ", ".join(f"{name} {value:+.3f}" for name, value in margins.items()) or "-"
        rows.append([run.name, str(len(metrics)), text, f"{rate:.1f}", evidence])
    table("Runs", ["run", "steps", "losses (last 20 steps)", "images/s", "margin over the strongest random net"], rows)


def compare(workdir: Path, uri: str | None = None) -> StageResult:
    """Import all runs of a work folder and print them side by side.

    Raises:
        InputError: there are none.
    """
    started = time.perf_counter()
    runs = find_runs(workdir)
    if not runs:
        raise InputError(f"{workdir / 'runs'} holds no run with metrics; run pretrain first")
    database = workdir / "mlflow.db"
    stamp = workdir / "mlflow.json"
    current = {str(run): content_key(run) for run in runs} | {"uri": uri or str(database)}
    new = 0
    # The database is opened only when something changed: its start alone takes seconds.
    if not stamp.is_file() or json.loads(stamp.read_text()) != current or (uri is None and not database.is_file()):
        with writing(database):
            new = import_runs(workdir, uri or f"sqlite:///{database}", runs)
        write_atomic(stamp, json.dumps(current).encode())
    print_comparison(runs)
    size = database.stat().st_size if uri is None else 0
    return StageResult("compare", Path(uri or database), len(runs), new, size, time.perf_counter() - started)
