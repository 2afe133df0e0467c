"""The manifest: opened from records alone, however many; what is no record of a shard is told or passed over."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from sharding.errors import InputError
from sharding.frames import Frames
from sharding.generator.tiles import tile_sample, write_tiles
from sharding.local import Files, on_network
from sharding.manifest import open_manifest
from sharding.sample import FORMAT
from sharding.verify import verify

SHARDS = 10_000


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 4000, (9, 8, 8)).astype(np.uint16) for _ in range(8)]
    write_tiles(tmp_path, "b", tiles[:5], [2, 3])
    write_tiles(tmp_path, "a", tiles[5:], [3])
    return tmp_path


def test_samples_stand_in_canonical_order(shards):
    manifest = open_manifest(shards)
    assert len(manifest) == 8 and manifest.counts == {"a": 3, "b": 5}
    assert manifest.layout == {"a": [3], "b": [2, 3]}
    keys = [ref.key for ref in manifest]
    assert keys == [manifest[i].key for i in range(8)] == [ref.key for ref in manifest[:]]
    assert keys[0] == "a-00000-000" and keys[-1] == "b-00001-002" == manifest[-1].key
    assert [manifest.place(i) for i in (0, 2, 3, 5, 7)] == [(0, 0), (0, 2), (1, 0), (2, 0), (2, 2)]
    turned = open_manifest(shards, ["b", "a"])
    assert turned.fingerprint != manifest.fingerprint and turned[0].key == "b-00000-000"
    with pytest.raises(IndexError):
        manifest[8]


def test_what_is_missing_or_no_record_is_told(shards):
    (shards / "a" / "quality.json").write_text('{"dataset": "a"}')  # a report beside the records
    assert len(open_manifest(shards)) == 8
    with pytest.raises(InputError, match="c holds no finished shard; run pseudolabel for c first"):
        open_manifest(shards, ["a", "c"])
    path = shards / "b" / "b-00000.json"
    path.write_text(path.read_text().replace('"index"', '"indeks"'))
    with pytest.raises(InputError, match=r"b-00000\.json is not the record of a shard .*delete it, run pseudolabel"):
        open_manifest(shards)


def test_verify_finds_swapped_shards_and_says_what_is_gone(shards):
    a, b = shards / "b" / "b-00000.tar", shards / "b" / "b-00001.tar"
    aside = a.rename(a.with_suffix(".aside"))
    b.rename(a)
    aside.rename(b)
    assert verify(shards).units == 3
    told = {Path(row.item).stem: row.reason for row in verify(shards).bad}
    assert set(told) == {"b-00000", "b-00001"}
    assert "2 of 2 samples gone: b-00000-000, b-00000-001" in told["b-00000"]
    assert "3 of 3 samples gone: b-00001-000" in told["b-00001"]
    with pytest.raises(InputError, match="b-00000"):
        [ref.bands(ref.meta()) for ref in open_manifest(shards, ["b"])]


def test_a_sample_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sharding.sample.FORMAT", "hypervision.sample/1")
    write_tiles(tmp_path, "a", [np.ones((4, 8, 8), np.uint16)], [1])
    assert tile_sample("x", np.ones((4, 8, 8), np.uint16))["json"].count(b"sample/1") == 1
    match = rf"a-00000-000 is of format 'hypervision.sample/1', this version reads {FORMAT} and"
    with pytest.raises(InputError, match=match):
        open_manifest(tmp_path)[0].meta()


def test_frames_are_read_once_and_neighbours_with_one_read(shards):
    ref = open_manifest(shards)[0]
    meta = ref.meta()
    reads = []

    class Counting(Files):
        def read(self, path, offset, size):
            reads.append(size)
            return super().read(path, offset, size)

    counted = open_manifest(shards).ref(0, Counting())
    np.testing.assert_array_equal(counted.bands(meta, [0, 1, 2]), ref.bands(meta)[:3])
    assert len(reads) == 1 and reads[0] == sum(meta["frame_bytes"][:3])
    small = counted.small_members(("json", "instances.png", "valid.png"))
    assert small.meta() == meta and len(reads) == 2
    np.testing.assert_array_equal(small.picture("valid"), ref.picture("valid"))
    frames = counted.lazily(Frames.of(meta), [0, 4])
    assert list(frames) == [0, 4] and len(frames) == 2 and len(frames[4]) == meta["frame_bytes"][4]


def many(folder: Path, shards: int, samples: int) -> None:
    """Records of many shards, all of one tar under many names."""
    tiles = (np.full((9, 8, 8), i, np.uint16) for i in range(samples))
    write_tiles(folder, "a", tiles, [samples])
    text = (folder / "a" / "a-00000.json").read_text()
    sha = json.loads(text)["sha256"]
    for number in range(1, shards):
        name = f"a-{number:05d}"
        os.link(folder / "a" / "a-00000.tar", folder / "a" / f"{name}.tar")
        (folder / "a" / f"{name}.json").write_text(text.replace("a-00000", name).replace(sha, f"{number:064x}"))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_ten_thousand_shards_are_opened_without_opening_one_and_few_stay_open(tmp_path):
    many(tmp_path, SHARDS, 7)
    before = open_files()
    began = time.perf_counter()
    manifest = open_manifest(tmp_path)
    print(f"{SHARDS} shards opened in {time.perf_counter() - began:.2f} s")
    assert len(manifest) == 7 * SHARDS and open_files() == before
    files = Files(16)
    for index in range(0, len(manifest), 701):
        manifest.ref(index, files).meta()
        assert files.open_count <= 16
    assert open_files() - before == 16
    files.close()
    assert open_files() == before


def test_the_kind_of_file_system_is_told_from_the_mounts(tmp_path, monkeypatch):
    assert not on_network(tmp_path)
    rows = f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path}/far nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda _: rows)
    assert on_network(tmp_path / "far" / "shards") and not on_network(tmp_path / "near")
