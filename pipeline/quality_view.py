"""What the labels of each dataset are worth: a table, `quality.json` and a contact sheet beside its shards."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from skimage.segmentation import mark_boundaries

from pipeline.console import console, short_path, table
from pipeline.report import paint_labels, save_figure
from pseudolabel.comparison import SCORES
from pseudolabel.quality import SOURCES, add_up, summary
from sharding.manifest import SampleRef, read_shard
from sharding.records import find_records, read_record, write_atomic

SHOWN, ACROSS = 12, 4
TRIED = 64
"""Tiles of a scene that are looked at to choose those that are shown."""


def report_quality(workdir: Path, datasets: Sequence[str], anew: bool) -> None:
    """Write the reports that are missing, or all of them `anew`, and print the table."""
    rows, scored = [], []
    for dataset in datasets:
        folder = workdir / "shards" / dataset
        path = folder / "quality.json"
        if anew or not _is_report(path):
            total = add_up(_parts(folder))
            if not total:
                continue
            told = summary(total)
            write_atomic(path, (json.dumps(told, indent=1) + "\n").encode())
            contact_sheet(folder, dataset, told)
        told = json.loads(path.read_text())
        rows.append(_row(dataset, told))
        scored += _scored(dataset, told)
    if not anew or not rows:
        return
    columns = ["dataset", "scenes", "valid pixels in tiles", "tiles less than half valid", "masks",
               *(f"from {name}" for name in SOURCES), "unlabelled", "agreement", "mean confidence"]  # fmt: skip
    table("Quality of the labels", columns, rows)
    if scored:
        columns = ["dataset", "scenes", "masks", "ASA", "UE", "boundary recall", "precision"]
        table("Against the truth, at 1.5 x its count of regions", columns, scored)
    where = f"{short_path(workdir / 'shards')}/<dataset>/quality.json, quality.png"
    console.print(f"reports and contact sheets: {where}", highlight=False)


def _is_report(path: Path) -> bool:
    """Whether there is a report with all that this version tells."""
    return path.is_file() and "valid_share" in json.loads(path.read_text())


def _parts(folder: Path) -> Any:
    for path in find_records(folder):
        quality = read_record(path).extra.get("quality")
        if quality:
            yield quality


def _row(dataset: str, told: dict[str, Any]) -> list[str]:
    shares = [f"{told['by_source'][name] / max(told['masks'], 1):.0%}" for name in SOURCES]
    return [
        dataset, str(told["scenes"]), f"{told['valid_share']:.0%}", f"{told['tiles_below_half']} of {told['tiles']}",
        str(told["masks"]), *shares, f"{told['unlabelled']:.1%}", f"{told['agreement']:.2f}",
        f"{told['mean_score']:.2f}",
    ]  # fmt: skip


def _scored(dataset: str, told: dict[str, Any]) -> list[list[str]]:
    """A line per method, if there is a truth."""
    if not told["scenes_with_truth"]:
        return []
    count = str(told["scenes_with_truth"])
    return [
        [dataset, count, method, *(f"{row[f'{score} at 1.5 x']:.3f}" for score in SCORES)]
        for method, row in told["truth"].items()
    ]


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places, evenly spread over `count`."""
    places = {round(index * (count - 1) / max(wanted - 1, 1)) for index in range(wanted)} if count else set()
    return sorted(places)


def _scenes(refs: Sequence[SampleRef]) -> list[list[SampleRef]]:
    """Samples by their scene: the key less the place of the tile."""
    return [list(tiles) for _, tiles in groupby(refs, lambda ref: re.sub(r"-y\d+-x\d+$", "", ref.key))]


def _filled(tiles: Sequence[SampleRef]) -> list[int]:
    """Labelled pixels of each tile of a scene; valid ones where none is labelled."""
    labelled = [sum(mask["pixels"] for mask in ref.meta()["masks"]) for ref in tiles]
    return labelled if any(labelled) else [int((ref.picture("valid") > 0).sum()) for ref in tiles]


def _fullest(tiles: Sequence[SampleRef], wanted: int) -> list[SampleRef]:
    """The fullest tile of each of so many stretches of a scene, the fullest first; none below half of that one."""
    tiles = [tiles[place] for place in _spread(len(tiles), TRIED)]
    filled = _filled(tiles)
    stretches = pairwise(round(part * len(tiles) / wanted) for part in range(wanted + 1))
    best = [max(range(start, end), key=filled.__getitem__) for start, end in stretches if end > start]
    best.sort(key=lambda place: -filled[place])
    return [tiles[place] for place in best if 2 * filled[place] >= filled[best[0]]]


def sheet_samples(folder: Path, dataset: str) -> list[SampleRef]:
    """Up to twelve samples with something on them, from scenes evenly spread over a dataset's shards."""
    paths = list(find_records(folder))
    shards = [read_shard(dataset, paths[place]) for place in _spread(len(paths), SHOWN)]
    scenes = [tiles for shard in shards if shard is not None for tiles in _scenes(shard.refs())]
    scenes = [scenes[place] for place in _spread(len(scenes), SHOWN)]
    each = -(-SHOWN // max(len(scenes), 1))
    ranked = [
        (rank, number, ref) for number, tiles in enumerate(scenes) for rank, ref in enumerate(_fullest(tiles, each))
    ]
    ranked.sort(key=lambda row: row[:2])  # every scene has its fullest before any has a second one
    shown = sorted(ranked[:SHOWN], key=lambda row: (row[1], row[2].key))
    return [ref for _, _, ref in shown]


def contact_sheet(folder: Path, dataset: str, told: dict[str, Any]) -> None:
    """Sizes and sources of the masks, and samples: the picture with the masks' borders, and their materials."""
    refs = sheet_samples(folder, dataset)
    if not refs:
        return
    rows = -(-2 * len(refs) // ACROSS)
    figure = plt.figure(figsize=(10, 2.2 + 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, ACROSS, height_ratios=[0.8] + [1] * rows)
    sizes, kinds = figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[0, 2:])
    sizes.bar([name.removeprefix(">= ").removesuffix(" px") for name in told["by_size"]], told["by_size"].values())
    sizes.set_title(f"{dataset}: masks by size, from ... pixels", fontsize=8)
    kinds.barh(list(told["by_source"]), list(told["by_source"].values()))
    kinds.set_title(f"masks by source; {told['unlabelled']:.1%} of the pixels unlabelled", fontsize=8)
    for axis in (sizes, kinds):
        axis.tick_params(labelsize=7)
    for index, ref in enumerate(refs):
        masks, rgb = ref.picture("instances"), ref.picture("rgb")
        pictures = (mark_boundaries(rgb, masks.astype(int), color=(1, 1, 0)), paint_labels(ref.picture("materials"), 7))
        for part, picture in enumerate(pictures):
            axis = figure.add_subplot(grid[1 + (2 * index + part) // ACROSS, (2 * index + part) % ACROSS])
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
            axis.set_title(ref.key.removeprefix(f"{dataset}-") if part == 0 else "materials", fontsize=6)
    save_figure(figure, folder / "quality.png")
