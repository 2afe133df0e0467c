"""How sure a fused mask is: the chance that it is a thing (IoU of at least 0.5 with one), by logistic regression.

Fitted on generated scenes whose seeds are used for nothing else, with spatial masks that are good and that are weak:
`hypervision pseudolabel ablate ablation.fit=true` fits again and prints what to put here. Its check is the
reliability diagram of `pseudolabel ablate`, on other scenes.
"""

from __future__ import annotations

import numpy as np

from pseudolabel.descriptors import Array

INPUTS = (
    "constant", "log pixels", "its square", "IoU spatial", "IoU spectral", "log spread", "log contrast", "its square",
    "log pixels x log contrast",
)  # fmt: skip
WEIGHTS = (-2.59, 2.29, -0.66, 1.76, 2.54, -0.35, 3.76, 2.08, -1.2)
MATCH_IOU = 0.5


def inputs(pixels: Array, iou_spatial: Array, iou_spectral: Array, spread: Array, contrast: Array) -> Array:
    """What the chance is told from, [masks, 9], in the order of `INPUTS`; all of order one."""
    size = np.log10(np.maximum(pixels, 1)) - 2.5
    dispersed = np.log10(np.maximum(spread, 1e-4)) + 2
    distinct = np.log10(np.clip(contrast, 0.05, 50))
    columns = [np.ones(len(size)), size, size**2, iou_spatial, iou_spectral, dispersed, distinct]
    return np.stack([*columns, distinct**2, size * distinct], 1)


def confidence(pixels: Array, iou_spatial: Array, iou_spectral: Array, spread: Array, contrast: Array) -> Array:
    """The chance of each mask, 0 to 1."""
    told = inputs(pixels, iou_spatial, iou_spectral, spread, contrast) @ np.array(WEIGHTS)
    return np.asarray(1.0 / (1.0 + np.exp(-told)))


def fit(inputs_NI: Array, right_N: Array) -> Array:
    """Weights for these masks (logistic regression, barely regularised)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=100.0, fit_intercept=False, max_iter=1000).fit(inputs_NI, right_N)
    return np.asarray(model.coef_[0])


def reliability(scores_N: Array, right_N: Array, bins: int = 10) -> list[dict[str, float]]:
    """For each tenth of the confidence range: masks, mean confidence, share that is right."""
    place = np.clip((scores_N * bins).astype(int), 0, bins - 1)
    rows = []
    for index in range(bins):
        here = place == index
        if here.any():
            rows.append({
                "masks": float(here.sum()),
                "confidence": float(scores_N[here].mean()),
                "right": float(right_N[here].mean()),
            })  # fmt: skip
    return rows
