"""Missing values, however a file marks them: dead bands first, then a pixel needs a value in every live band."""

import h5py
import numpy as np
import pytest
import tifffile
from scipy.io import savemat

from sharding.catalog import Row
from sharding.cube_writer import write_cube
from sharding.errors import InputError
from sharding.missing import Missing
from sharding.readers.raw import RawCube
from sharding.store import open_cube

WL = [450.0, 550.0, 650.0, 750.0]


def scene(dtype, none):
    """Values 10.. in which band 1 holds none at all, a corner has none anywhere, and one pixel none in band 3."""
    cube = (10 + np.arange(6 * 7 * 4).reshape(6, 7, 4)).astype(dtype)
    cube[..., 1] = none
    cube[:2, :3] = none
    cube[5, 6, 3] = none
    valid = np.ones((6, 7), bool)
    valid[:2, :3] = valid[5, 6] = False
    return cube, valid


def check(cube, want, valid):
    assert cube.attrs["bad_band"] == [False, True, False, False]
    np.testing.assert_array_equal(cube.valid(), valid)
    got = cube.window().physical().transpose(1, 2, 0)
    np.testing.assert_allclose(
        got[valid][:, [0, 2, 3]], want[valid][:, [0, 2, 3]], atol=cube.attrs["largest_error"] + 1e-5
    )
    assert np.isfinite(got).all() and cube.attrs["statistics"]["invalid_share"][1] == 1
    assert np.isfinite([cube.attrs["statistics"][name] for name in ("min", "max", "mean", "std")]).all()
    assert cube.attrs["statistics"]["max"][0] == pytest.approx(want[valid][:, 0].max(), abs=1e-3)


@pytest.mark.parametrize(("dtype", "none", "nodata"), [
    ("i2", -9999, -9999.0), ("u2", 65535, 65535.0), ("u1", 255, 255.0), ("i4", -9999, -9999.0), ("f4", -9999, -9999.0),
    ("f4", np.nan, None), ("f8", np.inf, None), ("f4", np.nan, -9999.0), ("f8", -1.7e308, -1.7e308),
])  # fmt: skip
def test_every_mark_is_one_thing(tmp_path, dtype, none, nodata):
    cube, valid = scene(dtype, none)
    write_cube(tmp_path / "c", Row("mine", "npy", "*", WL, 0.01), "one", RawCube(cube, (), tuple(WL), nodata=nodata))
    check(open_cube(tmp_path / "c"), cube.astype(float), valid)


def write_npy(path, cube):
    np.save(path, cube)


def write_hdf5(path, cube):
    with h5py.File(path, "w") as file:
        file["cube"] = cube
        file["cube"].attrs["_FillValue"] = np.array([-9999], cube.dtype)


def write_mat(path, cube):
    savemat(path, {"cube": cube})


def write_tiff(path, cube):
    tifffile.imwrite(
        path, cube.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate", metadata=None,
        extratags=[(42113, "s", 0, "-9999", True)],
    )  # fmt: skip


@pytest.mark.parametrize("container", ["npy", "hdf5", "mat", "tiff"])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_every_container(tmp_path, ingested, container, dtype):
    cube, valid = scene(dtype, -9999)
    {"npy": write_npy, "hdf5": write_hdf5, "mat": write_mat, "tiff": write_tiff}[container](tmp_path / "a.npy", cube)
    told = container in ("hdf5", "tiff")
    row = Row(
        "mine", container, "*", WL, 0.01, axes="bhw" if container == "tiff" else "hwb", nodata=None if told else -9999.0
    )
    check(ingested(row, tmp_path / "a.npy"), cube.astype(float), valid)


def test_a_band_that_the_file_calls_bad_says_nothing_about_a_pixel(tmp_path):
    cube = np.random.default_rng(0).random((6, 7, 4)).astype("f4")
    cube[2:, :, 3] = np.nan
    cube[..., 2] *= 1e6
    raw = RawCube(cube, (), tuple(WL), bad=(False, False, True, True))
    body = write_cube(tmp_path / "c", Row("mine", "npy", "*", WL, 0.01), "one", raw)
    got = open_cube(tmp_path / "c")
    assert got.valid().all() and got.attrs["bad_band"] == [False, False, True, True] and body.counts["bad_bands"] == 2
    np.testing.assert_allclose(got.window().physical().transpose(1, 2, 0)[..., :2], cube[..., :2], atol=1e-5)


def test_limits_are_those_of_the_stored_values_and_strips_change_nothing(tmp_path, monkeypatch):
    cube = np.arange(300 * 4 * 4).reshape(300, 4, 4).astype("i2")
    raw = RawCube(cube, (), tuple(WL), scale=0.1, limits=(20.0, 4700.0))
    row = Row("mine", "npy", "*", WL, 0.01)
    write_cube(tmp_path / "c", row, "one", raw)
    got = open_cube(tmp_path / "c")
    np.testing.assert_array_equal(got.valid(), ((cube >= 20) & (cube <= 4700)).all(2))
    monkeypatch.setattr("sharding.statistics.STRIP_BYTES", 4 * 4 * 2 * 7)
    write_cube(tmp_path / "d", row, "one", raw)
    assert {**open_cube(tmp_path / "d").attrs} == {**got.attrs}


def test_a_fill_value_of_the_row_that_the_type_cannot_hold_is_noted(tmp_path, ingested):
    np.save(tmp_path / "a.npy", np.arange(24, dtype="u2").reshape(2, 3, 4))
    cube = ingested(Row("mine", "npy", "*", WL, 0.01, nodata=-9999.0), tmp_path / "a.npy")
    assert cube.valid().all() and "nodata -9999 of the row does not fit the type uint16" in cube.attrs["note"]


def test_nothing_is_looked_for_where_nothing_can_be_missing():
    assert not Missing.of(None).possible(np.dtype("u2")) and not Missing.of(-9999.0).possible(np.dtype("u2"))
    assert Missing.of(-9999.0).possible(np.dtype("i2")) and Missing.of(None).possible(np.dtype("f4"))


def test_a_scene_without_a_valid_pixel_is_refused(tmp_path):
    cube = np.full((4, 4, 4), -9999, "i2")
    for fill in (cube, np.where(np.arange(16).reshape(4, 4, 1) % 4 == np.arange(4), -9999, 5).astype("i2")):
        with pytest.raises(InputError, match="no pixel is valid"):
            raw = RawCube(fill, (tmp_path / "x",), tuple(WL), nodata=-9999.0)
            write_cube(tmp_path / "c", Row("mine", "npy", "*", WL, 0.01), "one", raw)
