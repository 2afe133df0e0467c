"""On a GPU: the same features as on the CPU, and a training step in bf16."""

import pytest
import torch

from hypervision import create_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")]
WL = [450.0 + 10 * i for i in range(30)]


@torch.no_grad()
def test_features_equal_those_of_the_cpu():
    torch.manual_seed(0)
    model = create_model("hypervision_nano", input_mode="shape")
    cube = torch.rand(2, 30, 96, 96)
    want = model.encode(cube, WL, 0.01)
    got = model.cuda().encode(cube.cuda(), WL, 0.01)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)


def test_a_bf16_step_gives_finite_gradients():
    model = create_model("hypervision_nano", input_mode="shape").cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        maps = model.encode(torch.rand(2, 30, 96, 96, device="cuda"), [WL, WL[:22]], 0.01)
        maps[-1].float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.image_encoder.parameters() if p.grad is not None)
