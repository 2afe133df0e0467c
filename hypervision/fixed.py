"""The encoder for one camera: a program that runs without this package, and the card that goes with weights.

A camera fixes which kernels are summed and where its tokens lie, so both are constants of the program: the banks, which
are two thirds of a base encoder's bytes, stay behind.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypervision.bands import BLOCK_NM, POINT_NM, RULES, TOLERANCE_NM
from hypervision.blocks import position_code
from hypervision.encoder import run_blocks
from hypervision.model import HyperModel
from hypervision.patches import embed_patches
from hypervision.spectral import shape_cube

NORMALISATION = {
    "public": "divide each cube by its maximum; set invalid pixels to 0",
    "shape": "none: values in any linear unit; set invalid pixels to 0",
}


class FixedEncoder(nn.Module):
    """Cubes [B, C, H, W] of one camera and size to feature maps: the taps in order, then the neck."""

    weight: Tensor
    bias: Tensor
    place: Tensor
    log_brightness: Tensor

    def __init__(
        self, model: HyperModel, wavelength_nm: tuple[float, ...], gsd_m: float, height: int, width: int
    ) -> None:
        super().__init__()
        encoder, size = model.image_encoder, model.size
        self.plan = RULES[size.embedding](wavelength_nm)
        self.patch, self.shape = size.patch_size, size.input_mode == "shape"
        rows, cols = height // self.patch, width // self.patch
        with torch.no_grad():
            bank = encoder.bank()
            weight_DX, bias_D = encoder.embedding.camera(bank, self.plan)
            code = position_code(rows, cols, size.embed_dim, torch.tensor([gsd_m]))
            place = encoder.pos_embed_mlp(code)
        self.register_buffer("weight", weight_DX.detach().clone())
        self.register_buffer("bias", bias_D.detach().clone())
        self.register_buffer("place", place.detach().clone())
        self.register_buffer("log_brightness", bank["log_brightness"].detach().clone() if self.shape else None)
        self.blocks, self.merges, self.neck = encoder.blocks, encoder.multi_scale_convs, encoder.neck
        self.tap_blocks, self.merge_blocks = encoder.tap_blocks, size.merge_blocks

    def forward(self, cube_BCHW: Tensor) -> list[Tensor]:
        """See the class."""
        extra: Tensor | float = 0.0
        if self.shape:
            count_B = torch.full((cube_BCHW.shape[0],), self.plan.bands, device=cube_BCHW.device)
            cube_BCHW, bright_Bhw = shape_cube(cube_BCHW, count_B, self.patch)
            extra = bright_Bhw[..., None] * self.log_brightness
        tokens_BHWD = embed_patches(cube_BCHW, self.plan.mixture, self.weight, self.bias, self.patch)
        merges = dict(zip(self.merge_blocks, self.merges, strict=True))
        return run_blocks(tokens_BHWD + extra + self.place, self.blocks, self.tap_blocks, merges, self.neck)


def export_program(
    model: HyperModel,
    path: str | Path,
    wavelength_nm: tuple[float, ...],
    gsd_m: float,
    image_hw: tuple[int, int],
    batch: int = 1,
) -> None:
    """Write the encoder for one camera as a `torch.export` program (.pt2).

    `torch.export.load(path).module()(cube)` runs it, with torch alone; cubes are [batch, bands, *image_hw] float32.

    Raises:
        ValueError: wavelengths that the model cannot see, or sides that the patch does not divide.
    """
    height, width = image_hw
    if height % model.size.patch_size or width % model.size.patch_size:
        raise ValueError(f"an image of {height} x {width} is no multiple of the patch size {model.size.patch_size}")
    fixed = FixedEncoder(model.eval(), tuple(float(nm) for nm in wavelength_nm), gsd_m, height, width).eval()
    with torch.no_grad():
        program = torch.export.export(fixed, (torch.zeros(batch, len(wavelength_nm), height, width),))
    torch.export.save(program, str(path))


def card(model: HyperModel) -> dict[str, Any]:
    """What a user of the weights needs to know of the model: options, maps, how cubes enter, what it can see."""
    size = model.size
    maps = [asdict(info) for info in model.feature_info[1:]]
    return {
        "name": model.name,
        "options": asdict(size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "maps": maps,
        "normalisation": NORMALISATION[size.input_mode],
        "sees_nm": [min(POINT_NM + BLOCK_NM) - TOLERANCE_NM, max(POINT_NM + BLOCK_NM) + TOLERANCE_NM],
    }
