"""The probe while training: a linear classifier on frozen tokens of held-out scenes that have a label map.

For every dataset of the recipe with `train: false` that was ingested with labels: one window of each of its first
scenes, the one with the most labelled pixels; the probe learns on every other scene and is scored on the rest
(one scene: its left and right half). What it says steers nothing; it tells whether a run is worth going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hypervision import HyperModel
from pretrain.logs import BASIS, PROBE, SOLVED, UNTRAINED
from pretrain.probe import Array, Patches, ProbeScene, fit_linear, macro_accuracy, pool, scene_features
from sharding.ingest import cube_paths
from sharding.records import find_records, read_record
from sharding.store import Cube, open_cube


def best_window(labels_HW: Array, side: int) -> tuple[slice, slice]:
    """The window of a grid of this side with the most labelled pixels; whole axes where they are shorter."""
    height, width = labels_HW.shape
    places = [
        (slice(y, min(y + side, height)), slice(x, min(x + side, width)))
        for y in range(0, max(height - side, 0) + 1, side)
        for x in range(0, max(width - side, 0) + 1, side)
    ]
    return max(places, key=lambda place: int((labels_HW[place] > 0).sum()))


def labelled_window(cube: Cube, dataset: str, side: int, stride: int) -> ProbeScene | None:
    """The window of a scene that is probed, or None where nothing is labelled."""
    labels = cube.labels()
    if labels is None:
        return None
    labels = labels * cube.valid()
    rows, cols = best_window(labels, side)
    height, width = ((place.stop - place.start) // stride * stride for place in (rows, cols))
    if not height or not width:
        return None
    rows, cols = slice(rows.start, rows.start + height), slice(cols.start, cols.start + width)
    scene = labelled_part(cube, dataset, labels, rows, cols)
    return scene if (scene.materials > 0).any() else None


def labelled_part(
    cube: Cube, dataset: str, labels_HW: Array, rows: slice = slice(None), cols: slice = slice(None)
) -> ProbeScene:
    """A window of a scene with its labels and the maximum of the scene; what is not valid is zero."""
    kinds, good = labels_HW[rows, cols], cube.good_band
    pixels_CHW = np.asarray(cube.window(rows, cols).physical(good) * cube.valid(rows, cols), np.float32)
    gsd_m = float(cube.attrs["gsd_m"])
    return ProbeScene(dataset, pixels_CHW, cube.wavelength_nm[good], gsd_m, kinds, kinds, cube.maximum)


def ingested(workdir: Path, dataset: str, scenes: int | None = None) -> dict[str, Cube]:
    """The first scenes of a dataset that were ingested (None = all of them), unread."""
    paths = sorted(find_records(workdir / "cubes" / f"{dataset}.records"))
    done = [path.stem for path in paths if read_record(path).done][:scenes]
    return {scene: open_cube(cube_paths(workdir, dataset, scene)[0]) for scene in done}


def held_out(
    workdir: Path, datasets: Sequence[str], side: int, stride: int, scenes: int
) -> dict[str, list[ProbeScene]]:
    """The windows of each dataset that has labels, cut to whole tokens of a stride; read once and kept."""
    found = {}
    for dataset in datasets:
        cubes = ingested(workdir, dataset, scenes)
        windows = [labelled_window(cube, dataset, side, stride) for cube in cubes.values()]
        if labelled := [window for window in windows if window is not None]:
            found[dataset] = labelled
    return found


@dataclass(frozen=True)
class HeldOutScore:
    """Mean accuracy over classes of a probe; the patches it was scored on, and how many of the labelled classes."""

    accuracy: float
    patches: int
    classes: int
    of_classes: int

    @property
    def basis(self) -> str:
        """What the accuracy rests on, for people."""
        return f"{self.patches} patches, {self.classes} of {self.of_classes} classes"


def _chosen(patches: Patches, keep_N: Array) -> Patches:
    fields = ("feature", "material", "instance", "place")
    return replace(patches, **{name: getattr(patches, name)[keep_N] for name in fields})


def scene_sides(classes: Sequence[set[int]]) -> list[bool]:
    """Which scenes teach: each goes where it brings more classes that are not there yet, else to the smaller side."""
    there: dict[bool, set[int]] = {True: set(), False: set()}
    sides: list[bool] = []
    for own in classes:
        gain = len(own - there[True]) - len(own - there[False])
        teaches = gain > 0 or (gain == 0 and sides.count(True) <= sides.count(False))
        there[teaches] |= own
        sides.append(teaches)
    return sides


def halves(patches: Patches, columns: int) -> Array:
    """Which patches of a scene lie in the left half of their own class, so that both sides hold each: [N] booleans."""
    column = patches.place % columns
    left_N = np.zeros(len(column), bool)
    for kind in np.unique(patches.material):
        own = np.flatnonzero(patches.material == kind)
        left_N[own[np.argsort(column[own], kind="stable")[: len(own) // 2]]] = True
    return left_N


def teach_and_test(scenes: Sequence[Patches], columns: Sequence[int]) -> tuple[list[Patches], list[Patches]]:
    """Labelled patches on two sides: whole scenes, and where that leaves a class on one side alone its halves.

    `columns` are those of the token grid of each scene.
    """
    sides = scene_sides([set(scene.material.tolist()) for scene in scenes])
    on_side: dict[bool, set[int]] = {True: set(), False: set()}
    for scene, side in zip(scenes, sides, strict=True):
        on_side[side] |= set(scene.material.tolist())
    both = list(on_side[True] & on_side[False])
    teach, test = [], []
    for scene, side, width in zip(scenes, sides, columns, strict=True):
        teaches = np.where(np.isin(scene.material, both), side, halves(scene, width))
        teach.append(_chosen(scene, teaches))
        test.append(_chosen(scene, ~teaches))
    return teach, test


def probe_row(scores: dict[str, HeldOutScore], untrained: dict[str, HeldOutScore]) -> dict[str, Any]:
    """Scores for a row of metrics; `mean` is of the datasets that the untrained net does not solve."""
    row: dict[str, Any] = {}
    for name, score in scores.items():
        row[PROBE + name] = round(score.accuracy, 4)
        row[UNTRAINED + name] = round(untrained[name].accuracy, 4)
        row[BASIS + name] = score.basis
    told_apart = [name for name in scores if untrained[name].accuracy < SOLVED]
    for prefix, of_net in ((PROBE, scores), (UNTRAINED, untrained)):
        if told_apart:
            row[prefix + "mean"] = round(float(np.mean([of_net[name].accuracy for name in told_apart])), 4)
    return row


def probe_held_out(model: HyperModel, scenes: dict[str, list[ProbeScene]]) -> dict[str, HeldOutScore]:
    """The score of each dataset; one without two classes to learn has none."""
    scores = {}
    for dataset, windows in scenes.items():
        patches = [scene_features(model, [window])["final"][0] for window in windows]
        labelled = [_chosen(own, own.material > 0) for own in patches]
        every = np.unique(np.concatenate([window.materials[window.materials > 0] for window in windows]))
        columns = [model.feature_info[-2].grid(window.materials.shape)[1] for window in windows]
        score = _score(*teach_and_test(labelled, columns), len(every))
        if score is not None:
            scores[dataset] = score
    return scores


def _score(teach: Sequence[Patches], test: Sequence[Patches], of_classes: int) -> HeldOutScore | None:
    """Train the probe on one side and ask the other; None without two classes on both."""
    asked = np.concatenate([patches.material for patches in test])
    known = np.intersect1d(np.concatenate([patches.material for patches in teach]), asked)
    if len(known) < 2:
        return None
    taught = [_chosen(patches, np.isin(patches.material, known)) for patches in teach]
    feature, label = pool([patches for patches in taught if len(patches.material)], 0)
    keep = np.isin(asked, known)
    tokens = np.concatenate([patches.feature for patches in test])[keep]
    accuracy = macro_accuracy(fit_linear(feature, label, int(known.max()) + 1)(tokens), asked[keep])
    return HeldOutScore(accuracy, int(keep.sum()), len(known), of_classes)
