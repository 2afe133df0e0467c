"""Large scenes are seen by the models in windows that overlap, and stitched: a mask cut by a window is one mask again.

windows -> label maps -> seam in the middle of every overlap -> masks that agree across it get one id
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pseudolabel.descriptors import Array
from pseudolabel.regions import joint_counts, relabel

Window = tuple[int, int, int, int]
"""Row, column, height, width in pixels."""
SAME_IOU = 0.5


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where windows begin, evenly spread so that all are of one size."""
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def windows(height: int, width: int, side: int, overlap: int) -> list[Window]:
    """Windows of at most `side` that cover a scene and overlap by at least `overlap` pixels."""
    return [
        (y, x, min(side, height), min(side, width))
        for y in _starts(height, side, overlap)
        for x in _starts(width, side, overlap)
    ]


def blocks(height: int, width: int, side: int) -> list[Window]:
    """Blocks of a scene side by side, the last ones smaller: every pixel is in one, so that sums are of the scene."""
    return [
        (y, x, min(side, height - y), min(side, width - x))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]


def tiles(height: int, width: int, side: int) -> list[Window]:
    """Training tiles of a scene: side by side, the last of a row or column moved back into the scene.

    So they overlap there, and only a scene that is itself smaller has tiles of less than `side`.
    """
    return [
        (y, x, min(side, height), min(side, width))
        for y in _tile_starts(height, side)
        for x in _tile_starts(width, side)
    ]


def tiled_pixels(height: int, width: int, side: int) -> int:
    """Pixels of all tiles of a scene without padding: more than it has where they overlap."""
    return -(-height // side) * min(side, height) * -(-width // side) * min(side, width)


def _tile_starts(length: int, side: int) -> list[int]:
    last = max(length - side, 0)
    return [*range(0, last, side), last]


def inside(window: Window) -> tuple[slice, slice]:
    """Rows and columns of a window."""
    y, x, height, width = window
    return slice(y, y + height), slice(x, x + width)


def _owner(wins: Sequence[Window], shape_HW: tuple[int, int]) -> Array:
    """For every pixel the window whose border is farthest from it (-1 = none): seams run amid the overlaps."""
    owner, depth = np.full(shape_HW, -1), np.zeros(shape_HW)
    for index, window in enumerate(wins):
        y, x, height, width = window
        # A border of the scene is no border of a window.
        rows, cols = np.arange(height), np.arange(width)
        up = rows + 1 if y > 0 else np.full(height, np.inf)
        down = height - rows if y + height < shape_HW[0] else np.full(height, np.inf)
        left = cols + 1 if x > 0 else np.full(width, np.inf)
        right = width - cols if x + width < shape_HW[1] else np.full(width, np.inf)
        own = np.minimum(np.minimum(up, down)[:, None], np.minimum(left, right)[None])
        place = inside(window)
        better = own > depth[place]
        owner[place] = np.where(better, index, owner[place])
        depth[place] = np.where(better, own, depth[place])
    return owner


def _agreeing(first: Array, second: Array) -> list[tuple[int, int]]:
    """Labels of two maps of one overlap that mean the same thing there (IoU of at least a half)."""
    joint = joint_counts(first, second)
    union = joint.sum(1, keepdims=True) + joint.sum(0, keepdims=True) - joint
    pairs = np.argwhere(joint >= SAME_IOU * np.maximum(union, 1))
    return [(int(a), int(b)) for a, b in pairs if a and b]


def stitch(wins: Sequence[Window], labels: Sequence[Array], shape_HW: tuple[int, int]) -> Array:
    """One label map of a scene from those of its windows; 0 where no window labelled or none is given.

    Inside an overlap two masks are one if their IoU there is at least 0.5. Any order of windows gives the same map.
    """
    if len(wins) == 1 and wins[0] == (0, 0, *shape_HW):
        return relabel(labels[0])
    order = sorted(range(len(wins)), key=lambda index: wins[index])
    wins, labels = [wins[index] for index in order], [labels[index].astype(np.int64) for index in order]
    first = np.cumsum([0, *(int(one.max()) for one in labels)])
    parent = np.arange(first[-1] + 1)

    def root(label: int) -> int:
        while parent[label] != label:
            label = parent[label]
        return label

    for a in range(len(wins)):
        for b in range(a + 1, len(wins)):
            common = _common(wins[a], wins[b])
            if common is None:
                continue
            here, there = (labels[one][_within(common, wins[one])] for one in (a, b))
            for one, other in _agreeing(here, there):
                low, high = sorted((root(one + first[a]), root(other + first[b])))
                parent[high] = low
    roots = np.array([root(label) for label in range(len(parent))])
    whole = np.zeros(shape_HW, np.int64)
    owner = _owner(wins, shape_HW)
    for index, window in enumerate(wins):
        place = inside(window)
        own = np.where(labels[index] > 0, roots[labels[index] + first[index]], 0)
        whole[place] = np.where(owner[place] == index, own, whole[place])
    return relabel(whole)


def _common(a: Window, b: Window) -> Window | None:
    top, left = max(a[0], b[0]), max(a[1], b[1])
    bottom, right = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    return (top, left, bottom - top, right - left) if bottom > top and right > left else None


def _within(part: Window, window: Window) -> tuple[slice, slice]:
    return inside((part[0] - window[0], part[1] - window[1], part[2], part[3]))


def paste(wins: Sequence[Window], parts: Sequence[Array], shape_HW: tuple[int, int]) -> Array:
    """One plane [H, W, ...] of a scene from those of its windows; 0 where there is none."""
    whole = np.zeros((*shape_HW, *parts[0].shape[2:]), parts[0].dtype)
    for window, part in sorted(zip(wins, parts, strict=True), key=lambda pair: pair[0]):
        whole[inside(window)] = part
    return whole
