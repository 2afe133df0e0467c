"""A changed header, data file, companion or label is new input, whatever the names of a pair; the refusal names it."""

import os

import numpy as np
import pytest
from PIL import Image

from sharding.errors import ChangedError
from sharding.ingest import DatasetConfig, cube_paths, ingest_one, ingest_units
from sharding.stage import RunOptions, pending
from sharding.store import open_cube

HEADER = (
    "ENVI\nsamples = 4\nlines = 3\nbands = 2\nheader offset = 0\nfile type = ENVI Standard\ndata type = 12\n"
    "interleave = bsq\nbyte order = 0\nwavelength units = Nanometers\nwavelength = {%s}\n"
)


def setup(tmp_path, files, container="envi", companions="", wavelength="file"):
    (tmp_path / "cam.yaml").write_text(
        f"key: cam\ncontainer: {container}\nfiles: '{files}'\nwavelength: {wavelength}\ngsd_m: 0.01\n{companions}"
    )
    (tmp_path / "raw").mkdir(exist_ok=True)


def todo(tmp_path, overwrite=False):
    units = ingest_units(tmp_path, [DatasetConfig("cam", str(tmp_path / "raw"), str(tmp_path / "cam.yaml"))])
    return pending(units, RunOptions(overwrite=overwrite))


def ingest(tmp_path, overwrite=False):
    return [ingest_one(unit) for unit in todo(tmp_path, overwrite)]


def write_pair(tmp_path, header, data, value=1, nm="450, 550"):
    (tmp_path / "raw" / header).write_text(HEADER % nm)
    cube = np.full((2, 3, 4), value, "<u2") + np.arange(4, dtype="<u2")
    (tmp_path / "raw" / data).write_bytes(cube.tobytes())


@pytest.mark.parametrize(
    ("files", "header", "data", "scene"),
    [
        ("*.hdr", "a.hdr", "a.img", "a"),
        ("*.hdr", "a.hdr", "a.dat", "a"),
        ("*.hdr", "a.hdr", "a", "a"),
        ("*.hdr", "a.pix.hdr", "a.pix", "a_pix"),
        ("*.HDR", "SCAN.HDR", "SCAN.RAW", "SCAN"),
        ("*.raw", "a.hdr", "a.raw", "a"),
    ],
)
def test_either_file_of_a_pair_is_new_input(tmp_path, files, header, data, scene):
    setup(tmp_path, files)
    write_pair(tmp_path, header, data)
    (record,) = ingest(tmp_path)
    assert record.done, record.failures
    assert todo(tmp_path) == []
    write_pair(tmp_path, header, data, value=7)
    with pytest.raises(ChangedError, match=rf"the input of cam/{scene} changed \({data} has another content\)"):
        todo(tmp_path)
    assert ingest(tmp_path, overwrite=True)[0].done and todo(tmp_path) == []
    path = cube_paths(tmp_path, "cam", scene)[0]
    assert int(open_cube(path).stored[0, 0, 0]) == 7
    write_pair(tmp_path, header, data, value=7, nm="900, 950")
    with pytest.raises(ChangedError, match=rf"changed \({header} has another content\)"):
        todo(tmp_path)
    ingest(tmp_path, overwrite=True)
    assert open_cube(path).wavelength_nm.tolist() == [900, 950]


def test_a_second_data_file_beside_a_header_is_new_input_and_a_quicklook_is_not(tmp_path):
    setup(tmp_path, "*.hdr")
    write_pair(tmp_path, "a.hdr", "a.raw")
    ingest(tmp_path)
    (tmp_path / "raw" / "a.png").write_bytes(b"picture")
    (tmp_path / "raw" / "._a.img").write_bytes(b"left by a Mac")
    assert todo(tmp_path) == []
    (tmp_path / "raw" / "a.img").write_bytes(bytes(48))
    with pytest.raises(ChangedError, match=r"a\.img is new"):
        todo(tmp_path)


def test_a_file_that_is_only_touched_or_moved_with_its_folder_is_not_new(tmp_path):
    setup(tmp_path, "*.hdr")
    write_pair(tmp_path, "a.hdr", "a.img")
    ingest(tmp_path)
    os.utime(tmp_path / "raw" / "a.img", ns=(1, 1))
    assert todo(tmp_path) == []
    (tmp_path / "raw").rename(tmp_path / "moved")
    (tmp_path / "raw").symlink_to(tmp_path / "moved")
    assert todo(tmp_path) == []


def test_a_data_file_that_is_gone_is_told(tmp_path):
    setup(tmp_path, "*.hdr")
    write_pair(tmp_path, "a.hdr", "a.img")
    ingest(tmp_path)
    (tmp_path / "raw" / "a.img").unlink()
    with pytest.raises(ChangedError, match=r"a\.img is gone"):
        todo(tmp_path)


def test_companions_and_bands_are_input(tmp_path):
    companions = "companions:\n  - {name: labels, kind: labels, folders: {cubes: gt}}\n"
    setup(tmp_path, "cubes/*_1.png", "png-bands", companions, "[450, 550]")
    for folder in ("cubes", "gt"):
        (tmp_path / "raw" / folder).mkdir()
    for band in (1, 2):
        Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) + band).save(tmp_path / f"raw/cubes/a_{band}.png")
    ingest(tmp_path)
    labels = tmp_path / "raw" / "gt" / "a_1.png"
    Image.fromarray(np.ones((3, 4), np.uint8)).save(labels)
    with pytest.raises(ChangedError, match=r"changed \(gt/a_1\.png is new\)"):
        todo(tmp_path)
    ingest(tmp_path, overwrite=True)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(labels)
    with pytest.raises(ChangedError, match=r"gt/a_1\.png has another content"):
        todo(tmp_path)
    ingest(tmp_path, overwrite=True)
    labels.unlink()
    with pytest.raises(ChangedError, match=r"gt/a_1\.png is gone"):
        todo(tmp_path)
    ingest(tmp_path, overwrite=True)
    Image.fromarray(np.full((3, 4), 9, np.uint8)).save(tmp_path / "raw/cubes/a_3.png")
    with pytest.raises(ChangedError, match=r"cubes/a_3\.png is new"):
        todo(tmp_path)


def test_a_scene_that_failed_is_tried_again_when_its_file_is_another(tmp_path):
    setup(tmp_path, "*.hdr")
    write_pair(tmp_path, "a.hdr", "a.img")
    whole = (tmp_path / "raw" / "a.img").read_bytes()
    (tmp_path / "raw" / "a.img").write_bytes(whole[:10])
    (record,) = ingest(tmp_path)
    assert not record.done and todo(tmp_path) == []
    (tmp_path / "raw" / "a.img").write_bytes(whole)
    assert ingest(tmp_path)[0].done
