"""Fused labels beat both sources at equal mask counts on generated truth, tell look-alikes apart, and know shade."""

from dataclasses import replace

import numpy as np
import pytest

from pseudolabel.ablation import AblationConfig, evaluate, judged_masks, make_cases
from pseudolabel.comparison import compare_methods, true_count
from pseudolabel.config import FusionConfig
from pseudolabel.descriptors import ShapeBasis, describe_pixels, features_of, fit_basis
from pseudolabel.fusion import fuse, scene_materials
from pseudolabel.light import ShadowRule, sky_residual
from pseudolabel.metrics import (
    achievable_accuracy,
    boundary_scores,
    cut_things,
    rand_index,
    undersegmentation_error,
)

FUSION = FusionConfig()


@pytest.fixture(scope="module")
def cases():
    config = AblationConfig(size=96)
    return [case for seed in range(3) for key in ("libhsi", "cave") for case in make_cases(key, seed, config, FUSION)]


def test_fused_is_ahead_of_every_source_and_every_switch_is_scored(cases):
    rows = [evaluate(case, FUSION) for case in cases]
    assert len(rows[0]) == 2 * 12
    for share in ("1 x", "1.5 x"):
        fused = np.array([row[f"fused at {share}"]["ASA"] for row in rows])
        for other in ("spatial", "spectral", "spectral + brightness"):
            assert np.mean(fused - [row[f"{other} at {share}"]["ASA"] for row in rows]) > 0
    told = {name: sum(row[f"{name} at 1 x"]["shadows cut"] for row in rows) for name in ("fused", "no shade step")}
    assert told["fused"] < 0.6 * told["no shade step"]


def test_confidence_is_a_chance(cases):
    parts = [judged_masks(case, FUSION) for case in cases]
    scores, right = (np.concatenate([part[index] for part in parts]) for index in (1, 2))
    assert (scores > 0).all() and (scores < 1).all()
    assert right[scores > 0.8].mean() > 0.75 and right[scores < 0.2].mean() < 0.3
    assert abs(scores.mean() - right.mean()) < 0.12


def test_records_describe_their_masks_and_invalid_pixels_stay_unlabelled(cases):
    case = cases[0]
    spatial, spectral = case.spatial.copy(), case.spectral.copy()
    spatial[:20], spectral[:20] = 0, 0
    fused = fuse(spatial, spectral, case.features, FUSION)
    assert not fused.labels[:20].any() and fused.labels[20:].all()
    assert [row["id"] for row in fused.records] == list(range(1, int(fused.labels.max()) + 1))
    for row in fused.records:
        assert row["pixels"] == (fused.labels == row["id"]).sum() >= FUSION.min_pixels
        assert row["source"] in ("spatial", "spectral", "both") and 0 < row["score"] <= 1


def test_nothing_to_fuse_gives_no_mask(cases):
    empty = np.zeros_like(cases[0].spatial)
    assert not fuse(empty, empty, cases[0].features, FUSION).labels.any()


def lit(wl, tilt=0.0):
    spectrum = np.interp(wl, [400, 550, 700, 1000], [0.1, 0.5, 0.3, 0.8 + tilt])
    return spectrum / np.linalg.norm(spectrum)


def test_the_light_of_the_sky_explains_shade_but_not_another_material_or_plain_darkness():
    wl = np.linspace(400, 1000, 60)
    ratio = (wl / 550) ** -2
    shade = lit(wl) * (0.5 + 0.5 * (wl / 550) ** -2.5)
    shade /= np.linalg.norm(shade)
    assert sky_residual(shade, lit(wl), ratio) < 0.02 < np.linalg.norm(shade - lit(wl))
    assert sky_residual(shade, lit(wl, -0.6), ratio) > 0.1
    assert sky_residual(lit(wl), lit(wl), ratio) == float("inf")
    basis = ShapeBasis(wl, np.zeros(60), np.eye(60), np.eye(60))
    rule = ShadowRule(basis, FUSION)
    assert rule(shade, 0.4, lit(wl), 1.0, 0.1) is not None
    assert rule(shade, 0.95, lit(wl), 1.0, 0.1) is None  # too bright to be shade
    assert rule(shade, 0.01, lit(wl), 1.0, 0.1) is None  # darker than shade
    rule.limit = 0.0  # a scene whose range tells nothing
    assert rule(shade, 0.4, lit(wl), 1.0, 0.1) is None


def test_the_basis_of_a_scene_serves_its_windows():
    rng = np.random.default_rng(0)
    cube = rng.uniform(0.2, 1, (20, 30, 40)).astype(np.float32)
    wl, valid = np.linspace(450, 700, 20), np.ones((30, 40), bool)
    rgb = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    whole = features_of(cube, wl, rgb, valid)
    basis = fit_basis(cube, wl, valid)
    part = describe_pixels(cube[:, 5:15, 8:20], rgb[5:15, 8:20], valid[5:15, 8:20], basis)
    np.testing.assert_allclose(part.shape_HWK, whole.shape_HWK[5:15, 8:20], atol=1e-6)
    np.testing.assert_allclose(part.brightness_HW, np.linalg.norm(cube[:, 5:15, 8:20], axis=0), rtol=1e-5)
    full = fit_basis(cube, wl, valid, components=20, denoise=False)
    unit = cube[:, 3, 4] / np.linalg.norm(cube[:, 3, 4])
    np.testing.assert_allclose(full.spectrum((unit - full.mean_B) @ full.forward_BK), unit, atol=1e-5)


def test_materials_group_masks_by_spectrum_and_are_numbered_in_order():
    means = np.array([[1.0, 0], [0, 1.0], [0.999, 0.001], [0, 0.998]])
    assert scene_materials(means, FUSION).tolist() == [1, 2, 1, 2]
    assert scene_materials(means[:1], FUSION).tolist() == [1]


def test_metrics_know_perfect_and_useless():
    truth = np.repeat([[1, 1, 2, 2]], 4, 0)
    assert achievable_accuracy(truth, truth) == 1 and undersegmentation_error(truth, truth) == 0
    assert boundary_scores(truth, truth) == (1, 1) and rand_index(truth, truth) == 1
    one = np.ones_like(truth)
    assert achievable_accuracy(one, truth) == 0.5 and boundary_scores(one, truth)[0] == 0
    assert rand_index(one, truth) == 0


def test_a_thing_is_cut_if_its_dark_part_is_another_mask():
    truth = np.ones((20, 20), int)
    dark = np.zeros((20, 20), bool)
    dark[:, :8] = True
    assert cut_things(truth, truth, dark) == (0, 1)
    assert cut_things(np.where(dark, 1, 2), truth, dark) == (1, 1)
    assert cut_things(truth, truth, dark & False) == (0, 0)


def test_a_class_map_counts_by_connected_regions_and_unknown_pixels_do_not_score(cases):
    case = cases[1]
    truth = case.scene.materials.astype(np.int64) + 1
    truth[:40] = 0
    rows = compare_methods(case.spatial, case.spectral, case.features, truth, FUSION)
    assert set(rows) == {"spatial", "spectral", "spectral + brightness", "fused"}
    assert all(0.3 < row["ASA at 1 x"] <= row["ASA at 1.5 x"] <= 1 for row in rows.values())
    parts = np.zeros((30, 30), int)
    parts[:10, :10], parts[20:, 20:], parts[0, 29] = 1, 1, 1
    assert true_count(parts) == 2


def test_switches_change_the_result(cases):
    case = cases[0]
    base = fuse(case.spatial, case.spectral, case.features, FUSION).labels
    for change in ({"split": False}, {"shadows": False}, {"snap_pixels": 0}, {"size_term": False}):
        other = fuse(case.spatial, case.spectral, case.features, replace(FUSION, **change)).labels
        assert (other != base).any(), change
