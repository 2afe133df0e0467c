"""The named sizes of the backbone and the options that override them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

INPUT_MODES = ("public", "shape")
EMBEDDINGS = ("nearest", "interpolated")


@dataclass(frozen=True)
class ModelSize:
    """Everything that fixes the parameter shapes.

    Fields: token width, number of blocks and heads, the blocks with global attention, the blocks after which
    2x2 tokens are merged (none = the flat form), image and patch side in pixels, width of neck and decoder,
    window of the semantic head in tokens, and how a cube enters ("public": as given, divided by its maximum
    by the caller; "shape": see spectral.py), and how its bands meet the kernels ("nearest" as in the public
    encoders, "interpolated": see bands.py).
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    merge_blocks: tuple[int, ...] = ()
    image_size: int = 512
    patch_size: int = 16
    neck_dim: int = 256
    semantic_window: int = 16
    input_mode: str = "public"
    embedding: str = "nearest"

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work, with the reason."""
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be divisible by 4 and by num_heads {self.num_heads}")
        if not self.global_blocks or not all(0 <= block < self.depth for block in self.global_blocks):
            raise ValueError(f"global_blocks {self.global_blocks} must name blocks below depth {self.depth}")
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding {self.embedding!r} is not one of {', '.join(EMBEDDINGS)}")
        if self.input_mode not in INPUT_MODES:
            raise ValueError(f"input_mode {self.input_mode!r} is not one of {', '.join(INPUT_MODES)}")


SIZES: dict[str, ModelSize] = {
    "hypervision_base": ModelSize(768, 12, 12, (5, 8, 11), (3, 12)),
    "hypervision_large": ModelSize(1024, 24, 16, (11, 17, 23), (6, 24)),
    "hypervision_huge": ModelSize(1280, 32, 16, (15, 23, 31), (8, 32)),
    "hyperfree_base": ModelSize(768, 12, 12, (2, 5, 8, 11), image_size=1024),
    "hyperfree_large": ModelSize(1024, 24, 16, (5, 11, 17, 23), image_size=1024),
    "hyperfree_huge": ModelSize(1280, 32, 16, (7, 15, 23, 31), image_size=1024),
    # For the demo, tests and a look around on a laptop; no published weights have this size.
    # It merges as the published HyperVision sizes do, behind its first block, so tests and demo see what users train.
    "hypervision_nano": ModelSize(
        96, 4, 4, (1, 2, 3), (0, 4), image_size=96, patch_size=4, neck_dim=64, semantic_window=12
    ),
}


def resolve_size(name: str, **options: Any) -> ModelSize:
    """The named size with the options that are not None put over it."""
    if name not in SIZES:
        raise ValueError(f"no model is named {name!r}; choose one of: {', '.join(SIZES)}")
    given = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(ModelSize.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; options are: {', '.join(ModelSize.__dataclass_fields__)}")
    for key in ("global_blocks", "merge_blocks"):
        if key in given:
            given[key] = tuple(given[key])
    if "depth" in given and "global_blocks" not in given:
        depth = given["depth"]
        given["global_blocks"] = tuple(sorted({(i + 1) * depth // 4 - 1 for i in range(4)} - {-1}))
    return replace(SIZES[name], **given)
