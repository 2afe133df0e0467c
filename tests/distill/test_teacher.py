"""Teacher features: keyed by view, cached as computed, packed when complete, never random unasked."""

import numpy as np
import pytest
import torch

from distill.cache import FeatureCache, features_for
from distill.losses import Distiller
from distill.teacher import Teacher
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
    assert loss([student], target, torch.ones(2)).item() == pytest.approx(0, abs=1e-5)
    assert loss([-student], target, torch.zeros(2)).item() == 0
    assert loss([-student], target, torch.tensor([1.0, 0.0])).item() > 1
