"""The cube store is lossless for integers, within half a step for floats, and keeps invalid pixels invalid."""

import numpy as np
import pytest

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import RawCube
from sharding.store import check_cube, open_cube, write_cube

ROW = Row("mine", "mat", "*", [450.0, 550.0, 650.0], 0.02, units="reflectance")
WL = (450.0, 550.0, 650.0)


def store(path, cube, row=ROW, **raw):
    body = write_cube(path, row, "one", RawCube(cube, (), WL, **raw))
    check_cube(path)
    return open_cube(path), body


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_sensor_integers_come_back_as_they_are(tmp_path, dtype):
    info = np.iinfo(dtype)
    cube = np.random.default_rng(0).integers(info.min, info.max, (300, 20, 3), endpoint=True).astype(dtype)
    got, body = store(tmp_path / "c", cube)
    np.testing.assert_array_equal(np.moveaxis(got.stored[:], 0, -1), cube)
    assert got.stored.dtype == dtype and body.extra["largest_error"] == 0


def test_floats_are_within_half_a_step_which_is_declared(tmp_path):
    cube = np.random.default_rng(0).normal(0, 3, (30, 20, 3)).astype(np.float32)
    got, body = store(tmp_path / "c", cube)
    error = np.abs(np.moveaxis(got.physical(got.stored[:]), 0, -1) - cube).max()
    assert error <= 0.5 * got.attrs["scale"] * 1.01
    assert body.extra["largest_error"] <= 0.5 * got.attrs["scale"] * 1.0001


def test_invalid_pixels_and_constant_bands(tmp_path):
    cube = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    cube[..., 1] = 0.25
    cube[0, 0, 2] = np.nan
    cube[1, 1] = -9999
    mask = np.ones((8, 8))
    mask[2, 2] = 0
    got, body = store(tmp_path / "c", cube, nodata=-9999.0, valid_HW=mask)
    assert sorted(zip(*np.nonzero(~got.valid()), strict=True)) == [(0, 0), (1, 1), (2, 2)]
    assert got.good_band.tolist() == [0, 2] and body.counts["invalid_pixels"] == 3


def test_statistics_are_those_of_the_valid_pixels_in_physical_values(tmp_path):
    rng = np.random.default_rng(0)
    cube = rng.integers(100, 4000, (300, 21, 3)).astype(np.uint16)
    cube[5, :7, 1] = 4095
    mask = rng.random((300, 21)) > 0.2
    row = Row("mine", "mat", "*", [450.0, 550.0, 650.0], 0.02, scale=0.001, offset=-0.5)
    got, body = store(tmp_path / "c", cube, row, valid_HW=mask)
    told = got.attrs["statistics"]
    want = cube[mask].astype(np.float64) * 0.001 - 0.5
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(told[name], getattr(want, name)(0), rtol=1e-9)
    assert body.counts["saturated_pixels"] == got.attrs["saturated_pixels"] == mask[5, :7].sum()
    floats, body = store(tmp_path / "f", cube / 7.0, row)
    np.testing.assert_allclose(floats.attrs["statistics"]["mean"], (cube / 7.0).mean((0, 1)) * 0.001 - 0.5)
    assert body.counts["saturated_pixels"] == 0


def test_strips_make_the_same_cube(tmp_path, monkeypatch):
    cube = np.random.default_rng(0).normal(0, 3, (300, 20, 3)).astype(np.float32)
    whole, _ = store(tmp_path / "a", cube)
    monkeypatch.setattr("sharding.statistics.STRIP_BYTES", 8 * 20 * 3 * 7)
    strips, _ = store(tmp_path / "b", cube)
    np.testing.assert_array_equal(whole.stored[:], strips.stored[:])
    assert whole.attrs["crc32"] == strips.attrs["crc32"]


def test_nothing_valid_and_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no pixel is valid"):
        write_cube(tmp_path / "c", ROW, "one", RawCube(np.full((4, 4, 3), np.nan), (tmp_path / "x.mat",), WL))
    with pytest.raises(InputError, match="not an ingested cube"):
        open_cube(tmp_path / "none")
