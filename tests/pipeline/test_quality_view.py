"""The report of the labels: how full the tiles are, and a contact sheet of tiles with something on them."""

import json
import re

import numpy as np
import pytest

from pipeline.console import console
from pipeline.quality_view import report_quality, sheet_samples
from pseudolabel.quality import tile_counts
from sharding.planes import Planes
from sharding.records import Body, Unit, commit
from sharding.sample import encode_sample
from sharding.shards import described, write_shard

SIDE = 8
SCENE = {
    "scenes": 1, "pixels": 100, "labelled": 80, "in_spatial": 90, "in_spectral": 70, "masks": 2, "score": 1.5,
    "agreement": 0.5, "by_source": {"spatial": 1, "spectral": 0, "both": 1}, "by_size": [0, 2, 0, 0, 0, 0, 0, 0],
    "with_truth": 0, "truth": {},
}  # fmt: skip


def sample(scene, number, labelled, valid):
    """A tile whose first pixels are labelled or valid."""
    maps = [(np.arange(SIDE**2) < count).reshape(SIDE, SIDE) for count in (labelled, valid)]
    masks = [{"id": 1, "material": 1, "pixels": labelled}] if labelled else []
    pictures = {name: maps[0].astype(np.uint16) for name in ("instances", "materials")}
    pictures |= {"valid": maps[1] * np.uint8(255), "rgb": np.zeros((SIDE, SIDE, 3), np.uint8)}
    meta = {"wavelength_nm": [500.0, 600.0], "masks": masks}
    return encode_sample(f"mine-{scene}-y00000-x{number:05d}", Planes(np.zeros((2, SIDE, SIDE), "u2")), pictures, meta)


@pytest.fixture
def shard(tmp_path):
    """Commit a shard of scenes {name: (labelled or (labelled, valid) pixels of each tile)} with a quality."""

    def make(number, scenes, quality=None):
        def write(path):
            tiles = [
                sample(scene, place, *(told if isinstance(told, tuple) else (told, SIDE**2)))
                for scene, row in scenes.items()
                for place, told in enumerate(row)
            ]
            write_shard(path, tiles)
            return Body({"samples": len(tiles)}, extra=described(path) | ({"quality": quality} if quality else {}))

        data = tmp_path / "shards" / "mine" / f"mine-{number:05d}.tar"
        commit(Unit("pseudolabel", data.stem, data, data.with_suffix(".json"), "generated", {}), write)
        return data.parent

    return make


def chosen(folder):
    """What is on the sheet, as scene/tile."""
    keys = [ref.key for ref in sheet_samples(folder, "mine")]
    return [re.sub(r"mine-(\w+)-y00000-x0*(\d+)", r"\1/\2", key) for key in keys]


def test_of_each_scene_the_tile_with_the_most_labelled_pixels(shard):
    scenes = {f"s{index:02d}": [0, 3, 60, 10] for index in range(12)}
    folder = shard(0, scenes)
    assert chosen(folder) == [f"s{index:02d}/2" for index in range(12)] == chosen(folder)


def test_tiles_of_less_than_half_of_the_fullest_stay_away(shard):
    assert chosen(shard(0, {"a": [64, 2, 0, 31, 32, 60]})) == ["a/0", "a/4", "a/5"]


def test_where_nothing_is_labelled_valid_pixels_decide(shard):
    assert chosen(shard(0, {"a": [(0, 1), (0, 64), (0, 5)], "b": [(0, 3), (0, 2), (0, 40)]})) == ["a/1", "b/2"]


def test_few_scenes_share_the_sheet_evenly(shard):
    found = chosen(shard(0, {name: [50, 64, 50, 60] for name in "abcdefgh"}))
    assert found == ["a/1", "a/3", "b/1", "b/3", "c/1", "c/3", "d/1", "d/3", "e/1", "f/1", "g/1", "h/1"]


def test_many_scenes_are_chosen_evenly_over_all_shards(shard):
    for number in range(5):
        folder = shard(number, {f"n{number}s{scene}": [1, 64] for scene in range(9)})
    found = chosen(folder)
    assert found == [f"n{place // 9}s{place % 9}/1" for place in (0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44)]


def test_the_report_tells_the_share_of_valid_pixels(shard, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "width", 240)  # no cell is broken into lines
    folder = shard(0, {"a": [64, 64]}, SCENE | tile_counts([64, 16, 64, 48], SIDE))
    report_quality(tmp_path, ["mine"], anew=True)
    told = json.loads((folder / "quality.json").read_text())
    assert (told["tiles"], told["valid_share"], told["tiles_below_half"]) == (4, 0.75, 1)
    out = capsys.readouterr().out
    assert "75%" in out and "1 of 4" in out and (folder / "quality.png").is_file()


def test_a_report_of_before_is_written_anew(shard, tmp_path):
    folder = shard(0, {"a": [64]}, SCENE | tile_counts([64], SIDE))
    (folder / "quality.json").write_text(json.dumps({"scenes": 1, "masks": 1}))
    report_quality(tmp_path, ["mine"], anew=False)
    assert json.loads((folder / "quality.json").read_text())["valid_share"] == 1.0
