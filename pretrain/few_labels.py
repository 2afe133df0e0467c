"""A labelled scene, a few labelled pixels a class from one half of each class, scored on the other half.

What a backbone is worth on a real scene, where labels are few and neighbours alike: labels come from one half, the
other half is classified pixel by pixel, so that few are scored beside what was told. Every class is cut where half of
its pixels lie, so that both sides hold it; draws take the halves in turn (left, right, upper, lower). All features get
the same pixels and the same linear probe.

A token is much larger than a pixel of a scene from far away, so cubes are enlarged until it covers few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from hypervision import HyperModel
from pretrain.baselines import COMPONENTS
from pretrain.probe import ProbeScene, feature_maps, fit_linear, macro_accuracy, probe_stride, with_concat

Array = NDArray[Any]
NEIGHBOURS = 5  # side of the mean of spectra that nets, which see neighbours, are compared with
TAPS = ("final", "embedding", "concat")


@dataclass(frozen=True)
class Draw:
    """Numbers of the pixels that teach, and of those that test."""

    teach: Array
    test: Array


def draws(labels_HW: Array, shots: int, count: int, seed: int) -> list[Draw]:
    """So many labelled pixels a class from a half of it, and all of the other half; classes with enough of them.

    Raises:
        ValueError: no half has two classes that can be taught and asked.
    """
    flat = labels_HW.ravel()
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        inside = halves(labels_HW, number).ravel()
        kinds = [
            kind for kind in np.unique(flat[flat > 0])
            if ((flat == kind) & inside).sum() >= shots and ((flat == kind) & ~inside).any()
        ]  # fmt: skip
        if len(kinds) > 1:
            own = [rng.choice(np.flatnonzero((flat == kind) & inside), shots, replace=False) for kind in kinds]
            found.append(Draw(np.concatenate(own), np.flatnonzero(np.isin(flat, kinds) & ~inside)))
    if not found:
        raise ValueError(f"no two classes of the scene have {shots} pixels in one half and some in the other")
    return found


def halves(labels_HW: Array, number: int) -> Array:
    """The pixels that may teach: of each class the half that lies left, right, above or below, in turn: [H, W]."""
    rows, cols = np.mgrid[: labels_HW.shape[0], : labels_HW.shape[1]]
    place = (cols, -cols, rows, -rows)[number % 4].ravel()
    inside = np.zeros(labels_HW.size, bool)
    for kind in np.unique(labels_HW[labels_HW > 0]):
        own = np.flatnonzero(labels_HW.ravel() == kind)
        inside[own[np.argsort(place[own], kind="stable")[: len(own) // 2]]] = True
    return inside.reshape(labels_HW.shape)


def score(feature_ND: Array, labels_HW: Array, drawn: Sequence[Draw]) -> list[float]:
    """Mean accuracy over classes of a linear probe, for each draw."""
    flat = labels_HW.ravel().astype(np.int64)
    found = []
    for one in drawn:
        predict = fit_linear(feature_ND[one.teach], flat[one.teach], int(flat.max()) + 1)
        found.append(macro_accuracy(predict(feature_ND[one.test]), flat[one.test]))
    return found


def pixel_features(model: HyperModel, scene: ProbeScene, pixels: int = 2) -> dict[str, Array]:
    """Features [H * W, D] of every pixel from each tap ("concat": embedding and last tap side by side).

    The scene is enlarged until a side of a token of the last tap covers so many `pixels` of it, and cut into windows of
    the model's own size, the last ones moved inwards.
    """
    side = model.size.image_size
    zoom = max(1, probe_stride(model) // pixels)
    near = max(side // zoom, 1)
    height, width = scene.cube_CHW.shape[1:]
    cube = np.pad(scene.cube_CHW, ((0, 0), (0, max(near - height, 0)), (0, max(near - width, 0))), mode="symmetric")
    scene = replace(scene, maximum=float(scene.cube_CHW.max()))
    found: dict[str, Array] = {}
    for y in _starts(cube.shape[1], near):
        for x in _starts(cube.shape[2], near):
            for tap, map_DHW in _window(model, scene, cube[:, y : y + near, x : x + near], zoom).items():
                whole = found.setdefault(tap, np.zeros((map_DHW.shape[0], *cube.shape[1:]), np.float32))
                whole[:, y : y + near, x : x + near] = map_DHW
    found = {tap: np.ascontiguousarray(one[:, :height, :width].reshape(len(one), -1).T) for tap, one in found.items()}
    return with_concat(found)


def _starts(length: int, side: int) -> list[int]:
    return sorted({*range(0, length - side + 1, side), length - side})


def _window(model: HyperModel, scene: ProbeScene, cube_CHW: Array, zoom: int) -> dict[str, Array]:
    """Feature maps of a window, enlarged, encoded, and brought back to its pixels: [D, H, W] per tap."""
    height, width = cube_CHW.shape[1:]
    near = torch.from_numpy(np.ascontiguousarray(cube_CHW, np.float32))[None]
    large, patch = F.interpolate(near, scale_factor=zoom, mode="bilinear"), model.size.patch_size
    large = F.pad(large, (0, -large.shape[3] % patch, 0, -large.shape[2] % patch), mode="replicate")[0]
    window = replace(scene, cube_CHW=large.numpy(), gsd_m=scene.gsd_m / zoom)
    strides = {"embedding": model.feature_info[0].stride, "final": probe_stride(model)}
    features = {}
    for tap, map_Dhw in feature_maps(model, [window])[0].items():
        size = [count * strides[tap] // zoom for count in map_Dhw.shape[1:]]
        map_1DHW = F.interpolate(torch.from_numpy(map_Dhw)[None], size=size, mode="bilinear")
        features[tap] = map_1DHW[0, :, :height, :width].numpy()
    return features


def spectra_rows(scene: ProbeScene) -> dict[str, Array]:
    """What needs no net: the spectra as they are, over their own mean, of a neighbourhood, and in principal components
    of all pixels (of which the last hold noise, and count as much as the first in a probe that scales its input).
    """

    def shaped(cube_CHW: Array) -> Array:
        mean = cube_CHW.mean(0)
        return np.asarray(cube_CHW / np.maximum(mean, 1e-4 * max(float(np.abs(mean).mean()), 1e-20)) - 1)

    near = uniform_filter(scene.cube_CHW.astype(np.float32), (0, NEIGHBOURS, NEIGHBOURS), mode="reflect")
    shape_NC = _by_pixel(shaped(scene.cube_CHW))
    return {
        "spectra": _by_pixel(scene.cube_CHW),
        "shape spectra": shape_NC,
        "shape spectra, components": _principal(shape_NC),
        f"shape spectra, mean of {NEIGHBOURS} x {NEIGHBOURS}": _by_pixel(shaped(near)),
    }


def _by_pixel(cube_CHW: Array) -> Array:
    return np.ascontiguousarray(cube_CHW.reshape(len(cube_CHW), -1).T, np.float32)


def _principal(spectrum_NC: Array) -> Array:
    """The first principal components of all pixels: [N, components]."""
    pixel_NC = spectrum_NC.astype(np.float64) - spectrum_NC.mean(0, dtype=np.float64)
    _, parts = np.linalg.eigh(pixel_NC.T @ pixel_NC)
    return np.asarray(pixel_NC @ parts[:, ::-1][:, :COMPONENTS], np.float32)
