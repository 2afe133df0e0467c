"""The backbone gives the numbers of the public encoder on the same weights and inputs."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from hypervision import create_model, load_weights
from hypervision.bands import BLOCK_NM, POINT_NM, match_bands

CASES = ["vis31", "nir25", "ms8", "full224"]


@pytest.fixture(scope="module")
def parity(shared):
    folder = shared("parity")
    spec = importlib.util.spec_from_file_location("parity_fill", folder / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return json.loads((folder / "reference.json").read_text()), np.load(folder / "expected.npz"), fill


def build(parity, variant):
    reference, _, fill = parity
    model, kw = reference["model"], reference[f"kw_{variant}"]
    net = create_model(
        "hypervision_base",
        image_size=model["image_size"],
        patch_size=model["vit_patch_size"],
        embed_dim=model["encoder_embed_dim"],
        depth=model["encoder_depth"],
        num_heads=model["encoder_num_heads"],
        global_blocks=kw["encoder_global_attn_indexes"],
        merge_blocks=kw["merge_indexs"] or (),
    )
    names = reference[f"keys_{variant}"]
    report = load_weights(net, {name: torch.tensor(fill.weight(name, tuple(s))) for name, s in names.items()})
    assert not report.missing and not report.unexpected and not report.resized, report.summary()
    return net


@pytest.mark.parametrize("variant", ["merged", "flat"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_encoder_matches_reference(parity, variant, case):
    reference, expected, fill = parity
    net = build(parity, variant)
    spec = reference["cases"][case]
    cube = torch.tensor(fill.cube(case, len(spec["wavelengths"])))[None]
    maps = net.encode(cube, spec["wavelengths"], float(np.ravel(spec["gsd"])[0]))
    stages = [key for key in expected.files if key.startswith(f"{variant}/{case}/stage")]
    assert len(maps) == len(stages)
    maps_checked = [*maps[:-1], maps[-1][:, ::4]]
    for index, got in enumerate(maps_checked):
        np.testing.assert_allclose(got[0], expected[f"{variant}/{case}/stage{index}"], atol=1e-4)
    if variant == "flat":
        check_heads(net, maps[-1], expected, f"flat/{case}/")


def check_heads(net, neck, expected, prefix):
    np.testing.assert_allclose(net.semantic(neck)[0, ::4], expected[prefix + "semantic"], atol=1e-4)
    points = torch.tensor([[[[30, 40]], [[128, 128]], [[200, 90]]]])
    logits, iou = net.predict_masks(neck, (256, 256), points, torch.ones(1, 3, 1))
    np.testing.assert_allclose(logits[0, ..., ::2, ::2], expected[prefix + "point_masks"], atol=1e-4)
    np.testing.assert_allclose(iou[0], expected[prefix + "point_iou"], atol=1e-4)
    box = torch.tensor([[[20, 30, 120, 160]]])
    logits, iou = net.predict_masks(neck, (256, 256), boxes_BP4=box, multimask=False)
    np.testing.assert_allclose(logits[0, ..., ::2, ::2], expected[prefix + "box_masks"], atol=1e-4)
    np.testing.assert_allclose(iou[0], expected[prefix + "box_iou"], atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_matching_rule(parity, case):
    reference, _, _ = parity
    assert list(POINT_NM) == reference["point_wavelengths_nm"]
    assert list(BLOCK_NM) == reference["block_wavelengths_nm"]
    plan = match_bands(tuple(reference["cases"][case]["wavelengths"]))
    for key, value in reference["cases"][case]["matched"].items():
        assert list(getattr(plan, key)) == value
