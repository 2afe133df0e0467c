"""Label maps and their region adjacency graph: overlay, slivers, greedy merging, cuts, border snap.

Pure functions on arrays. A label map holds ids from 1; 0 is "no label". Reasons and measured effects of each
step are in docs/method.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, maximum_filter, minimum_filter

Array = NDArray[Any]


def relabel(labels: Array) -> Array:
    """The same regions numbered 1..n without gaps; 0 stays 0."""
    values, packed = np.unique(labels, return_inverse=True)
    return np.asarray(packed.reshape(labels.shape) + (0 if values[0] == 0 else 1), np.int32)


def fill_gaps(labels: Array, valid_HW: Array) -> Array:
    """Give every unlabelled valid pixel the nearest label."""
    if (labels == 0).all():
        return np.asarray(valid_HW, np.int32)
    index = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return np.where(valid_HW, labels[tuple(index)], 0).astype(np.int32)


def paint(masks: Sequence[Array], scores: Sequence[float], shape_HW: tuple[int, int]) -> Array:
    """A label map from masks that may overlap: the more confident mask wins, at equal confidence the smaller."""
    labels = np.zeros(shape_HW, np.int32)
    order = sorted(range(len(masks)), key=lambda i: (scores[i], -int(masks[i].sum()), -i))
    for rank, index in enumerate(order, 1):
        labels[masks[index]] = rank
    return relabel(labels)


def overlay(first: Array, second: Array) -> Array:
    """Connected pieces of the common refinement of two label maps; 0 where either is 0."""
    from skimage.measure import label as connected

    both = first.astype(np.int64) * (int(second.max()) + 1) + second
    both = np.where((first > 0) & (second > 0), both, 0)
    return np.asarray(connected(relabel(both), connectivity=1, background=0), np.int32)


def areas(labels: Array) -> Array:
    """Pixels of each label, index 0 included."""
    return np.bincount(labels.ravel(), minlength=int(labels.max()) + 1)


def clean_means(labels: Array, features_HWK: Array, spoilt_HW: Array) -> Array:
    """Mean feature of each label from 1, [n, K], without spoilt pixels unless a label has no others."""
    every = means(labels, features_HWK)
    if not spoilt_HW.any():
        return every[1:]
    clean = np.where(spoilt_HW, 0, labels)
    count = np.bincount(clean.ravel(), minlength=len(every))
    some = means(clean, features_HWK)
    every[: len(some)] = np.where(count[: len(some), None] > 0, some, every[: len(some)])
    return every[1:]


def means(labels: Array, features_HWK: Array) -> Array:
    """Mean feature of each label, [n + 1, K]."""
    count = np.maximum(areas(labels), 1)
    flat = features_HWK.reshape(-1, features_HWK.shape[-1]).astype(np.float64)
    sums = [np.bincount(labels.ravel(), flat[:, k], len(count)) for k in range(flat.shape[1])]
    return np.stack(sums, 1) / count[:, None]


def borders(labels: Array) -> dict[tuple[int, int], int]:
    """Length in pixel edges of the border between every two touching labels (a < b, 0 left out)."""
    pairs = [
        np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()]),
        np.stack([labels[:-1].ravel(), labels[1:].ravel()]),
    ]
    a, b = np.concatenate(pairs, 1)
    keep = (a != b) & (a > 0) & (b > 0)
    low, high = np.minimum(a, b)[keep], np.maximum(a, b)[keep]
    keys, counts = np.unique(low.astype(np.int64) << 32 | high, return_counts=True)
    return {(int(key >> 32), int(key & 0xFFFFFFFF)): int(n) for key, n in zip(keys, counts, strict=True)}


def _is_thin(labels: Array) -> Array:
    """Whether a label has no pixel whose 3 x 3 surroundings are all its own; index 0 included."""
    inner = maximum_filter(labels, 3) == minimum_filter(labels, 3)
    core = np.bincount(labels[inner].ravel(), minlength=int(labels.max()) + 1)
    return np.asarray(core == 0)


def absorb_slivers(pieces: Array, parents: Sequence[Array], shape_HWK: Array) -> Array:
    """Give thin pieces that are under half of both their parents to a neighbour.

    The neighbour with the largest (border length / spectral distance^2) takes it. Real 1-3 pixel structures are
    most of one of their parents, and stay.
    """
    size = areas(pieces)
    thin = _is_thin(pieces)
    first_pixel = np.zeros(len(size), np.int64)
    first_pixel[pieces.ravel()[::-1]] = np.arange(pieces.size)[::-1]
    for parent in parents:
        parent_size = areas(parent)[parent.ravel()[first_pixel]]
        thin &= size < 0.5 * parent_size
    thin[0] = False
    if not thin.any():
        return pieces
    mean = means(pieces, shape_HWK)
    best: dict[int, tuple[float, int]] = {}
    for (a, b), length in borders(pieces).items():
        pull = length / (float(((mean[a] - mean[b]) ** 2).sum()) + 1e-8)
        for small, other in ((a, b), (b, a)):
            if thin[small] and not thin[other] and pull > best.get(small, (0.0, 0))[0]:
                best[small] = (pull, other)
    target = np.arange(len(size))
    for small, (_, other) in best.items():
        target[small] = other
    return relabel(target[pieces])


@dataclass(frozen=True)
class MergeTree:
    """Greedy merges of a base label map, in order: regions `a` and `b` become `into` at `cost`."""

    base: Array
    merges: tuple[tuple[int, int, int, float], ...]

    def cut(self, count: int | None = None, cost: float | None = None) -> Array:
        """The label map with `count` regions left, or with every merge below `cost` done."""
        leaves = int(self.base.max())
        if count is not None:
            done = min(max(leaves - count, 0), len(self.merges))
        else:
            above = [i for i, merge in enumerate(self.merges) if cost is not None and merge[3] > cost]
            done = above[0] if above else len(self.merges)
        parent = np.arange(leaves + len(self.merges) + 1)
        for a, b, into, _ in self.merges[:done]:
            parent[a] = parent[b] = into
        for node in range(len(parent) - 1, 0, -1):
            parent[node] = parent[parent[node]]
        return relabel(parent[self.base])


def merge_tree(base: Array, features: Sequence[tuple[Array, float]]) -> MergeTree:
    """Merge touching regions greedily by cost = sqrt(na nb / (na + nb)) * sqrt(sum_f weight_f * distance_f^2).

    Args:
        base: label map, 1..n.
        features: (height, width, k) maps with their weights; regions are compared by their means.
    """
    size = dict(enumerate(areas(base).tolist()))
    stacked = np.concatenate([np.sqrt(weight) * means(base, feature) for feature, weight in features], 1)
    mean = dict(enumerate(stacked))
    near: dict[int, set[int]] = {}
    for a, b in borders(base):
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)

    def cost(a: int, b: int) -> float:
        difference = mean[a] - mean[b]
        return float(np.sqrt(size[a] * size[b] / (size[a] + size[b]) * (difference @ difference)))

    heap = [(cost(a, b), a, b) for a in near for b in near[a] if a < b]
    heapq.heapify(heap)
    merges = []
    fresh = int(base.max()) + 1
    while heap:
        value, a, b = heapq.heappop(heap)
        if a not in near or b not in near or b not in near[a]:
            continue
        total = size[a] + size[b]
        size[fresh], mean[fresh] = total, (mean[a] * size[a] + mean[b] * size[b]) / total
        near[fresh] = (near.pop(a) | near.pop(b)) - {a, b}
        for other in near[fresh]:
            near[other] = (near[other] - {a, b}) | {fresh}
            heapq.heappush(heap, (cost(other, fresh), other, fresh))
        merges.append((a, b, fresh, value))
        fresh += 1
    return MergeTree(base, tuple(merges))


def snap_borders(labels: Array, features_HWK: Array, reach: int = 2) -> Array:
    """Give each pixel within `reach` of a border to the spectrally closest adjacent region's core."""
    edge = maximum_filter(labels, 3) != minimum_filter(labels, 3)
    near = ~binary_erosion(~edge, iterations=reach - 1, border_value=1) if reach > 1 else edge
    core = np.where(near, 0, labels)
    has_core = areas(core)
    mean = means(core, features_HWK) if core.any() else means(labels, features_HWK)
    best, best_distance = labels.copy(), np.full(labels.shape, np.inf)
    size = 2 * reach + 1
    padded = np.pad(labels, reach, mode="edge")
    for dy in range(size):
        for dx in range(size):
            other = padded[dy : dy + labels.shape[0], dx : dx + labels.shape[1]]
            known = np.where(other < len(has_core), other, 0)
            usable = near & (labels > 0) & (other > 0) & (has_core[known] > 0)
            distance = np.where(usable, ((features_HWK - mean[known]) ** 2).sum(-1), np.inf)
            better = distance < best_distance
            best[better], best_distance[better] = other[better], distance[better]
    # A region without a core keeps its pixels: it is a thin real structure.
    own_core = has_core[np.where(labels < len(has_core), labels, 0)] > 0
    return relabel(np.where(own_core, best, labels))
