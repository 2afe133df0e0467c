"""How good the labels of a dataset are: counts, sizes, coverage, agreement, and fit to a truth where there is one.

A scene gives sums and weights only, so that scenes, shards and datasets add up without being read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pseudolabel.comparison import compare_methods
from pseudolabel.config import FusionConfig
from pseudolabel.descriptors import Array
from pseudolabel.metrics import rand_index

if TYPE_CHECKING:
    from pseudolabel.assemble import Labels

SIZES = tuple(16 * 4**power for power in range(8))
"""Lower ends of the classes of mask sizes, in pixels."""
SOURCES = ("spatial", "spectral", "both")


def scene_quality(labels: Labels, valid: Array, truth: Array | None, config: FusionConfig) -> dict[str, Any]:
    """Sums of one scene."""
    rows = labels.fused.records
    pixels = np.array([row["pixels"] for row in rows], int)
    found: dict[str, Any] = {
        "scenes": 1,
        "pixels": int(valid.sum()),
        "labelled": int((labels.fused.labels[valid] > 0).sum()),
        "in_spatial": int((labels.spatial[valid] > 0).sum()),
        "in_spectral": int((labels.spectral[valid] > 0).sum()),
        "masks": len(rows),
        "score": float(sum(row["score"] for row in rows)),
        "agreement": rand_index(labels.spatial, labels.spectral),
        "by_source": {name: sum(row["source"] == name for row in rows) for name in SOURCES},
        "by_size": np.bincount(np.searchsorted(SIZES, pixels, "right"), minlength=len(SIZES) + 1)[1:].tolist(),
        "with_truth": 0,
        "truth": {},
    }
    if truth is not None and (truth > 0).any() and len(rows):
        known = truth * valid
        found["with_truth"] = 1
        found["truth"] = compare_methods(labels.spatial, labels.spectral, labels.features, known, config)
    return found


def tile_counts(valid_pixels: Sequence[int], side: int) -> dict[str, int]:
    """Sums over the training tiles of a scene, from the valid pixels of each; padding is not valid.

    Tiles overlap where the last one is moved back into the scene, so these are sums of tiles, not of the scene.
    """
    return {
        "tiles": len(valid_pixels),
        "tile_pixels": len(valid_pixels) * side**2,
        "tile_valid": sum(valid_pixels),
        "tiles_below_half": sum(2 * pixels < side**2 for pixels in valid_pixels),
    }


def add_up(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sums of several scenes or shards."""
    total: dict[str, Any] = {}
    for part in parts:
        total = _plus(total, part)
    return total


def _plus(a: Any, b: Any) -> Any:
    if isinstance(b, dict):
        return {key: _plus(a.get(key), b[key]) if a and key in a else b[key] for key in b} | {
            key: a[key] for key in (a or {}) if key not in b
        }
    if isinstance(b, list):
        return [x + y for x, y in zip(a, b, strict=True)] if a else b
    return b if a is None else a + b


def summary(total: dict[str, Any]) -> dict[str, Any]:
    """What a person reads: shares and means of the sums."""
    pixels, scenes, masks = max(total["pixels"], 1), max(total["scenes"], 1), max(total["masks"], 1)
    told = {
        "scenes": total["scenes"],
        "tiles": total["tiles"],
        "valid_share": total["tile_valid"] / max(total["tile_pixels"], 1),
        "tiles_below_half": total["tiles_below_half"],
        "masks": total["masks"],
        "by_source": total["by_source"],
        "by_size": {f">= {size} px": count for size, count in zip(SIZES, total["by_size"], strict=True)},
        "coverage": {name: total[f"in_{name}"] / pixels for name in ("spatial", "spectral")},
        "unlabelled": 1 - total["labelled"] / pixels,
        "agreement": total["agreement"] / scenes,
        "mean_score": total["score"] / masks,
        "scenes_with_truth": total["with_truth"],
    }
    if total["with_truth"]:
        told["truth"] = {
            method: {name: value / total["with_truth"] for name, value in row.items()}
            for method, row in total["truth"].items()
        }
    return told
