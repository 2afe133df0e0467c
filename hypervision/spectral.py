"""Channel-adaptive patch embedding: a dictionary of patch kernels, looked up by wavelength.

Two banks hold one patch kernel per key wavelength: "point" (85 irregular keys) and "block" (400, 410, ...
2500 nm). For each key, in order, the first input band within 10 nm feeds its kernel; cubes of fewer than
20 bands use the point bank alone, others both, where a band that the point bank took is not used again by
the block bank. (Rule of the HyperFree / HyperVision encoders; Li et al., CVPR 2025.)

Kernels that meet the same input band are summed first, so the cost follows the bands and not the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# fmt: off
POINT_NM: tuple[float, ...] = (
    400, 412.5, 429.5, 443, 455, 467.5, 473.375, 481.25, 488.25, 500, 520, 531, 536, 545, 550.5, 561.25, 564.75,
    565.5, 575, 580, 596, 605, 610, 612, 626, 627.5, 630, 635, 640, 645, 650, 655, 656, 660, 664.5, 665, 667,
    671.25, 677.5, 686, 700, 705, 710, 716, 725, 730, 740, 748.5, 760, 764.25, 776, 783, 790, 808, 820, 825, 830,
    835.3125, 842, 850, 858.5, 865, 866, 869.5, 880, 896, 905, 910, 926, 938, 945, 950, 959, 1240, 1375, 1575,
    1575.5, 1610, 1640, 1650, 2050.25, 2130, 2195, 2217.5, 2500,
)
# fmt: on
BLOCK_NM: tuple[float, ...] = tuple(float(nm) for nm in range(400, 2501, 10))
TOLERANCE_NM = 10.0
FEW_BANDS = 20
SHAPE_EPS = 1e-4
MEAN_PAIRS = 40.0


@dataclass(frozen=True)
class BandPlan:
    """Which input band feeds which kernel: paired index tuples, one pair per kernel used."""

    bands: int
    point_band: tuple[int, ...]
    point_target: tuple[int, ...]
    block_band: tuple[int, ...]
    block_target: tuple[int, ...]

    @property
    def unused(self) -> tuple[int, ...]:
        """Input bands that no key wavelength is near to: the model does not see them."""
        used = {*self.point_band, *self.block_band}
        return tuple(band for band in range(self.bands) if band not in used)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(input band, kernel) pairs; block kernels are numbered after the point kernels."""
        point = zip(self.point_band, self.point_target, strict=True)
        block = zip(self.block_band, (len(POINT_NM) + t for t in self.block_target), strict=True)
        return (*point, *block)


def _first_match(wl_C: Tensor, key_T: Tensor) -> tuple[list[int], list[int]]:
    near_TC = (wl_C[None, :] - key_T[:, None]).abs() <= TOLERANCE_NM
    target = near_TC.any(1).nonzero().flatten()
    return near_TC[target].int().argmax(1).tolist(), target.tolist()


@lru_cache(maxsize=4096)
def match_bands(wavelength_nm: tuple[float, ...]) -> BandPlan:
    """Pair input bands with kernels for one camera.

    Args:
        wavelength_nm: centre wavelength of each band in nanometres, in the order of the bands.

    Raises:
        ValueError: a wavelength is not finite or outside 300-3000 nm, or no band is near any key.
    """
    wl_C = torch.tensor(wavelength_nm, dtype=torch.float64)
    if not wavelength_nm or not bool(torch.isfinite(wl_C).all()) or wl_C.min() < 300 or wl_C.max() > 3000:
        hint = " (they look like micrometres: multiply by 1000)" if wavelength_nm and 0.3 <= wl_C.max() <= 3 else ""
        raise ValueError(f"wavelength_nm must be finite nanometres within 300-3000, got {wavelength_nm[:4]}...{hint}")
    point_band, point_target = _first_match(wl_C, torch.tensor(POINT_NM, dtype=torch.float64))
    block_band: list[int] = []
    block_target: list[int] = []
    if len(wavelength_nm) >= FEW_BANDS:
        taken = set(point_band)
        for band, target in zip(*_first_match(wl_C, torch.tensor(BLOCK_NM, dtype=torch.float64)), strict=True):
            if band not in taken:
                block_band.append(band)
                block_target.append(target)
    if not point_band and not block_band:
        raise ValueError(
            f"no band of this camera is within {TOLERANCE_NM:g} nm of a key wavelength "
            f"(bands {wl_C.min():g}-{wl_C.max():g} nm): this model cannot see it"
        )
    return BandPlan(len(wavelength_nm), tuple(point_band), tuple(point_target), tuple(block_band), tuple(block_target))


def shape_patches(patch_BNCP: Tensor, count_B: Tensor) -> tuple[Tensor, Tensor]:
    """Divide every patch by its own mean and centre it; return it with its log-brightness.

    Brightness dominates raw patches, and an absent band would read as "reflectance 0"; both go away here.
    `count_B` is the number of real bands of each sample (the rest are zero padding and stay zero).
    Log-brightness [B, N] is relative to the sample's mean, so it does not depend on the units of the cube.
    """
    channels, pixels = patch_BNCP.shape[2:]
    mean_BN = patch_BNCP.sum((2, 3)) / (count_B[:, None] * pixels)
    scale_B1 = mean_BN.abs().mean(1, keepdim=True).clamp_min(1e-20)
    floor_BN = torch.maximum(mean_BN, SHAPE_EPS * scale_B1)
    dark_BN = mean_BN <= SHAPE_EPS * scale_B1
    real_BC = torch.arange(channels, device=patch_BNCP.device)[None] < count_B[:, None]
    shape = (patch_BNCP / floor_BN[..., None, None] - 1) * real_BC[:, None, :, None]
    shape = shape.masked_fill(dark_BN[..., None, None], 0.0)
    return shape, (floor_BN / scale_B1).log()


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

    def forward(self, bank: dict[str, Tensor], cube_BCHW: Tensor, plans: Sequence[BandPlan]) -> Tensor:
        """Return token maps [B, D, H/p, W/p]; `plans` holds one plan per sample."""
        if self.input_mode == "public" and all(plan is plans[0] for plan in plans):
            return self._one_camera(bank, cube_BCHW, plans[0])
        return self._mixed(bank, cube_BCHW, plans)

    def _one_camera(self, bank: dict[str, Tensor], cube_BCHW: Tensor, plan: BandPlan) -> Tensor:
        weight = self._mix(bank, [plan], cube_BCHW.shape[1])[0]
        used = sorted({band for band, _ in plan.pairs})
        weight_DCpp = weight.reshape(cube_BCHW.shape[1], self.patch_size, self.patch_size, -1)[used].permute(3, 0, 1, 2)
        bias = bank["point_b"] + bank["block_b"] * float(bool(plan.block_band))
        return F.conv2d(cube_BCHW[:, used], weight_DCpp.contiguous(), bias, stride=self.patch_size)

    def _mix(self, bank: dict[str, Tensor], plans: Sequence[BandPlan], channels: int) -> Tensor:
        """Sum the kernels that meet the same band: [B, C, p*p*D]."""
        both_DTpp = torch.cat([bank["point_w"], bank["block_w"]], 1)
        both_TX = both_DTpp.permute(1, 2, 3, 0).flatten(1)
        kernel = torch.tensor([kernel for plan in plans for _, kernel in plan.pairs], device=both_TX.device)
        row = [sample * channels + band for sample, plan in enumerate(plans) for band, _ in plan.pairs]
        mixed = both_TX.new_zeros(len(plans) * channels, both_TX.shape[1])
        mixed = mixed.index_add(0, torch.tensor(row, device=both_TX.device), both_TX[kernel])
        return mixed.reshape(len(plans), channels, -1)

    def _mixed(self, bank: dict[str, Tensor], cube_BCHW: Tensor, plans: Sequence[BandPlan]) -> Tensor:
        batch, channels, height, width = cube_BCHW.shape
        dim = bank["point_b"].shape[0]
        p, h, w = self.patch_size, height // self.patch_size, width // self.patch_size
        patch_BNCP = cube_BCHW.reshape(batch, channels, h, p, w, p).permute(0, 2, 4, 1, 3, 5)
        patch_BNCP = patch_BNCP.reshape(batch, h * w, channels, p * p)
        uses_block_B1 = torch.tensor([[float(bool(plan.block_band))] for plan in plans]).to(cube_BCHW)
        bias_BD = bank["point_b"] + bank["block_b"] * uses_block_B1
        one_camera = all(plan is plans[0] for plan in plans)
        weight_BXD = self._mix(bank, plans[:1] if one_camera else plans, channels).reshape(-1, channels * p * p, dim)
        extra: Tensor | float = 0.0
        if self.input_mode == "shape":
            count_B = torch.tensor([plan.bands for plan in plans], device=cube_BCHW.device)
            patch_BNCP, bright_BN = shape_patches(patch_BNCP, count_B)
            pairs_B11 = torch.tensor([[[len(plan.pairs)]] for plan in plans]).to(cube_BCHW)
            # A mean over the kernels, not a sum: cameras with many bands must not give larger tokens.
            patch_BNCP = patch_BNCP * (MEAN_PAIRS / pairs_B11)[..., None]
            extra = bright_BN[..., None] * bank["log_brightness"]
        tokens_BND = patch_BNCP.reshape(batch, h * w, -1) @ weight_BXD + bias_BD[:, None] + extra
        return tokens_BND.transpose(1, 2).reshape(batch, -1, h, w)
