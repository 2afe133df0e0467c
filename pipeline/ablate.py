"""`pseudolabel ablate`: what every step of the fusion is worth, on generated scenes and on scenes with some truth.

<workdir>/ablation/<sensor>-<seed>/           all scores of one generated scene: a second run makes only new ones
<workdir>/ablation/real-<dataset>-<scene>/    of an ingested scene that has a label map
<workdir>/ablation/summary.json, ablation.png the tables and the reliability diagram
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pipeline.config import Config
from pipeline.console import console, table
from pipeline.report import save_figure
from pseudolabel.ablation import OFF, evaluate, evaluate_labels, judged_masks, make_cases
from pseudolabel.assemble import label_scene
from pseudolabel.comparison import METHODS, SHARES
from pseudolabel.confidence import INPUTS, fit, reliability
from pseudolabel.config import LOGIC, SPATIAL
from pseudolabel.windows import windows
from pseudolabel.worker import LabelWorker
from sharding.errors import InputError
from sharding.records import (
    Body,
    Failure,
    Record,
    Unit,
    commit,
    commit_failure,
    data_path,
    find_records,
    fingerprint,
    read_record,
    write_atomic,
)
from sharding.stage import RunOptions, StageResult, run_units
from sharding.store import open_cube, truth_hash

MEANS = ("ASA", "material ASA", "recall", "precision", "UE", "count")
RATES = {"look-alikes": ("look-alikes told", "look-alikes of"), "shadows": ("shadows cut", "shadows of"),
         "prints": ("prints cut", "prints of")}  # fmt: skip

TITLES = {
    "simulated": "good spatial masks (simulated from the truth)",
    "classical": "weak spatial masks (classical)",
    "real": "scenes of datasets with some truth",
}


def _generated(unit: Unit) -> Record:
    """Scores of one generated scene with each kind of spatial masks."""
    sensor, seed, config, fusion = unit.payload

    def write(path: Path) -> Body:
        rows = []
        for case in make_cases(sensor, seed, config, fusion):
            inputs, scores, right = judged_masks(case, fusion)
            masks = {"inputs": inputs.round(5).tolist(), "scores": scores.tolist(), "right": right.tolist()}
            rows.append({"sensor": sensor, "kind": case.kind, "scores": evaluate(case, fusion), "masks": masks})
        path.write_text(json.dumps(rows))
        return Body({"cases": len(rows)})

    return commit(unit, write)


def _real(unit: Unit) -> Record:
    """Scores of one ingested scene against its label map."""
    path, name, config = unit.payload
    cube = open_cube(path)
    truth = cube.labels()
    worker = LabelWorker(config)
    wins = windows(*cube.shape_CHW[1:], config.window_side, config.shared)
    looked = [one for one in (worker.make(path, window) for window in wins) if one is not None]
    if truth is None or not looked or not (truth * cube.valid() > 0).any():
        return commit_failure(unit, Failure(str(path), "no valid pixel has a truth"))
    labels = label_scene(looked, cube.shape_CHW[1:], config)
    rows = [{"sensor": name, "kind": "real", "scores": evaluate_labels(labels, truth * cube.valid(), config.fusion)}]

    def write(out: Path) -> Body:
        out.write_text(json.dumps(rows))
        return Body({"cases": 1})

    return commit(unit, write)


def _make(unit: Unit) -> Record:
    return _generated(unit) if unit.inputs == "generated" else _real(unit)


def ablation_units(config: Config) -> list[Unit]:
    """A unit per generated scene and per ingested scene that is labelled and has a registered label map.

    Held-out datasets (`train: false`) get no pseudo-labels, so theirs are not scored.
    """
    folder, ablation, fusion = config.work / "ablation", config.ablation, config.pseudolabel.fusion
    units = []
    fields = {"logic": LOGIC, "fusion": asdict(fusion), "size": ablation.size, "spatial": list(ablation.spatial)}
    for sensor in ablation.sensors:
        for seed in range(ablation.first_seed, ablation.first_seed + ablation.seeds):
            one = (sensor, seed, ablation, fusion)
            units.append(_unit(folder / f"{sensor}-{seed}", "generated", fields, one))
    for dataset in config.training_datasets:
        records = config.work / "cubes" / f"{dataset}.records"
        for path in find_records(records) if records.is_dir() else ():
            known = read_record(path)
            cube = data_path(path, known)
            if cube is not None and open_cube(cube).labels() is not None:
                payload = (cube, dataset, config.pseudolabel)
                place = folder / f"real-{dataset}-{path.stem}"
                units.append(_unit(place, _labelled(known, cube), config.pseudolabel.bytes_config(), payload))
    return units


def _labelled(record: Record, cube: Path) -> str:
    """What a real case is made from: its cube, and the truth beside it."""
    truth = truth_hash(cube)
    return fingerprint([record.sha256, truth]) if truth else record.sha256


def _unit(folder: Path, inputs: str, fields: dict[str, Any], payload: Any) -> Unit:
    """A folder each, so that a run with other seeds leaves alone what is there."""
    return Unit("ablation", folder.name, folder / "scores.json", folder / "record.json", inputs, fields, payload)


def ablate(config: Config, options: RunOptions) -> StageResult:
    """Score all scenes, print the tables, draw the reliability diagram.

    Raises:
        ConfigError: an unknown sensor or kind of masks.
    """
    from sharding.workers import map_tasks, slots

    config.ablation.check()
    folder, units = config.work / "ablation", ablation_units(config)
    workers = slots(config.ablation.workers)
    result = run_units("ablation", units, folder, options, lambda todo: map_tasks(_make, todo, workers))
    rows = [row for unit in units if unit.data.is_file() for row in json.loads(unit.data.read_text())]
    if not rows:
        raise InputError(f"{folder} holds no scene to compare")
    summary = {kind: _summary([row for row in rows if row["kind"] == kind]) for kind in (*SPATIAL, "real")
               if any(row["kind"] == kind for row in rows)}  # fmt: skip
    judged = [row for row in rows if "masks" in row]
    if judged:
        summary["reliability"] = _reliability(judged)
    write_atomic(folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    for kind in summary:
        if kind != "reliability":
            _print(kind, summary[kind])
    if judged:
        _print_reliability(summary["reliability"], folder / "ablation.png")
        if config.ablation.fit:
            _print_fit(judged)
    return result


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians, rates, and paired differences of fused to the others, per sensor."""
    told: dict[str, Any] = {"scenes": len(rows)}
    for share in SHARES:
        names = [name for name in (*METHODS, *OFF) if f"{name} at {share:g} x" in rows[0]["scores"]]
        scores = {name: [row["scores"][f"{name} at {share:g} x"] for row in rows] for name in names}
        part: dict[str, Any] = {"rows": {}, "paired": {}}
        for name, own in scores.items():
            line = {key: float(np.median([one[key] for one in own])) for key in MEANS if key in own[0]}
            for rate, (over, under) in RATES.items():
                if over in own[0]:
                    line[rate] = sum(one[over] for one in own) / max(sum(one[under] for one in own), 1)
                    line[f"{rate} of"] = sum(one[under] for one in own)
            part["rows"][name] = line
        for other in METHODS[:-1]:
            part["paired"][other] = _paired(rows, scores["fused"], scores[other])
        told[f"{share:g} x"] = part
    return told


def _paired(rows: Sequence[dict[str, Any]], fused: list[Any], other: list[Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for score in ("ASA", "material ASA"):
        if score in fused[0]:
            gain = np.array([one[score] - two[score] for one, two in zip(fused, other, strict=True)])
            sensors = np.array([row["sensor"] for row in rows])
            own = {str(name): float(np.median(gain[sensors == name])) for name in sorted(set(sensors))}
            told[score] = {"median": float(np.median(gain)), "won": float((gain > 0).mean()), "sensors": own}
    return told


def _print(kind: str, summary: dict[str, Any]) -> None:
    title = TITLES[kind]
    for share in SHARES:
        part = summary[f"{share:g} x"]
        columns = [key for key in (*MEANS, *RATES) if key in part["rows"]["fused"]]
        lines = []
        for name, row in part["rows"].items():
            cells = [f"{row[key]:.1f}" if key == "count" else f"{row[key]:.3f}" for key in columns]
            lines.append([name if name in METHODS else f"fused, {name}", *cells])
        heads = [f"{key} cut" if key in ("shadows", "prints") else key for key in columns]
        heads = [f"{key} told apart" if key == "look-alikes" else key for key in heads]
        table(f"{title}, {summary['scenes']} scenes, {share:g} x the true count: medians", ["masks", *heads], lines)
        lines = []
        for other, scores in part["paired"].items():
            for score, told in scores.items():
                worst = min(told["sensors"], key=told["sensors"].get)
                lines.append([f"{score}, fused - {other}", f"{told['median']:+.3f}", f"{told['won']:.0%}",
                              f"{told['sensors'][worst]:+.3f} ({worst})"])  # fmt: skip
        table("paired by scene", ["difference", "median", "scenes won", "worst sensor"], lines)


def _masks(rows: Sequence[dict[str, Any]], name: str) -> Any:
    return np.concatenate([np.array(row["masks"][name], float) for row in rows if row["masks"][name]])


def _reliability(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in SPATIAL}
    kinds = {kind: own for kind, own in kinds.items() if own} | {"all": list(rows)}
    told = {}
    for kind, own in kinds.items():
        scores, right = _masks(own, "scores"), _masks(own, "right")
        around = (scores >= 0.85) & (scores < 0.95)
        told[kind] = {
            "bins": reliability(scores, right),
            "around 0.9": {"masks": int(around.sum()), "confidence": float(scores[around].mean()),
                           "right": float(right[around].mean())} if around.any() else None,
        }  # fmt: skip
    return told


def _print_reliability(told: dict[str, Any], path: Path) -> None:
    lines = []
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for kind, own in told.items():
        bins = own["bins"]
        axis.plot([one["confidence"] for one in bins], [one["right"] for one in bins], "o-", markersize=4, label=kind)
        lines += [[kind, f"{one['masks']:.0f}", f"{one['confidence']:.2f}", f"{one['right']:.2f}"] for one in bins]
        around = own["around 0.9"]
        if around:
            lines.append(
                [f"{kind}, 0.85-0.95", str(around["masks"]), f"{around['confidence']:.2f}", f"{around['right']:.2f}"]
            )
    axis.set(xlabel="confidence of a mask", ylabel="share that is right (IoU >= 0.5 with a thing)", title="Reliability")
    axis.legend()
    axis.grid(alpha=0.3)
    save_figure(figure, path)
    table("Confidence of fused masks", ["spatial masks", "masks", "confidence", "right"], lines)
    console.print(f"reliability diagram: {path}", highlight=False)


def _print_fit(rows: Sequence[dict[str, Any]]) -> None:
    weights = fit(_masks(rows, "inputs"), _masks(rows, "right"))
    words = ", ".join(f"{name} {value:.2f}" for name, value in zip(INPUTS, weights, strict=True))
    console.print(f"weights for pseudolabel/confidence.py fitted on these scenes: {words}", highlight=False)
