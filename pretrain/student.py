"""The student as training starts it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hypervision import HyperModel, LoadReport, create_model, load_weights
from hypervision.checkpoint import read_state
from pretrain.config import RunSpec
from pretrain.starting import let_prompts_speak
from sharding.errors import InputError

DECODER_PARTS = ("prompt_encoder.", "mask_decoder.")


def build_student(spec: RunSpec) -> HyperModel:
    """The student with its starting weights."""
    torch.manual_seed(spec.seed)
    model = create_model(spec.model.name, spec.model.checkpoint, input_mode=spec.model.input_mode, **spec.model.options)
    if spec.model.kernels != "rough" and spec.model.checkpoint is None:
        smooth_kernels(model, 0.1 if spec.model.kernels == "smooth" else 0.0)
    if spec.model.kernels == "even":
        hold_even(model)
    if spec.model.decoder is not None:
        load_decoder(model, Path(spec.model.decoder))
    elif spec.model.checkpoint is None and spec.pretrain.objective.masks:
        let_prompts_speak(model)
    model.image_encoder.checkpointing = spec.pretrain.recompute
    if spec.pretrain.compile:
        model.compile_blocks()
    return model.train()


def untrained_student(spec: RunSpec) -> HyperModel:
    """The student of a run with random weights, also where the run starts from others; no random state is moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return create_model(spec.model.name, input_mode=spec.model.input_mode, **spec.model.options)


def load_decoder(model: HyperModel, path: Path) -> LoadReport:
    """Prompt encoder and mask decoder from weights of the SAM family; what else the file holds is left.

    Raises:
        InputError: a tensor of theirs is missing, left over or of another width.
    """
    try:
        state = {name: value.float() for name, value in read_state(path).items() if name.startswith(DECODER_PARTS)}
        parts = nn.ModuleDict({part: getattr(model, part) for part in ("prompt_encoder", "mask_decoder")})
        with torch.no_grad():
            report = load_weights(parts, state)
    except ValueError as error:
        raise InputError(f"model.decoder={path}: {error}; SAM's decoder has model.options.neck_dim 256") from error
    if report.missing or report.unexpected:
        raise InputError(f"model.decoder={path} is no prompt encoder and mask decoder of SAM: {report.summary()}")
    return report


@torch.no_grad()
def smooth_kernels(model: HyperModel, detail: float = 0.1) -> None:
    """Kernels that begin as one number a band for the whole patch, and a share of as much for each pixel."""
    for bank in _banks(model):
        bank.copy_(bank[..., :1, :1] + detail * bank)


def hold_even(model: HyperModel) -> None:
    """All pixels of a patch take the same step: kernels that are one number a band stay so."""
    for bank in _banks(model):
        bank.register_hook(lambda slope: slope.mean((2, 3), keepdim=True).expand_as(slope))  # type: ignore[no-untyped-call]


def _banks(model: HyperModel) -> tuple[Tensor, Tensor]:
    encoder = model.image_encoder
    return encoder.point_spectral_weight_bank_w, encoder.block_spectral_weight_bank_w
