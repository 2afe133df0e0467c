"""Masks from clicks and boxes on scenes that training never saw, against their truth and beside trivial answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hypervision import HyperModel
from pretrain.mask_scores import MaskScores, score_picture, summary
from pretrain.probe import ProbeScene, model_input
from sharding.render import render_rgb


@torch.no_grad()
def scene_scores(model: HyperModel, scene: ProbeScene) -> list[MaskScores]:
    """Scores of the largest things in a scene."""
    wl = tuple(scene.wl_C.tolist())
    neck = model.encode(model_input(model, [scene]), wl, [scene.gsd_m])[-1]
    rgb_HW3, _ = render_rgb(scene.cube_CHW, scene.wl_C, np.ones(scene.instances.shape, bool))
    return score_picture(model, neck, scene.instances, rgb_HW3)


def mask_evidence(model: HyperModel, scenes: Sequence[ProbeScene], unseen: Sequence[str]) -> dict[str, Any]:
    """A summary for sensors that were trained on, and one for those that were not."""
    scores: dict[str, list[MaskScores]] = {"training sensors": [], "unseen sensors": []}
    for scene in scenes:
        scores["unseen sensors" if scene.sensor in unseen else "training sensors"] += scene_scores(model, scene)
    return {kind: summary(rows) for kind, rows in scores.items() if rows}
