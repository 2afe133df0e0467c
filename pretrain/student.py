"""The student as training starts it."""

from __future__ import annotations

import torch

from hypervision import HyperModel, create_model
from pretrain.config import RunSpec


def build_student(spec: RunSpec) -> HyperModel:
    """The student with its starting weights."""
    torch.manual_seed(spec.seed)
    model = create_model(spec.model.name, spec.model.checkpoint, input_mode=spec.model.input_mode, **spec.model.options)
    if spec.model.kernels == "smooth" and spec.model.checkpoint is None:
        smooth_kernels(model)
    model.image_encoder.checkpointing = spec.pretrain.recompute
    if spec.pretrain.compile:
        model.compile_blocks()
    return model.train()


@torch.no_grad()
def smooth_kernels(model: HyperModel) -> None:
    """Kernels that begin as one number a band for the whole patch, and a tenth as much for each pixel."""
    for bank in (model.image_encoder.point_spectral_weight_bank_w, model.image_encoder.block_spectral_weight_bank_w):
        bank.copy_(bank[..., :1, :1] + 0.1 * bank)
