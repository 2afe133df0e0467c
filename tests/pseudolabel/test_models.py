"""The real mask models run through their real packages; without weights they need to be allowed to be random."""

import numpy as np
import pytest

from pseudolabel.config import HyperfreeConfig, PseudolabelConfig, Sam2Config
from pseudolabel.spatial import Sam2Masks
from pseudolabel.spectral import HyperfreeMasks, grid_points, stability, suppress
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


def test_suppression_keeps_the_best_of_overlapping_masks():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2] = masks[1, :2] = masks[2, 2:] = True
    assert suppress(masks, np.array([0.5, 0.9, 0.7]), 0.7) == [1, 2]


def test_points_and_stability():
    import torch

    assert grid_points(2, 10, 20).tolist() == [[5, 2.5], [15, 2.5], [5, 7.5], [15, 7.5]]
    sure = torch.full((1, 4, 4), 9.0)
    edge = torch.cat([sure[:, :2], torch.zeros(1, 2, 4)], 1)
    assert stability(sure).item() == 1 and stability(edge).item() == 0.5
