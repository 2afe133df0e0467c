"""Attention without padding work gives what the plain, padded form gives, forwards and backwards."""

import pytest
import torch
import torch.nn.functional as F

from hypervision import blocks, create_model
from hypervision.blocks import Attention, relative_table, whole_and_rest


def plain(attn, x, window):
    """The public form: zeros below and to the right up to whole windows, every token projected, all scores."""
    batch, height, width, dim = x.shape
    side_h, side_w = (window, window) if window else (height, width)
    padded = F.pad(x, (0, 0, 0, -width % side_w, 0, -height % side_h))
    rows, cols = padded.shape[1] // side_h, padded.shape[2] // side_w
    tiles = padded.reshape(batch, rows, side_h, cols, side_w, dim).transpose(2, 3).reshape(-1, side_h * side_w, dim)
    q, k, v = attn.qkv(tiles).reshape(len(tiles), -1, 3, attn.num_heads, dim // attn.num_heads).permute(2, 0, 3, 1, 4)
    grid = q.reshape(len(tiles), attn.num_heads, side_h, side_w, -1)
    down = torch.einsum("bnhwc,hkc->bnhwk", grid, relative_table(attn.rel_pos_h, side_h))
    across = torch.einsum("bnhwc,wkc->bnhwk", grid, relative_table(attn.rel_pos_w, side_w))
    bias = (down[..., :, None] + across[..., None, :]).flatten(2, 3).flatten(3)
    weight = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias).softmax(-1)
    out = (weight @ v).transpose(1, 2).reshape(batch, rows, cols, side_h, side_w, dim)
    out = out.transpose(2, 3).reshape(batch, rows * side_h, cols * side_w, dim)
    return attn.proj(out[:, :height, :width])


@pytest.mark.parametrize(
    ("height", "width", "window"), [(14, 14, 14), (32, 32, 14), (16, 29, 14), (3, 5, 14), (10, 7, 0), (28, 15, 14)]
)
def test_values_and_gradients_are_those_of_the_padded_form(height, width, window):
    torch.manual_seed(0)
    attn = Attention(24, 3, window or 12, window).double()
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, height, width, 24, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, height, width, 24, dtype=torch.float64)
    wanted = [x, *attn.parameters()]
    results = []
    for form in (attn, lambda x: plain(attn, x, window)):
        out = form(x)
        results.append((out, torch.autograd.grad((out * weight).sum(), wanted)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs)
        assert torch.isfinite(ours).all()


def test_a_mask_that_would_be_too_large_is_made_in_pieces(monkeypatch):
    torch.manual_seed(0)
    attn = Attention(24, 3, 12)
    torch.nn.init.normal_(attn.rel_pos_h)
    x = torch.randn(1, 9, 11, 24)
    whole = attn(x)
    monkeypatch.setattr(blocks, "MASK_BYTES", 5000)
    torch.testing.assert_close(attn(x), whole)


def test_a_length_is_whole_windows_and_a_rest():
    assert whole_and_rest(32, 14) == [(28, 14), (4, 4)]
    assert whole_and_rest(28, 14) == [(28, 14)] and whole_and_rest(5, 14) == [(5, 5)]


def test_checkpointed_blocks_give_the_same_gradients():
    torch.manual_seed(0)
    model = create_model("hypervision_nano", image_size=32, embed_dim=32, depth=2, num_heads=2).train()
    cube, wl = torch.rand(2, 20, 32, 32), [450.0 + 10 * i for i in range(20)]
    grads = []
    for model.image_encoder.checkpointing in (False, True):
        model.zero_grad()
        sum(one.square().mean() for one in model.encode(cube, wl, 0.01)).backward()
        grads.append([p.grad.clone() for p in model.image_encoder.parameters() if p.grad is not None])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_maps():
    torch.manual_seed(0)
    model = create_model("hypervision_nano", image_size=32, embed_dim=32, depth=2, num_heads=2)
    cube, wl = torch.rand(1, 20, 32, 32), [450.0 + 10 * i for i in range(20)]
    with torch.no_grad():
        plain_maps = model.encode(cube, wl, 0.01)
        model.compile_blocks()
        for one, other in zip(model.encode(cube, wl, 0.01), plain_maps, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["public", "shape"])
def test_bf16_maps_are_those_of_float32_to_its_precision(mode):
    torch.manual_seed(0)
    model = create_model("hypervision_nano", input_mode=mode, image_size=64, merge_blocks=[1])
    cube, wl = torch.rand(2, 24, 64, 40), [450.0 + 10 * i for i in range(24)]
    with torch.no_grad():
        wanted = model.encode(cube, [wl, wl[:22]], 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.train().encode(cube, [wl, wl[:22]], 0.01)
        found[-1].float().square().mean().backward()
    for one, other in zip(found, wanted, strict=True):
        assert (one.float() - other).norm() < 0.02 * other.norm()
    assert all(torch.isfinite(p.grad).all() for p in model.image_encoder.parameters() if p.grad is not None)
