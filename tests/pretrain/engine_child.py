"""One of two ranks that train on every ZeRO stage and precision; a gradient of the second rank is not finite once.

Prints what rank 0 saw as JSON: {"<stage> <precision>": {"losses", "applied", "moved", "same"}}.
"""

import json
import os
import sys

import torch

from distill.views import View
from hypervision import create_model
from pretrain.config import ObjectiveConfig, PretrainConfig
from pretrain.data import Batch
from pretrain.objective import PretrainModel
from pretrain.optimizing import deepspeed_engine, gradient_norm, whole_weights
from pretrain.train import start_ranks

SMALL = {"image_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": [0, 1], "neck_dim": 32}
STEPS, WRONG = 5, 2


def batch(seed):
    """Two views of an image with two masks, anything in them."""
    draw = torch.Generator().manual_seed(seed)
    wl = [450.0 + 10 * i for i in range(20)]
    halves = torch.zeros(2, 2, 16, 16)
    halves[:, 0, :, :8], halves[:, 1, :, 8:] = 1, 1
    return Batch(
        indices=[0], keys=["a", "a"], views=[View.IDENTITY] * 2, wavelength_nm=[wl, wl], gsd_m=[1.0, 1.0],
        cube=torch.rand(2, 20, 16, 16, generator=draw) + 0.1,
        coverage=torch.eye(2)[None, :, None].expand(2, 2, 2, 2), material=torch.tensor([[1, 2], [1, 2]]),
        masks=halves, points=torch.tensor([[4.0, 8], [12, 8]]).expand(2, 2, 2),
        boxes=torch.tensor([[0.0, 0, 7, 15], [8, 0, 15, 15]]).expand(2, 2, 4), prompted=torch.ones(2, 2, dtype=bool),
        hidden=torch.rand(2, 3, 2, 2, generator=draw), hidden_nm=torch.tensor([[500.0, 550, 600]] * 2),
        visible=torch.ones(2),
    )  # fmt: skip


def weights(engine):
    with whole_weights(engine):
        return torch.cat([p.detach().float().flatten() for p in engine.module.parameters()])


def train(stage, precision, rank):
    torch.manual_seed(0)
    model = PretrainModel(create_model("hypervision_nano", **SMALL), 0, ObjectiveConfig(), precision)
    config = PretrainConfig(
        global_batch=2, micro_batch=1, zero_stage=stage, precision=precision, lr=1e-3, ranks=2, clip=1.0
    )
    engine, _ = deepspeed_engine(model, config)
    if precision == "fp16":
        engine.optimizer.loss_scaler.cur_scale = 128.0
    found = {"losses": [], "applied": [], "moved": [], "norm": []}
    for step in range(STEPS):
        before = weights(engine)
        spark = [torch.zeros((), requires_grad=True)] if stage == 3 else []
        loss, _ = engine(batch(10 * step + rank), None, step % 2 == 0, *spark)
        engine.backward(loss * float("nan") if (step, rank) == (WRONG, 1) else loss)
        engine.step()
        found["losses"].append(float(loss))
        found["applied"].append(engine.was_step_applied())
        found["norm"].append(gradient_norm(engine))
        found["moved"].append(float((weights(engine) - before).abs().max()))
    mine = weights(engine)
    theirs = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(theirs, mine)
    found["same"] = bool((theirs[0] == theirs[1]).all()) and bool(mine.isfinite().all())
    engine.destroy()
    return found


def main():
    start_ranks(0)
    rank = int(os.environ["RANK"])
    told = {words: train(int(words[0]), words[2:], rank) for words in sys.argv[1:]}
    if rank == 0:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
