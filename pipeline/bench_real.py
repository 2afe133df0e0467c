"""`hypervision bench real`: trained weights against doing without, on labelled scenes of one's own.

For every held-out dataset of a recipe (`train: false`) that has label maps, and every scene of it: a few labelled
pixels a class from one half, a linear probe, the other half scored (`pretrain.few_labels`). Rows: the weights that are
given, the strongest untrained net of the same size, rough and smooth, and spectra without a net.
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
from hypervision.checkpoint import read_options
from pipeline.config import Config
from pipeline.console import console, table
from pipeline.stages import run_stage
from pretrain.evidence import random_nets
from pretrain.few_labels import TAPS, Draw, draws, pixel_features, score, spectra_rows
from pretrain.heldout import ingested, labelled_part
from pretrain.probe import ProbeScene
from sharding.errors import ConfigError, InputError
from sharding.records import write_atomic
from sharding.stage import RunOptions


@dataclass
class Real:
    """Accuracies of the draws by scene and row, classes of each draw, and which untrained net was the strongest."""

    shots: int
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # scene: row: draws
    classes: dict[str, list[int]] = field(default_factory=dict)
    of_classes: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, list[int]] = field(default_factory=dict)  # that test, of each draw
    source: dict[str, dict[str, str]] = field(default_factory=dict)  # scene: row: net and tap


def load_model(name: str, path: Path) -> HyperModel:
    """Exported or public weights; the name of an export is in the card beside it.

    Raises:
        ConfigError: no such file, or weights that are not this model's.
    """
    if not path.is_file():
        raise ConfigError(f"no weights at {path}: give the model.safetensors of an export, or a public .pth")
    about = path.with_suffix(".json")
    known = json.loads(about.read_text()).get("name", name) if about.is_file() else name
    try:
        options: dict[str, Any] = {} if read_options(path) else {"input_mode": "public"}
        return create_model(known, path, **options).eval()
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; model.name={known}") from error


def labelled_scenes(config: Config) -> list[tuple[str, ProbeScene]]:
    """Every held-out scene with a label map, whole.

    Raises:
        InputError: there is none.
    """
    found = []
    for dataset in (one.name for one in config.datasets if not one.train):
        for scene, cube in ingested(config.work, dataset).items():
            labels = cube.labels()
            if labels is not None:
                found.append((f"{dataset}/{scene}", labelled_part(cube, dataset, labels * cube.valid())))
    if not found:
        raise InputError(
            "no dataset with `train: false` has a label map pixel on pixel over its cubes; name one with `truth:` in "
            "the recipe, or as a companion in its row"
        )
    return found


@dataclass(frozen=True)
class _Task:
    """One scene and how it is asked."""

    scene: ProbeScene
    drawn: Sequence[Draw]
    pixels: int
    seed: int
    tick: Callable[[], None]

    def scores(self, model: HyperModel) -> dict[str, list[float]]:
        """The draws for each tap of a net."""
        found = pixel_features(model, self.scene, self.pixels)
        self.tick()
        return {tap: self.score(found[tap]) for tap in TAPS}

    def score(self, feature_ND: Any) -> list[float]:
        """The draws for some features."""
        return score(feature_ND, self.scene.materials, self.drawn)


def _strongest(model: HyperModel, task: _Task, smooth: bool) -> tuple[str, list[float]]:
    """The best of twelve untrained forms of a model, and its draws."""
    best: tuple[str, list[float]] = ("", [-1.0])
    for name, net in random_nets(model, task.seed, smooth).items():
        for tap, found in task.scores(net).items():
            best = max(best, (f"{name}, {tap}", found), key=lambda one: float(np.mean(one[1])))
    return best


def _first_of_kind(models: dict[str, HyperModel]) -> list[str]:
    """The first of the models of each name and size: what untrained nets are made like."""
    first: dict[Any, str] = {}
    for label, model in models.items():
        first.setdefault((model.name, model.size), label)
    return list(first.values())


def _one_scene(told: Real, name: str, task: _Task, models: dict[str, HyperModel]) -> None:
    rows: dict[str, list[float]] = {}
    kinds_HW = task.scene.materials
    told.scores[name], told.source[name] = rows, {}
    told.of_classes[name] = len(np.unique(kinds_HW[kinds_HW > 0]))
    told.pixels[name] = [len(one.test) for one in task.drawn]
    told.classes[name] = [len(np.unique(kinds_HW.ravel()[one.test])) for one in task.drawn]
    for label, model in models.items():
        rows |= {f"{label}, {tap}": found for tap, found in task.scores(model).items()}
    first = _first_of_kind(models)
    for label in first:
        for kind in ("random", "random, smooth"):
            row = kind if len(first) == 1 else f"{kind} ({label})"
            told.source[name][row], rows[row] = _strongest(models[label], task, kind != "random")
    rows |= {row: task.score(feature) for row, feature in spectra_rows(task.scene).items()}


def bench_real(
    config: Config, weights: dict[str, Path], shots: int, count: int, pixels: int, options: RunOptions
) -> Real:
    """Ingest what is missing, and score everything on everything; kept as `<workdir>/real.json`.

    Raises:
        ConfigError: weights that cannot be used, or no two classes with so many pixels in a half.
        InputError: no labelled scene.
    """
    models = {name: load_model(config.model.name, path) for name, path in weights.items()}
    for model in models.values():
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    run_stage("ingest", config, options)
    told, scenes = Real(shots), labelled_scenes(config)
    total, done = len(scenes) * (len(models) + 8 * len(_first_of_kind(models))), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if options.progress:
            options.progress("nets", done, total, 0)

    for name, scene in scenes:
        try:
            drawn = draws(scene.materials, shots, count, config.seed)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}; set --shots") from error
        _one_scene(told, name, _Task(scene, drawn, pixels, config.seed, tick), models)
    write_atomic(config.work / "real.json", as_json(told).encode())
    return told


def as_json(told: Real) -> str:
    """Every draw, for programs."""
    return json.dumps(vars(told), indent=1) + "\n"


def show(told: Real) -> None:
    """Print a table with a column per scene."""
    rows = []
    for row in next(iter(told.scores.values())):
        cells = [f"{np.mean(one[row]):.3f} ± {np.std(one[row]):.3f}" for one in told.scores.values()]
        rows.append([row, *cells])
    count = len(next(iter(next(iter(told.scores.values())).values())))
    title = (
        f"{told.shots} labelled pixels a class from one half, mean accuracy over classes of the other, {count} draws"
    )
    heads = [
        f"{name}, {min(found)}-{max(found)} of {told.of_classes[name]} classes, {min(told.pixels[name])} pixels a draw"
        for name, found in told.classes.items()
    ]
    table(title, ["features", *heads], rows)
    for name, source in told.source.items():
        for row, what in source.items():
            console.print(f"{name}: {row} is {what}", style="dim")
