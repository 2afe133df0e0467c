"""Transformer blocks of the encoder: window attention with relative position, merging, position code.

Attention adds the decomposed relative-position bias of MViTv2 (Li et al., CVPR 2022): q . Rh + q . Rw with
q unscaled, through torch's fused `scaled_dot_product_attention`.

The public encoder pads the grid to whole windows. A padded token is zero after the norm, so its key and value are the
biases of their projections, the same everywhere: here only real tokens are projected, and all padded keys of a window
are one key whose logit is the log of the sum of theirs. The result is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASK_BYTES = 256 << 20


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
        window: side of the windows within which tokens attend; 0 = the whole grid.
    """

    def __init__(self, width: int, num_heads: int, grid: int, window: int = 0) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        head = width // num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, head))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, head))

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the attended grid, same shape."""
        height, width = x_BHWD.shape[1:3]
        qkv = self.qkv(x_BHWD).unflatten(3, (3, self.num_heads, -1))
        side = (self.window, self.window) if self.window else (height, width)
        tables = relative_table(self.rel_pos_h, side[0]).to(qkv), relative_table(self.rel_pos_w, side[1]).to(qkv)
        rows, cols = whole_and_rest(height, side[0]), whole_and_rest(width, side[1])
        attended = []
        # Splits, not slices: the gradient of a slice is all zeros with the slice put in.
        for row, (_, h) in zip(torch.split(qkv, [length for length, _ in rows], 1), rows, strict=True):
            parts = zip(torch.split(row, [length for length, _ in cols], 2), cols, strict=True)
            attended.append(torch.cat([self._windows(part, h, w, tables) for part, (_, w) in parts], 2))
        return self.proj(torch.cat(attended, 1))  # type: ignore[no-any-return]

    def _windows(self, qkv_BHW3ND: Tensor, h: int, w: int, tables: tuple[Tensor, Tensor]) -> Tensor:
        """A part of the grid made of windows with h x w real tokens each; the rest of each window is padding."""
        batch, height, width, _, heads, dim = qkv_BHW3ND.shape
        tiles = qkv_BHW3ND.reshape(batch, height // h, h, width // w, w, 3, heads, dim)
        q, k, v = tiles.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, heads, h * w, dim)
        if h < len(tables[0]) or w < len(tables[1]):
            _, key, value = self.qkv.bias.to(q).reshape(3, 1, heads, 1, dim)
            k = torch.cat([k, key.expand(len(k), -1, -1, -1)], 2)
            v = torch.cat([v, value.expand(len(v), -1, -1, -1)], 2)
        step = min(h, max(1, MASK_BYTES // (k.shape[0] * heads * w * k.shape[2] * k.element_size())))
        parts = []
        for some, table_h in zip(torch.split(q, step * w, 2), torch.split(tables[0][:h], step), strict=True):
            bias = _bias(some.reshape(*some.shape[:2], -1, w, dim), table_h, tables[1][:w], (h, w))
            parts.append(_attend(some, k, v, bias))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        out = out.reshape(batch, height // h, width // w, heads, h, w, dim).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(batch, height, width, heads * dim)


def _attend(q_BNLC: Tensor, k_BNMC: Tensor, v_BNMC: Tensor, bias_BNLM: Tensor) -> Tensor:
    """Scaled dot-product attention; on a CPU nothing fused has a gradient for the bias, and plain is faster there."""
    if q_BNLC.device.type != "cpu" or not bias_BNLM.requires_grad or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q_BNLC, k_BNMC, v_BNMC, attn_mask=bias_BNLM)
    q, k, v, bias = (one.flatten(0, 1) for one in (q_BNLC, k_BNMC, v_BNMC, bias_BNLM))
    score = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
    return (score.softmax(2) @ v).reshape(*q_BNLC.shape[:3], -1)


def _bias(q_BNhwC: Tensor, table_hKC: Tensor, table_wKC: Tensor, real_hw: tuple[int, int]) -> Tensor:
    """Relative-position bias [B, N, queries, keys]; the last key stands for all padded ones, if there are any."""
    h, w = real_hw
    bias_h = torch.einsum("bnhwc,hkc->bnhwk", q_BNhwC, table_hKC).flatten(2, 3)
    bias_w = torch.einsum("bnhwc,wkc->bnhwk", q_BNhwC, table_wKC).flatten(2, 3)
    if bias_h.shape[-1] == h and bias_w.shape[-1] == w:
        return (bias_h[..., None] + bias_w[..., None, :]).flatten(3)
    real_h, _ = torch.split(bias_h, [h, bias_h.shape[-1] - h], 3)
    real_w, _ = torch.split(bias_w, [w, bias_w.shape[-1] - w], 3)
    real = (real_h[..., None] + real_w[..., None, :]).flatten(3)
    return torch.cat([real, _padded(bias_h, bias_w, h, w).to(real)], 3)


def _padded(bias_h: Tensor, bias_w: Tensor, h: int, w: int) -> Tensor:
    """Log of the sum over the padded places of a window, which are the rows below the real ones and, beside those,
    the columns: [B, N, queries, 1].
    """
    top_h, top_w = bias_h.detach().amax(3, keepdim=True), bias_w.detach().amax(3, keepdim=True)
    wide = torch.promote_types(bias_h.dtype, torch.float32)
    share_h, share_w = (bias_h - top_h).to(wide).exp(), (bias_w - top_w).to(wide).exp()
    real_h, below = (one.sum(3, keepdim=True) for one in torch.split(share_h, [h, share_h.shape[3] - h], 3))
    _, beside = (one.sum(3, keepdim=True) for one in torch.split(share_w, [w, share_w.shape[3] - w], 3))
    total = below * share_w.sum(3, keepdim=True) + real_h * beside
    return total.clamp_min(torch.finfo(total.dtype).tiny).log() + top_h + top_w


def whole_and_rest(length: int, side: int) -> list[tuple[int, int]]:
    """A length as whole windows and what is left: (length, side of its windows)."""
    whole = length // side * side
    return [(part, size) for part, size in ((whole, side), (length - whole, length - whole)) if part]


class Mlp(nn.Module):
    """Two layers with GELU, named as SAM names them."""

    def __init__(self, width: int, hidden: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        hidden = self.lin1(x)
        if type(self.act) is nn.GELU and self.act.approximate == "none" and not torch.is_grad_enabled():
            return self.lin2(torch.ops.aten.gelu_(hidden))  # type: ignore[no-any-return]  # no second large tensor
        return self.lin2(self.act(hidden))  # type: ignore[no-any-return]


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
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads, window or grid, window)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the grid, same shape."""
        x_BHWD = x_BHWD + self.attn(self.norm1(x_BHWD))
        return x_BHWD + self.mlp(self.norm2(x_BHWD))  # type: ignore[no-any-return]


class PatchMerging(nn.Module):
    """Halve the grid: the four 2x2 neighbours are concatenated, normalised and projected back to D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Return the grid with half the side (an odd side is padded with zeros)."""
        x_BHWD = F.pad(x_BHWD, (0, 0, 0, x_BHWD.shape[2] % 2, 0, x_BHWD.shape[1] % 2))
        batch, height, width, dim = x_BHWD.shape
        corners = x_BHWD.reshape(batch, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 4, 2, 5)  # columns first
        return self.reduction(self.norm(corners.flatten(3)))  # type: ignore[no-any-return]


def position_code(height: int, width: int, dim: int, gsd_B: Tensor) -> Tensor:
    """Sin-cos code of (column, row) indices times the ground sampling distance in metres: [B, H, W, dim]."""
    quarter = dim // 4
    omega = 10000.0 ** (-torch.arange(quarter, device=gsd_B.device, dtype=torch.float64) / quarter)

    def side(count: int) -> Tensor:
        angle = torch.arange(count, device=gsd_B.device)[None, :, None] * gsd_B.double()[:, None, None] * omega
        return torch.cat([angle.sin(), angle.cos()], -1).float()

    cols = side(width)[:, None].expand(-1, height, -1, -1)
    rows = side(height)[:, :, None].expand(-1, -1, width, -1)
    return torch.cat([cols, rows], -1)


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
