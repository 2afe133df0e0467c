"""Generated scenes: the same seed gives the same bytes, twins look alike in RGB only, truth fits the pixels."""

import numpy as np
import pytest

from sharding.catalog import load_row
from sharding.generator.corpus import PLACES, CorpusConfig, corpus_units, sensor_of
from sharding.generator.corpus import _write_dataset as write_dataset
from sharding.generator.materials import GRID_NM, make_library
from sharding.generator.scene import make_scene
from sharding.readers import open_raw
from sharding.render import rendering_weights
from sharding.scenes import find_scenes


@pytest.mark.parametrize("key", sorted(PLACES))
def test_every_format_reads_back_as_the_scene_that_was_written(tmp_path, key):
    library, sensor = make_library(3), sensor_of(key)
    write_dataset(tmp_path, key, library, 32, 2, [3, 0, 0])
    row = load_row(key)
    scenes = find_scenes(row, tmp_path / "raw")
    for index, (name, path) in enumerate(scenes):
        scene = make_scene(library, sensor, 32, [3, 0, 0, index])
        raw = open_raw(row, path)
        scale = {"hotvis": 4095, "hotnir": 4095}.get(key, 1 / (raw.scale or 1))
        np.testing.assert_allclose(raw.read() / scale, scene.cube_HWB, atol=0.12 if key.startswith("hyper") else 2e-4)
        np.testing.assert_allclose(raw.wavelength_nm, sensor.wavelength_nm, atol=0.01)
        assert (tmp_path / "truth" / f"{name}_instances.png").is_file()


def test_equal_seeds_give_equal_files(tmp_path):
    for folder in ("a", "b"):
        write_dataset(tmp_path / folder, "cave", make_library(0), 24, 1, [0, 0, 0])
    files = [sorted(p for p in (tmp_path / f).rglob("*") if p.is_file()) for f in ("a", "b")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_twins_look_alike_in_rgb_and_differ_beyond_it():
    library = make_library(0)
    weights, rule = rendering_weights(GRID_NM[GRID_NM < 720])
    assert rule == "cie1931-srgb"
    for first, second in library.twins:
        difference = library.spectra_ML[first] - library.spectra_ML[second]
        assert np.abs(difference[GRID_NM < 720] @ weights).max() < 0.02
        assert np.abs(difference[GRID_NM > 800]).max() > 0.03


def test_truth_is_whole_and_consistent():
    scene = make_scene(make_library(1), sensor_of("cave"), 64, [1, 2])
    assert set(np.unique(scene.instances)) == set(range(1, int(scene.instances.max()) + 1))
    for instance in np.unique(scene.instances):
        assert len(np.unique(scene.materials[scene.instances == instance])) == 1


def test_probe_scenes_are_never_training_scenes(tmp_path):
    units = corpus_units(tmp_path, CorpusConfig(train=["cave"], probe=["cave"]))
    assert [unit.id for unit in units] == ["cave", "cave_probe"] and units[0].payload[2] != units[1].payload[2]
