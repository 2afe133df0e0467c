"""Many prompts meet an image as they do in SAM's plain form, forwards and backwards, with our weights and sam2's."""

import pytest
import torch
from sam2.modeling.sam.transformer import TwoWayTransformer

from hypervision.decoder import MaskDecoder
from hypervision.meeting import meet, prepare

DIM, TOKENS, PIXELS = 32, 5, 12


def plain(transformer, image, position, token_pe):
    """The image repeated for every prompt, everything projected anew."""
    image = image.repeat_interleave(len(token_pe) // len(image), 0)
    token = token_pe
    for index, layer in enumerate(transformer.layers):
        asked = token + token_pe
        token = layer.self_attn(token, token, token) if not index else token + layer.self_attn(asked, asked, token)
        token = layer.norm1(token)
        told = layer.cross_attn_token_to_image(token + token_pe, image + position, image)
        token = layer.norm2(token + told)
        token = layer.norm3(token + layer.mlp(token))
        image = layer.norm4(image + layer.cross_attn_image_to_token(image + position, token + token_pe, token))
    final = transformer.final_attn_token_to_image(token + token_pe, image + position, image)
    return transformer.norm_final_attn(token + final), image


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("package", [False, True])
def test_values_and_gradients_are_those_of_the_plain_form(prompts, package):
    torch.manual_seed(0)
    transformer = TwoWayTransformer(2, DIM, 4, 64) if package else MaskDecoder(DIM).transformer
    transformer = transformer.double()
    image, position = torch.randn(2, PIXELS, DIM).double(), torch.randn(1, PIXELS, DIM).double()
    token = torch.randn(2 * prompts, TOKENS, DIM).double()
    wanted = [image.requires_grad_(), token.requires_grad_(), *transformer.parameters()]
    results = []
    for form in (lambda: meet(prepare(transformer, image, position), token),
                 lambda: plain(transformer, image, position, token)):  # fmt: skip
        tokens, images = form()
        loss = (tokens * torch.arange(DIM)).sum() + (images * torch.arange(DIM).flip(0)).square().sum()
        results.append((tokens, images, torch.autograd.grad(loss, wanted, allow_unused=True)))
    torch.testing.assert_close(results[0][:2], results[1][:2])
    for ours, theirs in zip(results[0][2], results[1][2], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)
