"""The losses of a small run, written down: a change that moves them is meant, or it is a mistake.

The shards are made here from integers alone, so that no labelling plays a part. To write them anew after a change that
is meant: `python tests/pretrain/test_golden.py`, and say in the commit why they moved.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from sharding.generator.tiles import tile_sample
from sharding.records import Body, Unit, commit
from sharding.shards import described, write_shard

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden_losses.json")
TERMS = ("loss", "contrast", "masks", "spectra")
RECIPE = """
datasets: [{name: golden, root: nowhere}]
teacher: {mode: none}
model:
  name: hypervision_nano
  options: {image_size: 48, embed_dim: 32, depth: 2, num_heads: 2, global_blocks: [0, 1], neck_dim: 32}
pretrain:
  {run: golden, steps: 6, global_batch: 4, micro_batch: 2, precision: fp32, ranks: 1, threads: 1, lr: 0.003,
   loader: {workers: 0}, sample: {bands_min: 10, bands_max: 16, prompts: 2, max_masks: 8}}
"""


def sample(number):
    """Four fields of three materials, a gradient over each, whole numbers only."""
    y, x = np.mgrid[:48, :48]
    split = 20 + 2 * number
    instances = 1 + (y >= split) + 2 * (x >= 44 - split)
    materials = np.array([0, 1, 2, 3, 1])[instances]
    bands = np.arange(24)[:, None, None]
    stored = 400 + 37 * materials * (bands % (materials + 4)) + 3 * y + 2 * x + (7 * y * x + 13 * bands + number) % 29
    return tile_sample(f"golden-{number}", stored.astype(np.uint16), labels=(instances, materials))


def losses(work):
    """The rows of a run on fresh shards."""
    data = work / "shards" / "golden" / "golden-00000.tar"

    def write(path):
        write_shard(path, (sample(number) for number in range(6)))
        return Body({"samples": 6}, extra=described(path))

    commit(Unit("pseudolabel", "golden-00000", data, data.with_suffix(".json"), "integers", {}), write)
    recipe = work / "golden.yaml"
    recipe.write_text(RECIPE)
    words = [sys.executable, "-m", "pipeline.cli", "pretrain", str(recipe), f"workdir={work}"]
    subprocess.run(words, check=True, cwd=ROOT, capture_output=True, timeout=300)
    rows = [json.loads(line) for line in (work / "runs" / "golden" / "metrics.jsonl").open()]
    return [{name: row[name] for name in TERMS} for row in rows]


def test_the_losses_are_those_written_down(tmp_path):
    got, want = losses(tmp_path), json.loads(GOLDEN.read_text())
    assert len(got) == len(want) == 6
    for step, (row, golden) in enumerate(zip(got, want, strict=True)):
        assert row == pytest.approx(golden, rel=2e-3), step


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(losses(Path(folder)), indent=1) + "\n")
