"""The probe while training: a linear classifier on frozen tokens of held-out scenes that have a label map.

For every dataset of the recipe with `train: false` that was ingested with labels: one window of each of its first
scenes, the one with the most labelled pixels; the probe learns on every other scene and is scored on the rest
(one scene: its left and right half). What it says steers nothing; it tells whether a run is worth going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hypervision import HyperModel
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


def labelled_window(cube: Cube, dataset: str, side: int, patch: int) -> ProbeScene | None:
    """The window of a scene that is probed, or None where nothing is labelled."""
    labels = cube.labels()
    if labels is None:
        return None
    labels = labels * cube.valid()
    rows, cols = best_window(labels, side)
    height, width = ((place.stop - place.start) // patch * patch for place in (rows, cols))
    if not height or not width:
        return None
    rows, cols = slice(rows.start, rows.start + height), slice(cols.start, cols.start + width)
    scene = labelled_part(cube, dataset, labels, rows, cols)
    return scene if (scene.materials > 0).any() else None


def labelled_part(
    cube: Cube, dataset: str, labels_HW: Array, rows: slice = slice(None), cols: slice = slice(None)
) -> ProbeScene:
    """A window of a scene with its labels; what is not valid is zero."""
    kinds, good = labels_HW[rows, cols], cube.good_band
    pixels_CHW = np.asarray(cube.window(rows, cols).physical(good) * cube.valid(rows, cols), np.float32)
    return ProbeScene(dataset, pixels_CHW, cube.wavelength_nm[good], float(cube.attrs["gsd_m"]), kinds, kinds)


def ingested(workdir: Path, dataset: str, scenes: int | None = None) -> dict[str, Cube]:
    """The first scenes of a dataset that were ingested (None = all of them), unread."""
    paths = sorted(find_records(workdir / "cubes" / f"{dataset}.records"))
    done = [path.stem for path in paths if read_record(path).done][:scenes]
    return {scene: open_cube(cube_paths(workdir, dataset, scene)[0]) for scene in done}


def held_out(workdir: Path, datasets: Sequence[str], side: int, patch: int, scenes: int) -> dict[str, list[ProbeScene]]:
    """The windows of each dataset that has labels; read once and kept."""
    found = {}
    for dataset in datasets:
        cubes = ingested(workdir, dataset, scenes)
        windows = [one for cube in cubes.values() if (one := labelled_window(cube, dataset, side, patch)) is not None]
        if windows:
            found[dataset] = windows
    return found


def _halves(patches: Patches, grid_width: int) -> tuple[Patches, Patches]:
    """The patches of the left and of the right half of a scene."""
    left = patches.place % grid_width < grid_width // 2
    return _some(patches, left), _some(patches, ~left)


def _some(patches: Patches, keep: Array) -> Patches:
    fields = ("feature", "material", "instance", "place")
    return replace(patches, **{name: getattr(patches, name)[keep] for name in fields})


def probe_held_out(model: HyperModel, scenes: dict[str, list[ProbeScene]]) -> dict[str, float]:
    """Mean accuracy over classes for each dataset, and `mean`; a dataset without two classes to learn has no score."""
    scores = {}
    for dataset, windows in scenes.items():
        found = [scene_features(model, [window])["final"][0] for window in windows]
        found = [some for patches in found if len((some := _some(patches, patches.material > 0)).material)]
        if not found:
            continue
        if len(found) > 1:
            teach, test = found[::2], found[1::2]
        else:
            first, second = _halves(found[0], windows[0].materials.shape[1] // model.size.patch_size)
            teach, test = [first], [second]
        feature, label = pool(teach, 0)
        known = np.unique(label)
        asked = np.concatenate([patches.material for patches in test])
        tokens = np.concatenate([patches.feature for patches in test])[np.isin(asked, known)]
        asked = asked[np.isin(asked, known)]
        if len(known) > 1 and len(asked):
            scores[dataset] = macro_accuracy(fit_linear(feature, label, int(known.max()) + 1)(tokens), asked)
    return {**scores, **({"mean": float(np.mean(list(scores.values())))} if scores else {})}
