"""The net that users train, at its own size: two steps at 512 px, and a restart that gives the same (minutes, 6 GB)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from golden import make_work

from pretrain.checkpoint import WEIGHTS
from sharding.records import delete, sha256_file

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "model.name=hypervision_base", "model.options={image_size: 512}", "pretrain.run=base", "pretrain.steps=2",
    "pretrain.global_batch=1", "pretrain.micro_batch=1", "pretrain.precision=bf16", "pretrain.save_every=1",
    "pretrain.threads=0", "pretrain.lr=0.0005", "seed=5",
]  # fmt: skip


def train(work):
    """Run, or go on; losses of each step and the hash of the weights after the last."""
    words = [sys.executable, "-m", "pipeline.cli", "pretrain", str(work / "golden.yaml"), f"workdir={work}", *WORDS]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    run = work / "runs" / "base"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    losses = [{name: row[name] for name in ("loss", "contrast", "masks", "spectra")} for row in rows]
    return losses, sha256_file(run / "checkpoints" / "step_00000002" / WEIGHTS)


@pytest.mark.slow
def test_the_base_model_takes_two_steps_at_512_px_and_goes_on_from_the_first(tmp_path):
    make_work(tmp_path, 512, 512)
    whole = train(tmp_path)
    assert len(whole[0]) == 2 and all(value > 0 for row in whole[0] for value in row.values())
    delete(next((tmp_path / "runs" / "base" / "checkpoints").glob("*00000002*.json")))
    assert train(tmp_path) == whole
