"""Teacher features: keyed by view, cached as computed, packed when complete, never random unasked."""

import numpy as np
import pytest
import torch

from distill.cache import FeatureCache, features_for, pack_features
from distill.fill import Rates, measure_rates
from distill.losses import Distiller, at_tokens
from distill.teacher import Teacher, cache_bytes, feature_shape
from distill.views import TeacherConfig, View, apply_view
from sharding.errors import ConfigError
from sharding.manifest import open_manifest
from sharding.planes import Planes
from sharding.records import Body, Unit, commit, find_records, read_record
from sharding.sample import encode_sample
from sharding.shards import index_shard, write_shard

CONFIG = TeacherConfig("test_vit", allow_random=True, image_size=64)


@pytest.fixture(scope="module")
def teacher():
    return Teacher(CONFIG)


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)

    def samples():
        for index in range(3):
            mask = np.ones((16, 16), np.uint16)
            rgb = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            pictures = {"instances": mask, "materials": mask, "valid": mask.astype(np.uint8), "rgb": rgb}
            yield encode_sample(f"s-{index}", Planes(mask[None]), pictures, {})

    def write(path):
        write_shard(path, samples())
        return Body(extra={"index": index_shard(path)})

    data = tmp_path / "shards" / "d" / "d-0.tar"
    commit(Unit("pseudolabel", "d-0", data, data.with_suffix(".json"), "in", {}), write)
    return open_manifest(tmp_path / "shards")


def test_random_weights_and_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"no weights: set teacher\.checkpoint=FILE or teacher\.pretrained=true"):
        Teacher(TeacherConfig("test_vit"))
    with pytest.raises(ConfigError, match="is not a timm model"):
        Teacher(TeacherConfig("resnot", allow_random=True))
    with pytest.raises(ConfigError, match=r"teacher\.mode 'chache' is not one of"):
        TeacherConfig(mode="chache").check()
    with pytest.raises(ConfigError, match=r"without_visible 'guess' is not one of skip, false-colour"):
        TeacherConfig(without_visible="guess").check()


def test_kept_features_pay_once_what_is_written_is_won_back(manifest, tmp_path):
    rates = Rates(compute=1.0, write=0.3, read=0.1)
    assert rates.saved(1, rates.break_even) == pytest.approx(0) and rates.saved(10, 3) == pytest.approx(15)
    found = measure_rates(tmp_path, ["d"], CONFIG)
    assert min(found.compute, found.write, found.read) > 0 and not list(tmp_path.glob("tmp*"))


def test_features_belong_to_a_view(teacher):
    rgb = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    both = teacher.all_views(rgb)
    torch.testing.assert_close(both[View.FLIPPED.value], teacher(apply_view(rgb, View.FLIPPED, 1)[None])[0])
    assert not torch.allclose(both[1], both[0].flip(-1), atol=1e-3)


def test_fill_then_pack_then_read_gives_what_live_gives(teacher, manifest, tmp_path):
    refs = list(manifest)
    cache = FeatureCache(tmp_path / "teacher", teacher.fingerprint, refs)
    views = [[View.IDENTITY, View.FLIPPED]] * 2
    live = features_for(teacher, None, refs[:2], views)
    assert torch.equal(features_for(teacher, cache, refs[:2], views), live)
    assert cache.pack() == [] and len(cache.missing(refs)) == 1
    features_for(teacher, cache, refs[2:], [[View.IDENTITY]])
    (record,) = cache.pack()
    assert record.counts == {"samples": 3, "views": 2}
    assert [path.name for path in find_records(tmp_path / "teacher")] == ["d-0.json"]
    again = FeatureCache(tmp_path / "teacher", teacher.fingerprint, refs)
    assert not list((tmp_path / "teacher").rglob("*.spool")) and again.missing(refs) == []
    stored = features_for(teacher, again, refs[:2], views)
    assert torch.nn.functional.cosine_similarity(stored.flatten(1), live.flatten(1)).min() > 0.999


@pytest.mark.parametrize(
    ("store", "project", "cosine"), [("fp16", 0, 0.99999), ("int8", 0, 0.999), ("int8", 24, 0.999)]
)
def test_cached_features_drift_little_from_live_ones(manifest, tmp_path, store, project, cosine):
    """Live, just computed and read back are the same numbers; against full precision the cosine says what is lost."""
    config = TeacherConfig(**{**vars(CONFIG), "store": store, "project": project})
    teacher, refs, views = Teacher(config), list(manifest), [[View.IDENTITY, View.FLIPPED]] * 3
    cache = FeatureCache(tmp_path / "teacher", teacher.fingerprint, refs)
    filled = features_for(teacher, cache, refs, views)
    assert torch.equal(filled, features_for(teacher, None, refs, views))
    (record,) = cache.pack()
    read = features_for(teacher, FeatureCache(tmp_path / "teacher", teacher.fingerprint, refs), refs, views)
    assert torch.equal(read, filled)
    exact = torch.cat([teacher.all_views(ref.picture("rgb")) for ref in refs])
    assert torch.nn.functional.cosine_similarity(read, exact, dim=1).min() > cosine
    channels, height, width = feature_shape(config)
    assert tuple(exact.shape[1:]) == (channels, height, width) and channels == (project or exact.shape[1])
    need = cache_bytes(config, len(refs))
    assert need == 6 * channels * (height * width * (1 if store == "int8" else 2) + (4 if store == "int8" else 0))
    assert record.bytes < 1.2 * need + 20_000


def test_a_projection_keeps_angles_and_another_setting_is_another_cache():
    plain = Teacher(CONFIG)
    narrow = Teacher(TeacherConfig(**{**vars(CONFIG), "project": 24}))
    assert len({plain.fingerprint, narrow.fingerprint}) == 2
    product = narrow.projection_PD @ narrow.projection_PD.T
    torch.testing.assert_close(product / product[0, 0], torch.eye(24), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"teacher\.project 9999 is more than the \d+ channels"):
        Teacher(TeacherConfig(**{**vars(CONFIG), "project": 9999}))
    with pytest.raises(ConfigError, match=r"teacher\.store 'int4' is not one of fp16, int8"):
        TeacherConfig(store="int4").check()


def test_large_features_stay_finite():
    packed = pack_features(torch.full((1, 2, 2, 2), 1e6), "fp16")
    assert np.isfinite(packed["features"]).all()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    """What a file lacks would stay random, and pass for pre-trained."""
    state = Teacher(CONFIG).model.state_dict()
    torch.save(state, tmp_path / "whole.pth")
    config = TeacherConfig(CONFIG.name, str(tmp_path / "whole.pth"), image_size=CONFIG.image_size)
    assert not config.is_random and Teacher(config)
    torch.save(dict(list(state.items())[3:]), tmp_path / "part.pth")
    config.checkpoint = str(tmp_path / "part.pth")
    with pytest.raises(ConfigError, match=r"part\.pth lacks 3 of the tensors of .*mend teacher\.checkpoint"):
        Teacher(config)


def test_features_of_a_shard_that_was_made_anew_are_dropped(teacher, manifest, tmp_path):
    cache = FeatureCache(tmp_path / "teacher", teacher.fingerprint, list(manifest))
    features_for(teacher, cache, list(manifest), [[View.IDENTITY]] * 3)
    cache.pack()
    assert FeatureCache(tmp_path / "teacher", teacher.fingerprint, list(manifest)).drop_stale() == 0
    shard = manifest[0].shard.with_suffix(".json")
    shard.write_text(shard.read_text().replace(read_record(shard).sha256, "0" * 64))
    again = FeatureCache(tmp_path / "teacher", teacher.fingerprint, list(manifest))
    assert again.drop_stale() == 1 and len(again.missing(manifest)) == 3


def test_distillation_is_zero_at_the_target_and_skips_what_it_should():
    torch.manual_seed(0)
    loss = Distiller([4], 4)
    target = torch.randn(2, 4, 3, 3) * 5 + 2
    loss.fit(target)
    torch.nn.init.zeros_(loss.projectors[0].bias)
    with torch.no_grad():
        loss.projectors[0].weight.copy_(torch.eye(4)[:, :, None, None])
    student = (target - loss.mean[:, None, None]) / loss.std[:, None, None]
    lie = [8], (24, 24)
    assert loss([student], *lie, target, torch.ones(2)).item() == pytest.approx(0, abs=1e-5)
    assert loss([-student], *lie, target, torch.zeros(2)).item() == 0
    assert loss([-student], *lie, target, torch.tensor([1.0, 0.0])).item() > 1


def test_a_map_is_asked_where_tokens_lie_also_beyond_the_edge():
    ramp = torch.arange(0.5, 24).expand(1, 1, 24, 24)  # tells x
    assert at_tokens(ramp, (3, 3), (24, 24), 8)[0, 0, 0].tolist() == [4, 12, 20]
    torch.testing.assert_close(at_tokens(ramp, (3, 2), (24, 24), 16)[0, 0, 0], torch.tensor([8.0, 23.5]))
