"""From sample references to a training batch: two band-views per image, masks per token, prompts.

Everything random is drawn from (seed, epoch, sample), never from a worker's state, so a batch is the same on any
number of workers and ranks and after any restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.views import VIEWS, View, apply_view
from hypervision import match_bands
from pretrain.config import SampleConfig
from sharding.errors import InputError
from sharding.order import keyed_rng
from sharding.sample import SATURATED
from sharding.shards import SampleRef

Array = NDArray[Any]
VIEWS_PER_IMAGE = 2
# A patch darker than this share of the mean has no spectrum; a hidden band counts as at most this times brighter.
DARK = 0.01
BRIGHTEST = 4.0


@dataclass
class Batch:
    """A padded batch of B views (two of each image, side by side).

    Shapes: cube [B, C, H, W], coverage [B, M, h, w] share of each token inside each mask, material [B, M] with -1
    for padding, masks [B, P, H, W] of the prompted masks, points [B, P, 2] and boxes [B, P, 4] in pixels, and
    prompted [B, P] where a prompt is real; hidden [B, T, h, w] the bands at hidden_nm [B, T] that the view does
    not hold, relative to it (see `hidden_spectra`), NaN where there is nothing to tell.
    """

    keys: list[str]
    refs: list[SampleRef]
    views: list[View]
    cube: Tensor
    wavelength_nm: list[list[float]]
    gsd_m: list[float]
    coverage: Tensor
    material: Tensor
    masks: Tensor
    points: Tensor
    boxes: Tensor
    prompted: Tensor
    hidden: Tensor
    hidden_nm: Tensor
    visible: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**{**vars(self), **moved})


def choose_bands(good: Array, wl_C: Array, count: int, window: bool, rng: np.random.Generator) -> Array:
    """`count` bands without replacement, one from each of `count` equal parts of the spectrum, in its order.

    With `window` they come from one contiguous part of it. All good bands if there are no more than `count`.
    """
    ordered = good[np.argsort(wl_C[good], kind="stable")]
    if window and len(ordered) > count:
        span = int(rng.integers(count, len(ordered) + 1))
        start = int(rng.integers(0, len(ordered) - span + 1))
        ordered = ordered[start : start + span]
    if len(ordered) <= count:
        return ordered
    edges = np.linspace(0, len(ordered), count + 1).astype(int)
    return ordered[[int(rng.integers(a, b)) for a, b in pairwise(edges)]]


def visible_bands(good: Array, wl_C: Array, count: int, window: bool, rng: np.random.Generator) -> Array:
    """`choose_bands`, but never a choice of which the model sees no band at all.

    Fewer than 20 bands meet the point kernels alone, and those leave gaps (960-1240 nm, for one): such a choice
    is drawn again over the whole spectrum, then all bands are taken.
    """
    chosen = choose_bands(good, wl_C, count, window, rng)
    for attempt in (chosen, choose_bands(good, wl_C, count, False, rng), good):
        try:
            match_bands(tuple(wl_C[attempt].tolist()))
            return attempt
        except ValueError:
            continue
    raise InputError(f"the model sees no band of a camera of {wl_C.min():g}-{wl_C.max():g} nm; leave its dataset out")


def token_coverage(labels: Array, ids: Array, patch: int) -> Array:
    """Share of every patch that lies in each mask: [len(ids), H / patch, W / patch]."""
    height, width = labels.shape
    same = labels[None] == ids[:, None, None]
    tiles = same.reshape(len(ids), height // patch, patch, width // patch, patch)
    return np.asarray(tiles.mean((2, 4)), np.float32)


def hidden_spectra(seen_CHW: Array, hidden_THW: Array, patch: int, saturated_HW: Array) -> Array:
    """Patch means of hidden bands over the patch mean of the seen ones, minus 1: [T, h, w].

    NaN in the dark, and where a pixel is saturated, whose spectrum is not the scene's.

    The same division that the model makes at its input, so what is asked for does not depend on brightness.
    """
    height, width = seen_CHW.shape[1:]

    def patch_mean(image_CHW: Array) -> Array:
        tiles = image_CHW.reshape(len(image_CHW), height // patch, patch, width // patch, patch)
        return np.asarray(tiles.mean((2, 4)))

    base_hw = patch_mean(seen_CHW.mean(0, keepdims=True))[0]
    lit_hw = base_hw > DARK * max(float(np.abs(base_hw).mean()), 1e-20)
    lit_hw &= patch_mean(saturated_HW[None].astype(np.float32))[0] == 0
    relative = patch_mean(hidden_THW) / np.where(lit_hw, base_hw, 1.0) - 1
    return np.where(lit_hw, np.clip(relative, -1, BRIGHTEST), np.nan).astype(np.float32)


def _prompts(labels: Array, ids: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """(masks, a point inside each, a jittered box around each) of some masks."""
    height, width = labels.shape
    chosen = rng.permutation(ids)[:count]
    masks, points, boxes = [], [], []
    for index in chosen:
        mask = labels == index
        ys, xs = np.nonzero(mask)
        at = int(rng.integers(len(ys)))
        low, high = np.array([xs.min(), ys.min()]), np.array([xs.max(), ys.max()])
        jitter = rng.normal(0, 0.1, 4) * np.tile(high - low + 1, 2)
        box = np.clip(np.concatenate([low, high]) + np.clip(jitter, -20, 20), 0, np.tile([width - 1, height - 1], 2))
        masks.append(mask)
        points.append([xs[at], ys[at]])
        boxes.append(box)
    return np.array(masks).reshape(-1, height, width), np.array(points, np.float32), np.array(boxes, np.float32)


def _view(
    ref: SampleRef,
    meta: dict[str, Any],
    pictures: tuple[Array, Array],
    number: int,
    key: tuple[int, int],
    config: SampleConfig,
    patch: int,
) -> dict[str, Any]:
    rng = keyed_rng("view", *key, ref.dataset, ref.key, number)
    wl_C = np.asarray(meta["wavelength_nm"], float)
    good = np.flatnonzero(~np.asarray(meta["bad_band"], bool))
    count = int(rng.integers(config.bands_min, config.bands_max + 1))
    bands = visible_bands(good, wl_C, count, bool(rng.random() < config.window_share), rng)
    view = VIEWS[int(rng.integers(len(VIEWS)))] if config.flip else View.IDENTITY
    instances, quality = pictures
    hidden = np.sort(rng.permutation(np.setdiff1d(good, bands))[: config.hidden])
    frames = apply_view(ref.bands(meta, np.concatenate([bands, hidden])) * (quality != 0), view, 2)
    cube, unseen = frames[: len(bands)], frames[len(bands) :]
    return {
        "cube": cube, "wl": wl_C[bands].tolist(), "view": view, "labels": apply_view(instances, view, 1), "rng": rng,
        "hidden": hidden_spectra(cube, unseen, patch, apply_view(quality == SATURATED, view, 1)),
        "hidden_nm": wl_C[hidden],
    }  # fmt: skip


def make_batch(
    refs: Sequence[SampleRef], seed: int, epoch: int, config: SampleConfig, patch: int, public: bool = False
) -> Batch:
    """Read and assemble the views of some samples.

    `patch` is the student's token side in pixels; `public` its input mode, for which cubes are divided by the maximum
    of their scene.
    """
    rows: list[dict[str, Any]] = []
    for ref in refs:
        meta = ref.meta()
        kinds = np.array([0] + [row["material"] for row in meta["masks"]])
        pictures = (ref.picture("instances").astype(np.int64), ref.picture("valid"))
        for number in range(VIEWS_PER_IMAGE):
            row = _view(ref, meta, pictures, number, (seed, epoch), config, patch)
            if public:
                row["cube"] = row["cube"] / np.float32(meta["scene_max"])
            row |= {"ref": ref, "gsd": float(meta["gsd_m"]), "visible": meta["covers_visible"]}
            ids = np.array([m["id"] for m in meta["masks"] if m["pixels"] >= patch * patch], np.int64)
            row["ids"] = np.sort(row["rng"].permutation(ids)[: config.max_masks])
            row["kinds"] = kinds[row["ids"]]
            row["coverage"] = token_coverage(row["labels"], row["ids"], patch)
            row["prompts"] = _prompts(row["labels"], row["ids"], config.prompts, row["rng"])
            rows.append(row)
    return _collate(rows, config)


def _collate(rows: list[dict[str, Any]], config: SampleConfig) -> Batch:
    height, width = rows[0]["labels"].shape
    bands = max(len(row["wl"]) for row in rows)
    grid = rows[0]["coverage"].shape[1:]
    size = len(rows)
    cube = np.zeros((size, bands, height, width), np.float32)
    coverage = np.zeros((size, config.max_masks, *grid), np.float32)
    material = np.full((size, config.max_masks), -1, np.int64)
    masks = np.zeros((size, config.prompts, height, width), np.float32)
    points, boxes = np.zeros((size, config.prompts, 2), np.float32), np.zeros((size, config.prompts, 4), np.float32)
    prompted = np.zeros((size, config.prompts), bool)
    hidden = np.full((size, config.hidden, *grid), np.nan, np.float32)
    hidden_nm = np.zeros((size, config.hidden), np.float32)
    for i, row in enumerate(rows):
        cube[i, : len(row["wl"])] = row["cube"]
        count = len(row["hidden"])
        hidden[i, :count], hidden_nm[i, :count] = row["hidden"], row["hidden_nm"]
        count = len(row["ids"])
        coverage[i, :count], material[i, :count] = row["coverage"], row["kinds"]
        found, at, around = row["prompts"]
        count = len(found)
        if count:
            masks[i, :count], points[i, :count], boxes[i, :count] = found, at, around
            prompted[i, :count] = True
    return Batch(
        [row["ref"].key for row in rows], [row["ref"] for row in rows], [row["view"] for row in rows],
        torch.from_numpy(cube), [row["wl"] for row in rows], [row["gsd"] for row in rows],
        torch.from_numpy(coverage), torch.from_numpy(material), torch.from_numpy(masks),
        torch.from_numpy(points), torch.from_numpy(boxes), torch.from_numpy(prompted),
        torch.from_numpy(hidden), torch.from_numpy(hidden_nm),
        torch.tensor([row["visible"] for row in rows], dtype=torch.float32),
    )  # fmt: skip
