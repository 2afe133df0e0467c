"""The backbone gives the numbers of the public encoder on the same weights and inputs.

parity/ holds what the public encoder, prompt encoder and mask decoder gave (float32, CPU, every band used): names and
shapes of the weights, wavelengths and GSD of each case, and every 13th number of every output. Weights and inputs are
made by recipe: standard normal numbers from the CRC of their names.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hypervision import create_model, load_weights
from hypervision.bands import BLOCK_NM, POINT_NM, match_bands

CASES = ["vis31", "nir25", "ms8", "full224"]
FOLDER = Path(__file__).with_name("parity")
STRIDE = 13


def weight(name, shape):
    """Biases and norms small around their neutral value, matrices by their fan-in."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return 0.05 * values + (1.0 if name.endswith("weight") else 0.0)
    return values / np.sqrt(max(int(np.prod(shape[1:])), 1)).astype(np.float32)


def cube_of(case, bands):
    return np.random.default_rng(zlib.crc32(case.encode())).random((bands, 256, 256), dtype=np.float32)


@pytest.fixture(scope="module")
def parity():
    return json.loads((FOLDER / "reference.json").read_text()), np.load(FOLDER / "expected.npz")


def close(got, wanted):
    np.testing.assert_allclose(np.asarray(got).ravel()[::STRIDE], wanted, atol=1e-4)


def build(parity, variant):
    reference, _ = parity
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
    report = load_weights(net, {name: torch.tensor(weight(name, tuple(s))) for name, s in names.items()})
    assert not report.missing and not report.unexpected and not report.resized, report.summary()
    return net


@pytest.mark.parametrize("variant", ["merged", "flat"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_encoder_matches_reference(parity, variant, case):
    reference, expected = parity
    net = build(parity, variant)
    spec = reference["cases"][case]
    cube = torch.tensor(cube_of(case, len(spec["wavelengths"])))[None]
    maps = net.encode(cube, spec["wavelengths"], float(np.ravel(spec["gsd"])[0]))
    stages = [key for key in expected.files if key.startswith(f"{variant}/{case}/stage")]
    assert len(maps) == len(stages)
    maps_checked = [*maps[:-1], maps[-1][:, ::4]]
    for index, got in enumerate(maps_checked):
        close(got[0], expected[f"{variant}/{case}/stage{index}"])
    if variant == "flat":
        check_heads(net, maps[-1], expected, f"flat/{case}/")


def check_heads(net, neck, expected, prefix):
    close(net.semantic(neck)[0, ::4], expected[prefix + "semantic"])
    points = torch.tensor([[[[30, 40]], [[128, 128]], [[200, 90]]]])
    logits, iou = net.predict_masks(neck, (256, 256), points, torch.ones(1, 3, 1))
    close(logits[0, ..., ::2, ::2], expected[prefix + "point_masks"])
    close(iou[0], expected[prefix + "point_iou"])
    box = torch.tensor([[[20, 30, 120, 160]]])
    logits, iou = net.predict_masks(neck, (256, 256), boxes_BP4=box, multimask=False)
    close(logits[0, ..., ::2, ::2], expected[prefix + "box_masks"])
    close(iou[0], expected[prefix + "box_iou"])


@pytest.mark.parametrize("case", CASES)
def test_matching_rule(parity, case):
    reference, _ = parity
    assert list(POINT_NM) == reference["point_wavelengths_nm"]
    assert list(BLOCK_NM) == reference["block_wavelengths_nm"]
    plan = match_bands(tuple(reference["cases"][case]["wavelengths"]))
    for key, value in reference["cases"][case]["matched"].items():
        assert list(getattr(plan, key)) == value
