"""`learning.png`: the scores of every row as bars, a panel per score, whiskers over the seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from pipeline.report import save_figure

if TYPE_CHECKING:
    from pipeline.bench_learning import Learning

COLOURS = {"all": "tab:green", "random": "tab:gray", "spectra": "tab:orange", "range-matched": "tab:orange",
           "supervised": "tab:red"}  # fmt: skip


def draw(told: Learning, scores: tuple[str, ...], path: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(len(scores) // 2, 2, figsize=(11, 2.6 * len(scores) // 2), layout="constrained")
    for axis, score in zip(axes.ravel(), scores, strict=True):
        found = {row: told.mean(row, score) for row in told.scores}
        rows = {row: one for row, one in found.items() if one is not None}
        means, spreads = [one[0] for one in rows.values()], [one[1] for one in rows.values()]
        colours = [COLOURS.get(row, "tab:blue") for row in rows]
        axis.barh(list(rows), means, xerr=spreads, color=colours, height=0.7)
        axis.set_xlim(max(0.0, min(means) - 0.15), min(1.0, max(means) + 0.08))
        axis.invert_yaxis()
        axis.set_title(score, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
