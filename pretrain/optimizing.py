"""What is optimised and how fast: parameter groups by depth, the DeepSpeed engine, the running mean of the weights."""

from __future__ import annotations

import copy
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


def layer_of(name: str, depth: int) -> int:
    """0 for the embedding, i + 1 for block i, depth + 1 for all that follows."""
    block = BLOCK.search(name)
    if block is not None:
        return int(block[1]) + 1
    return 0 if FIRST.search(name) else depth + 1


def parameter_groups(model: PretrainModel, layer_decay: float) -> tuple[list[dict[str, Any]], list[float]]:
    """Groups for the optimiser and the learning rate of each as a share of the run's: decay ^ (layers above it).

    Layer-wise decay as in BEiT and MAE fine-tuning: for a start from a checkpoint, whose first layers need the least.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if layer_decay == 1:
        return [{"params": [p for _, p in named]}], [1.0]
    depth = len(model.student.image_encoder.blocks)
    layers: dict[int, list[Tensor]] = {}
    for name, p in named:
        layers.setdefault(layer_of(name, depth), []).append(p)
    found = sorted(layers)
    return [{"params": layers[i]} for i in found], [layer_decay ** (depth + 1 - i) for i in found]


def deepspeed_engine(model: PretrainModel, config: PretrainConfig) -> tuple[Any, list[float]]:
    """A DeepSpeed engine over the model with torch's AdamW, and the learning-rate share of each group."""
    import deepspeed

    groups, shares = parameter_groups(model, config.layer_decay)
    optimizer = torch.optim.AdamW(groups, config.lr, (0.9, 0.95), weight_decay=config.weight_decay)
    settings = {
        "train_batch_size": config.global_batch,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_clipping": config.clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bf16"},
        "steps_per_print": 1 << 30,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return engine, shares


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
