"""Bands meet kernels: summed once, kept per camera, interpolated on request, and what is not seen is told."""

import pytest
import torch
import torch.nn.functional as F

from hypervision import create_model, interpolate_bands, match_bands
from hypervision.bands import BLOCK_NM, POINT_NM
from hypervision.spectral import SpectralEmbedding

VIS = tuple(400.0 + 10 * i for i in range(31))
DENSE = tuple(400.0 + 3 * i for i in range(200))


def bank(dim=6, patch=4):
    torch.manual_seed(0)
    made = {"point_w": torch.randn(dim, len(POINT_NM), patch, patch), "point_b": torch.randn(dim)}
    return made | {"block_w": torch.randn(dim, len(BLOCK_NM), patch, patch), "block_b": torch.randn(dim)}


@pytest.mark.parametrize("wl", [VIS, DENSE, VIS[:12], VIS[::-1]])
def test_summing_kernels_first_is_the_rule_of_one_channel_per_pair(wl):
    made, plan = bank(), match_bands(wl)
    cube = torch.rand(2, len(wl), 8, 12)
    want = F.conv2d(cube[:, plan.point_band], made["point_w"][:, plan.point_target], made["point_b"], stride=4)
    if plan.block_band:
        want += F.conv2d(cube[:, plan.block_band], made["block_w"][:, plan.block_target], made["block_b"], stride=4)
    got = SpectralEmbedding(4, "public")(made, cube, [plan, plan])
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert len(plan.mixture.channels) == len({*plan.point_band, *plan.block_band}) <= len(plan.mixture.kernel)


def test_kept_kernels_follow_the_weights():
    model = create_model("hypervision_nano")
    cube = torch.rand(1, 31, 96, 96)
    with torch.no_grad():
        before = model.encode(cube, VIS, 0.01)[0]
        model.image_encoder.point_spectral_weight_bank_w.mul_(1.5)
        after = model.encode(cube, VIS, 0.01)[0]
        model.image_encoder.embedding._kept.clear()
        torch.testing.assert_close(after, model.encode(cube, VIS, 0.01)[0])
    assert (after - before).abs().max() > 1e-4


def test_kept_kernels_are_forgotten_by_training_and_not_asked_of_inference_tensors():
    model = create_model("hypervision_nano")
    cube = torch.rand(1, 31, 96, 96)
    with torch.no_grad():
        before = model.encode(cube, VIS, 0.01)[0]
    model.encode(cube, VIS, 0.01)
    model.image_encoder.point_spectral_weight_bank_w.data.mul_(1.5)  # as optimisers of flat buffers do
    with torch.no_grad():
        assert (model.encode(cube, VIS, 0.01)[0] - before).abs().max() > 1e-4
    with torch.inference_mode():
        create_model("hypervision_nano").encode(cube, VIS, 0.01)


def test_an_interpolated_kernel_lies_on_the_line_between_its_keys():
    plan = interpolate_bands((505.0, 900.0))
    shares = {(kernel, channel): weight for kernel, channel, weight in
              zip(plan.mixture.kernel, plan.mixture.channel, plan.mixture.weight, strict=True)}  # fmt: skip
    left = POINT_NM.index(500)
    assert not plan.uses_block and plan.mixture.amount == sum(
        490 <= key <= 910 or 890 <= key <= 910 for key in POINT_NM
    )
    ratio = shares[left, 0] / (shares[left, 0] + shares[left + 1, 0])
    assert ratio == pytest.approx(0.75) and POINT_NM[left + 1] == 520


def test_interpolated_kernels_change_smoothly_and_cost_no_more():
    dense, rule = interpolate_bands(DENSE), match_bands(DENSE)
    assert sum(map(len, dense.mixture.channels)) == len(DENSE) and not dense.unused
    assert len(dense.mixture.channels) <= len(rule.mixture.channels)
    assert sum(dense.mixture.weight) == pytest.approx(dense.mixture.amount)
    made, cube = bank(), torch.rand(1, 31, 8, 8)
    embed = SpectralEmbedding(4, "public")
    moved = [tuple(nm + shift for nm in VIS) for shift in (0.0, 0.01)]
    near = [embed(made, cube, [interpolate_bands(wl)]) for wl in moved]
    assert 0 < (near[0] - near[1]).abs().max() < 0.1
    alone = interpolate_bands((350.0, 500.0, 2600.0))
    assert alone.unused == (0, 2)
    with pytest.raises(ValueError, match="this model cannot see it"):
        interpolate_bands((350.0, 2600.0))


@pytest.mark.parametrize("mode", ["public", "shape"])
def test_an_interpolated_model_mixes_cameras_and_is_rebuilt_from_its_file(mode, tmp_path):
    from hypervision import save_weights

    model = create_model("hypervision_nano", embedding="interpolated", input_mode=mode)
    save_weights(model, tmp_path / "m.safetensors")
    assert create_model("hypervision_nano", checkpoint=tmp_path / "m.safetensors").size == model.size
    cube = torch.rand(2, 31, 16, 24)
    cube[1, 12:] = 0
    with torch.no_grad():
        together = model.encode(cube, [VIS, VIS[:12]], 0.01)
        alone = model.encode(cube[1:, :12], VIS[:12], 0.01)
    torch.testing.assert_close(together[-1][1], alone[-1][0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="embedding 'smooth' is not one of nearest, interpolated"):
        create_model("hypervision_nano", embedding="smooth")
