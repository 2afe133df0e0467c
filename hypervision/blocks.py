"""Transformer blocks of the encoder: window attention with relative position, merging, position code.

Attention adds the decomposed relative-position bias of MViTv2 (Li et al., CVPR 2022): q . Rh + q . Rw with
q unscaled, through torch's fused `scaled_dot_product_attention`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of a [B, C, H, W] map."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise each pixel over its channels."""
        mean = x_BCHW.mean(1, keepdim=True)
        var = (x_BCHW - mean).pow(2).mean(1, keepdim=True)
        x_BCHW = (x_BCHW - mean) / torch.sqrt(var + self.eps)
        return self.weight[:, None, None] * x_BCHW + self.bias[:, None, None]


def relative_table(table_LD: Tensor, size: int) -> Tensor:
    """Rows of a relative-position table for a grid side of `size`: [size, size, D].

    A table of another length is resized linearly along its length.
    """
    length = 2 * size - 1
    if table_LD.shape[0] != length:
        table_LD = F.interpolate(table_LD.T[None].float(), size=length, mode="linear")[0].T.to(table_LD)
    index = torch.arange(size, device=table_LD.device)
    return table_LD[index[:, None] - index[None, :] + size - 1]


class Attention(nn.Module):
    """Multi-head attention over an [B, H, W, D] grid with decomposed relative position.

    Args:
        width: token width D.
        num_heads: number of heads.
        grid: side for which the relative-position tables are laid out.
    """

    def __init__(self, width: int, num_heads: int, grid: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        head = width // num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, head))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, head))

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the attended grid, same shape."""
        batch, height, width, dim = x_BHWD.shape
        qkv = self.qkv(x_BHWD).reshape(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        grid_q = q.reshape(batch, self.num_heads, height, width, -1)
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", grid_q, relative_table(self.rel_pos_h, height))
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", grid_q, relative_table(self.rel_pos_w, width))
        bias = (bias_h[..., :, None] + bias_w[..., None, :]).reshape(
            batch, self.num_heads, height * width, height * width
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(1, 2).reshape(batch, height, width, dim)
        return self.proj(out)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two layers with GELU, named as SAM names them."""

    def __init__(self, width: int, hidden: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        return self.lin2(self.act(self.lin1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and MLP; `window` = 0 attends over the whole grid.

    Args:
        width: token width D.
        num_heads: number of heads.
        grid: side of the whole token grid (used by the tables when `window` is 0).
        window: side of the attention window in tokens.
    """

    def __init__(self, width: int, num_heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads, window or grid)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the grid, same shape."""
        y = self.norm1(x_BHWD)
        y = self._windowed(y) if self.window else self.attn(y)
        x_BHWD = x_BHWD + y
        return x_BHWD + self.mlp(self.norm2(x_BHWD))  # type: ignore[no-any-return]

    def _windowed(self, x_BHWD: Tensor) -> Tensor:
        batch, height, width, dim = x_BHWD.shape
        s = self.window
        padded = F.pad(x_BHWD, (0, 0, 0, -width % s, 0, -height % s))
        rows, cols = padded.shape[1] // s, padded.shape[2] // s
        tiles = padded.reshape(batch, rows, s, cols, s, dim).transpose(2, 3).reshape(-1, s, s, dim)
        tiles = self.attn(tiles)
        grid = tiles.reshape(batch, rows, cols, s, s, dim).transpose(2, 3).reshape(batch, rows * s, cols * s, dim)
        return grid[:, :height, :width]  # type: ignore[no-any-return]


class PatchMerging(nn.Module):
    """Halve the grid: the four 2x2 neighbours are concatenated, normalised and projected back to D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the grid with half the side (an odd side is padded with zeros)."""
        x_BHWD = F.pad(x_BHWD, (0, 0, 0, x_BHWD.shape[2] % 2, 0, x_BHWD.shape[1] % 2))
        corners = [x_BHWD[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(corners, -1)))  # type: ignore[no-any-return]


def position_code(height: int, width: int, dim: int, gsd_B: Tensor) -> Tensor:
    """Sin-cos code of (column, row) indices times the ground sampling distance in metres: [B, H, W, dim]."""
    quarter = dim // 4
    omega = 10000.0 ** (-torch.arange(quarter, device=gsd_B.device, dtype=torch.float64) / quarter)

    def side(count: int) -> Tensor:
        angle = torch.arange(count, device=gsd_B.device)[None, :, None] * gsd_B.double()[:, None, None] * omega
        return torch.cat([angle.sin(), angle.cos()], -1)

    cols = side(width)[:, None].expand(-1, height, -1, -1)
    rows = side(height)[:, :, None].expand(-1, -1, width, -1)
    return torch.cat([cols, rows], -1).float()


class PositionMlp(nn.Module):
    """Three layers D -> D/2 -> D/2 -> D with ReLU between, on the position code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.layers = nn.ModuleList([nn.Linear(width, half), nn.Linear(half, half), nn.Linear(half, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]
