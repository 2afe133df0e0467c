"""Ingest tells what was noted in reading, and refuses cubes of another logic with its reason."""

import json

import numpy as np
import pytest

from sharding.errors import ChangedError
from sharding.ingest import DatasetConfig, _told_note, ingest_one, ingest_units
from sharding.stage import RunOptions, pending

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
