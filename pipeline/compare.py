"""`compare`: runs -> MLflow and a printed table; `compare A B`: how runs differ, and their curves together."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.console import console, short_path, table
from pipeline.runs import Facts, find_runs, flatten, gather, last_metrics, read_evidence, run_folder, training_data
from pipeline.tracking import TrackingConfig, import_facts
from pretrain.config import TERMS
from pretrain.logs import read_metrics, tail
from sharding.errors import InputError
from sharding.records import fingerprint, write_atomic
from sharding.stage import StageResult

STAMP = "mlflow.json"
CURVES = ("loss", *TERMS, "lr", "grad_norm")
SIDE = ("images_per_second", "mfu", "data_wait_share", "memory_mb", "seconds")


def compare(workdir: Path, config: TrackingConfig) -> StageResult:
    """Import all runs of a work folder and print them side by side.

    Raises:
        InputError: there are none.
        ConfigError: the address of the server holds a password.
    """
    started = time.perf_counter()
    runs = find_runs(workdir)
    if not runs:
        raise InputError(f"{workdir / 'runs'} holds no run with metrics; run pretrain first")
    recipe, stages = gather(workdir, runs)
    stamp, database = workdir / STAMP, workdir / "mlflow.db"
    current = _stamp(recipe, stages, config)
    there = stamp.is_file() and json.loads(stamp.read_text()) == current and (config.uri or database.is_file())
    new = 0
    if not there:  # the database is opened only when something changed: its start alone takes seconds
        new = import_facts(recipe, stages, workdir, config)
        write_atomic(stamp, json.dumps(current).encode())
    print_runs(runs)
    size = 0 if config.uri else database.stat().st_size
    where = Path(config.uri) if config.uri else database
    return StageResult("compare", where, 1 + len(stages), new, size, time.perf_counter() - started)


def _stamp(recipe: Facts, stages: Sequence[Facts], config: TrackingConfig) -> dict[str, str]:
    whole = fingerprint([(facts.key, facts.content) for facts in (recipe, *stages)])
    return {"content": whole, "to": config.uri or "sqlite", "experiment": config.experiment}


def print_runs(runs: Sequence[Path]) -> None:
    """One row a run: its length, its last losses, its evidence."""
    rows = []
    for run in runs[:50]:
        mean = last_metrics(run)
        text = " ".join(f"{name} {mean[name]:.3f}" for name in ("loss", *TERMS) if name in mean)
        margins = {k[7:]: v for k, v in read_evidence(run).items() if k.startswith("margin/")}
        evidence = ", ".join(f"{name} {value:+.3f}" for name, value in margins.items()) or "-"
        rate = f"{mean['images_per_second']:.1f}" if "images_per_second" in mean else "-"
        rows.append([run.name, f"{steps_of(run)}", text, rate, evidence])
    table("Runs", ["run", "steps", "losses (last 20 steps)", "images/s", "margin over the strongest random net"], rows)
    if len(runs) > len(rows):
        console.print(f"... and {len(runs) - len(rows)} more in MLflow")


def steps_of(run: Path) -> int:
    """Steps that a run has logged."""
    return int(tail(run, 1)[-1]["step"]) + 1


def compare_runs(words: Sequence[str], workdir: Path) -> Path:
    """Print what differs between runs in settings, data and numbers, and draw their curves; the picture's path.

    Raises:
        InputError: one of them is not there.
    """
    runs = [run_folder(word, workdir) for word in words]
    names = [run.name if len({r.name for r in runs}) == len(runs) else str(run) for run in runs]
    settings = [flatten(json.loads((run / "spec.json").read_text())) for run in runs]
    _print_settings(names, settings)
    _print_data(names, runs, settings)
    _print_numbers(names, runs)
    path = runs[0].parents[1] / f"compare-{'-'.join(run.name for run in runs)}.png"
    draw_curves(dict(zip(names, runs, strict=True)), path)
    console.print(f"curves together: {short_path(path)}", highlight=False)
    return path


def differing(settings: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same everywhere: (name, value of each)."""
    names = sorted({name for one in settings for name in one} - {"workdir", "pretrain.run"})
    rows = [(name, [str(one.get(name, "-")) for one in settings]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _print_settings(names: Sequence[str], settings: Sequence[dict[str, Any]]) -> None:
    rows = [[name, *values] for name, values in differing(settings)]
    if rows:
        table("Settings that differ", ["setting", *names], rows)
    else:
        console.print("settings: the same")


def _print_data(names: Sequence[str], runs: Sequence[Path], settings: Sequence[dict[str, Any]]) -> None:
    held: list[dict[str, str]] = []
    for run, told in zip(runs, settings, strict=True):
        data = training_data(run.parents[1], told.get("datasets", []))
        held.append({one.name: f"{one.counts.get('samples', 0)} samples, {one.digest}" for one in data})
    every = sorted({name for one in held for name in one})
    rows = [[name, *(one.get(name, "-") for one in held)] for name in every]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if rows:
        table("Data that differs (samples, fingerprint of the shards)", ["dataset", *names], rows)
    else:
        console.print("data: the same shards")


def _print_numbers(names: Sequence[str], runs: Sequence[Path]) -> None:
    means = [last_metrics(run) | read_evidence(run) for run in runs]
    rows = [["steps", *(str(steps_of(run)) for run in runs), ""]]
    for name in [*CURVES, *SIDE, *sorted({n for mean in means for n in mean if "/" in n})]:
        values = [mean.get(name) for mean in means]
        if all(value is None for value in values):
            continue
        told = ["-" if value is None else f"{value:.4g}" for value in values]
        both = len(values) == 2 and None not in values
        rows.append([name, *told, f"{values[1] - values[0]:+.4g}" if both else ""])  # type: ignore[operator]
    difference = "second - first" if len(names) == 2 else ""
    table("Numbers (mean of the last 20 steps)", ["metric", *names, difference], rows)


def draw_curves(runs: dict[str, Path], path: Path) -> None:
    """The losses of several runs in one picture, a panel for each."""
    import matplotlib.pyplot as plt

    from pipeline.report import save_figure, smoothed

    rows = {name: read_metrics(run) for name, run in runs.items()}
    have = [name for name in CURVES if any(row.get(name) is not None for told in rows.values() for row in told)]
    high = -(-len(have) // 3)
    figure, axes = plt.subplots(high, 3, figsize=(12, 3 * high), layout="constrained", squeeze=False)
    for axis in axes.flat[len(have) :]:
        axis.axis("off")
    for axis, metric in zip(axes.flat, have, strict=False):
        for name, told in rows.items():
            found = [(row["step"], row[metric]) for row in told if row.get(metric) is not None]
            if found:
                steps, values = zip(*found, strict=True)
                axis.plot(steps, smoothed(values), label=name, linewidth=1.2)
        axis.set_title(metric, fontsize=9)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    save_figure(figure, path)
