"""From sample references to a training batch: two band-views per image, masks per token, prompts.

Everything random is drawn from (seed, visit, sample), never from a worker's state, so a batch is the same on any
number of workers and ranks and after any restart. What is drawn of the geometry is a view that teacher features
exist for, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.views import VIEWS, View, apply_view
from hypervision import FeatureInfo, HyperModel, is_visible
from pretrain.config import SampleConfig
from sharding.batches import choose_bands
from sharding.errors import InputError
from sharding.frames import Frames
from sharding.loader_worker import Plan
from sharding.manifest import SampleRef, SmallMembers
from sharding.order import keyed_rng
from sharding.ring import Layout
from sharding.sample import SATURATED

Array = NDArray[Any]
VIEWS_PER_IMAGE = 2
# A patch darker than this share of the mean has no spectrum; a hidden band counts as at most this times brighter.
DARK = 0.01
BRIGHTEST = 4.0


@dataclass
class Batch:
    """A padded batch of B views (two of each image, side by side; `indices` of the images in the manifest).

    Shapes: cube [B, C, H, W], coverage [B, M, h, w] share of each token of the neck inside each mask, material [B, M]
    with -1 for padding, masks [B, P, H, W] of the prompted masks, points [B, P, 2] and boxes [B, P, 4] in pixels, and
    prompted [B, P] where a prompt is real; hidden [B, T, h, w] for each token of the last tap the bands at
    hidden_nm [B, T] that the view does not hold, relative to it (see `hidden_spectra`), NaN where there is nothing
    to tell.
    """

    indices: list[int]
    keys: list[str]
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


@dataclass(frozen=True)
class StudentInput:
    """What the loader must know of the student: where labels and hidden bands are asked, and how cubes enter.

    `neck` and `tap` tell where the tokens of the neck and of the last tap lie; `public`: cubes are divided by the
    maximum of their scene; `rule`: how bands meet kernels.
    """

    neck: FeatureInfo
    tap: FeatureInfo
    public: bool
    rule: str

    @classmethod
    def of(cls, model: HyperModel) -> StudentInput:
        """As a model asks for it."""
        *_, tap, neck = model.feature_info
        return cls(neck, tap, model.size.input_mode == "public", model.size.embedding)


def visible_bands(
    good: Array, wl_C: Array, count: int, window: bool, rng: np.random.Generator, rule: str = "nearest"
) -> Array:
    """`choose_bands`, but never a choice of which the model sees no band at all.

    By rule "nearest" fewer than 20 bands meet the point kernels alone, and those leave gaps (960-1240 nm, for one):
    such a choice is drawn again over the whole spectrum, then all bands are taken.
    """
    chosen = choose_bands(good, wl_C, count, window, rng)
    for attempt in (chosen, choose_bands(good, wl_C, count, False, rng), good):
        if is_visible(tuple(wl_C[attempt].tolist()), rule):
            return attempt
    raise InputError(f"the model sees no band of a camera of {wl_C.min():g}-{wl_C.max():g} nm; leave its dataset out")


def token_means(image_CHW: Array, info: FeatureInfo) -> Array:
    """Mean of the pixels under each token of a feature, those that the image has: [C, h, w]."""
    height, width = image_CHW.shape[1:]
    rows, cols = info.grid((height, width))
    if (rows * info.stride, cols * info.stride) == (height, width):
        tiles = image_CHW.reshape(len(image_CHW), rows, info.stride, cols, info.stride)
        return np.asarray(tiles.mean((2, 4)))
    tops, lefts = np.arange(rows) * info.stride, np.arange(cols) * info.stride
    total = np.add.reduceat(np.add.reduceat(image_CHW, tops, 1, dtype=np.float64), lefts, 2)
    pixels = np.diff([*tops, height])[:, None] * np.diff([*lefts, width])
    return np.asarray(total / pixels)


def token_coverage(labels_HW: Array, ids: Array, info: FeatureInfo) -> Array:
    """Share of the pixels under each token of a feature that lie in each mask: [len(ids), h, w]."""
    return np.asarray(token_means(labels_HW[None] == ids[:, None, None], info), np.float32)


def hidden_spectra(seen_CHW: Array, hidden_THW: Array, info: FeatureInfo, saturated_HW: Array) -> Array:
    """Token means of hidden bands over the token mean of the seen ones, minus 1: [T, h, w].

    NaN in the dark, and where a pixel is saturated, whose spectrum is not the scene's.

    The division is the one the model makes at its input, over the pixels of a token of `info`, so what is asked for
    does not depend on brightness.
    """
    base_hw = token_means(seen_CHW.mean(0, keepdims=True), info)[0]
    lit_hw = base_hw > DARK * max(float(np.abs(base_hw).mean()), 1e-20)
    lit_hw &= token_means(saturated_HW[None].astype(np.float32), info)[0] == 0
    relative = token_means(hidden_THW, info) / np.where(lit_hw, base_hw, 1.0) - 1
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


@dataclass(frozen=True)
class _Choice:
    """What one view of a sample shows: its bands, those hidden from it, how it is turned, and the draws to come."""

    bands: Array
    hidden: Array
    view: View
    rng: np.random.Generator


class TrainingViews:
    """Assembles `Batch`es: what the loader's workers make of a sample for training."""

    members = ("json", "instances.png", "valid.png")

    def __init__(self, config: SampleConfig, student: StudentInput, false_colour: bool = False) -> None:
        """`false_colour` distils also where the teacher's picture is not of visible light."""
        self.config, self.student, self.false_colour = config, student, false_colour

    def plan(self, ref: SampleRef, small: SmallMembers, seed: int, visit: int) -> Plan:
        """Choose the bands and views of a sample."""
        meta = small.meta()
        frames = Frames.of(meta)
        wl_C = np.asarray(meta["wavelength_nm"], float)
        good = np.flatnonzero(~np.asarray(meta["bad_band"], bool))
        choices = [self._choose(ref, wl_C, good, (seed, visit), number) for number in range(VIEWS_PER_IMAGE)]
        needed = frames.needed(np.concatenate([part for one in choices for part in (one.bands, one.hidden)]))
        return Plan(ref, small, frames, needed, (meta, min(self.config.bands_max, len(good)), choices))

    def _choose(self, ref: SampleRef, wl_C: Array, good: Array, key: tuple[int, int], number: int) -> _Choice:
        config = self.config
        rng = keyed_rng("view", *key, ref.dataset, ref.key, number)
        count = int(rng.integers(config.bands_min, config.bands_max + 1))
        narrow = bool(rng.random() < config.window_share)
        bands = visible_bands(good, wl_C, count, narrow, rng, self.student.rule)
        view = VIEWS[int(rng.integers(len(VIEWS)))] if config.flip else View.IDENTITY
        hidden = np.sort(rng.permutation(np.setdiff1d(good, bands))[: config.hidden])
        return _Choice(bands, hidden, view, rng)

    def layout(self, plans: Sequence[Plan]) -> Layout:
        """Two views of every image, side by side."""
        config, rows = self.config, VIEWS_PER_IMAGE * len(plans)
        _, height, width = plans[0].frames.shape_CHW
        grid, tap_grid = (info.grid((height, width)) for info in (self.student.neck, self.student.tap))
        # A choice that the model cannot see is made anew from all bands, so any may be as many as there are.
        bands = max(max(plan.chosen[1], *(len(one.bands) for one in plan.chosen[2])) for plan in plans)
        return {
            "cube": ((rows, bands, height, width), "<f4"),
            "coverage": ((rows, config.max_masks, *grid), "<f4"),
            "material": ((rows, config.max_masks), "<i8"),
            "masks": ((rows, config.prompts, height, width), "<f4"),
            "points": ((rows, config.prompts, 2), "<f4"),
            "boxes": ((rows, config.prompts, 4), "<f4"),
            "prompted": ((rows, config.prompts), "|b1"),
            "hidden": ((rows, config.hidden, *tap_grid), "<f4"),
            "hidden_nm": ((rows, config.hidden), "<f4"),
            "visible": ((rows,), "<f4"),
        }

    def fill(self, plan: Plan, frames: Mapping[int, bytes], row: int, arrays: dict[str, Array]) -> Any:
        """Decode both views of a sample into their rows."""
        meta, _, choices = plan.chosen
        pictures = plan.small.picture("instances").astype(np.int64), plan.small.picture("valid")
        views = []
        for number, choice in enumerate(choices):
            at = VIEWS_PER_IMAGE * row + number
            own = {name: array[at] for name, array in arrays.items()}
            labels = self._fill_cube(plan, frames, choice, meta, pictures, own)
            self._fill_masks(choice, meta, labels, own)
            arrays["visible"][at] = meta["covers_visible"] or self.false_colour
            wl = np.asarray(meta["wavelength_nm"], float)[choice.bands].tolist()
            views.append((wl, choice.view, float(meta["gsd_m"])))
        return plan.ref.key, views

    def _fill_cube(
        self,
        plan: Plan,
        frames: Mapping[int, bytes],
        choice: _Choice,
        meta: Mapping[str, Any],
        pictures: tuple[Array, Array],
        own: dict[str, Array],
    ) -> Array:
        """The cube and what is hidden of it; returns the instance labels as the view shows them."""
        instances, quality = pictures
        count, unseen = len(choice.bands), len(choice.hidden)
        values = np.empty((count + unseen, *quality.shape), np.float32)
        plan.frames.physical_into(frames, np.concatenate([choice.bands, choice.hidden]), values)
        values *= quality != 0
        turned = apply_view(values, choice.view, 2)
        cube_CHW = own["cube"][:count]
        cube_CHW[:] = turned[:count]
        own["cube"][count:] = 0
        own["hidden"][:], own["hidden_nm"][:] = np.nan, 0
        saturated = apply_view(quality == SATURATED, choice.view, 1)
        own["hidden"][:unseen] = hidden_spectra(cube_CHW, turned[count:], self.student.tap, saturated)
        own["hidden_nm"][:unseen] = np.asarray(meta["wavelength_nm"])[choice.hidden]
        if self.student.public:
            cube_CHW /= np.float32(meta["scene_max"])
        return apply_view(instances, choice.view, 1)

    def _fill_masks(self, choice: _Choice, meta: Mapping[str, Any], labels: Array, own: dict[str, Array]) -> None:
        """Masks per token with their materials, and prompts."""
        kinds = np.array([0] + [row["material"] for row in meta["masks"]])
        if self.config.shuffle_materials:  # the same for both views, and at every visit
            kinds[1:] = keyed_rng("shuffled materials", meta["scene"], len(kinds)).permutation(kinds[1:])
        neck = self.student.neck
        ids = np.array([m["id"] for m in meta["masks"] if m["pixels"] >= neck.stride**2], np.int64)
        ids = np.sort(choice.rng.permutation(ids)[: self.config.max_masks])
        own["coverage"][:], own["material"][:] = 0, -1
        own["coverage"][: len(ids)], own["material"][: len(ids)] = token_coverage(labels, ids, neck), kinds[ids]
        for name in ("masks", "points", "boxes", "prompted"):
            own[name][:] = 0
        masks, points, boxes = _prompts(labels, ids, self.config.prompts, choice.rng)
        if len(masks):
            count = len(masks)
            own["masks"][:count], own["points"][:count], own["boxes"][:count] = masks, points, boxes
            own["prompted"][:count] = True

    def batch(self, arrays: dict[str, Tensor], told: list[Any], indices: list[int]) -> Batch:
        """The views side by side, with no more bands than the widest of them has."""
        views = [view for _, own in told for view in own]
        keys = [key for key, own in told for _ in own]
        wl, turns, gsd = (list(column) for column in zip(*views, strict=True))
        cube = arrays.pop("cube")[:, : max(len(axis) for axis in wl)]
        return Batch(indices=indices, keys=keys, views=turns, cube=cube, wavelength_nm=wl, gsd_m=gsd, **arrays)
