"""The label worker with the real mask models (random weights, allowed explicitly) and over several tiles of a scene."""

import numpy as np
import pytest

from pseudolabel.config import HyperfreeConfig, PseudolabelConfig, Sam2Config
from pseudolabel.factory import LabelWorker, windows
from sharding.catalog import Row
from sharding.companions import Found
from sharding.cube_writer import write_companions, write_cube
from sharding.readers import RawCube
from sharding.records import Unit, find_records, read_record
from sharding.sample import GOOD, SATURATED
from sharding.shards import SampleRef, index_shard
from sharding.store import open_cube

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
    folder.mkdir(exist_ok=True)
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


def test_the_own_picture_is_taken_and_saturated_pixels_are_marked(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.integers(100, 4000, (20, 30, len(WL))).astype(np.uint16)
    counts[:, 15:, :6] //= 8
    counts[2, 3, 5] = 4095
    write_cube(tmp_path / "scene", ROW, "scene", RawCube(counts, (), WL), split="test")
    picture = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    (tmp_path / "p.png").touch()
    write_companions(tmp_path / "scene", [Found("rgb", "rgb", tmp_path / "p.png", picture)])
    _, refs = make(PseudolabelConfig(segmenters="classical", tile=16), tmp_path / "scene", tmp_path)
    for ref in refs:
        y, x, height, width = ref.meta()["window_yxhw"]
        np.testing.assert_array_equal(ref.picture("rgb")[:height, :width], picture[y : y + height, x : x + width])
        assert (ref.meta()["rgb_rule"], ref.meta()["split"]) == ("companion", "test")
    assert refs[0].picture("valid")[2, 3] == SATURATED and (refs[0].picture("valid") == GOOD).sum() == 255
    smaller = Found("rgb", "rgb", tmp_path / "p.png", picture[:5])
    write_cube(tmp_path / "other", ROW, "scene", RawCube(counts, (), WL))
    write_companions(tmp_path / "other", [smaller])
    _, refs = make(PseudolabelConfig(segmenters="classical", tile=16), tmp_path / "other", tmp_path / "o")
    assert refs[0].meta()["rgb_rule"] == "cie1931-srgb"


def test_training_sees_the_same_low_rank_cube_kept_or_expanded(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 30, 3)).astype(np.float32)
    basis = (np.full(len(WL), 9, np.float32), rng.normal(size=(3, len(WL))).astype(np.float32))
    raw = RawCube(scores, (), WL, basis=basis)
    bands, config = [20, 3, 11], PseudolabelConfig(segmenters="classical", tile=16)
    sizes = []
    for name in ("kept", "expanded"):
        write_cube(tmp_path / name, ROW, "scene", raw, expand=name == "expanded")
        _, refs = make(config, tmp_path / name, tmp_path / f"{name}-shards")
        got = refs[0].bands(refs[0].meta(), bands)
        want = raw.planes(slice(0, 16), slice(0, 16), bands)
        np.testing.assert_allclose(got, want, atol=1e-5 + open_cube(tmp_path / name).attrs["largest_error"])
        sizes.append(sum(ref.members["cube.bands"][1] for ref in refs))
    assert sizes[0] < sizes[1] / 3


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
