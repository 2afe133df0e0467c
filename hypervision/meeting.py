"""SAM's two-way transformer for many prompts on one image, without doing for each prompt what is the same for all.

The plain form repeats the image for every prompt and projects it ten times. Here the first layer's projections of the
image, and those of its position code, are made once for all prompts (`prepare`); what is projected from one input is
projected together; and a prompt's few tokens are carried through the output projection instead of the many pixels.
The result is the same; weights are those of any module with SAM's names, the `sam2` package's among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _heads(x_BLC: Tensor, heads: int) -> Tensor:
    return x_BLC.unflatten(2, (heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def _look(attn: Any, query_BLC: Tensor, key_BNC: Tensor, value_BNC: Tensor) -> Tensor:
    """Tokens attend to the image; the output projection included."""
    heads = attn.num_heads
    out = F.scaled_dot_product_attention(_heads(query_BLC, heads), _heads(key_BNC, heads), _heads(value_BNC, heads))
    return attn.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _tell(attn: Any, query_BNC: Tensor, key_QTC: Tensor, value_QTC: Tensor) -> Tensor:
    """The image attends to each prompt's few tokens: [Q, N, D]; queries may be shared by the prompts of an image.

    As two multiplies: of a block-diagonal matrix of the keys, and by the values after the output projection. Tokens
    come before pixels, since a softmax over a short last axis is slow.
    """
    heads, batch = attn.num_heads, len(query_BNC)
    count, tokens, inner = key_QTC.shape
    dim = inner // heads
    eye = torch.eye(heads, device=key_QTC.device, dtype=key_QTC.dtype)
    block = _heads(key_QTC * dim**-0.5, heads)[:, :, :, None] * eye[:, None, :, None]  # Q, heads, T, heads, dim
    score = block.reshape(batch, -1, inner) @ query_BNC.transpose(1, 2)
    share = score.reshape(count, heads, tokens, -1).softmax(2).flatten(1, 2)
    out = attn.out_proj.weight.T.reshape(heads, dim, -1)
    carried = (_heads(value_QTC, heads) @ out).flatten(1, 2)
    return torch.baddbmm(attn.out_proj.bias.expand(count, 1, -1), share.transpose(1, 2), carried)


@dataclass(frozen=True)
class Stage:
    """What a layer needs of the image's side: the weights of its projections, and the position's part of them."""

    weight: Tensor
    bias: Tensor
    placed: tuple[Tensor, ...]
    sizes: tuple[int, ...]

    def project(self, image_BND: Tensor) -> list[Tensor]:
        """Projections of the image, in one multiply: those with its position, then those without."""
        parts = list(torch.split(F.linear(image_BND, self.weight, self.bias), list(self.sizes), 2))
        for index, position in enumerate(self.placed):
            parts[index] = parts[index] + position
        return parts


@dataclass(frozen=True)
class Scene:
    """Images that prompts can meet, with everything that is the same for all prompts."""

    transformer: Any
    image_BND: Tensor
    first: list[Tensor]
    stages: tuple[Stage, ...]


def _stage(placed: tuple[Any, ...], plain: Any, position_1ND: Tensor) -> Stage:
    every = (*placed, plain)
    return Stage(
        torch.cat([one.weight for one in every]),
        torch.cat([one.bias for one in every]),
        tuple(F.linear(position_1ND, one.weight) for one in placed),
        tuple(len(one.weight) for one in every),
    )


def prepare(transformer: Any, image_BND: Tensor, position_1ND: Tensor) -> Scene:
    """Project once what does not depend on prompts.

    Args:
        transformer: SAM's two-way transformer.
        image_BND: each image once.
        position_1ND: its position code.
    """
    looks = [layer.cross_attn_token_to_image for layer in transformer.layers]
    tells = [layer.cross_attn_image_to_token for layer in transformer.layers]
    final = transformer.final_attn_token_to_image
    stages = [_stage((a.k_proj, b.q_proj), a.v_proj, position_1ND) for a, b in zip(looks, tells, strict=True)]
    stages.append(_stage((final.k_proj,), final.v_proj, position_1ND))
    return Scene(transformer, image_BND, stages[0].project(image_BND), tuple(stages))


def meet(scene: Scene, token_QTD: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [Q, T, D] and images [Q, N, D] of Q = B * P prompts, P for each image, after the last layer.

    `token_QTD` are the tokens of each prompt, which are their own position code as well.
    """
    transformer, image, token = scene.transformer, scene.image_BND, token_QTD
    for index, layer in enumerate(transformer.layers):
        look, tell = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        if index == 0:  # without position and without a residual
            token = layer.self_attn(token, token, token)
        else:
            asked = token + token_QTD
            token = token + layer.self_attn(asked, asked, token)
        token = layer.norm1(token)
        key, query, value = scene.stages[index].project(image) if index else scene.first
        asked = look.q_proj(token + token_QTD)
        seen = _look(look, asked.reshape(len(key), -1, asked.shape[2]), key, value).reshape(token.shape)
        token = layer.norm2(token + seen)
        token = layer.norm3(token + layer.mlp(token))
        told = _tell(tell, query, tell.k_proj(token + token_QTD), tell.v_proj(token))
        # In the first layer the prompts of an image share it.
        told = told.reshape(len(image), -1, *told.shape[1:]) + image[:, None]
        image = layer.norm4(told.flatten(0, 1))
    final = transformer.final_attn_token_to_image
    key, value = scene.stages[-1].project(image)
    seen = _look(final, final.q_proj(token + token_QTD), key, value)
    return transformer.norm_final_attn(token + seen), image
