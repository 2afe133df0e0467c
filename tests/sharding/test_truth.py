"""A truth that is added, mended or of another size later: no cube is made anew, and what changed is named."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sharding.errors import ChangedError, InputError, StageFailed
from sharding.ingest import DatasetConfig, cube_paths, ingest_one, ingest_units, truth_units
from sharding.records import read_record
from sharding.stage import RunOptions, pending, run_units
from sharding.store import open_cube, truth_files, truth_hash
from sharding.truth import store_truth
from sharding.verify import verify

IDS = (np.arange(12).reshape(3, 4) // 5).astype(np.uint8)
CAMERA = "key: cam\ncontainer: npy\nfiles: '**/*_corrected.npy'\nwavelength: [450, 550]\ngsd_m: 0.01\n"


class Work:
    """A work folder with two scenes, ingested in this process."""

    def __init__(self, tmp_path):
        self.path, self.root = tmp_path, tmp_path / "raw"
        (tmp_path / "cam.yaml").write_text(CAMERA)
        (self.root / "day1").mkdir(parents=True)
        for name in ("a", "b"):
            cube = np.random.default_rng(0).integers(0, 99, (3, 4, 2)).astype(np.uint16)
            np.save(self.root / "day1" / f"{name}_corrected.npy", cube)

    def datasets(self, truth=None, variable=None):
        row = str(self.path / "cam.yaml")
        return [DatasetConfig("cam", str(self.root), row, truth=truth, truth_variable=variable)]

    def cubes(self, datasets):
        units = ingest_units(self.path, datasets)
        made = [ingest_one(unit) for unit in pending(units, RunOptions())]
        return units, made

    def run(self, truth, variable=None, **options):
        units, made = self.cubes(self.datasets(truth, variable))
        found, notes = truth_units(units, self.datasets(truth, variable))
        told = run_units("truth", found, self.path, RunOptions(**options), lambda todo: map(store_truth, todo))
        return len(made), told.new, notes

    def cube(self, name="a"):
        return open_cube(cube_paths(self.path, "cam", f"day1-{name}_corrected")[0])


@pytest.fixture
def work(tmp_path):
    work = Work(tmp_path)
    work.cubes(work.datasets())
    return work


def test_a_truth_that_is_added_later_makes_no_cube_anew(work):
    (work.root / "gt").mkdir()
    for name in ("a", "b"):
        savemat(work.root / "gt" / f"{name}_corrected_gt.mat", {"gt": IDS.astype(float)})
    before = read_record(cube_paths(work.path, "cam", "day1-a_corrected")[1])
    assert work.cube().labels() is None and truth_hash(work.cube().path) == ""
    truth = str(work.root / "gt" / "{stem}_gt.mat")
    assert work.run(truth) == (0, 2, [])
    np.testing.assert_array_equal(work.cube().labels(), IDS)
    assert read_record(cube_paths(work.path, "cam", "day1-a_corrected")[1]) == before
    assert work.run(truth) == (0, 0, []) and verify(work.path / "cubes").bad == []


def test_one_that_changes_is_refused_by_its_name_and_redone_alone(work):
    place = work.root / "gt.png"
    Image.fromarray(IDS).save(place)
    assert work.run(str(place))[:2] == (0, 2)
    Image.fromarray(IDS + 1).save(place)
    with pytest.raises(ChangedError, match=r"truth refuses .* input of cam/day1-a_corrected changed .*gt\.png has"):
        work.run(str(place))
    old = truth_hash(work.cube().path)
    assert work.run(str(place), overwrite=True)[:2] == (0, 2)
    np.testing.assert_array_equal(work.cube().labels(), IDS + 1)
    assert truth_hash(work.cube().path) != old


def test_places_by_id_stem_folder_and_below_the_root(work):
    (work.root / "gt" / "day1").mkdir(parents=True)
    np.save(work.root / "gt" / "day1" / "a_corrected_gt.npy", IDS)
    cubes, new, notes = work.run("gt/{folder}/{stem}_gt.npy")
    assert (cubes, new) == (0, 1)
    assert notes == ["1 of 2 scenes of cam have no truth, e.g. day1-b_corrected: nothing at gt/day1/b_corrected_gt.npy"]
    np.save(work.path / "day1-b_corrected.npy", IDS)
    with pytest.raises(ChangedError, match=r"day1-a_corrected\.json is there but its input is not any more"):
        work.run(str(work.path / "{scene}.npy"))
    assert work.run(str(work.path / "{scene}.npy"), overwrite=True)[1] == 1
    assert work.cube().labels() is None and work.cube("b").labels() is not None


def test_another_size_is_a_failure_that_names_both_sizes(work):
    for shape, more in (((4, 3), "; it seems to be turned"), ((3, 5), "")):
        place = work.path / f"{shape[0]}.npy"
        np.save(place, np.zeros(shape, np.uint8))
        sizes = rf"{shape[0]} x {shape[1]} pixels, its scene cam/day1-a_corrected is 3 x 4{more}"
        with pytest.raises(StageFailed, match=sizes):
            work.run(str(place), overwrite=True)
        assert work.cube().labels() is None


def test_an_array_of_several_is_named(work):
    place = work.path / "gt.mat"
    savemat(place, {"classes": IDS, "materials": IDS + 3})
    with pytest.raises(StageFailed, match="2 arrays that could be the label map"):
        work.run(str(place))
    assert work.run(str(place), "materials")[1] == 2
    np.testing.assert_array_equal(work.cube().labels(), IDS + 3)


def test_damage_on_disk_is_noticed(work):
    np.save(work.path / "gt.npy", IDS)
    work.run(str(work.path / "gt.npy"))
    data = truth_files(work.cube().path)[0]
    data.write_bytes(data.read_bytes()[:-1] + b"\x09")
    with pytest.raises(InputError, match="is not as its record says"):
        work.cube().labels()
    assert [failure.item for failure in verify(work.path / "cubes").bad] == [str(data)]
