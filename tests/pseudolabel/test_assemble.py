"""Windows of a scene to samples, with the real workers: tiles, pictures, materials over the scene, models."""

from pathlib import Path

import numpy as np
import pytest

from pseudolabel.assemble import assemble, mask_spectra
from pseudolabel.config import HyperfreeConfig, PseudolabelConfig, Sam2Config
from pseudolabel.windows import windows
from pseudolabel.worker import LabelWorker
from sharding.catalog import Row
from sharding.companions import Found
from sharding.cube_writer import write_companions, write_cube
from sharding.frames import PackingConfig
from sharding.manifest import SampleRef
from sharding.readers import RawCube
from sharding.sample import GOOD, SATURATED
from sharding.shards import index_shard
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


def label(config, path, out, worker=None):
    """All samples of a scene."""
    worker = worker or LabelWorker(config)
    shape = open_cube(path).shape_CHW[1:]
    looked = [worker.make(path, window) for window in windows(*shape, config.window_side, config.shared)]
    told = assemble("scene", path, [one for one in looked if one is not None], config, out)
    refs = [SampleRef("mine", key, out, members) for key, members in index_shard(out).items()]
    assert told["samples"] == len(refs)
    return told["quality"], refs


def classical(**fields):
    return PseudolabelConfig(segmenters="classical", **fields)


def test_materials_and_masks_span_the_scene(cube, tmp_path):
    path, ids = cube
    quality, refs = label(classical(tile=32), path, tmp_path / "a.tar")
    assert len(refs) == 6 and quality["pixels"] == 35 * 70 and quality["masks"] >= 3
    kinds, names = {}, {}
    for ref in refs:
        meta = ref.meta()
        y, x, height, width = meta["window_yxhw"]
        materials, valid, masks = ref.picture("materials"), ref.picture("valid"), ref.picture("instances")
        assert materials.shape == (32, 32) == (height, width)
        assert not materials[valid == 0].any() and not masks[valid == 0].any()
        assert [row["id"] for row in meta["masks"]] == list(range(1, int(masks.max()) + 1))
        assert [row["pixels"] for row in meta["masks"]] == np.bincount(masks.ravel())[1:].tolist()
        inside = valid[:height, :width] > 0
        for kind in (0, 1):
            here = inside & (ids[y : y + height, x : x + width] == kind)
            if here.sum() > 60:
                kinds.setdefault(kind, set()).add(int(np.bincount(materials[:height, :width][here]).argmax()))
                mask = int(np.bincount(masks[:height, :width][here]).argmax())
                names.setdefault(kind, set()).add(meta["masks"][mask - 1]["scene_id"])
    assert kinds[0] != kinds[1] and all(len(found) == 1 for found in kinds.values())
    assert all(len(found) == 1 for found in names.values()), "a mask cut by windows and tiles is one mask"


def test_a_scene_smaller_than_a_tile_is_padded_with_invalid_pixels(cube, tmp_path):
    quality, (ref,) = label(classical(tile=80), cube[0], tmp_path / "a.tar")
    meta, valid = ref.meta(), ref.picture("valid")
    assert meta["window_yxhw"] == [0, 0, 40, 70] and valid.shape == (80, 80) == ref.bands(meta, [0]).shape[1:]
    assert (valid[5:40, :70] == GOOD).all() and np.count_nonzero(valid) == 35 * 70
    for name in ("instances", "materials", "rgb"):
        assert not ref.picture(name)[valid == 0].any()
    assert (quality["tiles"], quality["tiles_below_half"]) == (1, 1)  # 35 * 70 of 80 * 80
    assert (quality["tile_valid"], quality["tile_pixels"]) == (35 * 70, 80 * 80)


@pytest.mark.parametrize(
    ("height", "width", "tile", "corners"),
    [
        (100, 100, 96, [(0, 0), (0, 4), (4, 0), (4, 4)]),
        (200, 200, 96, [(y, x) for y in (0, 96, 104) for x in (0, 96, 104)]),
    ],
)
def test_tiles_of_a_small_scene_are_full_and_tell_the_same_where_they_overlap(tmp_path, height, width, tile, corners):
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 0.9, (3, 4))[np.add.outer(np.arange(height) // 40, np.arange(width) // 30) % 3]
    values = (values + 0.01 * rng.standard_normal(values.shape)).astype(np.float32)
    row = Row("mine", "mat", "*", [450.0, 530.0, 610.0, 690.0], 0.02)
    write_cube(tmp_path / "scene", row, "scene", RawCube(values, (), tuple(row.wavelength)))
    quality, refs = label(classical(tile=tile), tmp_path / "scene", tmp_path / "a.tar")
    assert [ref.key for ref in refs] == [f"mine-scene-y{y:05d}-x{x:05d}" for y, x in corners]
    assert (quality["tiles"], quality["tiles_below_half"]) == (len(corners), 0)
    assert quality["tile_valid"] == quality["tile_pixels"] == len(corners) * tile**2
    assert quality["pixels"] == quality["labelled"] == height * width  # of the scene: an overlap counts once
    seen = {name: np.full((height, width), -1.0) for name in ("material", "scene_id", "first band", "red")}
    for ref, (y, x) in zip(refs, corners, strict=True):
        meta = ref.meta()
        assert meta["window_yxhw"] == [y, x, tile, tile] and (ref.picture("valid") == GOOD).all()
        scene_ids = np.array([0, *(mask["scene_id"] for mask in meta["masks"])])
        told = {
            "material": ref.picture("materials"), "scene_id": scene_ids[ref.picture("instances")],
            "first band": ref.bands(meta, [0])[0], "red": ref.picture("rgb")[..., 0],
        }  # fmt: skip
        for name, part in told.items():
            place = seen[name][y : y + tile, x : x + tile]
            np.testing.assert_array_equal(np.where(place < 0, part, place), part)
            place[:] = part
    assert min(whole.min() for whole in seen.values()) >= 0, "no pixel of the scene is lost"


def test_groups_and_rounding_change_no_value_by_more_than_declared(cube, tmp_path):
    _, plain = label(classical(tile=70), cube[0], tmp_path / "a.tar")
    config = classical(tile=70, packing=PackingConfig(group=4, rounding=1.0))
    _, packed = label(config, cube[0], tmp_path / "b.tar")
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    meta, other = plain[0].meta(), packed[0].meta()
    for name in set(other) - set(meta):
        assert f"`{name}`" in page, name
    wrong = np.abs(packed[0].bands(other) - plain[0].bands(meta)).max((1, 2)) / meta["scale"]
    assert np.all(wrong <= np.array(other["rounding_error"]) + 0.05) and other["group"] == 4


def test_every_field_of_a_sample_is_on_the_format_page(cube, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    _, refs = label(classical(tile=70, keep_sources=True), cube[0], tmp_path / "a.tar")
    meta = refs[0].meta()
    for name in [*meta, *meta["masks"][0]]:
        assert f"`{name}`" in page, name
    for name in refs[0].members:
        assert f".{name}`" in page, name


def test_a_scene_in_windows_gives_the_masks_of_the_scene_at_once(cube, tmp_path):
    path, ids = cube
    found = []
    for window in (0, 128):
        _, refs = label(classical(tile=70, window=window or 32), path, tmp_path / f"{window}.tar")
        (ref,) = refs
        masks = ref.picture("instances")[5:40]
        owner = [int(np.bincount(masks[:, :70][ids[5:] == kind]).argmax()) for kind in range(3)]
        found.append([(masks[:, :70] == own)[ids[5:] == kind].mean() for kind, own in enumerate(owner)])
        assert len(set(owner)) == 3
    assert np.min(found) > 0.95


def test_the_own_picture_is_taken_and_saturated_pixels_are_marked(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.integers(100, 4000, (20, 30, len(WL))).astype(np.uint16)
    counts[:, 15:, :6] //= 8
    counts[2, 3, 5] = 4095
    write_cube(tmp_path / "scene", ROW, "scene", RawCube(counts, (), WL), split="test")
    picture = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    (tmp_path / "p.png").touch()
    write_companions(tmp_path / "scene", [Found("rgb", "rgb", tmp_path / "p.png", picture)])
    _, refs = label(classical(tile=16), tmp_path / "scene", tmp_path / "a.tar")
    for ref in refs:
        y, x, height, width = ref.meta()["window_yxhw"]
        np.testing.assert_array_equal(ref.picture("rgb")[:height, :width], picture[y : y + height, x : x + width])
        assert (ref.meta()["rgb_rule"], ref.meta()["split"]) == ("companion", "test")
    assert refs[0].picture("valid")[2, 3] == SATURATED and (refs[0].picture("valid") == GOOD).sum() == 255
    smaller = Found("rgb", "rgb", tmp_path / "p.png", picture[:5])
    write_cube(tmp_path / "other", ROW, "scene", RawCube(counts, (), WL))
    write_companions(tmp_path / "other", [smaller])
    _, refs = label(classical(tile=16), tmp_path / "other", tmp_path / "b.tar")
    assert refs[0].meta()["rgb_rule"] == "cie1931-srgb"


@pytest.mark.parametrize(
    ("wl", "rule"), [(WL, "cie1931-srgb"), (tuple(900.0 + 8 * i for i in range(25)), "false-colour")]
)
def test_long_waves_are_red_and_all_windows_of_a_scene_have_one_white(tmp_path, wl, rule):
    values = np.full((24, 60, len(wl)), 0.05, np.float32)
    values[:, :20, 18:], values[:, 40:, :6] = 0.8, 0.8  # long waves to the left, short ones to the right
    values[:, :, 3] += np.linspace(0, 0.01, 60)
    write_cube(tmp_path / "scene", ROW, "scene", RawCube(values, (), wl))
    config = classical(tile=24)
    worker = LabelWorker(config)
    wins = windows(24, 60, 24, config.shared)
    looked = [worker.make(tmp_path / "scene", window) for window in wins]
    left, right = (one.rgb[12, place].astype(int) for one, place in ((looked[0], 5), (looked[-1], 20)))
    assert left[0] > left[2] + 50 and right[2] > right[0] + 50
    assert looked[0].rgb_rule.startswith(rule)
    overlap = wins[1][1]
    np.testing.assert_array_equal(looked[0].rgb[:, overlap:], looked[1].rgb[:, : 24 - overlap])


def test_saturated_pixels_do_not_count_in_a_masks_spectrum_unless_it_has_no_others(tmp_path):
    counts = np.full((4, 8, len(WL)), 1000, np.uint16)
    counts[:, :, ::2] = 500
    counts[0, 0], counts[:, 6:] = 4095, 4095
    write_cube(tmp_path / "scene", ROW, "scene", RawCube(counts, (), WL))
    labels = np.ones((4, 8), np.int32)
    labels[:, 6:] = 2
    first, second = mask_spectra(open_cube(tmp_path / "scene"), labels, 4)
    want = counts[1, 1] / np.linalg.norm(counts[1, 1])
    np.testing.assert_allclose(first, want, atol=1e-6)
    np.testing.assert_allclose(second, np.full(len(WL), len(WL) ** -0.5), atol=1e-6)


@pytest.mark.parametrize("side", [2, 3, 5, 8])
def test_a_masks_spectrum_counts_every_pixel_once_whatever_the_side_of_a_block(tmp_path, side):
    counts = np.random.default_rng(0).integers(100, 4000, (4, 8, len(WL))).astype(np.uint16)
    write_cube(tmp_path / "scene", ROW, "scene", RawCube(counts, (), WL))
    unit = counts / np.linalg.norm(counts.astype(float), axis=-1, keepdims=True)
    (got,) = mask_spectra(open_cube(tmp_path / "scene"), np.ones((4, 8), np.int32), side)
    np.testing.assert_allclose(got, unit.mean((0, 1)), atol=1e-6)


def test_a_registered_label_map_is_the_truth_of_the_quality(cube, tmp_path):
    path, ids = cube
    (tmp_path / "t.png").touch()
    write_companions(path, [Found("labels", "labels", tmp_path / "t.png", (ids + 1).astype(np.uint8))])
    assert open_cube(path).labels() is not None
    quality, _ = label(classical(tile=70), path, tmp_path / "a.tar")
    assert quality["with_truth"] == 1 and quality["truth"]["fused"]["ASA at 1.5 x"] > 0.9


def test_training_sees_the_same_low_rank_cube_kept_or_expanded(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 30, 3)).astype(np.float32)
    basis = (np.full(len(WL), 9, np.float32), rng.normal(size=(3, len(WL))).astype(np.float32))
    raw = RawCube(scores, (), WL, basis=basis)
    bands, sizes = [20, 3, 11], []
    for name in ("kept", "expanded"):
        write_cube(tmp_path / name, ROW, "scene", raw, expand=name == "expanded")
        _, refs = label(classical(tile=16), tmp_path / name, tmp_path / f"{name}.tar")
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
    _, refs = label(config, cube[0], tmp_path / "a.tar")
    assert len(refs) == 2 and refs[0].meta()["masks"]
    assert refs[0].meta()["labelled_by"].count("RANDOM") == 2
