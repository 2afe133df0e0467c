"""The public model API: any sensor, mixed sensors in one batch, checkpoints back and forth, clear refusals."""

import pytest
import torch

from hypervision import create_model, list_models, load_weights, match_bands, save_weights

TINY = {"image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": [0, 1], "neck_dim": 32}
WL = [450.0 + 10 * i for i in range(30)]


def tiny(**options):
    torch.manual_seed(0)
    return create_model("hypervision_nano", **{**TINY, **options})


@pytest.mark.parametrize("mode", ["public", "shape"])
@torch.no_grad()
def test_a_mixed_batch_equals_each_sample_alone(mode):
    model = tiny(input_mode=mode)
    cube = torch.rand(3, 30, 32, 24)
    axes = [WL, WL[:12], [600.0 + 5 * i for i in range(22)]]
    for index, axis in enumerate(axes):
        cube[index, len(axis) :] = 0
    together = model.encode(cube, axes, [0.01, 0.5, 2.0])
    for index, (axis, gsd) in enumerate(zip(axes, [0.01, 0.5, 2.0], strict=True)):
        alone = model.encode(cube[index : index + 1, : len(axis)], axis, gsd)
        assert [m.shape[1:] for m in alone] == [m.shape[1:] for m in together]
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], many[index], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_shape_mode_does_not_see_brightness_units():
    model = tiny(input_mode="shape")
    cube = torch.rand(1, 30, 32, 32) + 0.1
    for bright, plain in zip(model.encode(cube * 4000, WL, 0.01), model.encode(cube, WL, 0.01), strict=True):
        torch.testing.assert_close(bright, plain, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_merged_form_and_any_size_divisible_by_the_patch():
    model = create_model(
        "hypervision_base",
        image_size=64,
        embed_dim=32,
        depth=4,
        num_heads=2,
        global_blocks=[1, 2, 3],
        merge_blocks=[0, 4],
    )
    maps = model.encode(torch.rand(1, 30, 64, 96), WL, 0.01)
    assert [tuple(m.shape) for m in maps] == [(1, 32, 4, 6), (1, 32, 2, 3), (1, 32, 2, 3), (1, 256, 2, 3)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"wl": WL[:-1]}, "30 bands but 29 wavelengths"),
        ({"wl": [nm / 1000 for nm in WL]}, "look like micrometres"),
        ({"wl": [1000.0 + i / 10 for i in range(10)], "bands": 10}, "this model cannot see it"),
        ({"wl": [WL] * 3}, "3 wavelength lists for a batch of 2"),
        ({"nan": True}, "NaN or infinite"),
        ({"side": 30}, "multiple of the patch size 4"),
    ],
)
def test_wrong_input_is_one_sentence(change, sentence):
    cube = torch.rand(2, change.get("bands", 30), change.get("side", 32), 32)
    if change.get("nan"):
        cube[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=sentence):
        tiny().encode(cube, change.get("wl", WL), 0.01)


def test_bands_that_are_not_seen_are_reported():
    assert match_bands((450.0, 1100.0)).unused == (1,)
    with pytest.warns(UserWarning, match="1 of 2 bands are too far from every key wavelength.*: 1$"):
        tiny().encode(torch.rand(1, 2, 32, 32), (450.0, 1100.0), 0.01)


def test_weights_are_saved_back_as_the_public_code_reads_them(tmp_path):
    model = tiny()
    save_weights(model, tmp_path / "m.pth")
    again = torch.load(tmp_path / "m.pth", weights_only=True)
    assert list(again) == list(model.state_dict())
    assert not (report := load_weights(tiny(), tmp_path / "m.pth")).missing and not report.unexpected


def test_patch_kernels_of_another_side_are_resized_and_told():
    report = load_weights(tiny(patch_size=16), tiny().state_dict())
    assert {name.rsplit(".")[-1] for name in report.resized} >= {"point_spectral_weight_bank_w", "rel_pos_h"}


def test_export_rebuilds_the_model_from_the_file_alone(tmp_path):
    model = tiny(input_mode="shape")
    save_weights(model, tmp_path / "m.safetensors")
    save_weights(model, tmp_path / "n.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "n.safetensors").read_bytes()
    again = create_model("hypervision_nano", checkpoint=tmp_path / "m.safetensors")
    assert again.size == model.size
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_public_checkpoints_load_with_a_report_of_every_tensor(tmp_path):
    state = tiny().state_dict()
    state["image_encoder.blocks.0.attn.rel_pos_h"] = torch.rand(11, 16)
    state["extra.weight"] = torch.rand(2)
    del state["prompt_encoder.no_mask_embed.weight"]
    torch.save({"state_dict": state}, tmp_path / "m.pth")
    report = load_weights(tiny(), tmp_path / "m.pth")
    assert report.resized == ["image_encoder.blocks.0.attn.rel_pos_h"]
    assert report.missing == ["prompt_encoder.no_mask_embed.weight"] and report.unexpected == ["extra.weight"]


def test_bad_checkpoints_are_one_sentence(tmp_path):
    save_weights(tiny(), tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short or not a checkpoint"):
        create_model("hypervision_nano", checkpoint=tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="saved from another size"):
        create_model("hypervision_nano", checkpoint=tmp_path / "m.safetensors", embed_dim=64)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        create_model("hypervision_nano", checkpoint=tmp_path / "none.pth")
    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="pickled objects"):
        load_weights(tiny(), tmp_path / "evil.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_names_and_options():
    assert {"hypervision_base", "hyperfree_huge"} <= set(list_models())
    with pytest.raises(ValueError, match="no model is named 'hypervison'; choose one of"):
        create_model("hypervison")
    with pytest.raises(ValueError, match="unknown option 'width'"):
        create_model("hypervision_nano", width=3)
