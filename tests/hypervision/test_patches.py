"""Patches times kernels through a small buffer are what plain operations give, forwards and backwards."""

import pytest
import torch

from hypervision import interpolate_bands, match_bands, patches
from hypervision.patches import embed_camera, embed_patches, mix_kernels

DENSE = tuple(range(400, 1000, 3))
CAMERAS = {"few": match_bands((450.0, 550.0, 650.0)), "many": match_bands(DENSE), "means": interpolate_bands(DENSE)}


def made(plan, dtype=torch.float64):
    torch.manual_seed(0)
    length = len(plan.mixture.channels) * 64
    cube, weight = torch.rand(2, plan.bands, 24, 16, dtype=dtype), torch.randn(12, length, dtype=dtype) / length**0.5
    return cube, weight.requires_grad_(), torch.randn(12, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("channels", [1, 7, 10_000])
def test_tokens_and_gradients_are_those_of_one_multiply(camera, channels, monkeypatch):
    monkeypatch.setattr(patches, "BUFFER_BYTES", 0)
    monkeypatch.setattr(patches, "LEAST_CHANNELS", channels)
    plan = CAMERAS[camera]
    cube, weight, bias = made(plan)
    results = []
    for form in (embed_camera, embed_patches):
        token = form(cube, plan.mixture, weight, bias, 8)
        results.append((token, *torch.autograd.grad(token.sin().sum(), (weight, bias))))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_autocast_multiplies_in_its_type_and_the_gradient_keeps_that_of_the_weights():
    plan = CAMERAS["many"]
    cube, weight, bias = made(plan, torch.float32)
    results = []
    for form in (embed_camera, embed_patches):
        with torch.autocast("cpu", torch.bfloat16):
            token = form(cube, plan.mixture, weight, bias, 8)
        results.append((token, *torch.autograd.grad(token.float().square().sum(), (weight, bias))))
    assert results[0][0].dtype == torch.bfloat16 and results[0][1].dtype == torch.float32
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0.05, atol=0.05)


def test_a_cube_whose_gradient_is_asked_for_gets_it():
    plan = CAMERAS["many"]
    cube, weight, bias = made(plan)
    token = embed_camera(cube.requires_grad_(), plan.mixture, weight, bias, 8)
    (slope,) = torch.autograd.grad(token.sum(), cube)
    assert slope[:, sorted({band for group in plan.mixture.channels for band in group})].abs().sum() > 0


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("amount", [1.0, 0.4])
def test_mixing_pair_by_pair_is_mixing_by_index(camera, amount, monkeypatch):
    torch.manual_seed(0)
    point = torch.randn(6, 85, 4, 4, dtype=torch.float64, requires_grad=True)
    block = torch.randn(6, 211, 4, 4, dtype=torch.float64, requires_grad=True)
    results = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        mixed = mix_kernels(point, block, CAMERAS[camera].mixture, amount)
        results.append((mixed, *torch.autograd.grad(mixed.sin().sum(), (point, block), materialize_grads=True)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
