"""Which scenes share a shard: a function of the scenes and the configuration alone, and bounded by what tiles hold."""

import pytest

from pseudolabel.config import PseudolabelConfig
from pseudolabel.units import pseudolabel_units
from sharding.errors import ChangedError
from sharding.records import Body, Unit, commit
from sharding.stage import RunOptions, pending

BANDS, SIDE = 20, 100
STORED = BANDS * SIDE * SIDE * 2


@pytest.fixture
def work(tmp_path):
    """Records of four cubes of 100 x 100 x 20."""
    for name in ("a", "b", "c", "d"):
        data, record = tmp_path / "cubes" / "mine.zarr" / name, tmp_path / "cubes" / "mine.records" / f"{name}.json"
        counts = {"bands": BANDS, "height": SIDE, "width": SIDE, "stored_bytes": STORED}

        def write(path, counts=counts):
            path.write_text("a cube")
            return Body(counts)

        commit(Unit("ingest", name, data, record, "raw", {}), write)
    return tmp_path


def config(tile):
    return PseudolabelConfig(segmenters="classical", tile=tile, shard_bytes=2 * STORED)


def scenes(units):
    return [[scene for scene, *_ in unit.payload] for unit in units]


@pytest.mark.parametrize(
    ("tile", "shared"),
    [
        (100, [["a", "b"], ["c", "d"]]),
        (50, [["a", "b"], ["c", "d"]]),
        (128, [["a", "b"], ["c", "d"]]),  # padding is nothing when packed
        (96, [["a"], ["b"], ["c"], ["d"]]),  # four tiles of 96 x 96: 3.7 times the scene
        (80, [["a"], ["b"], ["c"], ["d"]]),  # 2.56 times
    ],
)
def test_a_shard_counts_overlaps_of_tiles_as_often_as_it_holds_them(work, tile, shared):
    units = pseudolabel_units(work, ["mine"], config(tile))
    assert scenes(units) == shared and units == pseudolabel_units(work, ["mine"], config(tile))
    assert [unit.id for unit in units] == [f"mine-{index:05d}" for index in range(len(shared))]


def test_shards_whose_last_tiles_were_padded_are_refused(work):
    units = pseudolabel_units(work, ["mine"], config(96))
    old = Unit(**{**vars(units[0]), "config": units[0].config | {"logic": 4}})

    def write(path):
        path.write_text("a shard")
        return Body({"samples": 1})

    commit(old, write)
    with pytest.raises(ChangedError, match=r"logic: 4 -> 6.*add --overwrite"):
        pending(units, RunOptions())
    assert pending(units, RunOptions(overwrite=True)) == units
