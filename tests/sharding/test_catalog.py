"""Rows: known ones load, the user's own are checked with sentences that say what to do."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy.io import savemat

from sharding.catalog import Row, expand_bands, keys, load_row
from sharding.errors import ConfigError, InputError
from sharding.readers import open_raw

# The files as they are published, where the list has a repackaging of them.
OWN_FORMS = {"cave_png", "hyperdrivevnir_raw", "hyperdriveswir_raw"}
ROW = {"key": "mine", "container": "mat", "files": "*.mat", "wavelength": [450.0, 550.0], "gsd_m": 0.01}


def write(tmp_path, **change):
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump({**ROW, **change}))
    return str(path)


def test_the_rows_are_those_of_the_published_list(shared):
    facts = yaml.safe_load((shared("catalog.yaml")).read_text())
    entries = {entry["key"]: entry for entry in facts["datasets"] + facts["extra_variants"]}
    assert set(keys()) - OWN_FORMS == set(entries) and len({load_row(key).family for key in keys()}) == 26
    for key, entry in entries.items():
        assert (load_row(key).family, load_row(key).scenes) == (entry["family"], entry["scenes"])
    assert sum(load_row(entry["key"]).scenes for entry in facts["datasets"]) == facts["totals"]["images"]


@pytest.mark.parametrize("key", keys())
def test_a_known_row_is_whole(key):
    row = load_row(key)
    assert row.key == key and row.title and row.family and row.scenes and row.download and row.layout and row.differs
    axis = row.known_wavelength_nm
    if key == "umos":
        assert row.bands is None  # 31 or 33, by the file
    elif row.wavelength != "file" or row.wavelength_else is not None:
        assert len(axis) == row.bands
        assert key == "arad_1k_16" or list(axis) == sorted(axis)
    if row.keep_bands:
        assert len(expand_bands(row.keep_bands)) == row.bands


def test_a_step_without_a_count_goes_as_far_as_the_file(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((4, 5, 33)))
    raw = open_raw(Row("x", "npy", "*", {"start": 400, "step": 10}, 0.01), tmp_path / "a.npy")
    assert raw.wavelength_nm == tuple(400.0 + 10 * band for band in range(33))


def test_another_number_of_bands_is_refused_and_lines_are_marked(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 5, 3)))
    row = Row("x", "npy", "*", [500.0, 600.0, 700.0], 0.01, bands=4)
    with pytest.raises(InputError, match="has 3 bands, row x says 4"):
        open_raw(row, tmp_path / "a.npy")
    raw = open_raw(replace(row, bands=3, invalid_rows=[1], spatial_ops=["rot90cw"]), tmp_path / "a.npy")
    assert raw.valid_HW.tolist() == [[True, True, False, True]] * 5
    with pytest.raises(InputError, match="has 4 lines"):
        open_raw(replace(row, bands=3, invalid_rows=[4]), tmp_path / "a.npy")


def test_the_wavelengths_of_the_row_serve_where_the_file_tells_none(tmp_path):
    cube = np.random.default_rng(0).random((4, 5, 3))
    row = Row("x", "mat", "*", {"variable": "bands"}, 0.01, wavelength_else=[500.0, 600.0, 700.0])
    savemat(tmp_path / "a.mat", {"rad": cube})
    savemat(tmp_path / "b.mat", {"rad": cube, "bands": np.array([410.0, 420.0, 430.0])})
    assert open_raw(row, tmp_path / "a.mat").wavelength_nm == (500.0, 600.0, 700.0)
    assert open_raw(row, tmp_path / "b.mat").wavelength_nm == (410.0, 420.0, 430.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"wavelengths": [1]}, "there is no key wavelengths; did you mean wavelength?"),
        ({"wavelength": [0.45, 0.55]}, "looks like micrometres, multiply by 1000"),
        ({"wavelength": {"start": 400}}, "must be a list, or have start, count and stop or step"),
        ({"container": "bmp"}, "container 'bmp' is not one of"),
        ({"axes": "hwc"}, "must be the letters h, w and b"),
        ({"spatial_ops": ["spin"]}, "spatial_ops 'spin' is not one of"),
        ({"gsd_m": 0}, "gsd_m must be a positive number"),
        ({"gsd_m": "near"}, "gsd_m"),
        ({"container": "mosaic-png"}, "needs mosaic"),
    ],
)
def test_a_wrong_row_says_what_to_do(tmp_path, change, sentence):
    with pytest.raises(ConfigError) as caught:
        load_row(write(tmp_path, **change))
    assert sentence in str(caught.value) and "camera.yaml" in str(caught.value)


def test_an_unknown_dataset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean cave"):
        load_row("cav")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("key", ["hyperdrivevnir_raw", "hyperdriveswir_raw"])
def test_raw_frames_are_read_as_a_cube_or_as_one_list_of_values(tmp_path, key, flat):
    row = load_row(key)
    cube = np.random.default_rng(0).integers(0, 1000, (*row.shape, row.bands)).astype(float)
    np.save(tmp_path / "a.npy", cube.ravel() if flat else cube)
    np.testing.assert_array_equal(open_raw(row, tmp_path / "a.npy").read(), cube)


def test_a_list_of_values_that_fills_no_cube_is_refused(tmp_path):
    row = load_row("hyperdriveswir_raw")
    np.save(tmp_path / "a.npy", np.zeros(168 * 211 * 9 - 1))
    with pytest.raises(InputError, match=r"a list of 319031 values, which shape \[168, 211\] does not divide"):
        open_raw(row, tmp_path / "a.npy")
