"""Evidence that training works: probes of the frozen net against the strongest untrained one of its size.

A falling loss proves nothing. The same input, labels and probes are given to untrained nets: small and unit kernels,
position on and off, the last tap, the embedding, and both together; the best of them, per score, is the bar. A score
that an untrained net solves (`SOLVED`) tells nothing of training, and is left out where runs are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from hypervision import HyperModel, create_model
from pretrain.logs import SOLVED
from pretrain.probe import (
    Patches,
    ProbeScene,
    in_scene_scores,
    probe_scores,
    probe_stride,
    scene_features,
    spectra_features,
    tested_in_scene,
)
from pretrain.student import smooth_kernels


def random_nets(model: HyperModel, seed: int, smooth: bool = False) -> dict[str, HyperModel]:
    """Untrained nets like a model, where it is: small and unit kernels (smooth or not), position on and off."""
    nets, options, where = {}, asdict(model.size), next(model.parameters()).device
    for kernels in ("small", "unit"):
        for position in (True, False):
            torch.manual_seed(seed)
            net = create_model(model.name, **options)
            encoder = net.image_encoder
            with torch.no_grad():
                if kernels == "unit":
                    encoder.point_spectral_weight_bank_w.normal_()
                    encoder.block_spectral_weight_bank_w.normal_()
                if smooth:
                    smooth_kernels(net)
                if not position:
                    for parameter in encoder.pos_embed_mlp.layers[-1].parameters():
                        parameter.zero_()
            nets[f"{kernels} kernels{'' if position else ', no position'}"] = net.to(where)
    return nets


@dataclass
class Evidence:
    """Scores of the trained net, of the strongest random net for each score, and of spectra where they apply; what each
    score rests on.
    """

    trained: dict[str, float]
    random: dict[str, float]
    random_from: dict[str, str]
    spectra: dict[str, float]
    basis: dict[str, str]

    @property
    def margins(self) -> dict[str, float]:
        """Trained minus strongest random."""
        return {name: self.trained[name] - self.random[name] for name in self.trained}

    @property
    def solved(self) -> list[str]:
        """Scores that an untrained net solves."""
        return [name for name, score in self.random.items() if score >= SOLVED]


def score_basis(test: Sequence[Patches], unseen: Sequence[str], materials: int) -> dict[str, str]:
    """What each score is computed from, in words; `materials` is how many the truth has."""
    basis = {}
    for kind in ("training", "unseen"):
        scenes = [scene for scene in test if (scene.sensor in unseen) == (kind == "unseen")]
        tested = {"in-scene": [tested_in_scene(scene) for scene in scenes],
                  "pooled": [np.ones(len(scene.material), bool) for scene in scenes]}  # fmt: skip
        tested["few labels"] = tested["pooled"]
        for name, masks in tested.items():
            kinds = {k for scene, mask in zip(scenes, masks, strict=True) for k in scene.material[mask].tolist()}
            patches = sum(int(mask.sum()) for mask in masks)
            basis[f"{name}, {kind} sensors"] = f"{patches} patches, {len(kinds)} of {materials} classes"
    return basis


def net_scores(
    net: HyperModel,
    train: Sequence[ProbeScene],
    test: Sequence[ProbeScene],
    unseen: Sequence[str],
    seed: int,
    taps: Sequence[str] = ("final",),
) -> dict[str, dict[str, float]]:
    """The scores of each tap of a net."""
    first, second = scene_features(net, train, taps), scene_features(net, test, taps)
    return {tap: probe_scores(first[tap], second[tap], unseen, seed) for tap in taps}


def strongest_random(
    model: HyperModel,
    train: Sequence[ProbeScene],
    test: Sequence[ProbeScene],
    unseen: Sequence[str],
    seed: int,
    smooth: bool = False,
) -> tuple[dict[str, float], dict[str, str]]:
    """For each score the best of twelve untrained forms of a model, and which it was."""
    bar: dict[str, float] = {}
    source: dict[str, str] = {}
    for name, net in random_nets(model, seed, smooth).items():
        for tap, found in net_scores(net, train, test, unseen, seed, ("final", "embedding", "concat")).items():
            for key, value in found.items():
                if value > bar.get(key, -1.0):
                    bar[key], source[key] = value, f"{name}, {tap}"
    return bar, source


def gather_evidence(
    model: HyperModel, train: Sequence[ProbeScene], test: Sequence[ProbeScene], unseen: Sequence[str], seed: int
) -> Evidence:
    """Run the protocol on held-out scenes; `unseen` names the sensors that training never saw."""
    own = net_scores(model.eval(), train, test, unseen, seed)["final"]
    bar, source = strongest_random(model, train, test, unseen, seed)
    patches = spectra_features(test, probe_stride(model))
    materials = len(np.unique(np.concatenate([scene.materials.ravel() for scene in test])))
    basis = score_basis(patches, unseen, materials)
    return Evidence(own, bar, source, in_scene_scores(patches, unseen, seed), {name: basis[name] for name in own})
