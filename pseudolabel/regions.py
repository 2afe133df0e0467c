"""Label maps and their region adjacency graph: overlay, slivers, greedy merging, cuts, border snap.

Pure functions on arrays. A label map holds ids from 1; 0 is "no label". Reasons and measured effects of each
step are in docs/method.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, maximum_filter, minimum_filter

Array = NDArray[Any]
LEAST_CORE, CLOSER = 9, 2.0


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


def joint_counts(first: Array, second: Array) -> Array:
    """Pixels that two label maps share, [labels of the first, labels of the second], index 0 included."""
    count = int(second.max()) + 1
    flat = first.ravel().astype(np.int64) * count + second.ravel()
    return np.bincount(flat, minlength=(int(first.max()) + 1) * count).reshape(-1, count)


def sums(labels: Array, features_HWK: Array, count: int) -> Array:
    """Sum of the features of each of `count` labels [count, K], index 0 included."""
    flat, ids = features_HWK.reshape(-1, features_HWK.shape[-1]), labels.ravel()
    return np.stack([np.bincount(ids, weights=column, minlength=count) for column in flat.T], 1)


def means(labels: Array, features_HWK: Array) -> Array:
    """Mean feature of each label, index 0 included (zero for absent ones)."""
    size = areas(labels)
    return np.asarray(sums(labels, features_HWK, len(size)) / np.maximum(size, 1)[:, None])


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


Rule = Callable[[Array, Array, float], tuple[float, bool]]
"""(squared distance of two mean features, whether the brighter one's features stay) of a pair and its border share."""


def border_shares(base: Array, other: Array) -> dict[tuple[int, int], tuple[float, float]]:
    """For touching regions of `base`: (border length that is a border of `other` too, border length).

    A region counts to the region of `other` that holds most of it.
    """
    owner = joint_counts(base, other).argmax(1)
    return {(a, b): (float(length * (owner[a] != owner[b])), length) for (a, b), length in borders(base).items()}


def merge_tree(base: Array, features: Sequence[tuple[Array, float]]) -> MergeTree:
    """Merge touching regions greedily by cost = sqrt(na nb / (na + nb)) * sqrt(sum_f weight_f * distance_f^2).

    Args:
        base: label map, 1..n.
        features: (height, width, k) maps with their weights; regions are compared by their means.
    """

    def rule(a: Array, b: Array, _: float) -> tuple[float, bool]:
        return float((a - b) @ (a - b)), False

    stacked = np.concatenate([np.sqrt(weight) * means(base, feature) for feature, weight in features], 1)
    return merge_by(base, stacked, rule, {})


def merge_by(
    base: Array,
    mean_NK: Array,
    rule: Rule,
    shares: dict[tuple[int, int], tuple[float, float]],
    size_term: bool = True,
) -> MergeTree:
    """Merge touching regions greedily by cost = sqrt(na nb / (na + nb)) * sqrt(squared distance of `rule`).

    Args:
        base: label map, 1..n.
        mean_NK: mean features of the labels, index 0 included; the last one is the brightness.
        rule: see `Rule`; it is given the share of the pair's border that `shares` (see `border_shares`) tells, else 1.
        shares: kept up to date as regions merge; may be empty.
        size_term: without it the cost is the distance alone.
    """
    graph = _Graph(base, mean_NK, rule, dict(shares), size_term)
    heap = [(*graph.cost(a, b), a, b) for a in graph.near for b in graph.near[a] if a < b]
    heapq.heapify(heap)
    merges = []
    while heap:
        cost, keep, a, b = heapq.heappop(heap)
        if a not in graph.near or b not in graph.near[a]:
            continue
        into = graph.join(a, b, keep)
        merges.append((a, b, into, cost))
        for other in graph.near[into]:
            heapq.heappush(heap, (*graph.cost(other, into), other, into))
    return MergeTree(base, tuple(merges))


class _Graph:
    """The region adjacency graph while it is being merged."""

    def __init__(self, base: Array, mean_NK: Array, rule: Rule, shares: dict[Any, Any], size_term: bool) -> None:
        self.size = dict(enumerate(areas(base).tolist()))
        self.mean = dict(enumerate(mean_NK))
        self.rule, self.shares, self.size_term = rule, shares, size_term
        self.near: dict[int, set[int]] = {}
        self.fresh = int(base.max()) + 1
        for a, b in borders(base):
            self.near.setdefault(a, set()).add(b)
            self.near.setdefault(b, set()).add(a)

    def cost(self, a: int, b: int) -> tuple[float, bool]:
        on, length = self.shares.get((min(a, b), max(a, b)), (1.0, 1.0))
        squared, keep = self.rule(self.mean[a], self.mean[b], on / length)
        weight = self.size[a] * self.size[b] / (self.size[a] + self.size[b]) if self.size_term else 1.0
        return float(np.sqrt(weight * squared)), keep

    def join(self, a: int, b: int, keep: bool) -> int:
        """Make one region of two; with `keep` it has the features of the brighter one."""
        into, self.fresh = self.fresh, self.fresh + 1
        total = self.size[a] + self.size[b]
        mean_a, mean_b = self.mean[a], self.mean[b]
        if keep:
            self.mean[into] = mean_a if mean_a[-1] > mean_b[-1] else mean_b
        else:
            self.mean[into] = (mean_a * self.size[a] + mean_b * self.size[b]) / total
        self.size[into] = total
        self.near[into] = (self.near.pop(a) | self.near.pop(b)) - {a, b}
        for other in self.near[into]:
            self.near[other] = (self.near[other] - {a, b}) | {into}
            if self.shares:
                old = [self.shares.pop((min(other, one), max(other, one)), (0.0, 0.0)) for one in (a, b)]
                self.shares[other, into] = (old[0][0] + old[1][0], old[0][1] + old[1][1])
        return into


def snap_borders(labels: Array, features_HWK: Array, reach: int = 2) -> Array:
    """Give pixels within `reach` of a border to an adjacent region that is spectrally closer: by half, squared.

    Regions are told by their core, the pixels off all borders, or by all of their pixels where the core has less than
    nine: small things keep what is theirs.
    """
    edge = maximum_filter(labels, 3) != minimum_filter(labels, 3)
    near = ~binary_erosion(~edge, iterations=reach - 1, border_value=1) if reach > 1 else edge
    core = np.where(near, 0, labels)
    size = areas(labels)
    has_core = np.bincount(core.ravel(), minlength=len(size)) >= LEAST_CORE
    inner = means(np.where(has_core[labels], core, labels), features_HWK)
    mean = np.zeros((len(size), inner.shape[1]))
    mean[: len(inner)] = inner
    best, best_distance = labels.copy(), ((features_HWK - mean[labels]) ** 2).sum(-1)
    side = 2 * reach + 1
    padded = np.pad(labels, reach, mode="edge")
    for dy in range(side):
        for dx in range(side):
            other = padded[dy : dy + labels.shape[0], dx : dx + labels.shape[1]]
            usable = near & (labels > 0) & (other > 0) & (other != labels)
            distance = np.where(usable, CLOSER * ((features_HWK - mean[other]) ** 2).sum(-1), np.inf)
            better = distance < best_distance
            best[better], best_distance[better] = other[better], distance[better]
    return relabel(best)
