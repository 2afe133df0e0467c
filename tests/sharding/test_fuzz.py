"""Corrupted files of every container: no crash, no hang, no great allocation; a cube or a row with its reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import RUN_SECONDS

CHILD = Path(__file__).with_name("fuzz_child.py")
VARIANTS = 300


@pytest.mark.parametrize(
    "container", ["mat", "mat73", "hdf5", "envi", "npy", "npz", "tiff", "mosaic-png", "png-bands", "hsd"]
)
def test_corrupted_files_become_rows_with_a_reason(tmp_path, container):
    command = [sys.executable, CHILD, container, str(VARIANTS), tmp_path]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        cwd=CHILD.parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert found["done"] + found["failed"] == VARIANTS and found["failed"] > VARIANTS / 10
    assert all(str(tmp_path) in sentence for sentence in found["sentences"])
    assert found["grown_kb"] < 200_000, found["grown_kb"]
