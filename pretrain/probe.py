"""Linear and few-label probes of a frozen net.

Scores, on scenes that training never saw:
    in-scene   3 labelled patches a material, all from ONE instance; scored on other instances only
    pooled     one linear probe on patches of the training sensors, carried unchanged to sensors never trained on
    few labels the same with 5 labelled patches a material and sensor in place of 50
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hypervision import HyperModel

Array = NDArray[Any]
PURITY = 0.75
SHOTS = 3
DRAWS = 5
PER_CLASS = 50
FEW = 5


@dataclass(frozen=True)
class ProbeScene:
    """A held-out scene with its truth: cube [C, H, W] of the good bands, their wavelengths, ids per pixel.

    `maximum` is what models of input mode "public" divide by, for a part of a scene; None = the cube's own.
    """

    sensor: str
    cube_CHW: Array
    wl_C: Array
    gsd_m: float
    instances: Array
    materials: Array
    maximum: float | None = None


@dataclass(frozen=True)
class Patches:
    """The pure patches of one scene: features [N, D]; material, instance and number in the grid of each."""

    sensor: str
    feature: Array
    material: Array
    instance: Array
    place: Array


def pure_patches(instances: Array, materials: Array, patch: int) -> tuple[Array, Array, Array]:
    """(indices, material, instance) of patches of which at least 75 % is one instance."""
    height, width = instances.shape[0] // patch, instances.shape[1] // patch
    tiles = instances[: height * patch, : width * patch].reshape(height, patch, width, patch)
    flat = tiles.transpose(0, 2, 1, 3).reshape(height * width, -1).astype(np.int64)
    kinds = dict(zip(instances.ravel().tolist(), materials.ravel().tolist(), strict=True))
    top = np.array([np.bincount(tile).argmax() for tile in flat])
    keep = np.flatnonzero((flat == top[:, None]).mean(1) >= PURITY)
    return keep, np.array([kinds[i] for i in top[keep]], np.int64), top[keep]


def probe_stride(model: HyperModel) -> int:
    """Side in pixels of what one probed feature stands for: a token of the last tap."""
    return model.feature_info[-2].stride


def model_input(model: HyperModel, scenes: Sequence[ProbeScene]) -> Tensor:
    """Cubes [B, C, H, W] as training gives them to a model: in mode "public" over the maximum of their scene."""
    cube_BCHW = torch.from_numpy(np.stack([scene.cube_CHW for scene in scenes])).to(next(model.parameters()).device)
    if model.size.input_mode == "public":
        own = [scene.cube_CHW.max() if scene.maximum is None else scene.maximum for scene in scenes]
        cube_BCHW = cube_BCHW / cube_BCHW.new_tensor(own).clamp_min(1e-20)[:, None, None, None]
    return cube_BCHW


@torch.inference_mode()
def feature_maps(model: HyperModel, scenes: Sequence[ProbeScene], batch: int = 8) -> list[dict[str, Array]]:
    """{"embedding", "final"} feature maps [D, h, w] of every scene, each at its own stride."""
    out: list[dict[str, Array]] = []
    for start in range(0, len(scenes), batch):
        group = scenes[start : start + batch]
        wl = tuple(group[0].wl_C.tolist())
        seen: list[Tensor] = []
        hook = model.image_encoder.blocks[0].register_forward_pre_hook(lambda _, given, to=seen: to.append(given[0]))
        final = model.encode(model_input(model, group), wl, [scene.gsd_m for scene in group])[-2]
        hook.remove()
        embedded = seen[0].permute(0, 3, 1, 2)
        out += [{"embedding": e.cpu().numpy(), "final": f.cpu().numpy()} for e, f in zip(embedded, final, strict=True)]
    return out


def on_final_grid(maps: dict[str, Array]) -> dict[str, Array]:
    """Both maps as features [N, D] of the tokens of the last tap.

    The embeddings that a merged token was made of stand side by side, as the merging layer reads them: a mean of them
    would smooth away noise that the net itself has to deal with.
    """
    embedding_Dhw, final_Dhw = maps["embedding"], maps["final"]
    rows, cols = final_Dhw.shape[1:]
    ratio = -(-embedding_Dhw.shape[1] // rows)
    over = [ratio * side - own for side, own in zip((rows, cols), embedding_Dhw.shape[1:], strict=True)]
    padded = np.pad(embedding_Dhw, ((0, 0), (0, over[0]), (0, over[1])))
    tiles = padded.reshape(len(padded), rows, ratio, cols, ratio).transpose(1, 3, 2, 4, 0)
    return {
        "embedding": np.ascontiguousarray(tiles.reshape(rows * cols, -1)),
        "final": np.ascontiguousarray(final_Dhw.reshape(len(final_Dhw), rows * cols).T),
    }


def with_concat(features: dict[str, Array]) -> dict[str, Array]:
    """The taps [N, D], and "concat": embedding and final side by side, each of unit deviation."""
    scaled = [features[name] / (features[name].std() + 1e-9) for name in ("embedding", "final")]
    return {**features, "concat": np.concatenate(scaled, 1)}


def scene_features(
    model: HyperModel, scenes: Sequence[ProbeScene], taps: Sequence[str] = ("final",)
) -> dict[str, list[Patches]]:
    """Pure patches of every scene for each tap; "concat" is embedding and final side by side."""
    by_sensor: dict[str, list[ProbeScene]] = {}
    for scene in scenes:
        by_sensor.setdefault(scene.sensor, []).append(scene)
    result: dict[str, list[Patches]] = {tap: [] for tap in taps}
    for group in by_sensor.values():
        for scene, maps in zip(group, feature_maps(model, group), strict=True):
            index, material, instance = pure_patches(scene.instances, scene.materials, probe_stride(model))
            both = with_concat(on_final_grid(maps))
            for tap in taps:
                result[tap].append(Patches(scene.sensor, both[tap][index], material, instance, index))
    return result


def tested_in_scene(scene: Patches) -> Array:
    """Which patches `in_scene` may ask: those of materials with two instances, if there are two such: [N] booleans."""
    kinds = [
        kind for kind in np.unique(scene.material)
        if len(np.unique(scene.instance[scene.material == kind])) > 1
    ]  # fmt: skip
    return np.isin(scene.material, kinds) if len(kinds) > 1 else np.zeros(len(scene.material), bool)


def in_scene(scenes: Sequence[Patches], seed: int) -> float:
    """Nearest-centroid accuracy over scenes: labels from one instance of each material, scored on its others."""
    scores = []
    for number, scene in enumerate(scenes):
        feature = scene.feature - scene.feature.mean(0)
        feature = feature / (scene.feature.std(0) + 1e-6)
        for draw in range(DRAWS):
            rng = np.random.default_rng([seed, number, draw])
            centroids, kinds, tested = [], [], np.zeros(len(feature), bool)
            for kind in np.unique(scene.material):
                owners = np.unique(scene.instance[scene.material == kind])
                if len(owners) < 2:
                    continue
                chosen = rng.choice(owners)
                labelled = rng.permutation(np.flatnonzero(scene.instance == chosen))[:SHOTS]
                centroids.append(feature[labelled].mean(0))
                kinds.append(kind)
                tested |= (scene.material == kind) & (scene.instance != chosen)
            if len(kinds) >= 2:
                distance = ((feature[tested][:, None] - np.stack(centroids)[None]) ** 2).sum(-1)
                scores.append(float((np.array(kinds)[distance.argmin(1)] == scene.material[tested]).mean()))
    return float(np.mean(scores))


def pool(scenes: Sequence[Patches], seed: int, per_class: int = PER_CLASS) -> tuple[Array, Array]:
    """So many patches a material and sensor, or all where there are fewer."""
    rng = np.random.default_rng([seed, 99])
    features, labels = [], []
    for sensor in sorted({scene.sensor for scene in scenes}):
        feature = np.concatenate([scene.feature for scene in scenes if scene.sensor == sensor])
        material = np.concatenate([scene.material for scene in scenes if scene.sensor == sensor])
        for kind in np.unique(material):
            picked = rng.permutation(np.flatnonzero(material == kind))[:per_class]
            features.append(feature[picked])
            labels.append(material[picked])
    return np.concatenate(features), np.concatenate(labels)


def fit_linear(feature: Array, label: Array, classes: int, decay: float = 1e-3) -> Callable[[Array], Array]:
    """A multinomial logistic probe on standardised features (L-BFGS); returns its prediction function."""
    mean, std = feature.mean(0), feature.std(0) + 1e-6
    x = torch.from_numpy(((feature - mean) / std).astype(np.float32))
    y = torch.from_numpy(label)
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + decay * weight.pow(2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    w, b = weight.detach().numpy(), bias.detach().numpy()
    return lambda f: np.asarray((((f - mean) / std) @ w.T + b).argmax(1))


def macro_accuracy(predicted: Array, label: Array) -> float:
    """Mean over materials of the share that is right."""
    return float(np.mean([(predicted[label == kind] == kind).mean() for kind in np.unique(label)]))


def by_sensor(predict: Callable[[Array], Array], test: Sequence[Patches]) -> dict[str, float]:
    """Mean accuracy over materials of a prediction function on each sensor."""
    scores = {}
    for sensor in sorted({scene.sensor for scene in test}):
        own = [scene for scene in test if scene.sensor == sensor]
        label = np.concatenate([scene.material for scene in own])
        scores[sensor] = macro_accuracy(predict(np.concatenate([scene.feature for scene in own])), label)
    return scores


def old_and_new(name: str, scores: dict[str, float], unseen: Sequence[str]) -> dict[str, float]:
    """Means over the sensors that were trained on and over those that were not; empty for none."""
    kinds = {"training": [v for k, v in scores.items() if k not in unseen]}
    kinds["unseen"] = [v for k, v in scores.items() if k in unseen]
    return {f"{name}, {kind} sensors": float(np.mean(values)) for kind, values in kinds.items() if values}


def in_scene_scores(test: Sequence[Patches], unseen: Sequence[str], seed: int) -> dict[str, float]:
    """`in_scene` on scenes of training and of unseen sensors."""
    old = [scene for scene in test if scene.sensor not in unseen]
    new = [scene for scene in test if scene.sensor in unseen]
    return {"in-scene, training sensors": in_scene(old, seed), "in-scene, unseen sensors": in_scene(new, seed)}


def pooled_scores(
    train: Sequence[Patches], test: Sequence[Patches], unseen: Sequence[str], seed: int
) -> dict[str, float]:
    """One linear probe for all sensors: on 50 labelled patches a material and sensor, and on a few (mean of draws)."""
    classes = int(max(scene.material.max() for scene in [*train, *test])) + 1
    scores = old_and_new("pooled", by_sensor(fit_linear(*pool(train, seed), classes), test), unseen)
    few = [
        old_and_new("few labels", by_sensor(fit_linear(*pool(train, seed + draw, FEW), classes), test), unseen)
        for draw in range(DRAWS)
    ]
    return scores | {name: float(np.mean([one[name] for one in few])) for name in few[0]}


def probe_scores(
    train: Sequence[Patches], test: Sequence[Patches], unseen: Sequence[str], seed: int
) -> dict[str, float]:
    """The scores of one set of features: in-scene and pooled, on training and unseen sensors."""
    return in_scene_scores(test, unseen, seed) | pooled_scores(train, test, unseen, seed)


def spectra_features(scenes: Sequence[ProbeScene], patch: int) -> list[Patches]:
    """For comparison: mean shape spectra of the patches themselves, L2-normalised (in-scene probe only)."""
    out = []
    for scene in scenes:
        index, material, instance = pure_patches(scene.instances, scene.materials, patch)
        cube = scene.cube_CHW
        height, width = cube.shape[1] // patch, cube.shape[2] // patch
        tiles = cube[:, : height * patch, : width * patch].reshape(len(cube), height, patch, width, patch)
        mean = tiles.mean((2, 4)).reshape(len(cube), -1).T
        mean = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        out.append(Patches(scene.sensor, mean[index], material, instance, index))
    return out
