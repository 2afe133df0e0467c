"""Every ZeRO stage and precision trains alike, and no rank takes a step whose gradient is not finite on one of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.optimizing import GuardedAdamW
from tests.waiting import RUN_SECONDS

ROOT = Path(__file__).resolve().parents[2]
CASES = ["0 fp32", "1 fp32", "2 fp32", "3 fp32", "0 bf16", "1 bf16", "3 bf16", "1 fp16", "3 fp16"]
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-2}  # of each loss over five steps


@pytest.fixture(scope="module")
def told():
    """What every case gave."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += [str(Path(__file__).with_name("engine_child.py")), *CASES]
    extra = {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environ = {**os.environ, **extra}
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"')))


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_that_is_not_finite_on_one_rank_moves_no_weight_on_any(told, case):
    found = told[case]
    assert found["applied"] == [True, True, False, True, True]
    assert [moved > 0 for moved in found["moved"]] == found["applied"]
    assert [norm is not None for norm in found["norm"]] == found["applied"]
    assert found["same"]


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_float32_without_zero(told, case):
    assert told[case]["losses"] == pytest.approx(told["0 fp32"]["losses"], rel=TOLERANCE[case[2:]])


def test_the_optimiser_without_zero_clips():
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = GuardedAdamW([{"params": [weight]}], 1.0, lr=0.1)
    weight.grad = torch.tensor([3.0, 0.0, 4.0])
    optimizer.step()
    assert optimizer.norm == 5.0 and float(weight.grad.norm()) == pytest.approx(1.0)
