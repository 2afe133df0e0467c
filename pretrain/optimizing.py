"""What is optimised and how fast: parameter groups by depth, the DeepSpeed engine, the running mean of the weights."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypervision import HyperModel, load_weights, save_weights
from pretrain.config import PretrainConfig
from pretrain.objective import PretrainModel

BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")
FIRST = re.compile(r"image_encoder\.(point_spectral|block_spectral|pos_embed)")
# fp16: the loss scale to begin with, and steps without overflow after which it doubles.
FIRST_SCALE, SCALE_STEPS = 2.0**14, 1000


def layer_of(name: str, depth: int) -> int:
    """0 for the embedding, i + 1 for block i, depth + 1 for all that follows."""
    block = BLOCK.search(name)
    if block is not None:
        return int(block[1]) + 1
    return 0 if FIRST.search(name) else depth + 1


def parameter_groups(model: PretrainModel, config: PretrainConfig) -> tuple[list[dict[str, Any]], list[float]]:
    """Groups for the optimiser and the learning rate of each as a share of the run's: decay ^ (layers above it).

    Layer-wise decay as in BEiT and MAE fine-tuning: for a start from a checkpoint, whose first layers need the least.
    The weights that the student names (`no_weight_decay`), and norms and biases of the heads, are not decayed.
    """
    undecayed = {f"student.{name}" for name in model.student.no_weight_decay()}
    depth = len(model.student.image_encoder.blocks)
    members: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer = layer_of(name, depth) if config.layer_decay != 1 else depth + 1
            decayed = parameter.ndim > 1 and name not in undecayed
            members.setdefault((layer, decayed), []).append(parameter)
    groups, shares = [], []
    for layer, decayed in sorted(members):
        groups.append({"params": members[layer, decayed], "weight_decay": config.weight_decay if decayed else 0.0})
        shares.append(config.layer_decay ** (depth + 1 - layer))
    return groups, shares


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips, and leaves out a step whose gradient is not finite, as the optimisers of ZeRO do.

    Without ZeRO every rank holds the whole reduced gradient, so all ranks decide alike.
    """

    def __init__(self, groups: list[dict[str, Any]], clip: float, **options: Any) -> None:
        self.clip, self.overflow, self.norm = clip, False, 0.0
        super().__init__(groups, **options)

    def step(self, closure: Any = None) -> Any:
        """One step, or none; `overflow` says which."""
        held = [p for group in self.param_groups for p in group["params"]]
        self.norm = float(torch.nn.utils.clip_grad_norm_(held, self.clip or math.inf))
        self.overflow = not math.isfinite(self.norm)
        return None if self.overflow else super().step(closure)


def deepspeed_engine(model: PretrainModel, config: PretrainConfig) -> tuple[Any, list[float]]:
    """A DeepSpeed engine over the model with torch's AdamW, and the learning-rate share of each group.

    The engine holds float32 whatever the precision: products are cast where they are made (`PretrainModel`), so that
    weights, their mean, gradients and sums over ranks are not rounded.
    """
    import deepspeed

    groups, shares = parameter_groups(model, config)
    options: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2)}
    sharded = config.zero_stage > 0
    settings = {
        "train_batch_size": config.global_batch,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_clipping": config.clip if sharded else 0.0,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,
    }
    optimizer = torch.optim.AdamW(groups, **options) if sharded else GuardedAdamW(groups, config.clip, **options)
    # Points and boxes take turns, and heads are used in pieces: ZeRO 3, which learns an order of modules, is told that
    # all weights are wanted together; between steps they lie in parts.
    deepspeed.utils.set_z3_leaf_modules(model, [PretrainModel])
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if sharded:
        _guard(engine.optimizer, config)
    return engine, shares


def _guard(optimizer: Any, config: PretrainConfig) -> None:
    """What ZeRO does for half-precision weights only: a loss scale for fp16, and at stage 3 a look at the gradient."""
    if config.precision == "fp16":
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

        optimizer.loss_scaler = DynamicLossScaler(FIRST_SCALE, SCALE_STEPS, 1.0, 1, False)
        optimizer.dynamic_loss_scale = True
    if config.zero_stage == 3:
        settle = optimizer._loss_scale_update_and_overflow_cleanup

        def look() -> bool:
            optimizer.check_overflow()
            return bool(settle())

        optimizer._loss_scale_update_and_overflow_cleanup = look


def gradient_norm(engine: Any) -> float | None:
    """Norm of the last step's gradient before it was clipped; None where it was not finite."""
    norm = engine.optimizer.norm if isinstance(engine.optimizer, GuardedAdamW) else engine.get_global_grad_norm()
    return float(norm) if norm is not None and math.isfinite(float(norm)) else None


def whole_weights(engine: Any) -> Any:
    """A context in which every rank holds every weight, which ZeRO 3 else keeps in parts."""
    import deepspeed

    parts = [p for p in engine.module.parameters() if hasattr(p, "ds_id")]
    return deepspeed.zero.GatheredParameters(parts, enabled=bool(parts))


class MeanWeights:
    """Exponential running mean of the student's weights in float32, the same on every rank.

    mean <- d mean + (1 - d) weights after every step, with d = min(decay, (1 + step) / (10 + step)) so that the random
    start is soon forgotten.
    """

    def __init__(self, student: HyperModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(student).float().requires_grad_(False)

    @torch.no_grad()
    def update(self, student: HyperModel, step: int) -> None:
        """Take in the weights after a step."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for mean, now in zip(_floats(self.model), _floats(student), strict=True):
            mean.lerp_(now.detach().float(), weight)

    def save(self, path: Path) -> None:
        """Write it as weights that load by name."""
        save_weights(self.model, path)

    def load(self, path: Path) -> None:
        """Go on from a file that `save` wrote."""
        load_weights(self.model, path)


def _floats(model: HyperModel) -> Iterable[Tensor]:
    return (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
