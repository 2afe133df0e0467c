"""A rank that takes two optimiser steps of each named case, through loader, teacher, engine and objective.

Prints what rank 0 logged as JSON: {case: rows of metrics}.
"""

import json
import sys
from pathlib import Path

from golden import reduced

from distill.views import TeacherConfig
from pretrain.config import ModelConfig, PretrainConfig, RunSpec, SampleConfig
from pretrain.logs import read_metrics
from pretrain.ranks import rank, world
from pretrain.train import Trainer, start_ranks
from sharding.lifeline import StopFlag
from sharding.local import LoaderConfig


def spec_of(work, number, case):
    """Two steps of a case; words over its reduced form are name=value in JSON."""
    name, *words = case.split()
    over = {key: json.loads(value) for key, value in (word.split("=") for word in words)}
    mode = over.pop("input_mode", "shape")
    pretrain = PretrainConfig(
        run=f"case-{number}", steps=2, global_batch=2, micro_batch=1, precision="fp32", threads=1, ranks=world(),
        loader=LoaderConfig(workers=0), sample=SampleConfig(10, 16, prompts=2, max_masks=8),
    )  # fmt: skip
    teacher = TeacherConfig(name="test_convnext2", allow_random=True, image_size=64, mode="live")
    model = ModelConfig(name, mode, options=reduced(name) | over)
    return RunSpec(str(work), ["golden"], 0, world(), model, teacher, pretrain)


def main():
    work, cases = Path(sys.argv[1]), sys.argv[2:]
    start_ranks(0, 1)
    for number, case in enumerate(cases):
        trainer = Trainer(spec_of(work, number, case), StopFlag())
        trainer.run.mkdir(parents=True, exist_ok=True)
        trainer.train()
        trainer.engine.destroy()
    if rank() == 0:
        print(json.dumps({case: read_metrics(work / "runs" / f"case-{n}") for n, case in enumerate(cases)}))


if __name__ == "__main__":
    main()
