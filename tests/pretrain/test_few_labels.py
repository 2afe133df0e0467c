"""Few labels on a real scene: what teaches and what tests lie in different halves, and features lie on their pixels."""

import numpy as np
import pytest
import torch

from hypervision import create_model
from pretrain.few_labels import draws, pixel_features, score, spectra_rows
from pretrain.probe import ProbeScene

SMALL = {"image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": [0, 1], "neck_dim": 32}


def fields(height=20, width=26):
    """Blocks of two materials by chance, rows without labels among them."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(1, 3, (5, 7)), np.ones((4, 4), int))[:height, :width]
    wl = 450.0 + 10 * np.arange(24)
    spectra = np.stack([np.ones(24), 1 + np.sin(wl / 40), 1 + np.cos(wl / 40)])[labels]
    cube = (spectra.transpose(2, 0, 1) + rng.normal(0, 0.02, (24, height, width))).astype(np.float32)
    labels[::5] = 0
    return ProbeScene("camera", cube, wl, 1.0, labels, labels)


def test_halves_take_turns_and_never_share_a_pixel():
    labels = fields().materials
    found = draws(labels, 3, 6, seed=1)
    cols, rows = (np.arange(labels.size) % 26, np.arange(labels.size) // 26)
    places = [cols, -cols, rows, -rows]
    for number, one in enumerate(found):
        assert np.bincount(labels.ravel()[one.teach]).tolist() == [0, 3, 3] and (labels.ravel()[one.test] > 0).all()
        for kind in (1, 2):
            own = {name: part[labels.ravel()[part] == kind] for name, part in vars(one).items()}
            place = places[number % 4]
            assert not set(own["teach"]) & set(own["test"]) and place[own["teach"]].max() <= place[own["test"]].min()
    assert all((a.teach == b.teach).all() for a, b in zip(found, draws(labels, 3, 6, seed=1), strict=True))
    assert (found[0].teach != found[4].teach).any()


def test_each_class_is_on_both_sides_and_too_few_pixels_are_told():
    labels = np.zeros((8, 8), int)
    labels[:, :2], labels[:, 5:7] = 1, 3  # a cut through the middle would leave each on one side
    with pytest.raises(ValueError, match="no two classes of the scene have 40 pixels in one half"):
        draws(labels, 40, 2, seed=0)
    for one in draws(labels, 2, 4, seed=0):
        assert set(labels.ravel()[one.test]) == set(labels.ravel()[one.teach]) == {1, 3}


@pytest.mark.parametrize("merge", [(), (0,)])
@pytest.mark.parametrize("mode", ["shape", "public"])
def test_every_pixel_has_features_of_its_own_place(merge, mode):
    torch.manual_seed(0)
    scene = fields()
    model = create_model("hypervision_nano", input_mode=mode, merge_blocks=merge, **SMALL)
    found = pixel_features(model, scene)
    assert {tap: len(one) for tap, one in found.items()} == dict.fromkeys(("final", "embedding", "concat"), 520)
    drawn = draws(scene.materials, 5, 4, seed=0)
    assert np.mean(score(found["embedding"], scene.materials, drawn)) > 0.85
    moved = np.roll(found["embedding"].reshape(20, 26, -1), 6, 1).reshape(520, -1)
    assert np.mean(score(moved, scene.materials, drawn)) < 0.7


def test_spectra_need_no_net():
    scene = fields()
    drawn = draws(scene.materials, 5, 4, seed=0)
    means = {row: np.mean(score(one, scene.materials, drawn)) for row, one in spectra_rows(scene).items()}
    assert means["spectra"] > 0.98 and means["shape spectra"] > 0.98 and means["shape spectra, components"] > 0.6
    assert means["shape spectra, mean of 5 x 5"] < means["shape spectra"]  # it mixes the blocks
