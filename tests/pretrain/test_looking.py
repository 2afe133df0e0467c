"""What a run shows while it trains: pictures on the same tiles, and a probe on held-out labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hypervision import create_model
from pretrain.heldout import HeldOutScore, best_window, probe_held_out, probe_row, teach_and_test
from pretrain.logs import without_solved
from pretrain.pictures import principal_colours
from pretrain.probe import Patches, ProbeScene, model_input, on_final_grid

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
    (score,) = scores.values()
    assert score.accuracy == pytest.approx(1.0, abs=0.1) and score.basis == f"{8 * count} patches, 2 of 2 classes"
    assert model.training and (torch.random.get_rng_state() == before).all()


def test_a_dataset_without_two_classes_has_no_score():
    model = create_model("hypervision_nano", **SMALL)
    assert probe_held_out(model, {"held": [scene(0, labelled=False), scene(1, labelled=False)]}) == {}


def test_each_class_is_on_both_sides():
    def patches(kinds):
        return Patches("s", np.zeros((len(kinds), 1)), np.array(kinds), np.array(kinds), np.arange(len(kinds)))

    # Every other scene would put 1 on one side and 2 on the other; 5 is in one scene alone.
    scenes = [patches(kinds) for kinds in ([1, 1, 3], [2, 2, 3], [1, 1, 5, 5], [2, 2])]
    teach, test = teach_and_test(scenes, [4, 4, 4, 4])
    sides = [sorted(np.concatenate([part.material for part in side]).tolist()) for side in (teach, test)]
    assert [sorted(set(side)) for side in sides] == [[1, 2, 3, 5], [1, 2, 3, 5]]
    assert sides[0].count(5) == sides[1].count(5) == 1
    one = teach_and_test([patches([1, 1, 2, 2])], [4])
    assert [[side.material.tolist() for side in part] for part in one] == [[[1, 2]], [[1, 2]]]


def test_what_an_untrained_net_solves_tells_no_runs_apart():
    scores = {"easy": HeldOutScore(0.99, 40, 3, 3), "hard": HeldOutScore(0.8, 40, 3, 4)}
    row = probe_row(scores, {"easy": HeldOutScore(0.97, 40, 3, 3), "hard": HeldOutScore(0.6, 40, 3, 4)})
    assert row == {
        "probe/easy": 0.99, "probe_untrained/easy": 0.97, "probe_basis/easy": "40 patches, 3 of 3 classes",
        "probe/hard": 0.8, "probe_untrained/hard": 0.6, "probe_basis/hard": "40 patches, 3 of 4 classes",
        "probe/mean": 0.8, "probe_untrained/mean": 0.6,
    }  # fmt: skip
    left = without_solved({"loss": 1.0, **row})
    assert "loss" in left and "probe/hard" in left and not any(name.endswith("/easy") for name in left)


def test_a_public_model_gets_a_window_over_the_maximum_of_its_scene():
    model = create_model("hypervision_nano", input_mode="public", **SMALL)
    window = replace(scene(0), maximum=8.0)
    torch.testing.assert_close(model_input(model, [window])[0], torch.from_numpy(window.cube_CHW) / 8)


def test_the_window_with_the_most_labels_is_taken():
    labels = np.zeros((70, 40), int)
    labels[33:60, 2:30] = 1
    assert best_window(labels, 32) == (slice(32, 64), slice(0, 32))
    assert best_window(labels, 512) == (slice(0, 70), slice(0, 40))


def test_colours_follow_the_first_components():
    two = torch.zeros(5, 4, 6)
    two[2, :, 3:] = 1.0
    colours = principal_colours(two)
    assert colours.shape == (4, 6, 3)
    assert {tuple(colours[0, 0]), tuple(colours[0, 5])} == {(0, 0, 0), (255, 0, 0)}


def test_embeddings_of_a_merged_token_stand_side_by_side():
    embedding = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)  # 3 x 4 tokens, merged to 2 x 2
    found = on_final_grid({"embedding": embedding, "final": np.zeros((5, 2, 2), np.float32)})
    assert found["embedding"].shape == (4, 8) and found["final"].shape == (4, 5)
    assert found["embedding"][1].tolist() == [2, 14, 3, 15, 6, 18, 7, 19]
    assert found["embedding"][2].tolist() == [8, 20, 9, 21, 0, 0, 0, 0]  # the edge that merging pads
    flat = on_final_grid({"embedding": embedding, "final": np.zeros((5, 3, 4), np.float32)})
    assert flat["embedding"].tolist() == embedding.reshape(2, 12).T.tolist()
