"""Pictures, label maps and boxes travel with their cube: turned alike, red stays red, nothing is resized or lost."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sharding.catalog import Companion, Row, load_row
from sharding.companions import find_companions
from sharding.errors import InputError
from sharding.generator.fakes import BESIDE, FAKES, PICTURE_HW3, SIDE_HW, write_fake
from sharding.ingest import DatasetConfig, cube_paths, ingest, ingest_one, ingest_units
from sharding.stage import RunOptions
from sharding.store import open_cube


def ingested(tmp_path, key, row=None):
    (unit,) = ingest_units(tmp_path, [DatasetConfig(key, str(tmp_path / "raw"), row)])
    record = ingest_one(unit)
    return record, open_cube(cube_paths(tmp_path, key, unit.payload[1])[0]) if record.done else None


def test_a_frame_with_its_picture_and_box(tmp_path):
    write_fake("hotvis", tmp_path / "raw", list(load_row("hotvis").known_wavelength_nm))
    record, _ = ingested(tmp_path, "hotvis")
    assert (
        record.counts["missing_companions"] == 2
        and "no rgb at training/HSI-VIS-FalseColor" in record.extra["missing"][0]
    )
    picture, boxes = (tmp_path / "raw" / place for place, _ in BESIDE["hotvis"].values())
    picture.parent.mkdir(parents=True)
    Image.fromarray(PICTURE_HW3.repeat(8, 0).repeat(8, 1)).save(picture, quality=95)
    boxes.write_text("1\t2\t3\t4\n9\t9\t9\t9\n")
    record, cube = ingested(tmp_path, "hotvis")  # new companions are new input
    told = cube.attrs["companions"]
    assert told["box"]["box"] == [1, 2, 3, 4] and told["rgb"]["registered"] is False
    assert record.counts["companions"] == 2 and cube.companion("rgb") is None
    Image.fromarray(PICTURE_HW3).save(picture.with_suffix(".png"))
    picture.with_suffix(".png").rename(picture)
    _, cube = ingested(tmp_path, "hotvis")
    np.testing.assert_array_equal(cube.companion("rgb"), PICTURE_HW3)
    boxes.write_text("1 2 3\n")
    record, _ = ingested(tmp_path, "hotvis")
    assert not record.done and "line 1 is not x, y, width, height" in record.failures[0].reason


def test_scenes_that_lack_what_others_have_are_told(tmp_path):
    scene = tmp_path / "raw" / FAKES["hsidrive20"][0]
    write_fake("hsidrive20", tmp_path / "raw", list(load_row("hsidrive20").known_wavelength_nm))
    scene.with_name("nf2_MF_TC.npy").write_bytes(scene.read_bytes())
    assert ingest(tmp_path, [DatasetConfig("hsidrive20", str(tmp_path / "raw"))], 1, RunOptions()).notes == []
    (tmp_path / "raw" / "RGB").mkdir()
    Image.fromarray(PICTURE_HW3).save(tmp_path / "raw" / BESIDE["hsidrive20"]["rgb"][0])
    other = tmp_path / "other"
    notes = ingest(other, [DatasetConfig("hsidrive20", str(tmp_path / "raw"))], 1, RunOptions()).notes
    assert notes == ["1 of 2 new scenes of hsidrive20 lack companions, e.g. no rgb at RGB/nf2_pseudocolor.png"]


def test_a_label_map_of_another_size_is_told(tmp_path):
    write_fake("aphid", tmp_path / "raw", list(load_row("aphid").known_wavelength_nm))
    masks = tmp_path / "raw" / "masks"
    masks.mkdir()
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(masks / "001.png")
    result = ingest(tmp_path, [DatasetConfig("aphid", str(tmp_path / "raw"))], 1, RunOptions())
    assert result.notes == [
        "1 label maps of aphid are of another size than their cubes and are not used, e.g. hyper-001: labels is 3 x 4 "
        "pixels, the cube 6 x 9"
    ]


def test_companions_are_turned_with_the_cube_or_left_if_they_lie_right_already(tmp_path):
    scene = tmp_path / "a" / "x.npy"
    scene.parent.mkdir()
    scene.touch()
    Image.fromarray(PICTURE_HW3).save(tmp_path / "a" / "x.png")
    rules = [
        Companion("turned", "rgb"), Companion("as it is", "rgb", turned=False),
        Companion("swapped", "rgb", order="bgr"), Companion("elsewhere", "rgb", folders={"a": "b"}),
    ]  # fmt: skip
    row = Row("x", "npy", "*", [500.0], 0.01, spatial_ops=["rot90cw"], companions=rules)
    (turned, plain, swapped), missing = find_companions(row, tmp_path, scene)
    np.testing.assert_array_equal(turned.pixels, np.rot90(PICTURE_HW3, -1))
    np.testing.assert_array_equal(plain.pixels, PICTURE_HW3)
    np.testing.assert_array_equal(swapped.pixels, np.rot90(PICTURE_HW3[..., ::-1], -1))
    assert missing == ["no elsewhere at b/x.png"]


def test_label_maps_keep_their_ids_and_damaged_ones_are_told(tmp_path):
    ids = np.arange(54, dtype=np.uint8).reshape(SIDE_HW)
    scene = tmp_path / "x.npy"
    row = Row("x", "npy", "*", [500.0], 0.01, companions=[Companion("labels", "labels")])
    palette = Image.fromarray(ids, "P")
    palette.putpalette([7] * 768)
    for image in (Image.fromarray(ids), palette, Image.fromarray(np.stack([ids] * 3, -1))):
        image.save(tmp_path / "x.png")
        ((found,), _) = find_companions(row, tmp_path, scene)
        np.testing.assert_array_equal(found.pixels, ids)
    Image.fromarray(PICTURE_HW3).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="a label map has one channel"):
        find_companions(row, tmp_path, scene)
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="is not a readable labels"):
        find_companions(row, tmp_path, scene)


def test_a_rule_that_cannot_be_meant():
    with pytest.raises(ValueError, match="kind 'depth'"):
        Companion("x", "depth")
    with pytest.raises(ValueError, match="order"):
        Companion("x", "labels", order="bgr")
    with pytest.raises(ValueError, match="boxes of a dataset whose image plane is turned"):
        replace(load_row("hotvis"), spatial_ops=["fliplr"])
