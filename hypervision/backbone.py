"""What a backbone says of its outputs, so that nobody outside computes where a token lies.

A mask, a label or a teacher map is brought to a feature's own stride, asked of the model (`HyperModel.feature_info`);
merging makes it another than the side of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureInfo:
    """One feature map: its name, its channels, and the pixels from one of its tokens to the next.

    As timm's `feature_info`, with one row for the embedding, each tap, and the neck.
    """

    name: str
    channels: int
    stride: int

    def grid(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens of an image; a token that hangs over the edge counts."""
        height, width = image_hw
        return -(-height // self.stride), -(-width // self.stride)

    def extent(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width in pixels of what the tokens cover: the image, or a little more."""
        rows, cols = self.grid(image_hw)
        return rows * self.stride, cols * self.stride
