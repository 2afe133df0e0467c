"""`hypervision bench learning`: does pre-training teach something, and which part of it does.

For every seed a corpus of its own (materials, scenes, starting weights), labelled by the recipe; on it one run per row
of the table, and what the rows are compared with. Everything is kept below the folder, a second call makes only what
is missing:

    <folder>/seed-<n>/runs/<row>/               a run like any other
    <folder>/seed-<n>/runs/<row>/scores.json    its scores on held-out scenes
    <folder>/seed-<n>/learning/scores.json      those of what it is compared with
    <folder>/learning.json, learning.png        the table
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypervision import HyperModel, create_model
from pipeline.config import Config, load_config
from pipeline.console import console, table
from pipeline.evidence import probe_scenes
from pipeline.learning_picture import draw
from pipeline.stages import run_stage
from pretrain.baselines import Supervised, labelled_tokens, matched_scores, pca_scores, shape_spectra
from pretrain.config import TERMS, ObjectiveConfig
from pretrain.evidence import net_scores, strongest_random
from pretrain.logs import read_metrics
from pretrain.probe import (
    FEW,
    PER_CLASS,
    ProbeScene,
    in_scene_scores,
    probe_stride,
)
from sharding.records import Body, Unit, commit, find_records, fingerprint, read_record, write_atomic
from sharding.stage import RunOptions, pending

LOGIC = 2
WEIGHTS = ObjectiveConfig()
ALONE = {
    term: [f"pretrain.objective.{other}={getattr(WEIGHTS, term) if other == term else 0}" for other in TERMS]
    for term in TERMS
}
SENSORS = ("training", "unseen")
ROWS: dict[str, list[str]] = {
    "all": [],
    "all-smooth": ["model.kernels=smooth", "pretrain.layer_decay=0.6"],
    "all-even": ["model.kernels=even"],
    **{f"{term}-alone": words for term, words in ALONE.items()},
    "ids-shuffled": ["pretrain.sample.shuffle_materials=true"],
}
SCORES = tuple(f"{score}, {kind} sensors" for score in ("in-scene", "few labels", "pooled") for kind in SENSORS)
# Open choices of the objective, each changed alone; not among the rows unless they are asked for.
CHOICES: dict[str, list[str]] = {
    "temperature-0.05": ["pretrain.objective.temperature=0.05"],
    "temperature-0.2": ["pretrain.objective.temperature=0.2"],
    "contrast-0.5": ["pretrain.objective.contrast=0.5"],
    "spectra-1.0": ["pretrain.objective.spectra=1.0"],
    "pool-0": ["pretrain.objective.pool_power=0"],
    "pool-1": ["pretrain.objective.pool_power=1"],
    "bands-10-28": ["pretrain.sample.bands_min=10", "pretrain.sample.bands_max=28"],
}
# What `all` must hold over the strongest random start: mean over the seeds, and each seed (the trial's margins).
MARGINS = {
    "in-scene, training sensors": (0.10, 0.05),
    "in-scene, unseen sensors": (0.05, 0.0),
    "pooled, unseen sensors": (0.06, 0.0),
    "pooled, training sensors": (-0.05, -0.10),
}
# Last 20 steps over the first 20; a term that does not fall has not been learned.
FALLS = {"contrast": 0.85, "masks": 0.85, "distil": 0.65, "spectra": 0.40}
TAIL = 20


@dataclass
class Learning:
    """Scores by row and seed, how far the losses of each row fell, and where the strongest random start came from."""

    seeds: list[int]
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # row: seed: score
    falls: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # row: seed: term
    unseen: list[str] = field(default_factory=list)

    def mean(self, row: str, score: str) -> tuple[float, float] | None:
        """Mean and standard deviation over the seeds, or None where a row has no such score."""
        found = [seed[score] for seed in self.scores.get(row, {}).values() if score in seed]
        return (float(np.mean(found)), float(np.std(found))) if found else None

    def margins(self, score: str, row: str = "all", over: str = "random") -> list[float]:
        """A row minus the strongest random start, seed by seed."""
        return [self.scores[row][str(s)][score] - self.scores[over][str(s)][score] for s in self.seeds]


def _config(recipe: str, words: Sequence[str], folder: Path, seed: int, row: str) -> Config:
    own = [f"workdir={folder / f'seed-{seed}'}", f"seed={seed}", f"corpus.seed={seed}", f"pretrain.run={row}"]
    return load_config(recipe, [*words, *own, *(ROWS | CHOICES)[row]])


def _kept(config: Config, folder: Path, inputs: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The scores in a folder, computed once for what they were made from."""
    path = folder / "scores.json"
    fields = {"logic": LOGIC, "probe_scenes": config.evidence.probe_train_scenes, "seed": config.seed}
    unit = Unit("learning", folder.name, path, path.with_suffix(".record.json"), inputs, fields)

    def write(temporary: Path) -> Body:
        temporary.write_text(json.dumps(make(), indent=1) + "\n")
        return Body({"rows": 1})

    folder.mkdir(parents=True, exist_ok=True)
    for one in pending([unit], RunOptions(overwrite=True)):
        commit(one, write)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def falls(run: Path) -> dict[str, float]:
    """For each term its mean over the last 20 steps over that of the first 20."""
    rows = read_metrics(run)
    means = {
        term: [float(np.mean([row[term] for row in part])) for part in (rows[:TAIL], rows[-TAIL:])]
        for term in TERMS
        if term in rows[-1]
    }
    return {term: last / first for term, (first, last) in means.items()}


def _comparisons(config: Config, scenes: tuple[list[ProbeScene], list[ProbeScene], list[str]]) -> dict[str, Any]:
    """Scores that need no pre-training: random starts, spectra, a net of the same size that sees labels only."""
    train, test, unseen = scenes
    net = _student(config)
    patch, seed = probe_stride(net), config.seed
    random, source = strongest_random(net, train, test, unseen, seed)
    smooth, smooth_from = strongest_random(net, train, test, unseen, seed, smooth=True)
    spectra = in_scene_scores([shape_spectra(scene, patch) for scene in test], unseen, seed)
    found: dict[str, Any] = {
        "random": random,
        "random-smooth": smooth,
        "from": {"random": source, "random-smooth": smooth_from},
        "spectra": spectra | pca_scores(train, test, unseen, patch, seed),
        "range-matched": matched_scores(train, test, unseen, patch, seed),
        "supervised": {},
    }
    classes = int(max(scene.materials.max() for scene in [*train, *test])) + 1
    for name, count in (("few labels", FEW), ("pooled", PER_CLASS)):
        learner = Supervised(_student(config), classes, seed)
        learner.fit(train, labelled_tokens(train, patch, seed, count), config.pretrain.steps)
        found["supervised"] |= learner.scores(name, test, unseen)
    return found


def _student(config: Config) -> HyperModel:
    net = create_model(config.model.name, input_mode=config.model.input_mode, **config.model.options)
    return net.to("cuda" if torch.cuda.is_available() else "cpu")


def _one_seed(recipe: str, words: Sequence[str], folder: Path, seed: int, rows: Sequence[str], told: Learning,
              options: RunOptions) -> None:  # fmt: skip
    config = _config(recipe, words, folder, seed, rows[0])
    config.check()
    from sharding.workers import ray_kept

    with ray_kept():
        for stage in ("corpus", "ingest", "pseudolabel"):
            run_stage(stage, config, options)
    scenes = probe_scenes(config)
    told.unseen = scenes[2]
    corpora = fingerprint([read_record(path).sha256 for path in find_records(config.work / "corpus")])
    against = _kept(config, config.work / "learning", corpora, lambda: _comparisons(config, scenes))
    for name in ("random", "random-smooth", "spectra", "range-matched", "supervised"):
        told.scores.setdefault(name, {})[str(seed)] = against[name]
    for row in rows:
        own = _config(recipe, words, folder, seed, row)
        run_stage("pretrain", own, options)
        run_stage("export", own, options)

        def score(own: Config = own) -> dict[str, Any]:
            model = create_model(own.model.name, own.run_folder / "export" / "model.safetensors").eval()
            model.to("cuda" if torch.cuda.is_available() else "cpu")
            return net_scores(model, *scenes, own.seed)["final"]

        exported = read_record(own.run_folder / "export.json").sha256
        told.scores.setdefault(row, {})[str(seed)] = _kept(own, own.run_folder, fingerprint([exported, corpora]), score)
        told.falls.setdefault(row, {})[str(seed)] = falls(own.run_folder)


def bench_learning(
    recipe: str, words: Sequence[str], folder: Path, seeds: Sequence[int], rows: Sequence[str], options: RunOptions
) -> Learning:
    """Run what is missing and put it side by side."""
    told = Learning(list(seeds))
    for seed in seeds:
        console.print(f"seed {seed}: {', '.join(rows)}", style="bold")
        _one_seed(recipe, words, folder.absolute(), seed, rows, told, options)
    write_atomic(folder / "learning.json", as_json(told).encode())
    draw(told, SCORES, folder / "learning.png")
    return told


def as_json(told: Learning) -> str:
    """Everything, for programs."""
    return json.dumps({**vars(told), "gates": gates(told)}, indent=1)


def gates(told: Learning) -> dict[str, dict[str, Any]]:
    """What must hold, what was found, and whether it does."""
    found: dict[str, dict[str, Any]] = {}
    for score, (mean, each) in MARGINS.items():
        margins = told.margins(score)
        holds = bool(np.mean(margins) >= mean and min(margins) >= each)
        found[score] = {"wanted": f"mean >= {mean:+.2f}, each >= {each:+.2f}", "seeds": margins, "holds": holds}
    for term, most in FALLS.items():
        ratios = [told.falls["all"][str(seed)][term] for seed in told.seeds if term in told.falls["all"][str(seed)]]
        if ratios:
            found[f"{term} falls"] = {"wanted": f"each <= {most:.2f}", "seeds": ratios, "holds": max(ratios) <= most}
    return found


def show(told: Learning) -> bool:
    """Print both tables; whether all gates hold."""
    rows = []
    for row in told.scores:
        means = [told.mean(row, score) for score in SCORES]
        rows.append([row, *("-" if one is None else f"{one[0]:.3f} ± {one[1]:.3f}" for one in means)])
    count = len(told.seeds)
    title = f"Frozen features on unseen scenes, {count} seeds, mean ± sd (never trained on: {', '.join(told.unseen)})"
    table(title, ["features", *SCORES], rows)
    judged = gates(told)
    rows = [
        [name, gate["wanted"], " ".join(f"{value:+.3f}" for value in gate["seeds"]),
         f"{np.mean(gate['seeds']):+.3f}", "yes" if gate["holds"] else "NO"]
        for name, gate in judged.items()
    ]  # fmt: skip
    title = "`all` over the strongest random start (small, unit kernels x position x tap), and its losses"
    table(title, ["score", "wanted", "seeds", "mean", "holds"], rows)
    rows = [
        [row, *(f"{float(np.mean(told.margins(score, row, 'random-smooth'))):+.3f}" for score in SCORES)]
        for row in ("all", "all-smooth", "all-even")
        if row in told.scores and "random-smooth" in told.scores
    ]
    title = "Over a smooth random start, which is stronger inside a scene (mean over seeds, nothing is wanted of it)"
    table(title, ["features", *SCORES], rows)
    held = all(gate["holds"] for gate in judged.values())
    failed = [name for name, gate in judged.items() if not gate["holds"]]
    console.print(
        "learning: every margin holds" if held else f"learning: NOT held: {', '.join(failed)}",
        style="bold green" if held else "bold red",
    )
    return held
