"""Prompts to masks: SAM's prompt encoder, two-way transformer and mask decoder, batched over images.

Structure and parameter names follow Segment Anything (Kirillov et al., ICCV 2023), so public weights load by
name. Unlike the original, prompts of all images are decoded in one call: P prompts per image, B images.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypervision.blocks import LayerNorm2d, Mlp
from hypervision.meeting import Scene, meet, prepare

NUM_MASKS = 4


class _PositionEncoding(nn.Module):
    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, half: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, half))

    def forward(self, xy01: Tensor) -> Tensor:
        angle = 2 * math.pi * ((2 * xy01 - 1) @ self.positional_encoding_gaussian_matrix.to(xy01))
        return torch.cat([angle.sin(), angle.cos()], -1)


class PromptEncoder(nn.Module):
    """Points and boxes, in pixels of the encoded image, to sparse tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pe_layer = _PositionEncoding(dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2), LayerNorm2d(4), nn.GELU(),
            nn.Conv2d(4, 16, 2, 2), LayerNorm2d(16), nn.GELU(), nn.Conv2d(16, dim, 1),
        )  # fmt: skip
        self.no_mask_embed = nn.Embedding(1, dim)

    def dense_position(self, height: int, width: int) -> Tensor:
        """Position code of every cell of an embedding grid: [1, D, h, w]."""
        device = self.no_mask_embed.weight.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        grid = torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], -1)
        return self.pe_layer(grid).permute(2, 0, 1)[None]  # type: ignore[no-any-return]

    def forward(
        self, image_hw: tuple[int, int], points_BPN2: Tensor | None, labels_BPN: Tensor | None, boxes_BP4: Tensor | None
    ) -> Tensor:
        """Return sparse tokens [B*P, T, D]. Labels: 1 inside, 0 outside, -1 padding."""
        size_xy = torch.tensor([image_hw[1], image_hw[0]], device=self.no_mask_embed.weight.device)
        parts = []
        if points_BPN2 is not None and labels_BPN is not None:
            parts.append(self._points(points_BPN2.flatten(0, 1), labels_BPN.flatten(0, 1), size_xy, boxes_BP4 is None))
        if boxes_BP4 is not None:
            corners = (boxes_BP4.flatten(0, 1).reshape(-1, 2, 2) + 0.5) / size_xy
            corner_embed = torch.stack([self._kind(2), self._kind(3)])
            parts.append(self.pe_layer(corners.float()) + corner_embed)
        if not parts:
            raise ValueError("give points with labels, or boxes")
        return torch.cat(parts, 1)

    def _kind(self, index: int) -> Tensor:
        """Embedding of a kind of point: 0 outside, 1 inside, 2 and 3 corners of a box."""
        return self.point_embeddings[index].get_parameter("weight")[0]

    def _points(self, xy_QN2: Tensor, labels_QN: Tensor, size_xy: Tensor, pad: bool) -> Tensor:
        if pad:  # SAM closes a list of points with one "not a point" when no box follows
            xy_QN2 = F.pad(xy_QN2 + 0.5, (0, 0, 0, 1))
            labels_QN = F.pad(labels_QN, (0, 1), value=-1)
        else:
            xy_QN2 = xy_QN2 + 0.5
        code = self.pe_layer((xy_QN2 / size_xy).float())
        kind = labels_QN[..., None]
        code = torch.where(kind == -1, self.not_a_point_embed.weight[0], code)
        for label in (0, 1):
            code = code + (kind == label) * self._kind(label)
        return code


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

        out = F.scaled_dot_product_attention(heads(self.q_proj(q)), heads(self.k_proj(k)), heads(self.v_proj(v)))
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _TwoWayBlock(nn.Module):
    """The weights of a layer; `meeting.meet` computes with them."""

    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _Attention(dim, num_heads)
        self.cross_attn_token_to_image = _Attention(dim, num_heads, 2)
        self.cross_attn_image_to_token = _Attention(dim, num_heads, 2)
        self.mlp = Mlp(dim, hidden, nn.ReLU)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))


class _TwoWayTransformer(nn.Module):
    """The weights of the transformer; `meeting.meet` computes with them."""

    def __init__(self, dim: int, depth: int = 2, num_heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_TwoWayBlock(dim, num_heads, hidden) for _ in range(depth))
        self.final_attn_token_to_image = _Attention(dim, num_heads, 2)
        self.norm_final_attn = nn.LayerNorm(dim)


class _Head(nn.Module):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))  # type: ignore[no-any-return]


class MaskDecoder(nn.Module):
    """Image embedding and sparse tokens to mask logits at four times the grid, with predicted IoU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.transformer = _TwoWayTransformer(dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, 2), LayerNorm2d(dim // 4), nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, 2), nn.GELU(),
        )  # fmt: skip
        self.output_hypernetworks_mlps = nn.ModuleList(_Head(dim, dim // 8) for _ in range(NUM_MASKS))
        self.iou_prediction_head = _Head(dim, NUM_MASKS)

    def prepare(self, neck_BDhw: Tensor, image_pe_1Dhw: Tensor, no_mask_D: Tensor) -> Scene:
        """What all prompts on these images share."""
        image = (neck_BDhw + no_mask_D[:, None, None]).flatten(2).transpose(1, 2)
        return prepare(self.transformer, image, image_pe_1Dhw.flatten(2).transpose(1, 2))

    def attend(self, scene: Scene, sparse_QTD: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tokens [Q, T, D] and image [Q, D, h, w] of each prompt after they have met."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(sparse_QTD), -1, -1)
        token, image = meet(scene, torch.cat([own, sparse_QTD], 1))
        return token, image.transpose(1, 2).reshape(len(image), -1, *grid_hw)

    def quality(self, token_QTD: Tensor) -> Tensor:
        """Predicted IoU [Q, 4] of each prompt's masks: the single one, then three."""
        return self.iou_prediction_head(token_QTD[:, 0])  # type: ignore[no-any-return]

    def render(self, token_QTD: Tensor, image_QDhw: Tensor) -> Tensor:
        """Logits [Q, 4, 4h, 4w] of each prompt's masks."""
        up = self.output_upscaling(image_QDhw)
        weights = [head(token_QTD[:, 1 + i]) for i, head in enumerate(self.output_hypernetworks_mlps)]
        return torch.einsum("qmc,qchw->qmhw", torch.stack(weights, 1), up)

    def forward(
        self, neck_BDhw: Tensor, image_pe_1Dhw: Tensor, sparse_QTD: Tensor, no_mask_D: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Return logits [B, P, M, 4h, 4w] and IoU [B, P, M]; M = 3, or 1 without `multimask`."""
        h, w = neck_BDhw.shape[-2:]
        token, image = self.attend(self.prepare(neck_BDhw, image_pe_1Dhw, no_mask_D), sparse_QTD, (h, w))
        picked = slice(1, NUM_MASKS) if multimask else slice(0, 1)
        prompts = len(sparse_QTD) // len(neck_BDhw)
        logits, iou = self.render(token, image)[:, picked], self.quality(token)[:, picked]
        return logits.reshape(-1, prompts, *logits.shape[1:]), iou.reshape(-1, prompts, iou.shape[1])
