"""What pre-training is compared with must itself be right: spectra, range-matched spectra, a supervised net."""

import numpy as np
import pytest
import torch

from hypervision import create_model
from pretrain.baselines import Supervised, labelled_tokens, matched_scores, pca_scores, shape_spectra
from pretrain.evidence import random_nets, strongest_random
from pretrain.probe import ProbeScene

SMALL = {"image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": [0, 1], "neck_dim": 32}
WIDE, NARROW = np.linspace(450.0, 950.0, 40), np.linspace(600.0, 800.0, 25)


def reflectance(kind, wl):
    return 1 + 0.5 * np.sin((wl - 450) / 90 + 2.1 * kind)


def scene(sensor, wl, seed):
    """Sixteen fields of three materials, each of a brightness of its own."""
    rng = np.random.default_rng(seed)
    fields = rng.permutation(np.arange(16) % 3).reshape(4, 4)
    kinds = np.repeat(np.repeat(fields, 8, 0), 8, 1)
    instances = np.repeat(np.repeat(np.arange(1, 17).reshape(4, 4), 8, 0), 8, 1)
    bright = np.repeat(np.repeat(rng.uniform(0.2, 2, (4, 4)), 8, 0), 8, 1)
    spectra = np.stack([reflectance(kind, wl) for kind in range(3)])[kinds]
    cube = spectra.transpose(2, 0, 1) * bright + rng.normal(0, 0.02, (len(wl), 32, 32))
    return ProbeScene(sensor, cube.astype(np.float32), wl, 0.01, instances, kinds)


@pytest.fixture(scope="module")
def scenes():
    train = [scene("wide", WIDE, i) for i in range(4)]
    return train, [scene("wide", WIDE, 9), scene("narrow", NARROW, 10)]


def test_shape_spectra_do_not_depend_on_brightness():
    one = shape_spectra(scene("wide", WIDE, 0), 8)
    for kind in range(3):
        want = reflectance(kind, WIDE)
        rows = one.feature[one.material == kind]
        np.testing.assert_allclose(rows, np.tile(want / want.mean() - 1, (len(rows), 1)), atol=0.05)


def test_range_matched_spectra_carry_to_the_narrow_camera_and_plain_components_do_not(scenes):
    train, test = scenes
    assert matched_scores(train, test, ["narrow"], 8, 0) == {"pooled, unseen sensors": pytest.approx(1.0, abs=0.02)}
    plain = pca_scores(train, test, ["narrow"], 8, 0)
    assert plain["pooled, training sensors"] > 0.98 and plain["few labels, training sensors"] > 0.6
    assert plain["pooled, unseen sensors"] < 0.9


def test_a_range_that_no_training_camera_covers_has_no_score(scenes):
    train, _ = scenes
    beyond = [scene("beyond", np.linspace(900.0, 1600.0, 30), 3)]
    assert matched_scores(train, beyond, ["beyond"], 8, 0) == {}


def test_labels_are_those_that_the_probe_gets(scenes):
    told = labelled_tokens(scenes[0], 8, 0, 2)
    kinds = [kind for labels in told for kind in labels.values()]
    assert sorted(kinds) == [0, 0, 1, 1, 2, 2]
    for labels, one in zip(told, scenes[0], strict=True):
        tiles = one.materials[::8, ::8].ravel()
        assert all(tiles[token] == kind for token, kind in labels.items())


def test_a_supervised_net_learns_its_labels(scenes):
    train, test = scenes
    torch.manual_seed(0)
    net = Supervised(create_model("hypervision_nano", input_mode="shape", **SMALL), 3, 0)
    net.fit(train, labelled_tokens(train, 8, 0, 50), 60)
    assert net.scores("pooled", test, ["narrow"])["pooled, training sensors"] > 0.9


def test_smooth_starts_are_random_nets_of_their_own(scenes):
    options = {**SMALL, "input_mode": "shape"}
    rough, smooth = (random_nets(create_model("hypervision_nano", **options), 0, form) for form in (False, True))
    spread = [
        float(nets["small kernels"].image_encoder.point_spectral_weight_bank_w.detach().std((2, 3)).mean())
        for nets in (rough, smooth)
    ]
    assert spread[1] == pytest.approx(0.1 * spread[0], rel=1e-3)
    bar, source = strongest_random(rough["small kernels"], *scenes, ["narrow"], 0)
    assert set(bar) == set(source) and 0.3 < bar["in-scene, training sensors"] <= 1
