"""How fast runs come into MLflow: `python benchmarks/tracking.py FOLDER [--runs 200] [--steps 10000] [--repeats 5]`.

Runs with the metrics of a real step (16 numbers). Each repeat imports all into a new sqlite database, then once more,
which must find nothing to do. `calls` sends some of the runs through MLflow's own log_batch, every point of them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pipeline.compare import compare
from pipeline.tracking import TrackingConfig, quiet_client
from pretrain.logs import read_metrics

TERMS = ("loss", "contrast", "masks", "distil", "spectra")


def write_runs(folder: Path, runs: int, steps: int) -> None:
    """Write runs as training leaves them."""
    for number in range(runs):
        run = folder / "runs" / f"run{number:03d}"
        if (run / "spec.json").is_file():
            continue
        run.mkdir(parents=True, exist_ok=True)
        rng = random.Random(number)
        with (run / "metrics.jsonl").open("w") as file:
            for step in range(steps):
                row = {"step": step, **{name: round(2 / (1 + step / 500) + rng.random() / 5, 6) for name in TERMS}}
                row |= {"dropped": 0.0, "lr": 1e-4, "grad_norm": round(rng.random(), 5), "images_per_second": 80.0}
                row |= {"data_wait_share": 0.01, "mfu": 0.41, "memory_mb": 40000.0, "seconds": 0.8}
                row |= {"samples": {"cave": step, "icvl": step, "hotvis": step}}
                file.write(json.dumps(row) + "\n")
        (run / "spec.json").write_text(json.dumps({"seed": number, "datasets": [], "pretrain": {"lr": 1e-4}}))


def by_calls(folder: Path, runs: int) -> float:
    """Points a second through MLflow's own calls."""
    from mlflow.entities import Metric

    from pipeline.runs import flatten

    client = quiet_client(f"sqlite:///{folder / 'calls.db'}")
    experiment = client.create_experiment("calls")
    points = 0
    began = time.perf_counter()
    for run in sorted((folder / "runs").iterdir())[:runs]:
        number = client.create_run(experiment).info.run_id
        metrics = [
            Metric(name, float(value), 0, row["step"])
            for row in read_metrics(run)
            for name, value in flatten(row).items()
            if name != "step"
        ]
        for start in range(0, len(metrics), 1000):
            client.log_batch(number, metrics=metrics[start : start + 1000])
        points += len(metrics)
    return points / (time.perf_counter() - began)


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--once", action="store_true", help="import once and print the seconds")
    given = parser.parse_args()
    if given.once:  # a process of its own: MLflow keeps a database open that it has seen
        began = time.perf_counter()
        result = compare(given.folder, TrackingConfig())
        print(json.dumps([time.perf_counter() - began, result.new]))
        return
    write_runs(given.folder, given.runs, given.steps)
    first, again = [], []
    for _ in range(given.repeats):
        for name in ("mlflow.db", "mlflow.json", "calls.db"):
            (given.folder / name).unlink(missing_ok=True)
        shutil.rmtree(given.folder / "mlartifacts", ignore_errors=True)
        for found, wanted in ((first, given.runs + 1), (again, 0)):
            words = [sys.executable, __file__, str(given.folder), "--once"]
            told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            seconds, new = json.loads(told)
            assert new == wanted
            found.append(seconds)
    size = (given.folder / "mlflow.db").stat().st_size / 1e6
    for name, found in (("import", first), ("again", again)):
        every = " ".join(f"{one:.1f}" for one in found)
        print(f"{name}: {statistics.median(found):.1f} s ({every}) for {given.runs} runs of {given.steps} steps")
    print(f"database {size:.0f} MB; MLflow's own calls: {by_calls(given.folder, 1):.0f} points/s")


if __name__ == "__main__":
    main()
