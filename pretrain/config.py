"""Configuration of a training run, and the specification that every rank process reads."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distill.views import TeacherConfig
from sharding.errors import ConfigError
from sharding.local import LoaderConfig
from sharding.order import LOGIC as ORDER_LOGIC
from sharding.order import MixingConfig

LOGIC = 4
PRECISIONS = ("fp32", "bf16", "fp16")
KERNELS = ("rough", "smooth", "even")
TERMS = ("contrast", "masks", "distil", "spectra")  # of the objective; each has its weight in `ObjectiveConfig`


@dataclass
class ModelConfig:
    """The student by name; any field of `hypervision.sizes.ModelSize` in `options`; weights to start from; `decoder`:
    weights of the SAM family that prompt encoder and mask decoder start from (neck_dim 256).

    `kernels` of a start from nothing: "rough" (every pixel of a patch drawn alone, as in the public code), "smooth"
    (one draw a band for the whole patch, a tenth as much for each pixel), which begins with the mean of a patch, or
    "even" (one draw a band, and one step for all pixels), which stays with it: spectra without texture.
    """

    name: str = "hypervision_base"
    input_mode: str = "shape"
    kernels: str = "rough"
    checkpoint: str | None = None
    decoder: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse kernels and weights that there are not.

        Raises:
            ConfigError: naming the kernels that there are, or the file that there is not.
        """
        if self.decoder is not None and not Path(self.decoder).is_file():
            raise ConfigError(f"model.decoder {self.decoder} is not there: give the weights of a SAM, or leave it out")
        if self.kernels not in KERNELS:
            raise ConfigError(f"model.kernels {self.kernels!r} is not one of {', '.join(KERNELS)}")


@dataclass
class SampleConfig:
    """What a step sees of a sample: bands per view (a random number within the limits), the share of views that
    see one contiguous part of the spectrum, bands hidden from a view to be told from its tokens, masks pooled and
    prompts drawn per view; deal the materials of an image out among its masks anew (a control, which takes from them
    all that they say).
    """

    bands_min: int = 40
    bands_max: int = 40
    window_share: float = 0.2
    hidden: int = 16
    max_masks: int = 32
    prompts: int = 4
    flip: bool = True
    shuffle_materials: bool = False


@dataclass
class ObjectiveConfig:
    """Weights of the terms (0 switches one off), the temperature of the contrast, and the power of a token's share in
    a mask by which it counts in the mask's mean (0 = all that the mask touches alike).
    """

    contrast: float = 1.0
    masks: float = 0.5
    distil: float = 0.3
    spectra: float = 0.5
    temperature: float = 0.1
    pool_power: float = 2.0
    focal_weight: float = 20.0
    dice_weight: float = 1.0


@dataclass
class PretrainConfig:
    """How long, how fast, on how many ranks.

    Fields: run name; optimiser steps; images per step over all ranks and per rank and pass; peak learning rate,
    warm-up share, weight decay, gradient clip; learning rate of a layer as a share of that of the next one; decay of
    the running mean of the weights (0 = none), which is then what is exported; DeepSpeed ZeRO stage 0-3 and the
    precision of products (weights and their mean stay in float32); spend a second forward in place of activations;
    compile the encoder's blocks; a checkpoint every so many steps, of which the newest `keep` stay; a picture of what
    the student sees, and a linear probe on that many scenes of each held-out dataset with labels (`train: false`),
    every so many steps (0 = never); steps without a finite loss or gradient that a start may leave out; ranks (0 = one
    per GPU, or one) and CPU threads of each; how datasets are mixed, how batches are read.
    """

    run: str = "run"
    steps: int = 10000
    global_batch: int = 64
    micro_batch: int = 8
    lr: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    layer_decay: float = 1.0
    ema: float = 0.0
    zero_stage: int = 1
    precision: str = "bf16"
    recompute: bool = False
    compile: bool = False
    save_every: int = 500
    keep: int = 2
    pictures_every: int = 0
    probe_every: int = 0
    probe_scenes: int = 16
    max_dropped: int = 10
    ranks: int = 0
    threads: int = 0
    mixing: MixingConfig = field(default_factory=MixingConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def check(self, ranks: int) -> None:
        """Refuse what cannot run, before any process is started.

        Raises:
            ConfigError: with what to change.
        """
        if self.global_batch % (ranks * self.micro_batch):
            raise ConfigError(
                f"pretrain.global_batch {self.global_batch} must be a multiple of ranks x micro_batch "
                f"({ranks} x {self.micro_batch}); set pretrain.micro_batch or pretrain.ranks"
            )
        if self.zero_stage not in (0, 1, 2, 3):
            raise ConfigError(f"pretrain.zero_stage {self.zero_stage} is not 0, 1, 2 or 3")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"pretrain.precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.precision == "fp16" and not self.zero_stage:
            raise ConfigError("pretrain.precision=fp16 needs the loss scale that ZeRO keeps: set pretrain.zero_stage=1")
        if self.keep < 2:
            raise ConfigError("pretrain.keep must be at least 2: the newest checkpoint may be the broken one")
        if min(self.pictures_every, self.probe_every) < 0 or self.probe_scenes < 1:
            raise ConfigError("pretrain.pictures_every and probe_every must be 0 or more, probe_scenes at least 1")
        if min(self.steps, self.save_every, self.micro_batch) < 1:
            raise ConfigError("pretrain.steps, save_every and micro_batch must be at least 1")
        if self.objective.pool_power < 0 or self.objective.temperature <= 0:
            raise ConfigError("pretrain.objective.pool_power must be 0 or more, temperature above 0")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.ema < 1:
            raise ConfigError("pretrain.layer_decay must be above 0 and at most 1, ema at least 0 and below 1")
        if not 0 <= self.beta1 < 1 or not 0 <= self.beta2 < 1:
            raise ConfigError("pretrain.beta1 and beta2 must be at least 0 and below 1")
        self.loader.check()

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero; a function of the step alone."""
        warm = max(1, round(self.warmup * self.steps))
        return self.lr * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / self.steps)))


@dataclass
class RunSpec:
    """All that a rank process needs; written to `<run>/spec.json`."""

    workdir: str
    datasets: list[str]
    seed: int
    ranks: int
    model: ModelConfig
    teacher: TeacherConfig
    pretrain: PretrainConfig
    held_out: list[str] = field(default_factory=list)

    def bytes_config(self) -> dict[str, Any]:
        """The fields that change the weights that come out."""
        fields = {"logic": LOGIC, "order_logic": ORDER_LOGIC, **asdict(self)}
        for name in ("workdir", "ranks", "held_out"):
            del fields[name]
        if self.teacher.mode != "none":  # how features are had does not change them
            del fields["teacher"]["mode"]
        for name in ("run", "ranks", "threads", "save_every", "keep", "max_dropped", "loader", "recompute"):
            del fields["pretrain"][name]
        for name in ("pictures_every", "probe_every", "probe_scenes"):  # they look on
            del fields["pretrain"][name]
        return fields
