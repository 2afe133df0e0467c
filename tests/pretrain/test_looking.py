"""What a run shows while it trains: pictures on the same tiles, and a probe on held-out labels."""

import numpy as np
import pytest
import torch

from hypervision import create_model
from pretrain.heldout import best_window, probe_held_out
from pretrain.pictures import clicks, principal_colours
from pretrain.probe import ProbeScene

SMALL = {"image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": [0, 1], "neck_dim": 32}


def scene(seed, labelled=True):
    """Four fields of two materials that differ in their spectrum."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.repeat([[1, 2], [2, 1]], 16, 0), 16, 1)
    wl = 450.0 + 10 * np.arange(24)
    spectra = np.stack([np.ones(24), 1 + np.sin(wl / 40), 1 + np.cos(wl / 40)])[labels]
    cube = (spectra.transpose(2, 0, 1) + rng.normal(0, 0.02, (24, 32, 32))).astype(np.float32)
    kinds = labels if labelled else np.zeros_like(labels)
    return ProbeScene("camera", cube, wl, 0.01, kinds, kinds)


@pytest.mark.parametrize("count", [1, 4])
def test_the_probe_tells_materials_apart_and_leaves_the_student_as_it_was(count):
    torch.manual_seed(0)
    model = create_model("hypervision_nano", **SMALL).train()
    before = torch.random.get_rng_state()
    scores = probe_held_out(model, {"held": [scene(i) for i in range(count)]})
    assert scores == {"held": pytest.approx(1.0, abs=0.1), "mean": scores["held"]}
    assert model.training and (torch.random.get_rng_state() == before).all()


def test_a_dataset_without_two_classes_has_no_score():
    model = create_model("hypervision_nano", **SMALL)
    assert probe_held_out(model, {"held": [scene(0, labelled=False), scene(1, labelled=False)]}) == {}


def test_the_window_with_the_most_labels_is_taken():
    labels = np.zeros((70, 40), int)
    labels[33:60, 2:30] = 1
    assert best_window(labels, 32) == (slice(32, 64), slice(0, 32))
    assert best_window(labels, 512) == (slice(0, 70), slice(0, 40))


def test_clicks_lie_deep_inside_their_labels():
    labels = np.zeros((20, 20), int)
    labels[2:13, 4:15], labels[15:18, :] = 7, 3
    ids, points = clicks(labels)
    assert ids == [7, 3] and points[0].tolist() == [9.0, 7.0] and points[1, 1] == 16


def test_colours_follow_the_first_components():
    two = torch.zeros(5, 4, 6)
    two[2, :, 3:] = 1.0
    colours = principal_colours(two)
    assert colours.shape == (4, 6, 3)
    assert {tuple(colours[0, 0]), tuple(colours[0, 5])} == {(0, 0, 0), (255, 0, 0)}
