"""Steps are fine enough for every band; what would cost precision is taken out and told, or warned about."""

import numpy as np
import pytest

from sharding.catalog import Row
from sharding.cube_writer import write_cube
from sharding.readers.raw import RawCube
from sharding.store import open_cube

WL = (450.0, 550.0, 650.0, 750.0)
ROW = Row("mine", "npy", "*", list(WL), 0.01)


def store(path, cube, row=ROW, **raw):
    write_cube(path, row, "one", RawCube(cube, (), WL, **raw))
    return open_cube(path)


def values(cube):
    return cube.window().physical().transpose(1, 2, 0)


def reflectance(height=40, width=50):
    return np.random.default_rng(0).uniform(0.03, 0.35, (height, width, 4)).astype("f4")


def test_bands_of_one_range_share_a_step(tmp_path):
    got = store(tmp_path / "c", reflectance())
    assert isinstance(got.attrs["scale"], float) and got.attrs["scale"] == pytest.approx(0.32 / 65534, rel=0.01)


def test_a_bright_band_costs_the_others_nothing(tmp_path):
    cube = reflectance()
    cube[..., 2] *= 1e5
    got = store(tmp_path / "c", cube)
    assert len(got.attrs["scale"]) == len(got.attrs["offset"]) == len(got.attrs["errors"]) == 4
    np.testing.assert_allclose(values(got)[..., [0, 1, 3]], cube[..., [0, 1, 3]], atol=3e-6)
    np.testing.assert_allclose(values(got)[..., 2], cube[..., 2], atol=0.3)
    assert got.attrs["note"] == "" and got.attrs["largest_error"] == max(got.attrs["errors"])
    window = got.window().physical([2, 0]).transpose(1, 2, 0)
    np.testing.assert_array_equal(window, values(got)[..., [2, 0]])


@pytest.mark.parametrize("worst", [40000.0, -1e30, 1e20])
def test_the_odd_outlier_is_marked_and_told(tmp_path, worst):
    cube = reflectance()
    cube[3, 4:7, 0] = worst
    got = store(tmp_path / "c", cube)
    assert np.argwhere(~got.valid()).tolist() == [[3, 4], [3, 5], [3, 6]]
    np.testing.assert_allclose(values(got)[got.valid()], cube[got.valid()], atol=3e-6)
    assert (
        f"3 pixels far outside the range of all others are taken as missing (stored value {worst:g}"
        in got.attrs["note"]
    )
    assert got.attrs["statistics"]["max"][0] < 0.36


def test_outliers_of_any_value_are_marked_if_they_are_few(tmp_path):
    cube = reflectance()
    cube[3, 4:12, 0] = np.geomspace(1e3, 1e6, 8)
    got = store(tmp_path / "c", cube)
    assert int((~got.valid()).sum()) == 8 and "8 pixels far outside the range" in got.attrs["note"]
    np.testing.assert_allclose(values(got)[got.valid()], cube[got.valid()], atol=3e-6)


def test_a_fill_value_that_nobody_names_is_missing_however_many_pixels_hold_it(tmp_path):
    cube = reflectance()
    cube[:20, :30] = -9999
    got = store(tmp_path / "c", cube)
    assert not got.valid()[:20, :30].any() and int(got.valid().sum()) == 40 * 50 - 600
    np.testing.assert_allclose(values(got)[got.valid()], cube[got.valid()], atol=3e-6)
    assert "600 pixels" in got.attrs["note"] and "name such a value with nodata" in got.attrs["note"]


def test_many_outliers_are_values_and_their_band_is_warned_about(tmp_path):
    cube = reflectance()
    cube[:8, :, 0] = np.random.default_rng(1).choice([-1, 1], (8, 50)) * np.geomspace(1e3, 1e12, 400).reshape(8, 50)
    cube[8:, :, 0] *= 1e-9
    got = store(tmp_path / "c", cube)
    assert got.valid().all() and "the range of 1 bands costs their precision: band 0" in got.attrs["note"]
    np.testing.assert_allclose(values(got)[..., 1:], cube[..., 1:], atol=3e-6)


def test_a_dark_scene_with_a_small_bright_object_keeps_it(tmp_path):
    cube = (reflectance() * 0.003).astype("f4")
    cube[10:13, 10:13] = 0.8
    got = store(tmp_path / "c", cube)
    assert got.valid().all() and got.attrs["note"] == ""
    np.testing.assert_allclose(values(got), cube, atol=1e-5)


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8"])
def test_wide_integers_that_reach_no_further_than_16_bits_are_exact(tmp_path, dtype):
    cube = (100000 + np.random.default_rng(0).integers(0, 65000, (9, 8, 4))).astype(dtype)
    got = store(tmp_path / "c", cube)
    np.testing.assert_array_equal(values(got), cube)
    assert got.attrs["scale"] == 1 and got.attrs["largest_error"] == 0


def test_scales_of_each_band_go_with_steps_of_each_band(tmp_path):
    cube = reflectance()
    cube[..., 2] *= 1e5
    got = store(tmp_path / "c", cube, scale=(1.0, 2.0, -1e-5, 4.0), offset=(0.0, 1.0, 0.5, 0.0))
    want = cube.astype(float) * [1, 2, -1e-5, 4] + [0, 1, 0.5, 0]
    np.testing.assert_allclose(values(got), want, atol=2e-5)
    np.testing.assert_allclose(got.attrs["statistics"]["min"], want.min((0, 1)), rtol=1e-6)
    assert got.attrs["largest_error"] == pytest.approx(np.abs(values(got) - want).max(), rel=0.2)
