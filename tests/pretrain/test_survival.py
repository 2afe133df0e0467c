"""Killed at random steps and started again, over and over, a run ends where one that nobody touched does."""

import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from golden import make_work

from tests.waiting import SAFETY_SECONDS, wait_for

STEPS, WEIGHTS = 120, ("weights.safetensors", "mean_weights.safetensors")
WORDS = (f"pretrain.steps={STEPS}", "pretrain.save_every=4", "pretrain.ranks=2", "pretrain.micro_batch=1",
         "pretrain.ema=0.9")  # fmt: skip


def losses(run: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def last_weights(run: Path) -> list[bytes]:
    newest = max((run / "checkpoints").glob("step_*[0-9]"))
    return [(newest / name).read_bytes() for name in WEIGHTS]


def logged(run: Path) -> int:
    """Steps in the log, without a line that a kill cut."""
    path = run / "metrics.jsonl"
    return sum(line.endswith("}") for line in path.read_text().splitlines()) if path.is_file() else 0


def ranks(run: Path) -> list[psutil.Process]:
    """The rank processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if str(run / "spec.json") in words and "torch.distributed.run" not in words:
            found.append(process)
    return found


def kill_ranks(process, run: Path, at: int, rng: random.Random) -> bool:
    """Kill ranks of a run after a step; False if it came to its end before."""
    wait_for(lambda: process.poll() is not None or len(ranks(run)) == 2, "two ranks")
    victims = ranks(run)
    wait_for(lambda: process.poll() is not None or logged(run) > at, f"step {at}")
    # All at once as on a node that dies, or one rank alone, whose peer must not wait for ever.
    for victim in rng.sample(victims, min(len(victims), rng.choice([1, 2]))):
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    process.communicate(timeout=SAFETY_SECONDS)
    return process.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "kills"), [("fp32", 10), ("bf16", 3)])
def test_a_run_killed_at_random_steps_is_the_run_that_nobody_touched(cli, launch, tmp_path, precision, kills):
    recipe = make_work(tmp_path)
    words = ("pretrain", recipe, f"workdir={tmp_path}", f"pretrain.precision={precision}", *WORDS)
    code, out, err = cli(*words, "pretrain.run=whole")
    assert code == 0, out + err
    seed = int.from_bytes(os.urandom(2), "little")
    print(f"seed of the kills: {seed}")
    rng = random.Random(seed)
    run, whole = tmp_path / "runs" / "killed", tmp_path / "runs" / "whole"
    for at in sorted(rng.randrange(1, STEPS - 30) for _ in range(kills)):
        if not kill_ranks(launch(*words, "pretrain.run=killed", start_new_session=True), run, at, rng):
            break
    code, out, err = cli(*words, "pretrain.run=killed")
    assert code == 0, out + err
    assert losses(run) == losses(whole) and len(losses(run)) == STEPS
    assert last_weights(run) == last_weights(whole)
