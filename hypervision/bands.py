"""Which input band feeds which kernel of the two banks, for one camera, found once and kept.

Two banks hold one patch kernel per key wavelength: "point" (85 irregular keys) and "block" (400, 410, ...
2500 nm). Two rules:

nearest       For each key, in order, the first input band within 10 nm feeds its kernel; cubes of fewer than 20 bands
              use the point bank alone, others both, where a band that the point bank took is not used again by the
              block bank. (Rule of the HyperFree / HyperVision encoders; Li et al., CVPR 2025.)
interpolated  Every band meets the kernel at its own wavelength, on the line between the two keys beside it. Bands that
              lie closer than 10 nm together are averaged first, so that it costs no more. Weights are such that a
              camera's kernels add up to as much as the keys it covers, whatever its number of bands.

Kernels that meet the same input are summed before they meet the cube, so the cost follows the bands, not the keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class Mixture:
    """What an embedding computes for one camera.

    Fields:
        channels: input bands whose mean is one channel of the convolution.
        kernel, channel, weight: one triple per kernel used; block kernels are numbered after the point kernels.
        amount: how many keys the weights stand for.
    """

    channels: tuple[tuple[int, ...], ...]
    kernel: tuple[int, ...]
    channel: tuple[int, ...]
    weight: tuple[float, ...]
    amount: float


@dataclass(frozen=True)
class BandPlan:
    """Which input band feeds which kernel: paired index tuples, one pair per kernel used.

    `far` are the bands that no key wavelength is near to. Of neighbouring bands in reach of one key the rule takes the
    first, so a camera with many bands may have more that are `unused`.
    """

    bands: int
    point_band: tuple[int, ...]
    point_target: tuple[int, ...]
    block_band: tuple[int, ...]
    block_target: tuple[int, ...]
    far: tuple[int, ...] = ()

    @property
    def unused(self) -> tuple[int, ...]:
        """Input bands that feed no kernel: the model does not see them."""
        used = {*self.point_band, *self.block_band}
        return tuple(band for band in range(self.bands) if band not in used)

    @property
    def uses_block(self) -> bool:
        """Whether the block bank, and its bias, takes part."""
        return bool(self.block_band)

    @cached_property
    def mixture(self) -> Mixture:
        """One channel per distinct band."""
        used = sorted({*self.point_band, *self.block_band})
        place = {band: index for index, band in enumerate(used)}
        kernel = (*self.point_target, *(len(POINT_NM) + target for target in self.block_target))
        channel = tuple(place[band] for band in (*self.point_band, *self.block_band))
        return Mixture(tuple((band,) for band in used), kernel, channel, (1.0,) * len(kernel), float(len(kernel)))


@dataclass(frozen=True)
class SmoothPlan:
    """The same for interpolated kernels."""

    bands: int
    far: tuple[int, ...]
    uses_block: bool
    mixture: Mixture

    @property
    def unused(self) -> tuple[int, ...]:
        """Input bands that feed no kernel: those that are far from all."""
        return self.far


Plan = BandPlan | SmoothPlan


def _checked(wavelength_nm: tuple[float, ...]) -> Tensor:
    wl_C = torch.tensor(wavelength_nm, dtype=torch.float64)
    if not wavelength_nm or not bool(torch.isfinite(wl_C).all()) or wl_C.min() < 300 or wl_C.max() > 3000:
        hint = " (they look like micrometres: multiply by 1000)" if wavelength_nm and 0.3 <= wl_C.max() <= 3 else ""
        raise ValueError(f"wavelength_nm must be finite nanometres within 300-3000, got {wavelength_nm[:4]}...{hint}")
    return wl_C


def _unseen(wl_C: Tensor) -> ValueError:
    return ValueError(
        f"no band of this camera is within {TOLERANCE_NM:g} nm of a key wavelength "
        f"(bands {wl_C.min():g}-{wl_C.max():g} nm): this model cannot see it"
    )


def _first_match(wl_C: Tensor, key_T: Tensor) -> tuple[list[int], list[int]]:
    near_TC = (wl_C[None, :] - key_T[:, None]).abs() <= TOLERANCE_NM
    target = near_TC.any(1).nonzero().flatten()
    return near_TC[target].int().argmax(1).tolist(), target.tolist()


@lru_cache(maxsize=4096)
def match_bands(wavelength_nm: tuple[float, ...]) -> BandPlan:
    """Pair input bands with kernels for one camera, rule "nearest".

    Args:
        wavelength_nm: centre wavelength of each band in nanometres, in the order of the bands.

    Raises:
        ValueError: a wavelength is not finite or outside 300-3000 nm, or no band is near any key.
    """
    wl_C = _checked(wavelength_nm)
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
        raise _unseen(wl_C)
    keys = torch.tensor(POINT_NM + (BLOCK_NM if len(wavelength_nm) >= FEW_BANDS else ()), dtype=torch.float64)
    far = ((wl_C[:, None] - keys).abs() > TOLERANCE_NM).all(1).nonzero().flatten().tolist()
    pairs = (point_band, point_target, block_band, block_target, far)
    return BandPlan(len(wavelength_nm), *(tuple(column) for column in pairs))


def _neighbours(wl_C: Tensor, seen: list[int]) -> list[list[int]]:
    """Seen bands in the order of their wavelengths, those closer together than the tolerance in one group."""
    groups: list[list[int]] = []
    for band in sorted(seen, key=lambda band: float(wl_C[band])):
        if groups and float(wl_C[band] - wl_C[groups[-1][0]]) < TOLERANCE_NM:
            groups[-1].append(band)
        else:
            groups.append([band])
    return groups


def _on_the_line(centre_nm: list[float], keys: tuple[float, ...]) -> tuple[list[tuple[int, int, float]], int]:
    """(key, channel, share) of the keys beside each centre, and how many keys lie within reach of the camera."""
    key_T = torch.tensor(keys, dtype=torch.float64)
    found = []
    for channel, nm in enumerate(centre_nm):
        right = min(max(int(torch.searchsorted(key_T, nm)), 1), len(keys) - 1)
        share = min(max((nm - keys[right - 1]) / (keys[right] - keys[right - 1]), 0.0), 1.0)
        found += [(key, channel, part) for key, part in ((right - 1, 1 - share), (right, share)) if part > 0]
    low, high = min(centre_nm) - TOLERANCE_NM, max(centre_nm) + TOLERANCE_NM
    return found, int(((key_T >= low) & (key_T <= high)).sum())


@lru_cache(maxsize=4096)
def interpolate_bands(wavelength_nm: tuple[float, ...]) -> SmoothPlan:
    """Shares of the kernels for one camera, rule "interpolated"; arguments and errors as `match_bands`."""
    wl_C = _checked(wavelength_nm)
    low, high = BLOCK_NM[0] - TOLERANCE_NM, BLOCK_NM[-1] + TOLERANCE_NM
    seen = [band for band, nm in enumerate(wavelength_nm) if low <= nm <= high]
    if not seen:
        raise _unseen(wl_C)
    groups = _neighbours(wl_C, seen)
    centre_nm = [float(wl_C[group].mean()) for group in groups]
    uses_block = len(wavelength_nm) >= FEW_BANDS
    triples: list[tuple[int, int, float]] = []
    amount = 0
    for start, keys in ((0, POINT_NM), (len(POINT_NM), BLOCK_NM))[: 1 + uses_block]:
        found, count = _on_the_line(centre_nm, keys)
        count = max(count, 1)
        triples += [(start + key, channel, share * count / len(groups)) for key, channel, share in found]
        amount += count
    kernel, channel, weight = zip(*triples, strict=True)
    mixture = Mixture(tuple(map(tuple, groups)), kernel, channel, weight, float(amount))
    far = tuple(band for band in range(len(wavelength_nm)) if band not in set(seen))
    return SmoothPlan(len(wavelength_nm), far, uses_block, mixture)


def is_visible(wavelength_nm: tuple[float, ...], rule: str) -> bool:
    """Whether a model of this rule sees any band of a camera.

    Raises:
        ValueError: a wavelength is not finite or outside 300-3000 nm.
    """
    _checked(wavelength_nm)
    try:
        return bool(RULES[rule](wavelength_nm).bands)
    except ValueError:
        return False


RULES: dict[str, Callable[[tuple[float, ...]], Plan]] = {"nearest": match_bands, "interpolated": interpolate_bands}
