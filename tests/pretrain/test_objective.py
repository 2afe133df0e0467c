"""Losses reward what they should; a batch is a function of (seed, epoch, sample) alone."""

import numpy as np
import pytest
import torch

from hypervision import FeatureInfo
from pretrain.config import ObjectiveConfig, PretrainConfig, SampleConfig
from pretrain.data import StudentInput, TrainingViews, hidden_spectra, token_coverage, token_means, visible_bands
from pretrain.objective import (
    SHARED,
    SpectrumHead,
    mask_loss,
    masks_at,
    material_contrast,
    pool_masks,
    spectra_loss,
)
from pretrain.probe import Patches, fit_linear, in_scene
from sharding.batches import choose_bands
from sharding.errors import ConfigError
from sharding.manifest import LazyFrames, SampleRef
from sharding.planes import Planes
from sharding.sample import encode_sample
from sharding.shards import index_shard, write_shard


def test_contrast_is_lower_when_materials_group():
    kind = torch.tensor([[1, 1, 2, 2, -1]] * 2)
    good = torch.eye(4)[[0, 0, 1, 1, 3]].repeat(2, 1, 1)
    bad = torch.eye(4)[[0, 1, 0, 1, 3]].repeat(2, 1, 1)
    low, high = (material_contrast(f, kind, 0.1).item() for f in (good, bad))
    assert low < 1.2 < high
    assert material_contrast(good, torch.ones_like(kind), 0.1).item() == 0  # one material: nothing to tell apart


def test_padding_and_other_images_play_no_part():
    kind = torch.tensor([[1, 2, -1], [1, 2, -1], [1, 1, 2], [2, 1, 1]])
    feature = torch.nn.functional.normalize(torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    base = material_contrast(feature[:2], kind[:2], 0.1)
    changed = feature.clone()
    changed[:, 2] = 0.5
    assert material_contrast(changed[:2], kind[:2], 0.1) == base
    both = material_contrast(feature, kind, 0.1)
    other = material_contrast(feature[2:], kind[2:], 0.1)
    assert both.item() == pytest.approx((4 * base.item() + 6 * other.item()) / 10, rel=1e-5)


def test_mask_loss_falls_towards_the_truth_and_takes_the_best_of_three():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    right = (target * 20 - 10)[:, :, None]
    wrong = -right
    config, real = ObjectiveConfig(), torch.ones(1, 1, dtype=torch.bool)
    three = torch.cat([wrong, right, wrong], 2)
    best, seen = mask_loss(three, torch.tensor([[[0.0, 1.0, 0.0]]]), target, real, config)
    assert {name: value.item() for name, value in seen.items()} == {
        "mask_iou": 1.0, "mask_iou_error": 0.0, "mask_share": 0.5
    }  # fmt: skip
    nothing, _ = mask_loss(torch.cat([wrong] * 3, 2), torch.zeros(1, 1, 3), target, real, config)
    assert best.item() == pytest.approx(2 / 3 * SHARED * nothing.item(), rel=1e-3) and nothing.item() > 5
    right_thrice, _ = mask_loss(torch.cat([right] * 3, 2), torch.ones(1, 1, 3), target, real, config)
    assert right_thrice.item() < 0.05
    assert mask_loss(wrong, torch.zeros(1, 1, 1), target, ~real, config)[0].item() == 0


def test_a_small_mask_is_pulled_at_as_hard_as_all_that_is_around_it():
    target = torch.zeros(1, 1, 20, 20)
    target[..., :4, :5] = 1  # a twentieth
    logits = torch.zeros(1, 1, 1, 20, 20, requires_grad=True)
    config = ObjectiveConfig(dice_weight=0.0)
    loss, _ = mask_loss(logits, torch.zeros(1, 1, 1), target, torch.ones(1, 1, dtype=torch.bool), config)
    loss.backward()
    inside = logits.grad[0, 0, 0][target[0, 0] > 0].sum()
    outside = logits.grad[0, 0, 0][target[0, 0] == 0].sum()
    assert inside.item() == pytest.approx(-outside.item(), rel=1e-5) and inside < 0


def test_masks_are_asked_for_where_predicted_ones_lie():
    mask = torch.zeros(1, 1, 5, 6)
    mask[..., 4:, :] = 1
    want = torch.zeros(1, 1, 8, 8)
    want[..., 4, :6] = 1
    assert torch.equal(masks_at(mask, (8, 8), (8, 8)), want)
    assert torch.equal(masks_at(mask, (8, 8), (2, 2)), torch.zeros(1, 1, 2, 2))  # a fourth of a pixel is no half


def test_hidden_spectra_do_not_depend_on_brightness_and_leave_out_the_dark():
    seen = np.ones((3, 8, 8))
    hidden = np.stack([np.full((8, 8), 0.5), np.full((8, 8), 9.0)])
    light = np.repeat(np.repeat([[1.0, 20.0], [0.0, 3.0]], 4, 0), 4, 1)
    want = np.array([[[-0.5, -0.5], [np.nan, -0.5]], [[4.0, 4.0], [np.nan, 4.0]]])
    saturated, info = np.zeros((8, 8), bool), FeatureInfo("any", 1, 4)
    np.testing.assert_allclose(hidden_spectra(seen * light, hidden * light, info, saturated), want)
    saturated[7, 7] = True
    want[:, 1, 1] = np.nan
    np.testing.assert_allclose(hidden_spectra(seen * light, hidden * light, info, saturated), want)
    assert hidden_spectra(seen, hidden[:0], info, saturated).shape == (0, 2, 2)


def test_spectra_loss_counts_only_what_there_is_to_tell():
    want = torch.tensor([[[[0.5, float("nan")]]]])
    told = want.nan_to_num(7.0).requires_grad_()
    assert spectra_loss(told, want).item() == 0
    spectra_loss(told + 1, want).backward()
    assert told.grad[..., 0] > 0 and told.grad[..., 1] == 0
    assert spectra_loss(torch.zeros(1, 0, 2, 2), torch.zeros(1, 0, 2, 2)).item() == 0


def test_one_read_out_serves_every_camera():
    torch.manual_seed(0)
    head = SpectrumHead(16)
    token = torch.randn(2, 16, 3, 3)
    wide = torch.tensor([[450.0, 700.0, 1500.0], [450.0, 700.0, 1500.0]])
    torch.testing.assert_close(head(token, wide)[:, 1:2], head(token, wide[:, 1:2]))
    assert (head(token, wide)[:, 0] - head(token, wide)[:, 2]).abs().max() > 1e-3


def batch_of(ref, config, public=False, false_colour=False):
    info = FeatureInfo("any", 1, 8)
    views = TrainingViews(config, StudentInput(info, info, public, "nearest"), false_colour)
    plan = views.plan(ref, ref.small_members(views.members), 0, 0)
    # What a slot held before must not shine through.
    arrays = {name: np.full(shape, 7, dtype) for name, (shape, dtype) in views.layout([plan]).items()}
    told = [views.fill(plan, LazyFrames(ref, plan.frames, ref.runs(plan.frames, plan.needed)), 0, arrays)]
    return views.batch({name: torch.from_numpy(array) for name, array in arrays.items()}, told, [0])


def ref_of(folder, stored, labels, materials):
    """A shard of one sample whose mask i + 1 is of materials[i]."""
    masks = [{"id": i + 1, "material": kind, "pixels": 64} for i, kind in enumerate(materials)]
    bands = len(stored)
    meta = {"masks": masks, "wavelength_nm": [500.0 + 10 * i for i in range(bands)], "bad_band": [False] * bands}
    meta |= {"gsd_m": 0.01, "covers_visible": True, "scene_max": 5.0, "scene": "a"}
    pictures = {"instances": labels, "materials": labels, "valid": np.ones(labels.shape, np.uint8)}
    pictures |= {"rgb": np.zeros((*labels.shape, 3), np.uint8)}
    write_shard(folder / "g.tar", [encode_sample("a", Planes(stored), pictures, meta)])
    return SampleRef("d", "a", folder / "g.tar", index_shard(folder / "g.tar")["a"])


def test_a_batch_hides_bands_that_the_view_does_not_hold(tmp_path):
    wl = [450.0 + 10 * band for band in range(12)]
    stored = (np.arange(12)[:, None, None] + 1 + np.zeros((12, 16, 16))).astype(np.uint16)
    labels = np.repeat([[1, 2]], 16, 0).repeat(8, 1).astype(np.uint16)
    pictures = {"instances": labels, "materials": labels, "valid": np.ones((16, 16), np.uint8)}
    masks = [{"id": 1, "material": 1, "pixels": 128}, {"id": 2, "material": 2, "pixels": 128}]
    meta = {"masks": masks, "wavelength_nm": wl, "bad_band": [False] * 12}
    meta |= {"gsd_m": 0.01, "covers_visible": False, "scene_max": 12.0}
    sample = encode_sample("a", Planes(stored), pictures | {"rgb": np.zeros((16, 16, 3), np.uint8)}, meta)
    write_shard(tmp_path / "s.tar", [sample])
    ref = SampleRef("d", "a", tmp_path / "s.tar", index_shard(tmp_path / "s.tar")["a"])
    config = SampleConfig(bands_min=4, bands_max=7, hidden=3, max_masks=2, prompts=1)
    batch = batch_of(ref, config)
    assert batch.hidden.shape == (2, 3, 2, 2)
    for view in range(2):
        seen = batch.wavelength_nm[view]
        told = batch.hidden_nm[view].tolist()
        assert len(set(told) - set(seen)) == 3
        level = np.mean([(nm - 440) / 10 for nm in seen])
        want = [min((nm - 440) / 10 / level - 1, 4.0) for nm in told]
        np.testing.assert_allclose(batch.hidden[view, :, 0, 0], want, rtol=1e-5)
    divided = batch_of(ref, config, public=True)
    torch.testing.assert_close(divided.cube * 12, batch.cube)
    assert batch.visible.tolist() == [0, 0] and batch_of(ref, config, false_colour=True).visible.tolist() == [1, 1]
    everything = batch_of(ref, SampleConfig(bands_min=12, bands_max=12, hidden=3))
    assert everything.hidden.isnan().all()


def test_shuffled_ids_are_those_of_the_image_in_another_order_and_alike_in_both_views(tmp_path):
    labels = np.repeat(np.arange(1, 17).reshape(4, 4).repeat(8, 0), 8, 1).astype(np.uint16)
    stored = np.full((4, 32, 32), 5, np.uint16)
    ref = ref_of(tmp_path, stored, labels, list(range(1, 17)))
    plain, shuffled = (
        batch_of(ref, SampleConfig(bands_min=4, bands_max=4, flip=False, max_masks=16, shuffle_materials=on))
        for on in (False, True)
    )
    assert plain.material[0].tolist() == list(range(1, 17))
    assert sorted(shuffled.material[0].tolist()) == list(range(1, 17))
    assert shuffled.material[0].tolist() == shuffled.material[1].tolist() != plain.material[0].tolist()


def test_pooling_weighs_tokens_by_squared_coverage():
    feature = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    pooled = pool_masks(feature, torch.tensor([[[[1.0, 0.5]]]]))
    torch.testing.assert_close(pooled[0, 0], torch.nn.functional.normalize(torch.tensor([1.0, 0.25]), dim=0))


def test_bands_are_stratified_without_replacement_and_windows_are_contiguous():
    rng = np.random.default_rng(0)
    wl = np.arange(400.0, 800.0, 2)
    good = np.arange(len(wl))
    bands = choose_bands(good, wl, 40, False, rng)
    assert len(set(bands.tolist())) == 40 and all(5 * i <= b < 5 * i + 5 for i, b in enumerate(bands))
    assert choose_bands(good[:7], wl, 40, True, rng).tolist() == list(range(7))
    spans = [np.ptp(choose_bands(good, wl, 20, True, rng)) for _ in range(20)]
    assert min(spans) < 150


def test_a_window_that_the_model_cannot_see_is_drawn_again():
    wl = np.linspace(970.0, 1700.0, 120)
    for seed in range(50):
        bands = visible_bands(np.arange(120), wl, 10, True, np.random.default_rng(seed))
        assert len(bands) >= 10


def test_coverage_counts_pixels_of_each_token():
    labels = np.zeros((8, 8), int)
    labels[:4, :6] = 3
    np.testing.assert_allclose(token_coverage(labels, np.array([3]), FeatureInfo("any", 1, 4)), [[[1, 0.5], [0, 0]]])


def test_a_token_that_hangs_over_the_edge_counts_the_pixels_there_are():
    image = np.arange(30.0).reshape(1, 5, 6)
    want = [[[image[0, :4, :4].mean(), image[0, :4, 4:].mean()], [image[0, 4:, :4].mean(), image[0, 4:, 4:].mean()]]]
    np.testing.assert_allclose(token_means(image, FeatureInfo("any", 1, 4)), want)
    assert FeatureInfo("any", 1, 4).grid((5, 6)) == (2, 2) and FeatureInfo("any", 1, 4).extent((5, 6)) == (8, 8)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"global_batch": 6, "micro_batch": 4}, "must be a multiple of ranks x micro_batch"),
        ({"zero_stage": 4}, "is not 0, 1, 2 or 3"),
        ({"zero_stage": 0, "precision": "fp16"}, "set pretrain.zero_stage=1"),
        ({"precision": "fp8"}, "is not one of fp32, bf16"),
        ({"keep": 1}, "must be at least 2"),
    ],
)
def test_impossible_runs_are_refused_before_they_start(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        PretrainConfig(**change).check(ranks=2)


def test_learning_rate_warms_up_and_ends_near_zero():
    config = PretrainConfig(steps=100, lr=1.0, warmup=0.1)
    rates = [config.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) <= 1.0 and rates[-1] < 0.001


def test_probes_separate_separable_features_and_only_those():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], 60)
    good = np.eye(3)[label] + 0.1 * rng.standard_normal((180, 3))
    assert (fit_linear(good, label, 3)(good) == label).mean() > 0.99
    instance = np.tile(np.repeat([0, 1], 30), 3) + 10 * label
    assert in_scene([Patches("s", good, label, instance, np.arange(180))], 0) > 0.95
    assert in_scene([Patches("s", rng.standard_normal((180, 3)), label, instance, np.arange(180))], 0) < 0.6
