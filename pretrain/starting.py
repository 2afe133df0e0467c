"""A mask branch that can learn from its first step.

At SAM's own start the queries of prompt tokens and the keys of the image are projected by unrelated matrices, so a
token attends to all of the image alike and must first learn where it is: thousands of steps. Here the two projections
of each cross-attention start as one matrix, scaled up, so a prompt attends to its own place from the first step on and
hands the features under a click to the mask. No name or shape differs.
"""

from __future__ import annotations

from typing import Any

import torch

from hypervision import HyperModel

# Logit of a token for its own place; e^4 keeps most of the attention within a few tokens of a 12 x 12 grid.
OWN_PLACE = 4.0


@torch.no_grad()
def let_prompts_speak(model: HyperModel) -> None:
    """Tie queries and keys of the decoder's cross-attentions as they start."""
    transformer: Any = model.mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        query, key = attention.q_proj.weight, attention.k_proj.weight
        inner, dim = query.shape
        head = inner // attention.num_heads
        # A place's code has sines and cosines of dim / 2 numbers, so its square is dim / 2.
        own = float(query.square().mean()) * (dim / 2) * head / head**0.5
        query.mul_((OWN_PLACE / own) ** 0.5)
        key.copy_(query)
