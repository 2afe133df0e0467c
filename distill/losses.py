"""Feature distillation: a small projector to the teacher's width, cosine + smooth-L1 on standardised targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at_tokens(map_BDhw: Tensor, grid_hw: tuple[int, int], image_hw: tuple[int, int], stride: int) -> Tensor:
    """A map that spans an image, bilinearly at the centres of tokens of a stride: [B, D, *grid_hw].

    Tokens that hang over the edge of the image are asked at its edge.
    """
    if (grid_hw[0] * stride, grid_hw[1] * stride) == image_hw:
        return F.interpolate(map_BDhw, grid_hw, mode="bilinear", align_corners=False)
    axes = [
        (torch.arange(count, device=map_BDhw.device) + 0.5) * (2 * stride / side) - 1
        for count, side in zip(grid_hw, image_hw, strict=True)
    ]
    y, x = torch.meshgrid(*axes, indexing="ij")
    place = torch.stack([x, y], -1).expand(len(map_BDhw), -1, -1, -1).to(map_BDhw)
    return F.grid_sample(map_BDhw, place, padding_mode="border", align_corners=False)


class Distiller(nn.Module):
    """Projects student maps and compares them with the teacher's, channel by channel standardised.

    Args:
        student_dims: channels of each student map that is distilled.
        teacher_dim: channels of the teacher.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student_dims: list[int], teacher_dim: int) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(nn.Conv2d(dim, teacher_dim, 1) for dim in student_dims)
        self.register_buffer("mean", torch.zeros(teacher_dim))
        self.register_buffer("std", torch.ones(teacher_dim))

    def fit(self, target_NDhw: Tensor) -> None:
        """Set the standardisation from teacher features (once, before training)."""
        flat = target_NDhw.transpose(0, 1).flatten(1)
        self.mean.copy_(flat.mean(1))
        self.std.copy_(flat.std(1).clamp_min(1e-4))

    def forward(
        self, maps: list[Tensor], strides: list[int], image_hw: tuple[int, int], target_BDhw: Tensor, use_B: Tensor
    ) -> Tensor:
        """Mean loss over the samples that `use_B` keeps (those whose cube covers the visible).

        `strides` are the pixels from token to token of each student map, in an image of `image_hw`.
        """
        # bf16 products under autocast would undo the float() below, hence outside of it.
        with torch.autocast(target_BDhw.device.type, enabled=False):
            target = (target_BDhw.float() - self.mean[:, None, None]) / self.std[:, None, None]
            total = target.new_zeros(())
            for student, stride, projector in zip(maps, strides, self.projectors, strict=True):
                own = projector(student.float())
                want = at_tokens(target, (own.shape[2], own.shape[3]), image_hw, stride)
                cosine = 1 - F.cosine_similarity(own, want, dim=1).mean((1, 2))
                smooth = F.smooth_l1_loss(own, want, reduction="none").mean((1, 2, 3))
                total = total + ((cosine + smooth) * use_B).sum() / use_B.sum().clamp_min(1)
            return total / len(self.projectors)
