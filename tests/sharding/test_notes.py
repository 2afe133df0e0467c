"""Ingest tells what was noted in reading, refuses cubes of another logic, and passes a dataset as it is published."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sharding.catalog import load_row
from sharding.errors import ChangedError, StageFailed
from sharding.generator.fakes import write_fake
from sharding.ingest import DatasetConfig, _told_note, ingest, ingest_one, ingest_units
from sharding.stage import RunOptions, pending
from sharding.store import open_cube

ROW = """
key: mine
container: npz
files: "*.npz"
wavelength: [450, 550, 650]
gsd_m: 1.0
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "raw").mkdir()
    cube = np.arange(60, dtype=np.uint16).reshape(4, 5, 3)
    for name in "ab":
        np.savez(tmp_path / "raw" / f"{name}.npz", cube=cube, white=cube[:1], gain=np.array([2.0]))
    (tmp_path / "row.yaml").write_text(ROW)
    return DatasetConfig("mine", str(tmp_path / "raw"), row=str(tmp_path / "row.yaml"))


def test_notes_and_the_array_that_was_taken_are_in_the_record_and_told(tmp_path, config):
    units = ingest_units(tmp_path, [config])
    records = [ingest_one(unit) for unit in units]
    assert [record.extra["variable"] for record in records] == ["cube", "cube"]
    assert "the largest of cube (4, 5, 3) uint16, white (1, 5, 3) uint16" in records[0].extra["note"]
    (told,) = _told_note(units)
    assert told.startswith("2 new scenes of mine have a note in their records, e.g. a: cube is the cube")
    assert "gain = 2" in told


def test_cubes_of_another_logic_are_refused_with_the_reason(tmp_path, config):
    (unit, _) = ingest_units(tmp_path, [config])
    ingest_one(unit)
    record = json.loads(unit.record.read_text())
    record["config"]["logic"] = 4
    unit.record.write_text(json.dumps(record))
    with pytest.raises(ChangedError, match=r"logic: 4 -> '5: what files say of their values is used.*add --overwrite"):
        pending(ingest_units(tmp_path, [config]), RunOptions())


def cave(root):
    """CAVE as its archive unpacks: folders in folders, what Windows left, and watercolors in colour."""
    write_fake("cave_png", root, list(load_row("cave_png").known_wavelength_nm))
    for name in ("flowers", "watercolors"):
        folder = root / f"{name}_ms" / f"{name}_ms"
        shutil.copytree(root / "balloons_ms", folder)
        for path in sorted(folder.iterdir()):
            path.rename(path.with_name(path.name.replace("balloons", name)))
        (folder / "Thumbs.db").write_bytes(b"left")
    for path in (root / "watercolors_ms" / "watercolors_ms").glob("*.png"):
        Image.new("RGBA", (9, 6)).save(path)


def test_cave_as_published_passes_and_a_second_bad_scene_does_not(tmp_path):
    cave(tmp_path / "raw")
    datasets = [DatasetConfig("cave_png", str(tmp_path / "raw"))]
    result = ingest(tmp_path, datasets, 1, RunOptions())
    assert (result.units, len(result.failures)) == (3, 1)
    bad = "watercolors_ms-watercolors_ms-watercolors_ms_01"
    assert f"{bad} of cave_png cannot be read, of which its row knows (max_failed: 1)" in result.notes
    done = open_cube(tmp_path / "cubes" / "cave_png.zarr" / "flowers_ms-flowers_ms-flowers_ms_01")
    assert done.shape_CHW == (31, 6, 9)
    assert pending(ingest_units(tmp_path, datasets), RunOptions()) == []
    for path in (tmp_path / "raw" / "flowers_ms" / "flowers_ms").glob("*.png"):
        path.write_bytes(b"cut")
    with pytest.raises(ChangedError, match=r"flowers_ms_01\.png has another content; .*; \.\.\."):
        pending(ingest_units(tmp_path, datasets), RunOptions())
    with pytest.raises(StageFailed, match=r"1 of 3 units failed \(limit 0\.02, max_failed_fraction\)"):
        ingest(tmp_path, datasets, 1, RunOptions(overwrite=True))


def test_a_truth_goes_with_ingest_and_its_absence_is_told(tmp_path):
    cave(tmp_path / "raw")
    np.save(tmp_path / "balloons_ms_01.npy", np.arange(54).reshape(6, 9) // 20)
    datasets = [DatasetConfig("cave_png", str(tmp_path / "raw"), truth=str(tmp_path / "{stem}.npy"))]
    result = ingest(tmp_path, datasets, 1, RunOptions())
    assert result.new == 4  # three scenes and a truth
    assert any(
        note.startswith("1 of 2 scenes of cave_png have no truth, e.g. flowers_ms-flowers_ms-") for note in result.notes
    )
    labels = open_cube(tmp_path / "cubes" / "cave_png.zarr" / "balloons_ms-balloons_ms_01").labels()
    assert labels.max() == 2
