"""The losses of a small run, written down: a change that moves them is meant, or it is a mistake.

The shards are made here from integers alone, so that no labelling plays a part. To write them anew after a change that
is meant: `python tests/pretrain/test_golden.py`, and say in the commit why they moved.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from golden import make_work

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden_losses.json")
TERMS = ("loss", "contrast", "masks", "spectra")


def losses(work):
    """The rows of a run on fresh shards."""
    words = [sys.executable, "-m", "pipeline.cli", "pretrain", str(make_work(work)), f"workdir={work}"]
    subprocess.run(words, check=True, cwd=ROOT, capture_output=True, timeout=3600)
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
