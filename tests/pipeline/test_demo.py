"""The demo's evidence on corpora and starts that were not looked at while it was built (minutes each)."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_evidence_holds_on_a_fresh_corpus(cli, tmp_path, seed):
    code, out, err = cli("run", "demo", f"workdir={tmp_path / 'w'}", f"seed={seed}", f"corpus.seed={seed}")
    assert code == 0, out + err
    found = json.loads((tmp_path / "w" / "runs" / "demo" / "evidence.json").read_text())
    scores = {name: row["ASA at 1 x"] for name, row in found["labels"]["scores"].items()}
    assert all(scores["fused"] > value for name, value in scores.items() if name != "fused"), scores
    margins = found["probes"]["margins"]
    for name in ("in-scene, training sensors", "in-scene, unseen sensors", "pooled, unseen sensors"):
        assert margins[name] > 0, margins
