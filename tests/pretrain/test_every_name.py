"""Every model that has a name trains: merged and flat, both input modes and band rules, any patch, sides and ranks."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from golden import make_work, reduced

from hypervision import create_model, list_models
from tests.waiting import RUN_SECONDS

ROOT = Path(__file__).resolve().parents[2]
FORMS = [
    "hypervision_base merge_blocks=[]",
    'hypervision_base input_mode="public"',
    'hypervision_base embedding="interpolated" patch_size=8',
    "hypervision_nano patch_size=8 merge_blocks=[]",
    'hyperfree_base input_mode="public" embedding="interpolated" patch_size=8',
    "hyperfree_large merge_blocks=[1]",
]
ALONE = [*list_models(), *FORMS]
TOGETHER = ["hypervision_large", "hyperfree_base patch_size=8"]
HEIGHT, WIDTH = 48, 80


def two_steps(work, ranks, cases):
    """What each case logged, on so many ranks."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    words += [str(Path(__file__).with_name("every_name_child.py")), str(work), *cases]
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    extra = {"DS_ACCELERATOR": "cpu", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    environ = {**os.environ, **extra}
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Metrics of every case on one rank and on two."""
    found = {}
    for ranks, cases in ((1, ALONE), (2, TOGETHER)):
        work = tmp_path_factory.mktemp("names")
        make_work(work, HEIGHT, WIDTH)
        found |= {(ranks, case): rows for case, rows in two_steps(work, ranks, cases).items()}
    return found


@pytest.mark.parametrize(("ranks", "case"), [*((1, case) for case in ALONE), *((2, case) for case in TOGETHER)])
def test_a_named_model_takes_steps_with_all_terms(logged, ranks, case):
    rows = logged[ranks, case]
    assert [row["step"] for row in rows] == [0, 1] and not any(row["dropped"] for row in rows)
    for row in rows:
        assert all(math.isfinite(row[term]) and row[term] > 0 for term in ("contrast", "masks", "distil", "spectra"))
        assert row["grad_norm"] > 0


@pytest.mark.parametrize("name", list_models())
def test_maps_lie_where_the_model_says(name):
    import torch

    model = create_model(name, **reduced(name))
    wl = tuple(450.0 + 10 * band for band in range(20))
    with torch.inference_mode():
        maps = model.encode(torch.rand(1, 20, HEIGHT, WIDTH), wl, 1.0)
    infos = model.feature_info[1:]
    assert [tuple(one.shape[1:]) for one in maps] == [(info.channels, *info.grid((HEIGHT, WIDTH))) for info in infos]
