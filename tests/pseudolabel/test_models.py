"""The real mask models run through their real packages; without weights they need to be allowed to be random."""

import numpy as np
import pytest
import torch

from hypervision.masks import MaskRule
from pseudolabel.config import HyperfreeConfig, PseudolabelConfig, Sam2Config
from pseudolabel.spatial import Sam2Masks
from pseudolabel.spectral import HyperfreeMasks
from sharding.errors import ConfigError


def test_models_without_weights_are_refused_with_the_way_out():
    with pytest.raises(
        ConfigError, match=r"SAM2 has no weights: set pseudolabel\.sam2\.checkpoint=FILE, or .*classical"
    ):
        PseudolabelConfig().check()
    with pytest.raises(ConfigError, match=r"HyperFree: no checkpoint at nowhere\.pth"):
        PseudolabelConfig(
            sam2=Sam2Config(allow_random=True), hyperfree=HyperfreeConfig(checkpoint="nowhere.pth")
        ).check()
    random = PseudolabelConfig(sam2=Sam2Config(allow_random=True), hyperfree=HyperfreeConfig(allow_random=True))
    random.check()
    assert random.describe.count("RANDOM") == 2


def test_sam2_runs_on_a_picture():
    config = Sam2Config("tiny", None, True, 128, 4, -1.0, -1.0)
    rgb = np.random.default_rng(0).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    valid = np.ones((64, 48), bool)
    valid[:5] = False
    labels = Sam2Masks(config, "cpu")(rgb, valid)
    assert labels.shape == (64, 48) and labels.any() and not labels[:5].any()


def test_hyperfree_runs_on_a_cube_of_any_shape():
    config = HyperfreeConfig("hypervision_nano", None, True, 96, 4, 8, -1.0, -1.0)
    cube = np.random.default_rng(0).random((30, 40, 64)).astype(np.float32)
    valid = np.ones((40, 64), bool)
    labels = HyperfreeMasks(config, "cpu")(cube, np.linspace(450, 700, 30), 0.01, valid)
    assert labels.shape == (40, 64) and labels.any()


def test_sam2_gives_the_masks_of_its_own_generator_alone_and_in_a_batch():
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    ours = Sam2Masks(Sam2Config("tiny", None, True, 128, 6, -1.0, -1.0), "cpu")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 48, 3)).astype(np.uint8), rng.integers(0, 99, (96, 96, 3)).astype(np.uint8)]
    # Random weights: spread their logits, and take thresholds in the midst of what they give, so that filters work.
    with torch.no_grad():
        for head in ours.model.sam_mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight.mul_(100)
    ours.rule = MaskRule(6, 64, -1.0, -1.0, nms_iou=1.0)
    everything = ours.generate(pictures[:1])[0]
    limits = (float(np.quantile(everything.iou, 0.2)), float(np.quantile(everything.stability, 0.2)))
    ours.rule = MaskRule(6, 64, *limits, nms_iou=1.0)
    package = SAM2AutomaticMaskGenerator(
        ours.model, points_per_side=6, pred_iou_thresh=limits[0], stability_score_thresh=limits[1], box_nms_thresh=1.0
    )
    package.predictor._bb_feat_sizes = ours.predictor._bb_feat_sizes
    together = ours.generate(pictures)
    for picture, batched in zip(pictures, together, strict=True):
        alone = ours.generate([picture])[0]
        theirs = package.generate(picture)
        assert len(alone) == len(theirs) == len(batched) and (picture is not pictures[0] or 0 < len(alone) < 108)
        for index, row in enumerate(theirs):
            assert alone.iou[index] == pytest.approx(row["predicted_iou"], abs=1e-5)
            assert (alone.mask(index).numpy() == row["segmentation"]).mean() > 0.999
            assert (alone.mask(index) == batched.mask(index)).float().mean() > 0.999
            x, y, width, height = row["bbox"]
            assert alone.boxes[index] == [x, y, x + width, y + height]
            assert alone.points[index] == pytest.approx(row["point_coords"][0])


def test_cubes_of_two_cameras_share_a_batch():
    config = HyperfreeConfig("hypervision_nano", None, True, 96, 4, 8, -1.0, -1.0)
    rng = np.random.default_rng(0)
    cubes = [rng.random((30, 40, 64)).astype(np.float32), rng.random((12, 64, 64)).astype(np.float32)]
    axes = [np.linspace(450, 700, 30), np.linspace(500, 900, 12)]
    model = HyperfreeMasks(config, "cpu")
    together = model.generate(cubes, axes, [0.01, 0.5])
    for cube, axis, gsd, batched in zip(cubes, axes, [0.01, 0.5], together, strict=True):
        (alone,) = model.generate([cube], [axis], [gsd])
        assert len(alone) == len(batched) > 0
        same = [(alone.mask(i) == batched.mask(i)).float().mean() > 0.999 for i in range(len(alone))]
        assert all(same)
