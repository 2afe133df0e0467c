"""The image encoder: spectral embedding, position, blocks, optional merging, neck, semantic head.

HyperFree's encoder is the "flat" form (no merging), HyperVision's merges 2x2 tokens after chosen blocks.
Parameter names are those of the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hypervision.backbone import FeatureInfo
from hypervision.bands import BLOCK_NM, POINT_NM, Plan
from hypervision.blocks import Block, LayerNorm2d, PatchMerging, PositionMlp, position_code
from hypervision.sizes import ModelSize
from hypervision.spectral import SpectralEmbedding

WINDOW = 14
SEMANTIC_HEADS = 8


def run_blocks(
    x_BHWD: Tensor,
    blocks: Iterable[nn.Module],
    tap_blocks: Sequence[int],
    merges: Mapping[int, nn.Module],
    neck: nn.Module,
    again: bool = False,
) -> list[Tensor]:
    """Tokens to the taps in order, then the neck, each [B, D, h, w].

    `merges` follow their blocks; `again` computes a block's activations a second time when its gradient is asked for.
    """
    taps = []
    for index, block in enumerate(blocks):
        x_BHWD = checkpoint(block, x_BHWD, use_reentrant=False) if again else block(x_BHWD)
        if index in tap_blocks:
            taps.append(x_BHWD.permute(0, 3, 1, 2))
        if index in merges:
            x_BHWD = merges[index](x_BHWD)
    return [*taps, neck(x_BHWD.permute(0, 3, 1, 2))]


class ImageEncoder(nn.Module):
    """Cube in, feature maps out. See `hypervision.sizes.ModelSize` for the fields of `size`."""

    def __init__(self, size: ModelSize) -> None:
        super().__init__()
        self.size = size
        self.checkpointing = False  # set to spend a second forward of each block in place of its activations
        dim, patch, grid = size.embed_dim, size.patch_size, size.image_size // size.patch_size
        self.point_spectral_weight_bank_w = nn.Parameter(torch.empty(dim, len(POINT_NM), patch, patch))
        self.point_spectral_weight_bank_b = nn.Parameter(torch.zeros(dim))
        self.block_spectral_weight_bank_w = nn.Parameter(torch.empty(dim, len(BLOCK_NM), patch, patch))
        self.block_spectral_weight_bank_b = nn.Parameter(torch.zeros(dim))
        if size.input_mode == "shape":
            self.log_brightness = nn.Parameter(torch.zeros(dim))
        self.embedding = SpectralEmbedding(patch, size.input_mode)
        self.pos_embed_mlp = PositionMlp(dim)
        self.blocks = nn.ModuleList(
            Block(dim, size.num_heads, grid, 0 if i in size.global_blocks else WINDOW) for i in range(size.depth)
        )
        self.multi_scale_convs = nn.ModuleList(PatchMerging(dim) for _ in size.merge_blocks)
        self.neck = nn.Sequential(
            nn.Conv2d(dim, size.neck_dim, 1, bias=False),
            LayerNorm2d(size.neck_dim),
            nn.Conv2d(size.neck_dim, size.neck_dim, 3, padding=1, bias=False),
            LayerNorm2d(size.neck_dim),
        )
        self.contras_modules = nn.ModuleList(
            Block(size.neck_dim, SEMANTIC_HEADS, size.semantic_window, size.semantic_window) for _ in range(2)
        )
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for bank in (self.point_spectral_weight_bank_w, self.block_spectral_weight_bank_w):
            nn.init.normal_(bank, std=0.02)
        if self.size.input_mode == "shape":
            nn.init.normal_(self.log_brightness, std=0.02)

    @property
    def tap_blocks(self) -> tuple[int, ...]:
        """Blocks whose output is returned, in order."""
        if not self.size.merge_blocks:
            return self.size.global_blocks
        return tuple(sorted({self.size.merge_blocks[0], self.size.global_blocks[0], self.size.global_blocks[-1]}))

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The embedding, the taps in order, and the neck."""
        size = self.size

        def stride(block: int) -> int:
            return size.patch_size << sum(merge < block for merge in size.merge_blocks)

        taps = [FeatureInfo(f"block_{block}", size.embed_dim, stride(block)) for block in self.tap_blocks]
        first = FeatureInfo("embedding", size.embed_dim, size.patch_size)
        return (first, *taps, FeatureInfo("neck", size.neck_dim, stride(size.depth)))

    def bank(self) -> dict[str, Tensor]:
        """The kernel banks as the embedding takes them."""
        bank: dict[str, Tensor] = {
            "point_w": self.point_spectral_weight_bank_w,
            "point_b": self.point_spectral_weight_bank_b,
            "block_w": self.block_spectral_weight_bank_w,
            "block_b": self.block_spectral_weight_bank_b,
        }
        if self.size.input_mode == "shape":
            bank["log_brightness"] = self.log_brightness
        return bank

    def embed(self, cube_BCHW: Tensor, plans: Sequence[Plan], gsd_B: Tensor) -> Tensor:
        """Tokens with their position added: [B, h, w, D]."""
        x_BHWD = self.embedding(self.bank(), cube_BCHW, plans).permute(0, 2, 3, 1)
        code = position_code(x_BHWD.shape[1], x_BHWD.shape[2], self.size.embed_dim, gsd_B)
        return x_BHWD + self.pos_embed_mlp(code.to(x_BHWD))  # type: ignore[no-any-return]

    def forward(self, cube_BCHW: Tensor, plans: Sequence[Plan], gsd_B: Tensor) -> list[Tensor]:
        """Return the taps in order, then the neck, each [B, D, h, w]."""
        x_BHWD = self.embed(cube_BCHW, plans, gsd_B)
        merges = dict(zip(self.size.merge_blocks, self.multi_scale_convs, strict=True))
        again = self.checkpointing and torch.is_grad_enabled()
        return run_blocks(x_BHWD, self.blocks, self.tap_blocks, merges, self.neck, again)

    def semantic(self, neck_BCHW: Tensor) -> Tensor:
        """The semantic embedding of a neck map, used for material similarity: same shape."""
        x_BHWC = neck_BCHW.permute(0, 2, 3, 1)
        for block in self.contras_modules:
            x_BHWC = block(x_BHWC)
        return x_BHWC.permute(0, 3, 1, 2)
