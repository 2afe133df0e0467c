"""Where the time of a training step goes: the whole step, the step without a loader, the loader without a model.

    DS_ACCELERATOR=cpu python -m torch.distributed.run --standalone --nproc-per-node=1 benchmarks/step.py WORKDIR

WORKDIR is a work folder of the demo recipe with shards and a full teacher cache in it. One rank with one thread; the
three take turns, five rounds; steps without a loader train on one batch again and again.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from itertools import repeat
from pathlib import Path

from pipeline.config import load_config
from pretrain.train import Trainer, start_ranks
from sharding.lifeline import StopFlag


def main() -> None:
    """Print medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("words", nargs="*", help="further key=value")
    given = parser.parse_args()
    words = [f"workdir={given.workdir}", "pretrain.ranks=1", "teacher.mode=cache", "pretrain.run=step", *given.words]
    spec = load_config("demo", words).run_spec()
    start_ranks(spec.seed, 1)
    trainer = Trainer(spec, StopFlag())
    total = given.steps * (given.rounds + 1)
    batches = trainer.batches((2 * total + 2) * trainer.passes)
    kept = copy.deepcopy(next(batches))  # the loader uses its memory again
    found: dict[str, list[float]] = {"whole step": [], "no loader": [], "no model": [], "waited": []}
    for number in range(given.rounds + 1):
        for name in ("whole step", "no loader", "no model"):
            trainer.waited, began = 0.0, time.perf_counter()
            for step in range(given.steps):
                if name == "no model":
                    for _ in range(trainer.passes):
                        next(batches)
                else:
                    trainer.step(step, batches if name == "whole step" else repeat(kept))
            seconds = (time.perf_counter() - began) / given.steps
            if number:  # the first round wakes everything up
                found[name].append(seconds)
                found["waited"] += [trainer.waited / given.steps] if name == "whole step" else []
    for name, values in found.items():
        runs = " ".join(f"{1e3 * value:.1f}" for value in values)
        print(f"{name}: {1e3 * statistics.median(values):.1f} ms a step ({runs})")
    print(
        f"waits for data: {statistics.median(found['waited']) / statistics.median(found['whole step']):.2%} of a step"
    )


if __name__ == "__main__":
    main()
