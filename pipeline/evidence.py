"""Evidence from generated truth: are the fused labels better than their sources, is the net better than a random one.

Everything printed is computed here from the work folder: label maps kept in the shards, the exported weights, and
held-out scenes with their truth.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hypervision import create_model
from pipeline.config import Config
from pipeline.mask_evidence import mask_evidence
from pretrain.evidence import gather_evidence
from pretrain.probe import ProbeScene
from pseudolabel.comparison import METHODS, SHARES, cut_to, fit_of, method_trees
from pseudolabel.descriptors import features_of
from pseudolabel.metrics import achievable_accuracy
from sharding.errors import InputError
from sharding.ingest import cube_paths
from sharding.manifest import SampleRef, open_manifest
from sharding.records import Body, Unit, commit, find_records, fingerprint, read_record
from sharding.sample import Array
from sharding.stage import RunOptions, StageResult, pending
from sharding.store import open_cube

LOGIC = 2


def truth(workdir: Path, dataset: str, scene: str) -> tuple[Array, Array] | None:
    """(instances, materials) of a generated scene, or None where there is no truth."""
    folder = workdir / "corpus" / dataset / "truth"
    paths = [folder / f"{scene}_{kind}.png" for kind in ("instances", "materials")]
    if not all(path.is_file() for path in paths):
        return None
    first, second = (np.asarray(Image.open(path)).astype(np.int64) for path in paths)
    return first, second


def label_scores(ref: SampleRef, instances: Array, materials: Array, config: Config) -> dict[str, list[float]]:
    """Scores of each method on one tile at 1.0 and 1.5 times the true number of regions."""
    meta = ref.meta()
    good = np.flatnonzero(~np.asarray(meta["bad_band"], bool))
    valid = ref.picture("valid") != 0
    wl_C = np.array(meta["wavelength_nm"])[good]
    fusion = config.pseudolabel.fusion
    features = features_of(ref.bands(meta, good), wl_C, ref.picture("rgb"), valid, denoise=fusion.denoise)
    spatial, spectral = (ref.picture(name).astype(np.int32) for name in ("spatial", "spectral"))
    scores = {}
    for method, (tree, snap_by) in method_trees(spatial, spectral, features, fusion).items():
        row = []
        for share in SHARES:
            labels = cut_to(tree, snap_by, round(share * int(instances.max())), fusion.snap_pixels)
            fit = fit_of(labels, instances)
            row += [fit["ASA"], achievable_accuracy(labels, materials), fit["recall"], fit["precision"]]
        scores[method] = row
    return scores


def label_evidence(config: Config) -> dict[str, Any]:
    """Mean scores per method over some tiles of every training dataset, and per-tile wins of fused."""
    found: list[dict[str, list[float]]] = []
    for dataset in config.training_datasets:
        for ref in open_manifest(config.work / "shards", [dataset])[: config.evidence.label_scenes]:
            known = truth(config.work, dataset, ref.meta()["scene"])
            if known is not None and "spatial.png" in ref.members:
                found.append(label_scores(ref, *known, config))
    if not found:
        raise InputError("no labelled tile has truth and kept sources; set pseudolabel.keep_sources=true")
    names = [f"{score} at {share:g} x" for share in SHARES for score in ("ASA", "material ASA", "recall", "precision")]
    mean = {method: np.mean([row[method] for row in found], 0).tolist() for method in METHODS}
    return {
        "tiles": len(found),
        "scores": {method: dict(zip(names, values, strict=True)) for method, values in mean.items()},
        "won": {m: float(np.mean([row["fused"][0] > row[m][0] for row in found])) for m in METHODS[:-1]},
    }


def probe_scenes(config: Config) -> tuple[list[ProbeScene], list[ProbeScene], list[str]]:
    """(scenes that teach the probe, scenes that test it, sensors never trained on)."""
    rows = {dataset.name: dataset.row or dataset.name for dataset in config.datasets}
    seen = {rows[name] for name in config.training_datasets}
    train: list[ProbeScene] = []
    test: list[ProbeScene] = []
    for dataset in config.datasets:
        if dataset.train:
            continue
        folder = config.work / "cubes" / f"{dataset.name}.records"
        scenes = [path.stem for path in find_records(folder) if read_record(path).done]
        loaded = [_probe_scene(config.work, dataset.name, rows[dataset.name], scene) for scene in scenes]
        split = config.evidence.probe_train_scenes
        train += loaded[:split] if rows[dataset.name] in seen else []
        test += loaded[split:]
    return train, test, sorted({rows[d.name] for d in config.datasets} - seen)


def _probe_scene(workdir: Path, dataset: str, sensor: str, scene: str) -> ProbeScene:
    cube = open_cube(cube_paths(workdir, dataset, scene)[0])
    known = truth(workdir, dataset, scene)
    if known is None:
        raise InputError(f"{workdir / 'corpus' / dataset / 'truth'} has no truth for {scene}; delete corpus/ and rerun")
    good = cube.good_band
    pixels = cube.window().physical(good)
    return ProbeScene(sensor, pixels, cube.wavelength_nm[good], float(cube.attrs["gsd_m"]), *known, cube.maximum)


def evidence(config: Config, options: RunOptions) -> StageResult:
    """Compute and commit `evidence.json` of the run."""
    started = time.perf_counter()
    export = read_record(config.run_folder / "export.json")
    fields = {"logic": LOGIC, **asdict(config.evidence), "fusion": asdict(config.pseudolabel.fusion)}
    corpora = [read_record(path).sha256 for path in find_records(config.work / "corpus")]
    inputs = fingerprint([export.sha256, corpora])
    data = config.run_folder / "evidence.json"
    unit = Unit("evidence", config.pretrain.run, data, config.run_folder / "evidence.record.json", inputs, fields)

    def write(temporary: Path) -> Body:
        model = create_model(config.model.name, config.run_folder / "export" / "model.safetensors")
        train, test, unseen = probe_scenes(config)
        probes = gather_evidence(model, train, test, unseen, config.seed)
        found: dict[str, Any] = {
            "labels": label_evidence(config),
            "probes": asdict(probes) | {"margins": probes.margins, "solved": probes.solved},
        }
        found["masks"] = mask_evidence(model, test, unseen) if config.pretrain.objective.masks else None
        found["probes"]["unseen_sensors"] = unseen
        temporary.write_text(json.dumps(found, indent=1) + "\n")
        return Body({"train_scenes": len(train), "test_scenes": len(test)})

    todo = pending([unit], RunOptions(overwrite=True, retry_failed=options.retry_failed))
    for one in todo:
        commit(one, write)
    record = read_record(unit.record)
    return StageResult("evidence", data, 1, len(todo), record.bytes, time.perf_counter() - started)
