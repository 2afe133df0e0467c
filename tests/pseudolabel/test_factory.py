"""The label worker with the real mask models (random weights, allowed explicitly) and over several tiles of a scene."""

import numpy as np
import pytest

from pseudolabel.config import HyperfreeConfig, PseudolabelConfig, Sam2Config
from pseudolabel.factory import LabelWorker, windows
from sharding.catalog import Row
from sharding.cube_writer import write_cube
from sharding.readers import RawCube
from sharding.records import Unit, find_records, read_record
from sharding.shards import SampleRef, index_shard

WL = tuple(float(nm) for nm in range(450, 700, 10))
ROW = Row("mine", "mat", "*", list(WL), 0.02)


@pytest.fixture
def cube(tmp_path):
    rng = np.random.default_rng(0)
    spectra = rng.uniform(0.2, 0.9, (3, len(WL)))
    ids = np.zeros((40, 70), int)
    ids[:, 25:] = 1
    ids[10:30, 40:60] = 2
    values = spectra[ids] + 0.01 * rng.standard_normal((40, 70, len(WL)))
    values[..., 4] = 0.5
    values[:5] = np.nan
    write_cube(tmp_path / "scene", ROW, "scene", RawCube(values.astype(np.float32), (), WL))
    return tmp_path / "scene", ids


def make(config, cube, folder):
    data = folder / "u.tar"
    unit = Unit(
        "pseudolabel", "u", data, folder / "u.json", "in", {}, [("scene", cube, ""), ("gone", folder / "no", "")]
    )
    record = LabelWorker(config).make(unit)
    return record, [SampleRef("mine", key, data, members) for key, members in index_shard(data).items()]


def test_tiles_are_padded_materials_span_the_scene_and_a_bad_scene_is_a_row(cube, tmp_path):
    path, ids = cube
    record, refs = make(PseudolabelConfig(segmenters="classical", tile=32), path, tmp_path)
    assert len(refs) == len(windows(40, 70, 32)) == 6
    assert record.counts == {"scenes": 1, "samples": 6} and "not an ingested cube" in record.failures[0].reason
    kinds = {}
    for ref in refs:
        meta = ref.meta()
        y, x, height, width = meta["window_yxhw"]
        materials, valid = ref.picture("materials"), ref.picture("valid")
        assert materials.shape == (32, 32) and not valid[height:].any() and not valid[:, width:].any()
        inside = valid[:height, :width] > 0
        assert not materials[valid == 0].any()
        for kind in (0, 1):
            here = inside & (ids[y : y + height, x : x + width] == kind)
            if here.sum() > 60:
                kinds.setdefault(kind, set()).add(int(np.bincount(materials[:height, :width][here]).argmax()))
    assert kinds[0] != kinds[1] and all(len(found) == 1 for found in kinds.values())


def test_the_real_models_label_a_scene_and_say_that_they_are_random(cube, tmp_path):
    config = PseudolabelConfig(
        tile=64,
        device="cpu",
        sam2=Sam2Config("tiny", None, True, 128, 3, -1.0, -1.0),
        hyperfree=HyperfreeConfig("hypervision_nano", None, True, 96, 3, 9, -1.0, -1.0),
    )
    record, refs = make(config, cube[0], tmp_path)
    assert record.extra["labelled_by"].count("RANDOM") == 2
    assert len(refs) == 2 and refs[0].meta()["masks"]
    assert [read_record(path).unit for path in find_records(tmp_path)] == ["u"]
