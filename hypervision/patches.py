"""Patches of a cube times the kernels of its camera, forwards and backwards, through one small buffer.

The patches of a cube are as large as the cube, and fresh memory costs as much as copying into it. Here some channels
at a time are laid out in a buffer that is used again, in the gradient too, which lays them out once more instead of
keeping them. `embed_patches` is the same as a multiply by plain operations: for graphs, GPUs, and cubes whose own
gradient is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hypervision.bands import POINT_NM, Mixture
from hypervision.memory import kept_empty, kept_zeros

BUFFER_BYTES = 16 << 20
LEAST_CHANNELS = 8  # a multiply over fewer would wait for its result to be read and written

Pairs = tuple[tuple[int, int, float], ...]


def camera_channels(cube_BCHW: Tensor, mixture: Mixture) -> Tensor:
    """The channels of a mixture: bands, or means of neighbouring ones."""
    sizes = [len(group) for group in mixture.channels]
    bands = [band for group in mixture.channels for band in group]
    if bands == list(range(cube_BCHW.shape[1])) and max(sizes) == 1:
        return cube_BCHW
    picked = cube_BCHW[:, bands]
    if max(sizes) == 1:
        return picked
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(cube_BCHW.device)
    shape = (cube_BCHW.shape[0], len(sizes), *cube_BCHW.shape[2:])
    total = picked.new_zeros(shape).index_add(1, group, picked)
    return total / torch.tensor(sizes, device=total.device)[:, None, None]


def embed_patches(cube_BCHW: Tensor, mixture: Mixture, weight_DX: Tensor, bias_D: Tensor, patch: int) -> Tensor:
    """Tokens [B, h, w, D] of cubes of one camera; a convolution of this stride takes up to twice as long on a CPU.

    Args:
        cube_BCHW: cubes whose sides the patch divides.
        mixture: which bands make the channels.
        weight_DX: kernels, laid out [D, channels * patch * patch].
        bias_D: bias of each token.
        patch: side of a patch in pixels.
    """
    picked = camera_channels(cube_BCHW, mixture)
    return F.linear(_tiles(picked, patch).flatten(3), weight_DX, bias_D)


def embed_camera(cube_BCHW: Tensor, mixture: Mixture, weight_DX: Tensor, bias_D: Tensor, patch: int) -> Tensor:
    """`embed_patches` the fastest way there is for these cubes."""
    if cube_BCHW.device.type != "cpu" or torch.compiler.is_compiling() or cube_BCHW.requires_grad:
        return embed_patches(cube_BCHW, mixture, weight_DX, bias_D, patch)
    return _Embed.apply(cube_BCHW, mixture, weight_DX, bias_D, patch)  # type: ignore[no-any-return]


def _tiles(cube_BCHW: Tensor, patch: int) -> Tensor:
    """View [B, h, w, C, p, p]."""
    batch, channels, height, width = cube_BCHW.shape
    tiles = cube_BCHW.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return tiles.permute(0, 2, 4, 1, 3, 5)


class _Embed(torch.autograd.Function):
    """`embed_patches` with a gradient for kernels and bias alone."""

    @staticmethod
    def forward(ctx: Any, cube: Tensor, mixture: Mixture, weight_DX: Tensor, bias_D: Tensor, patch: int) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight_DX.dtype
        ctx.save_for_backward(cube)
        ctx.mixture, ctx.patch, ctx.kernels = mixture, patch, weight_DX.dtype
        tiles, weight_DX = _tiles(cube, patch), weight_DX.to(dtype)
        token_ND = bias_D.to(dtype).expand(tiles.shape[:3].numel(), -1).clone()
        for where, piece_NX in _pieces(tiles, mixture, dtype):
            token_ND.addmm_(piece_NX, weight_DX[:, where].t())
        return token_ND.reshape(*tiles.shape[:3], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token_BhwD: Tensor) -> tuple[Tensor | None, ...]:
        tiles, token_ND = _tiles(ctx.saved_tensors[0], ctx.patch), token_BhwD.flatten(0, 2)
        length = len(ctx.mixture.channels) * ctx.patch**2
        weight_DX = kept_empty((token_ND.shape[1], length), token_ND, ctx.kernels)
        for where, piece_NX in _pieces(tiles, ctx.mixture, token_ND.dtype):
            if weight_DX.dtype == token_ND.dtype:
                torch.mm(token_ND.t(), piece_NX, out=weight_DX[:, where])
            else:
                weight_DX[:, where] = token_ND.t() @ piece_NX
        return None, None, weight_DX, token_ND.sum(0, dtype=ctx.kernels), None


def _pieces(tiles_BhwCpp: Tensor, mixture: Mixture, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Some channels of all patches after others: (their columns of the kernels, patches [N, X]), in one buffer."""
    grid, pixels = tiles_BhwCpp.shape[:3], tiles_BhwCpp.shape[-2:].numel()
    step = max(LEAST_CHANNELS, BUFFER_BYTES // (grid.numel() * pixels * dtype.itemsize))
    step = min(step, len(mixture.channels))
    buffer = kept_empty((grid.numel() * step * pixels,), tiles_BhwCpp, dtype)
    for start in range(0, len(mixture.channels), step):
        groups = mixture.channels[start : start + step]
        piece = buffer[: grid.numel() * len(groups) * pixels].view(*grid, len(groups), *tiles_BhwCpp.shape[-2:])
        _lay_out(tiles_BhwCpp, groups, piece)
        yield slice(start * pixels, (start + len(groups)) * pixels), piece.flatten(3).flatten(0, 2)


def _lay_out(tiles_BhwCpp: Tensor, groups: tuple[tuple[int, ...], ...], out_BhwKpp: Tensor) -> None:
    """Copy the bands of each group, or their mean."""
    for place, group in enumerate(groups):
        channel = out_BhwKpp[:, :, :, place]
        channel.copy_(tiles_BhwCpp[:, :, :, group[0]])
        for band in group[1:]:
            channel.add_(tiles_BhwCpp[:, :, :, band])
        if len(group) > 1:
            channel.div_(len(group))


def mix_kernels(point_DTpp: Tensor, block_DTpp: Tensor, mixture: Mixture, amount: float) -> Tensor:
    """The kernels that meet the same channel, weighted and summed: [D, K, p, p]; all times `amount`."""
    pairs = tuple(zip(mixture.kernel, mixture.channel, (one * amount for one in mixture.weight), strict=True))
    if point_DTpp.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Mix.apply(point_DTpp, block_DTpp, pairs, len(mixture.channels))  # type: ignore[no-any-return]
    mixed = point_DTpp.new_zeros(point_DTpp.shape[0], len(mixture.channels), *point_DTpp.shape[2:])
    keys = len(POINT_NM)
    for bank, part in (
        (point_DTpp, [row for row in pairs if row[0] < keys]),
        (block_DTpp, [(row[0] - keys, *row[1:]) for row in pairs if row[0] >= keys]),
    ):
        if part:
            kernel, channel = (torch.tensor([row[i] for row in part], device=bank.device) for i in (0, 1))
            some = bank.index_select(1, kernel)
            if any(row[2] != 1.0 for row in part):
                some = (
                    some * torch.tensor([row[2] for row in part], device=bank.device, dtype=bank.dtype)[:, None, None]
                )
            mixed = mixed.index_add(1, channel, some)
    return mixed


def _kernel(point_DTpp: Tensor, block_DTpp: Tensor, number: int) -> Tensor:
    """A view of a kernel by its number in a mixture."""
    return point_DTpp[:, number] if number < len(POINT_NM) else block_DTpp[:, number - len(POINT_NM)]


class _Mix(torch.autograd.Function):
    """`mix_kernels` pair by pair, without copies of the kernels between banks and channels."""

    @staticmethod
    def forward(ctx: Any, point: Tensor, block: Tensor, pairs: Pairs, channels: int) -> Tensor:
        ctx.pairs, ctx.shapes = pairs, (point.shape, block.shape)
        mixed, begun = kept_empty((point.shape[0], channels, *point.shape[2:]), point), set()
        for kernel, channel, weight in pairs:
            some = _kernel(point, block, kernel)
            if channel in begun:
                mixed[:, channel].add_(some, alpha=weight)
            else:
                torch.mul(some, weight, out=mixed[:, channel])
            begun.add(channel)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mixed_DKpp: Tensor) -> tuple[Tensor | None, ...]:
        point, block = (kept_zeros(shape, mixed_DKpp) for shape in ctx.shapes)
        for kernel, channel, weight in ctx.pairs:
            _kernel(point, block, kernel).add_(mixed_DKpp[:, channel], alpha=weight)
        return point, block, None, None
