"""Shards are plain tars with equal bytes for equal samples, bands decode alone, a cut shard is noticed."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from numcodecs import Blosc
from PIL import Image

from sharding.errors import InputError
from sharding.manifest import SampleRef
from sharding.planes import Planes
from sharding.sample import encode_sample
from sharding.shards import index_shard, join_shards, write_shard


def samples(count=3):
    rng = np.random.default_rng(0)
    for index in range(count):
        stored = rng.integers(0, 4000, (5, 8, 8)).astype(np.uint16)
        mask = rng.integers(0, 300, (8, 8)).astype(np.uint16)
        pictures = {
            "instances": mask,
            "materials": mask,
            "valid": (mask > 0).astype(np.uint8),
            "rgb": np.zeros((8, 8, 3), np.uint8),
        }
        yield stored, mask, encode_sample(f"s-{index}", Planes(stored, 0.5, 1.0), pictures, {"masks": []})


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "a.tar"
    assert write_shard(path, (sample for _, _, sample in samples())) == 3
    return path


def test_equal_samples_are_equal_bytes(shard, tmp_path):
    write_shard(tmp_path / "b.tar", (sample for _, _, sample in samples()))
    assert shard.read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_plain_tools_read_it_in_ten_lines(shard):
    (stored, mask, _), *_ = samples()
    sample = next(iter(webdataset.WebDataset(str(shard), shardshuffle=False)))
    meta = json.loads(sample["json"])
    ends = np.cumsum([0, *meta["frame_bytes"]])
    band = Blosc().decode(sample["cube.bands"][ends[2] : ends[3]])
    np.testing.assert_array_equal(np.frombuffer(band, meta["dtype"]).reshape(8, 8), stored[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample["instances.png"]))), mask)
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) == 18


def test_the_code_of_the_format_page_reads_two_bands(shard):
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope = {"shard": shard}
    exec(code, scope)
    (stored, _, _), *_ = samples()
    np.testing.assert_array_equal(scope["cube"], stored[[0, 3]] * 0.5 + 1.0)


def test_parts_joined_are_the_bytes_of_all_samples_written_at_once(shard, tmp_path):
    whole = [sample for _, _, sample in samples()]
    for name, part in (("p", whole[:1]), ("q", []), ("r", whole[1:])):
        write_shard(tmp_path / name, part)
    join_shards(tmp_path / "joined.tar", [tmp_path / name for name in "pqr"])
    assert (tmp_path / "joined.tar").read_bytes() == shard.read_bytes()
    join_shards(tmp_path / "none.tar", [])
    assert index_shard(tmp_path / "none.tar") == {}


def test_a_low_rank_sample_gives_any_bands_from_its_scores(tmp_path):
    rng = np.random.default_rng(0)
    basis = (rng.random(7).astype(np.float32), rng.normal(size=(2, 7)).astype(np.float32))
    planes = Planes(rng.normal(size=(2, 8, 8)).astype(np.float32), basis=basis).padded(10)
    pictures = dict.fromkeys(("instances", "materials", "valid", "rgb"), np.zeros((10, 10), np.uint8))
    write_shard(tmp_path / "a.tar", [encode_sample("s", planes, pictures, {"masks": []})])
    ref = SampleRef("d", "s", tmp_path / "a.tar", index_shard(tmp_path / "a.tar")["s"])
    meta = ref.meta()
    assert meta["shape_CHW"] == [7, 10, 10] and len(meta["frame_bytes"]) == 2
    np.testing.assert_array_equal(ref.bands(meta), planes.physical())
    np.testing.assert_allclose(ref.bands(meta, [6, 0]), planes.physical()[[6, 0]], atol=1e-6)


def test_a_sample_whose_bands_have_scales_of_their_own_says_so(tmp_path):
    stored = np.arange(3 * 8 * 8, dtype=np.uint16).reshape(3, 8, 8)
    pictures = dict.fromkeys(("instances", "materials", "valid", "rgb"), np.zeros((8, 8), np.uint8))
    planes = Planes(stored, [0.5, 1.0, 2.0], [0.0, -1.0, 4.0])
    head = {"masks": [], "wavelength_nm": [450.0, 550.0, 650.0], "bad_band": [False] * 3, "gsd_m": 1.0}
    write_shard(
        tmp_path / "a.tar",
        [encode_sample("s", planes, pictures, head), encode_sample("t", Planes(stored), pictures, head)],
    )
    own, plain = (SampleRef("d", key, tmp_path / "a.tar", index_shard(tmp_path / "a.tar")[key]) for key in "st")
    meta = own.meta()
    assert (meta["format"], plain.meta()["format"]) == ("hypervision.sample/3", "hypervision.sample/2")
    want = stored * np.array([0.5, 1, 2])[:, None, None] + np.array([0, -1, 4])[:, None, None]
    np.testing.assert_array_equal(own.bands(meta), want)
    np.testing.assert_array_equal(own.bands(meta, [2, 0]), want[[2, 0]])


def test_a_band_subset_equals_the_whole_and_reads_only_its_frames(shard, monkeypatch):
    members = index_shard(shard)["s-1"]
    ref = SampleRef("d", "s-1", shard, members)
    meta = ref.meta()
    whole = ref.bands(meta)
    read = []
    original = SampleRef.read_at
    monkeypatch.setattr("sharding.manifest.GAP_BYTES", 0)  # frames this small would come with one read
    monkeypatch.setattr(SampleRef, "read_at", lambda self, o, n: (read.append(n), original(self, o, n))[1])
    np.testing.assert_array_equal(ref.bands(meta, [3, 1]), whole[[3, 1]])
    assert sum(read) == meta["frame_bytes"][3] + meta["frame_bytes"][1]


def test_a_cut_shard_is_noticed(shard):
    members = index_shard(shard)
    ref = SampleRef("d", "s-2", shard, members["s-2"])
    whole = shard.read_bytes()
    shard.write_bytes(whole[: members["s-2"]["json"][0]])
    with pytest.raises(InputError, match="cut short at sample s-2; run verify"):
        ref.read("rgb.png")
    with pytest.raises(InputError, match="cut short"):
        index_shard(shard)
    # Cut between two members a tar reads without any error: only the missing members tell.
    shard.write_bytes(whole[: members["s-2"]["json"][0] - 512])
    with pytest.raises(InputError, match=r"s-2 has no .*json.*cut short"):
        index_shard(shard)
