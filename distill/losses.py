"""Feature distillation: a small projector to the teacher's width, cosine + smooth-L1 on standardised targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def forward(self, maps: list[Tensor], target_BDhw: Tensor, use_B: Tensor) -> Tensor:
        """Mean loss over the samples that `use_B` keeps (those whose cube covers the visible)."""
        # bf16 products under autocast would undo the float() below, hence outside of it.
        with torch.autocast(target_BDhw.device.type, enabled=False):
            target = (target_BDhw.float() - self.mean[:, None, None]) / self.std[:, None, None]
            total = target.new_zeros(())
            for student, projector in zip(maps, self.projectors, strict=True):
                own = projector(student.float())
                want = F.interpolate(target, own.shape[-2:], mode="bilinear", align_corners=False)
                cosine = 1 - F.cosine_similarity(own, want, dim=1).mean((1, 2))
                smooth = F.smooth_l1_loss(own, want, reduction="none").mean((1, 2, 3))
                total = total + ((cosine + smooth) * use_B).sum() / use_B.sum().clamp_min(1)
            return total / len(self.projectors)
