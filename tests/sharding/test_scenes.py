"""Ids: one to a file, one file to an id, short enough for every name made of it, the same after more files came."""

import os
from pathlib import PurePath

import numpy as np
import pytest

from sharding.catalog import Row, load_row
from sharding.errors import InputError
from sharding.generator.fakes import write_fake
from sharding.ingest import DatasetConfig, cube_paths, ingest_one, ingest_units
from sharding.scenes import MOST_BYTES, find_scenes, give_ids
from sharding.stage import RunOptions, pending
from sharding.store import open_cube


def ids(*names, **known):
    return give_ids([PurePath(name) for name in names], known)


def test_without_a_collision_an_id_is_the_path():
    assert ids("a b.mat", "sub/a.mat", "2021.05.01.npy", "déjà vu/测试 1.npy", "a.pix.hdr") == [
        "a_b", "sub-a", "2021_05_01", "déjà_vu-测试_1", "a_pix",
    ]  # fmt: skip


def test_the_file_whose_name_is_the_id_keeps_it_and_the_others_get_a_hash_of_their_path():
    plain, other = ids("plot_1.npy", "plot 1.npy")
    assert plain == "plot_1" and other.startswith("plot_1-") and len(other) == len("plot_1-") + 8
    assert ids("plot 1.npy", "plot_1.npy") == [other, plain]
    for names in (("2021-05/01.npy", "2021/05-01.npy"), ("a.npy", "a.mat")):
        first, second = ids(*names)
        assert first != second and len(first) == len(second) and first[:-8] == second[:-8]


def test_a_file_that_has_a_record_keeps_its_id_whatever_comes():
    (first,) = ids("plot 1.npy")
    later = give_ids([PurePath("plot 1.npy"), PurePath("plot_1.npy")], {"plot 1.npy": first})
    assert later[0] == first == "plot_1" and later[1].startswith("plot_1-")


def test_ids_are_short_enough_and_names_that_are_no_text_have_one():
    deep = "/".join([f"{level}_campaign_2024_flight_line_reflectance_mosaic_ok" for level in range(6)])
    odd = os.fsdecode(b"Gr\xfcn 1.npy")
    found = ids(f"{deep}/a.npy", f"{deep}/b.npy", "测" * 80 + ".npy", odd, "two\nlines.npy", ".npy", "'; rm -rf x.npy")
    assert len(set(found)) == len(found) and max(len(one.encode()) for one in found) <= MOST_BYTES
    assert all(set(one) <= set("_-") | {c for c in one if c.isalnum()} for one in found)
    assert found[3:6] == ["Gr_n_1", "two_lines", "_npy"]


def test_ids_that_are_the_same_all_the_same_are_refused():
    clash = ids("plot_1.npy", "plot 1.npy")[1]
    with pytest.raises(InputError, match=rf"plot 1\.npy and {clash}\.npy have the same id {clash}; rename"):
        ids("plot_1.npy", "plot 1.npy", f"{clash}.npy")


def test_a_folder_without_files_of_the_row_says_which_row_has_some(tmp_path):
    row = Row("x", "mat", "**/*.mat", [500.0], 0.01)
    with pytest.raises(InputError, match=r"no file below .* check root= and files:"):
        find_scenes(row, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_scenes(row, tmp_path / "nowhere")
    write_fake("cave_png", tmp_path, list(load_row("cave_png").known_wavelength_nm))
    with pytest.raises(InputError, match="its files are those of row cave_png: use cave_png"):
        find_scenes(load_row("cave"), tmp_path)


CAMERA = "key: cam\ncontainer: npy\nfiles: '**/*.npy'\nwavelength: [450, 550]\ngsd_m: 0.01\n"


def ingest_folder(tmp_path, limit=None):
    (tmp_path / "cam.yaml").write_text(CAMERA)
    units = ingest_units(tmp_path, [DatasetConfig("cam", str(tmp_path / "raw"), str(tmp_path / "cam.yaml"), limit)])
    return {unit.id: ingest_one(unit) for unit in pending(units, RunOptions())}


def save(tmp_path, name, value):
    path = tmp_path / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((3, 4, 2), value, np.uint16) + np.arange(4, dtype=np.uint16)[:, None])


def value_of(tmp_path, scene):
    return int(open_cube(cube_paths(tmp_path, "cam", scene)[0]).stored[0, 0, 0])


def test_a_finished_cube_keeps_its_id_when_a_colliding_file_arrives_before_it_in_order(tmp_path):
    save(tmp_path, "plot_1.npy", 1)
    assert list(ingest_folder(tmp_path)) == ["cam/plot_1"]
    save(tmp_path, "plot 1.npy", 2)  # sorts before the other
    (added,) = ingest_folder(tmp_path)
    assert added.startswith("cam/plot_1-") and value_of(tmp_path, added[4:]) == 2 and value_of(tmp_path, "plot_1") == 1
    assert ingest_folder(tmp_path) == {}
    save(tmp_path, "x/y.npy", 3)
    assert list(ingest_folder(tmp_path)) == ["cam/x-y"]
    save(tmp_path, "x-y.npy", 4)
    (added,) = ingest_folder(tmp_path)
    assert added.startswith("cam/x-y-") and value_of(tmp_path, added[4:]) == 4 and value_of(tmp_path, "x-y") == 3
    assert ingest_folder(tmp_path) == {}


def test_a_scene_that_failed_keeps_its_id_too(tmp_path):
    save(tmp_path, "a 1.npy", 1)
    (tmp_path / "raw" / "a 1.npy").write_bytes(b"nothing")
    assert not ingest_folder(tmp_path)["cam/a_1"].done
    save(tmp_path, "a_1.npy", 2)
    (added,) = ingest_folder(tmp_path)
    assert added.startswith("cam/a_1-")


def test_a_link_to_nowhere_and_a_name_that_is_no_text(tmp_path):
    save(tmp_path, "a.npy", 1)
    (tmp_path / "raw" / "a.npy").rename(tmp_path / "raw" / os.fsdecode(b"Gr\xfcn.npy"))
    (tmp_path / "raw" / "gone.npy").symlink_to("nothing.npy")
    records = ingest_folder(tmp_path)
    assert records["cam/Gr_n"].done and value_of(tmp_path, "Gr_n") == 1
    assert "gone.npy does not exist" in records["cam/gone"].failures[0].reason
    assert ingest_folder(tmp_path) == {}
