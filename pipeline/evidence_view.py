"""The tables of the evidence: labels, features, masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.console import console, table

COLUMNS = {
    "click_iou": "click IoU", "disc_iou": "disc", "segment_iou": "segment", "box_iou": "box IoU",
    "filled_box_iou": "filled box", "iou_error": "predicted IoU off by", "share": "covers",
}  # fmt: skip


def print_evidence(path: Path) -> None:
    """Everything that `evidence.json` holds."""
    found = json.loads(path.read_text())
    labels, probes = found["labels"], found["probes"]
    rows = []
    for method, scores in labels["scores"].items():
        won = "" if method == "fused" else f"{labels['won'][method]:.0%}"
        rows.append([method, *(f"{scores[k]:.3f}" for k in ("ASA at 1 x", "ASA at 1.5 x", "material ASA at 1 x")), won])
    columns = ["labels", "ASA at 1.0 x", "ASA at 1.5 x", "material ASA", "tiles where fused is better"]
    table(f"Pseudo-labels against instance truth, equal mask counts, {labels['tiles']} tiles", columns, rows)
    rows = []
    for name, value in probes["trained"].items():
        spectra = f"{probes['spectra'][name]:.3f}" if name in probes["spectra"] else "-"
        bar = f"{probes['random'][name]:.3f} ({probes['random_from'][name]})"
        margin = "solved untrained" if name in probes["solved"] else f"{probes['margins'][name]:+.3f}"
        rows.append([name, f"{value:.3f}", bar, margin, spectra, probes["basis"][name]])
    columns = ["probe of the frozen net, unseen scenes", "pre-trained", "strongest random net", "margin", "spectra"]
    columns.append("rests on")
    table(f"Features (never trained on: {', '.join(probes['unseen_sensors'])})", columns, rows)
    print_masks(found["masks"])
    behind = [m for m in labels["won"] if labels["scores"]["fused"]["ASA at 1 x"] <= labels["scores"][m]["ASA at 1 x"]]
    gates = ("in-scene, training sensors", "in-scene, unseen sensors", "pooled, unseen sensors")
    behind += [name for name in gates if name not in probes["solved"] and probes["margins"][name] <= 0]
    verdict = f"NOT ahead on: {', '.join(behind)}" if behind else "fused labels and pre-trained features are ahead"
    console.print(f"evidence: {verdict}", style="bold red" if behind else "bold green")


def print_masks(masks: dict[str, Any] | None) -> None:
    """The table, or that the term is off."""
    if masks is None:
        console.print("masks: not trained here (pretrain.objective.masks=0), so clicks and boxes are not scored")
        return
    rows = [
        [kind, f"{found['masks']:.0f}", *(f"{found[name]:.3f}" for name in COLUMNS)] for kind, found in masks.items()
    ]
    table("Masks on unseen scenes, median IoU with the truth", ["scenes of", "masks", *COLUMNS.values()], rows)
