"""A mask branch that can learn from its first step.

At SAM's own start a prompt has next to no say: the first self-attention makes all tokens alike, and queries and keys of
the cross-attentions are projected by unrelated matrices, so a token attends to all of the image, and the image to all
tokens. A short training then learns one mask that it gives for every prompt. Here three things start otherwise:

    own tokens   in the first self-attention each token attends to itself, so it stays what it is
    own place    queries and keys of the cross-attentions are the same sines and cosines of a place's code, so a token
                 and the cells around it find each other; the code varies slowly enough for neighbours to be alike
    quiet        what image and tokens hold starts small against the codes of places, which else drown in it

No name or shape differs; all of it is learned on.
"""

from __future__ import annotations

from typing import Any

import torch

from hypervision import HyperModel

# Logits of a token for itself and for its own place; e^6 and more leave the others next to nothing.
OWN_TOKEN, OWN_PLACE = 6.0, 8.0
# Share of SAM's spread of frequencies: a cell and its neighbour on a grid of 12 are then alike to .87 (else .58).
FREQUENCY = 0.5
IMAGE_SCALE, TOKEN_SCALE = 0.3, 0.5


@torch.no_grad()
def let_prompts_speak(model: HyperModel) -> None:
    """Start prompt encoder and decoder so that what is predicted depends on the prompt."""
    encoder, transformer = model.prompt_encoder, model.mask_decoder.transformer
    encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(FREQUENCY)
    encoder.no_mask_embed.weight.zero_()
    layers: list[Any] = list(transformer.layers)
    _own_token(layers[0].self_attn)
    spread = encoder.pe_layer.positional_encoding_gaussian_matrix.norm(dim=0)
    for attention in (transformer.final_attn_token_to_image, *_cross(layers)):
        _own_place(attention, spread.argsort())
    for layer in layers:
        layer.norm4.weight.fill_(IMAGE_SCALE)
        for norm in (layer.norm1, layer.norm2, layer.norm3):
            norm.weight.fill_(TOKEN_SCALE)
    model.image_encoder.neck[3].get_parameter("weight").fill_(IMAGE_SCALE)


def _cross(layers: list[Any]) -> list[Any]:
    return [part for layer in layers for part in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token)]


def _own_token(attention: Any) -> None:
    """One matrix for queries and keys, scaled so that a token of unit variance has this logit for itself."""
    query = attention.q_proj.weight
    head = query.shape[0] // attention.num_heads
    own = float(query.square().mean()) * query.shape[1] * head**0.5
    query.mul_((OWN_TOKEN / own) ** 0.5)
    attention.k_proj.weight.copy_(query)


def _own_place(attention: Any, order: torch.Tensor) -> None:
    """Each head takes the sine and cosine of some frequencies, slow ones first: q . k is a sum of cos(difference)."""
    query = attention.q_proj.weight
    inner, dim = query.shape
    heads = int(attention.num_heads)
    head, half = inner // heads, dim // 2
    pairs = head // 2
    if not pairs:  # heads of one channel have no room for a place
        return
    gain = (OWN_PLACE * head**0.5 / pairs) ** 0.5
    query.zero_()
    for number in range(heads):
        for pair in range(pairs):
            frequency = int(order[(pair * heads + number) % half])
            query[number * head + 2 * pair, frequency] = gain
            query[number * head + 2 * pair + 1, half + frequency] = gain
    attention.k_proj.weight.copy_(query)
    attention.q_proj.bias.zero_()
    attention.k_proj.bias.zero_()
