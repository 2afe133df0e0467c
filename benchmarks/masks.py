"""Automatic masks against SAM2's own generator: `python benchmarks/masks.py [--side 512] [--points 16] [--repeats 5]`.

SAM2 tiny at its 1024 px, random weights whose logits are spread, thresholds in the midst of what they give, so that
both keep the same masks; the picture is noise on a gradient. The encoder alone is told as well. Interleaved; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from hypervision.masks import MaskRule
from pseudolabel.config import Sam2Config
from pseudolabel.spatial import Sam2Masks


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds of one call, and what it gave."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    ours = Sam2Masks(Sam2Config("tiny", None, True, 1024, given.points, -1.0, -1.0), given.device)
    with torch.no_grad():
        for head in ours.model.sam_mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight.mul_(100)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, given.side)[:, None, None]
    pictures = [(ramp + rng.integers(0, 55, (given.side, given.side, 3))).astype(np.uint8) for _ in range(4)]
    ours.rule = MaskRule(given.points, 64, -1.0, -1.0, nms_iou=1.0)
    every = ours.generate(pictures[:1])[0]
    limits = (float(np.quantile(every.iou, 0.5)), float(np.quantile(every.stability, 0.5)))
    ours.rule = MaskRule(given.points, 64, *limits, nms_iou=1.0)
    package = SAM2AutomaticMaskGenerator(
        ours.model, points_per_side=given.points, pred_iou_thresh=limits[0], stability_score_thresh=limits[1],
        box_nms_thresh=1.0,
    )  # fmt: skip
    works: dict[str, Callable[[], object]] = {
        "encoder": lambda: ours.predictor.set_image(pictures[0]),
        "package": lambda: package.generate(pictures[0]),
        "ours, one": lambda: ours.generate(pictures[:1]),
        "ours, four": lambda: ours.generate(pictures),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    kept: dict[str, int] = {}
    for _ in range(given.repeats):
        for name, work in works.items():
            took, found = timed(work)
            seconds[name].append(took / (4 if name == "ours, four" else 1))
            if name == "package":
                kept[name] = len(found)  # type: ignore[arg-type]
            elif name == "ours, one":
                kept[name] = len(found[0])  # type: ignore[index]
    print(f"{given.side} px, {given.points}^2 points, {given.device}, torch {torch.__version__}; masks kept: {kept}")
    for name, took_all in seconds.items():
        print(
            f"{name:12s} {statistics.median(took_all):7.2f} s an image  ({' '.join(f'{one:.2f}' for one in took_all)})"
        )


if __name__ == "__main__":
    main()
