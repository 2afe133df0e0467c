"""What pre-training is compared with: spectra without a net, and a net of the same size that only saw the labels.

PCA of spectra    shape spectra on one grid (zero where a camera does not look), 30 principal components, the probe
range-matched     spectra of training sensors that look where the unseen one does, at its bands; a probe per sensor
supervised        the student from scratch, cross-entropy on the labelled patches of the probe and on nothing else
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypervision import HyperModel
from pretrain.data import visible_bands
from pretrain.probe import (
    Array,
    Patches,
    ProbeScene,
    by_sensor,
    feature_maps,
    fit_linear,
    old_and_new,
    on_final_grid,
    pool,
    pooled_scores,
    probe_stride,
    pure_patches,
)

GRID_NM = np.arange(400.0, 1701.0, 10.0)
COMPONENTS = 30
COVERED = 0.95  # share of an unseen sensor's range that a training sensor must cover to be matched with it
STEPS, IMAGES, BANDS, PEAK_LR = 300, 8, (20, 40), 3e-3


def shape_spectra(scene: ProbeScene, patch: int) -> Patches:
    """The mean spectrum of each pure patch over its own mean, minus 1: the division that the student's input has."""
    index, material, instance = pure_patches(scene.instances, scene.materials, patch)
    bands, height, width = scene.cube_CHW.shape
    h, w = height // patch, width // patch
    tiles = scene.cube_CHW[:, : h * patch, : w * patch].reshape(bands, h, patch, w, patch)
    mean_NC = tiles.mean((2, 4)).reshape(bands, -1).T[index]
    shape = mean_NC / np.maximum(mean_NC.mean(1, keepdims=True), 1e-12) - 1
    return Patches(scene.sensor, shape, material, instance, index)


def at_bands(patches: Patches, wl_C: Array, target_nm: Array) -> Patches:
    """Spectra interpolated to other wavelengths; zero where the camera does not look."""
    order = np.argsort(wl_C)
    axis = wl_C[order]
    rows = [np.interp(target_nm, axis, row[order], left=0.0, right=0.0) for row in patches.feature]
    return replace(patches, feature=np.array(rows, np.float32).reshape(len(rows), len(target_nm)))


def pca_spectra(scenes: Sequence[ProbeScene], patch: int, basis: tuple[Array, Array] | None = None) -> list[Patches]:
    """Spectra on the grid, projected on a (mean, components) basis if there is one."""
    found = [at_bands(shape_spectra(scene, patch), scene.wl_C, GRID_NM) for scene in scenes]
    if basis is None:
        return found
    mean, parts = basis
    return [replace(one, feature=(one.feature - mean) @ parts.T) for one in found]


def principal_basis(patches: Sequence[Patches]) -> tuple[Array, Array]:
    """Mean and first principal components of patches."""
    every = np.concatenate([one.feature for one in patches])
    mean = every.mean(0)
    _, _, parts = np.linalg.svd(every - mean, full_matrices=False)
    return mean, parts[:COMPONENTS]


def pca_scores(
    train: Sequence[ProbeScene], test: Sequence[ProbeScene], unseen: Sequence[str], patch: int, seed: int
) -> dict[str, float]:
    """Pooled and few-label scores of principal components of spectra."""
    basis = principal_basis(pca_spectra(train, patch))
    return pooled_scores(pca_spectra(train, patch, basis), pca_spectra(test, patch, basis), unseen, seed)


def matched_scores(
    train: Sequence[ProbeScene], test: Sequence[ProbeScene], unseen: Sequence[str], patch: int, seed: int
) -> dict[str, float]:
    """The pooled score on unseen sensors of spectra cut to the range of each; empty if no training sensor covers it."""
    scores: dict[str, float] = {}
    for sensor in unseen:
        own = [scene for scene in test if scene.sensor == sensor]
        target = np.sort(own[0].wl_C)
        fitting = [scene for scene in train if _covers(scene.wl_C, target)]
        if not fitting:
            continue
        teach = [at_bands(shape_spectra(scene, patch), scene.wl_C, target) for scene in fitting]
        asked = [at_bands(shape_spectra(scene, patch), scene.wl_C, target) for scene in own]
        # Divided once more: what a camera sees beyond the target's range must not count in the mean.
        teach, asked = [_centred(one) for one in teach], [_centred(one) for one in asked]
        classes = int(max(one.material.max() for one in [*teach, *asked])) + 1
        scores |= by_sensor(fit_linear(*pool(teach, seed), classes), asked)
    return old_and_new("pooled", scores, unseen) if len(scores) == len(unseen) else {}


def _covers(wl_C: Array, target_nm: Array) -> bool:
    low, high = max(wl_C.min(), target_nm.min()), min(wl_C.max(), target_nm.max())
    return bool(high - low >= COVERED * (target_nm.max() - target_nm.min()))


def _centred(patches: Patches) -> Patches:
    whole = patches.feature + 1
    return replace(patches, feature=whole / np.maximum(whole.mean(1, keepdims=True), 1e-6) - 1)


def labelled_tokens(scenes: Sequence[ProbeScene], patch: int, seed: int, per_class: int) -> list[dict[int, int]]:
    """{token: material} of each scene: the patches that the pooled probe of this seed is taught with."""
    named = []
    for number, scene in enumerate(scenes):
        index, material, instance = pure_patches(scene.instances, scene.materials, patch)
        place = np.stack([np.full(len(index), number), index], 1)
        named.append(Patches(scene.sensor, place, material, instance, index))
    chosen, label = pool(named, seed, per_class)
    told: list[dict[int, int]] = [{} for _ in scenes]
    for (number, token), kind in zip(chosen.tolist(), label.tolist(), strict=True):
        told[number][token] = kind
    return told


class Supervised:
    """A student with a linear head on its last tap, trained on labelled tokens alone, with the bands of training."""

    def __init__(self, model: HyperModel, classes: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.where = next(model.parameters()).device
        self.model, self.head = model.train(), nn.Linear(model.size.embed_dim, classes).to(self.where)
        self.rng = np.random.default_rng([seed, 5])

    def fit(self, scenes: Sequence[ProbeScene], told: Sequence[dict[int, int]], steps: int = STEPS) -> None:
        """AdamW with a cosine, some labelled scenes a step, a random choice of bands and a flip of each."""
        weights = [*self.model.parameters(), *self.head.parameters()]
        solver = torch.optim.AdamW(weights, PEAK_LR, (0.9, 0.95), weight_decay=0.05)
        usable = [number for number, labels in enumerate(told) if labels]
        for step in range(steps):
            for group in solver.param_groups:
                group["lr"] = PEAK_LR * min((step + 1) / 15, 0.5 * (1 + math.cos(math.pi * step / steps)))
            loss = self._loss(scenes, told, self.rng.choice(usable, min(IMAGES, len(usable)), replace=False))
            solver.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            solver.step()

    def _loss(self, scenes: Sequence[ProbeScene], told: Sequence[dict[int, int]], numbers: Array) -> Tensor:
        cube = np.zeros((len(numbers), BANDS[1], *scenes[0].cube_CHW.shape[1:]), np.float32)
        flips = self.rng.integers(2, size=len(numbers))
        axes: list[list[float]] = []
        for row, scene in enumerate(scenes[number] for number in numbers):
            count, narrow = int(self.rng.integers(BANDS[0], BANDS[1] + 1)), bool(self.rng.random() < 0.5)
            bands = self._bands(scene.wl_C, count, narrow)
            cube[row, : len(bands)] = scene.cube_CHW[bands, :, ::-1] if flips[row] else scene.cube_CHW[bands]
            axes.append(scene.wl_C[bands].tolist())
        tap = self.model.encode(
            torch.from_numpy(cube).to(self.where), axes, [scenes[number].gsd_m for number in numbers]
        )[-2]
        tap = torch.stack([one.flip(-1) if flip else one for one, flip in zip(tap, flips, strict=True)])
        logits = self.head(tap.flatten(2).transpose(1, 2))
        rows = [(row, token, kind) for row, n in enumerate(numbers) for token, kind in told[n].items()]
        at_row, at_token, kinds = torch.tensor(rows, device=self.where).T
        return F.cross_entropy(logits[at_row, at_token], kinds)

    def _bands(self, wl_C: Array, count: int, narrow: bool) -> Array:
        rule = self.model.size.embedding
        return visible_bands(np.arange(len(wl_C)), wl_C, count, narrow, self.rng, rule)[: BANDS[1]]

    def scores(self, name: str, test: Sequence[ProbeScene], unseen: Sequence[str]) -> dict[str, float]:
        """Mean accuracy over materials on training and unseen sensors."""
        found = []
        for sensor in sorted({scene.sensor for scene in test}):
            own = [scene for scene in test if scene.sensor == sensor]
            for scene, maps in zip(own, feature_maps(self.model.eval(), own), strict=True):
                index, material, instance = pure_patches(scene.instances, scene.materials, probe_stride(self.model))
                found.append(Patches(sensor, on_final_grid(maps)["final"][index], material, instance, index))
        weight, bias = (one.detach().cpu().numpy() for one in (self.head.weight, self.head.bias))
        return old_and_new(name, by_sensor(lambda f: np.asarray((f @ weight.T + bias).argmax(1)), found), unseen)
