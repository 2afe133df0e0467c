"""Fused labels beat both sources at equal mask counts on generated truth, and separate what RGB cannot."""

import numpy as np
import pytest

from pseudolabel.classical import spatial_regions, spectral_regions
from pseudolabel.config import ClassicalConfig, FusionConfig
from pseudolabel.descriptors import colour, spectral_shape
from pseudolabel.fusion import fuse, fusion_tree, scene_materials, source_tree
from pseudolabel.metrics import achievable_accuracy, boundary_scores, undersegmentation_error
from pseudolabel.regions import snap_borders
from sharding.generator.corpus import sensor_of
from sharding.generator.materials import make_library
from sharding.generator.scene import make_scene
from sharding.render import render_rgb


def sources(key, seed):
    sensor = sensor_of(key)
    scene = make_scene(make_library(0), sensor, 80, [0, seed])
    cube = np.moveaxis(scene.cube_HWB, -1, 0)
    valid = np.ones(cube.shape[1:], bool)
    rgb, _ = render_rgb(cube, np.array(sensor.wavelength_nm), valid)
    shape = spectral_shape(cube, valid)
    config = ClassicalConfig()
    return scene, spatial_regions(rgb, valid, config), spectral_regions(shape, valid, config), shape, colour(rgb)


@pytest.mark.parametrize("key", ["libhsi", "deephsnir"])
def test_fused_is_ahead_of_both_sources_at_equal_counts(key):
    margins = []
    for seed in range(5):
        scene, spatial, spectral, shape, lab = sources(key, seed)
        count = int(scene.instances.max())
        trees = (
            fusion_tree(spatial, spectral, shape, lab, FusionConfig()),
            source_tree(spatial, lab),
            source_tree(spectral, shape),
        )
        cuts = [snap_borders(t.cut(count=count), f) for t, f in zip(trees, (shape, lab, shape), strict=True)]
        assert all(len(np.unique(cut)) <= count for cut in cuts)
        fused, *alone = (achievable_accuracy(cut, scene.instances) for cut in cuts)
        margins.append([fused - other for other in alone])
    assert (np.mean(margins, 0) > 0).all(), margins


def test_records_describe_their_masks_and_unlabelled_is_zero():
    _, spatial, spectral, shape, lab = sources("cave", 0)
    fused = fuse(spatial, spectral, shape, lab, FusionConfig())
    assert [row["id"] for row in fused.records] == list(range(1, int(fused.labels.max()) + 1))
    for row in fused.records:
        assert row["pixels"] == (fused.labels == row["id"]).sum() >= FusionConfig().min_pixels
        assert row["source"] in ("spatial", "spectral", "both") and 0 < row["score"] <= 1


def test_invalid_pixels_stay_unlabelled():
    _, spatial, spectral, shape, lab = sources("cave", 1)
    spatial[:20], spectral[:20] = 0, 0
    labels = fuse(spatial, spectral, shape, lab, FusionConfig()).labels
    assert not labels[:20].any() and labels[20:].all()


def test_materials_group_masks_by_spectrum_and_are_numbered_in_order():
    means = np.array([[1.0, 0], [0, 1.0], [0.999, 0.001], [0, 0.998]])
    assert scene_materials(means, FusionConfig()).tolist() == [1, 2, 1, 2]
    assert scene_materials(means[:1], FusionConfig()).tolist() == [1]


def test_metrics_know_perfect_and_useless():
    truth = np.repeat([[1, 1, 2, 2]], 4, 0)
    assert achievable_accuracy(truth, truth) == 1 and undersegmentation_error(truth, truth) == 0
    assert boundary_scores(truth, truth) == (1, 1)
    one = np.ones_like(truth)
    assert achievable_accuracy(one, truth) == 0.5 and boundary_scores(one, truth)[0] == 0
