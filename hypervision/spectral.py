"""Channel-adaptive patch embedding: cubes of any cameras, mixed in one batch, to tokens.

Which band meets which kernel is told by `bands`. Samples of one camera share one multiply over the channels that
camera has; the kernels of a camera are summed once and kept while the weights do not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypervision.bands import Mixture, Plan
from hypervision.patches import embed_camera, mix_kernels

SHAPE_EPS = 1e-4
MEAN_PAIRS = 40.0
KEPT_CAMERAS = 4


def shape_cube(cube_BCHW: Tensor, count_B: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Divide every patch by its own mean and centre it; return it with its log-brightness [B, h, w].

    Brightness dominates raw patches, and an absent band would read as "reflectance 0"; both go away here.
    `count_B` is the number of real bands of each sample (the rest are zero padding, which nobody looks at).
    Log-brightness is relative to the sample's mean, so it does not depend on the units of the cube.
    """
    batch, channels, height, width = cube_BCHW.shape
    tiles = cube_BCHW.reshape(batch, channels, height // patch, patch, width // patch, patch)
    mean_Bhw = tiles.sum((1, 3, 5)) / (count_B[:, None, None] * patch * patch)
    scale_B11 = mean_Bhw.abs().mean((1, 2), keepdim=True).clamp_min(1e-20)
    floor_Bhw = torch.maximum(mean_Bhw, SHAPE_EPS * scale_B11)
    dark_Bhw = mean_Bhw <= SHAPE_EPS * scale_B11
    shape = (tiles / floor_Bhw[:, None, :, None, :, None]).sub_(1)
    shape.masked_fill_(dark_Bhw[:, None, :, None, :, None], 0.0)
    return shape.reshape(cube_BCHW.shape), (floor_Bhw / scale_B11).log()


class SpectralEmbedding(nn.Module):
    """Tokens from a cube of any camera; the parameters live in the encoder under their public names.

    Args:
        patch_size: side of a square patch in pixels.
        input_mode: "public" takes the cube as it is (the caller divides it by its maximum), "shape" divides
            every patch by its own mean, centres it and keeps its log-brightness as one extra vector.
    """

    def __init__(self, patch_size: int, input_mode: str) -> None:
        super().__init__()
        self.patch_size, self.input_mode = patch_size, input_mode
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def forward(self, bank: dict[str, Tensor], cube_BCHW: Tensor, plans: Sequence[Plan]) -> Tensor:
        """Return token maps [B, D, H/p, W/p]; `plans` holds one plan per sample."""
        extra: Tensor | float = 0.0
        if self.input_mode == "shape":
            count_B = torch.tensor([plan.bands for plan in plans], device=cube_BCHW.device)
            cube_BCHW, bright_Bhw = shape_cube(cube_BCHW, count_B, self.patch_size)
            extra = bright_Bhw[:, None] * bank["log_brightness"][:, None, None]
        if all(plan is plans[0] for plan in plans):
            return self._one_camera(bank, cube_BCHW, plans[0]) + extra
        cameras: dict[Plan, list[int]] = {}
        for index, plan in enumerate(plans):
            cameras.setdefault(plan, []).append(index)
        tokens = torch.cat([self._one_camera(bank, cube_BCHW[rows], plan) for plan, rows in cameras.items()])
        order = torch.tensor([index for rows in cameras.values() for index in rows]).argsort()
        return tokens[order.to(tokens.device)] + extra

    def _one_camera(self, bank: dict[str, Tensor], cube_BCHW: Tensor, plan: Plan) -> Tensor:
        weight_DX, bias_D = self.camera(bank, plan)
        return embed_camera(cube_BCHW, plan.mixture, weight_DX, bias_D, self.patch_size).permute(0, 3, 1, 2)

    def camera(self, bank: dict[str, Tensor], plan: Plan) -> tuple[Tensor, Tensor]:
        """Kernels [D, K * p * p] and bias [D] of a camera, as `embed_camera` takes them."""
        bias_D = bank["point_b"] + bank["block_b"] if plan.uses_block else bank["point_b"]
        return self._kernels(bank, plan).flatten(1), bias_D

    def _kernels(self, bank: dict[str, Tensor], plan: Plan) -> Tensor:
        """The kernels of a camera, from memory if nobody will ask for their gradient."""
        point, block = bank["point_w"], bank["block_w"]
        training = torch.is_grad_enabled() and (point.requires_grad or block.requires_grad)
        if training or point.is_inference() or block.is_inference():
            # Optimisers may write weights behind their version counters, and inference tensors have none.
            self._kept.clear()
            return self._mix(point, block, plan.mixture)
        key = (plan, point.data_ptr(), point._version, block.data_ptr(), block._version, point.dtype, point.device)
        if key not in self._kept:
            if len(self._kept) >= KEPT_CAMERAS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self._mix(point, block, plan.mixture)
        return self._kept[key]

    def _mix(self, point_DTpp: Tensor, block_DTpp: Tensor, mixture: Mixture) -> Tensor:
        """Sum the kernels that meet the same channel: [D, K, p, p]."""
        # In shape mode a mean over the kernels, not a sum: many bands must not give larger tokens.
        amount = MEAN_PAIRS / mixture.amount if self.input_mode == "shape" else 1.0
        return mix_kernels(point_DTpp, block_DTpp, mixture, amount)
