"""What HDF5, netCDF-4 and MATLAB v7.3 files say of their values, by the name that a convention gives it."""

import h5py
import numpy as np
import pytest
from h5py import h5d, h5s

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import open_raw

NM = [450.0, 550.0, 650.0, 750.0]
COUNTS = np.arange(100, 100 + 5 * 6 * 4).reshape(5, 6, 4).astype("i2")


def row(container="hdf5", **more):
    return Row("mine", container, "*", more.pop("wavelength", NM), 0.01, **more)


def write(path, cube=COUNTS, name="data/cube", beside=(), root=(), matlab=False, **attrs):
    """A file with one cube; `beside` are further arrays, `root` attributes of the file."""
    with h5py.File(path, "w", userblock_size=512 if matlab else 0) as file:
        file[name] = cube.transpose() if matlab else cube
        file[name].attrs.update(attrs)
        for other, values in dict(beside).items():
            file[other] = values
        file.attrs.update(dict(root))
    if matlab:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file")
    return path


def values(cube):
    return cube.window().physical().transpose(1, 2, 0)


@pytest.mark.parametrize("matlab", [False, True])
@pytest.mark.parametrize(("attrs", "want"), [
    ({"scale_factor": 0.5, "add_offset": -3.0}, COUNTS * 0.5 - 3),
    ({"Scale_Factor": 1000.0}, COUNTS / 1000),
    ({"Scale_Factor": [1000.0, 2000.0, 500.0, 10.0]}, COUNTS / [1000, 2000, 500, 10]),
    ({"scale_factor": np.array([0.1, 0.2, 0.3, 0.4], "f4")}, COUNTS * [0.1, 0.2, 0.3, 0.4]),
    ({"scale_factor": 10000.0}, COUNTS * 10000.0),
    ({"add_offset": 7}, COUNTS + 7.0),
])  # fmt: skip
def test_scales_multiply_or_divide_by_their_name(tmp_path, ingested, matlab, attrs, want):
    path = write(tmp_path / "a.mat", matlab=matlab, **attrs)
    cube = ingested(row("mat" if matlab else "hdf5"), path)
    np.testing.assert_allclose(values(cube), want, rtol=2e-6)
    note = "scale_factor 10000 multiplies, as CF says" in cube.attrs["note"]
    assert note == (attrs.get("scale_factor", 0) is not None and np.max(attrs.get("scale_factor", 0)) > 100)


@pytest.mark.parametrize(("attrs", "words"), [
    ({"Scale_Factor": 0.0001}, "by NEON's convention it divides.*give scale in row mine"),
    ({"scale_factor": 0.0}, "a scale of 0 makes no values"), ({"scale_factor": np.nan}, "scale_factor is"),
    ({"scale_factor": [1.0, 2.0]}, "2 values.*not one finite number or one for each of 4 bands"),
    ({"_Unsigned": "true"}, "mean unsigned numbers"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path, attrs, words):
    with pytest.raises(InputError, match=words):
        open_raw(row(), write(tmp_path / "a.h5", **attrs))


def test_a_row_that_gives_scale_and_offset_needs_none_of_the_file(tmp_path, ingested):
    for attrs in ({"scale_factor": "x"}, {"scale_factor": 0.0}, {"Scale_Factor": 0.01}, {"add_offset": np.inf}):
        cube = ingested(row(scale=2.0, offset=-1.0), write(tmp_path / "a.h5", **attrs))
        assert values(cube)[0, 0, 0] == 199
    cube = ingested(row(scale=2.0), write(tmp_path / "a.h5", Scale_Factor=100.0))
    assert "scale 2 of the row is used, the file says 0.01" in cube.attrs["note"]


@pytest.mark.parametrize("name", ["_FillValue", "missing_value", "Data_Ignore_Value", "nodata", "No Data Value"])
@pytest.mark.parametrize(
    "form", [float, np.int16, lambda value: np.array([value], "f4"), lambda value: str(int(value))]
)
def test_fill_values_by_any_of_their_names(tmp_path, ingested, name, form):
    cube = ingested(row(), write(tmp_path / "a.h5", **{name: form(100)}))
    assert np.argwhere(~cube.valid()).tolist() == [[0, 0]]
    unfit = open_raw(row(), write(tmp_path / "b.h5", COUNTS.astype("u2"), **{name: form(-9999)}))
    assert "-9999 of the file does not fit its type uint16" in unfit.note


@pytest.mark.parametrize("attrs", [{"valid_range": [101, 215]}, {"valid_min": 101, "valid_max": 215}])
def test_values_outside_of_the_valid_range_are_missing(tmp_path, ingested, attrs):
    cube = ingested(row(), write(tmp_path / "a.h5", **attrs))
    assert np.argwhere(~cube.valid()).tolist() == [[0, 0], [4, 5]]


def test_fill_values_without_an_attribute(tmp_path, ingested):
    own = COUNTS.copy()
    own[0, :2] = -32767
    cube = ingested(row(), write(tmp_path / "a.nc", own, root={"_NCProperties": "version=2"}))
    assert np.argwhere(~cube.valid()).tolist() == [[0, 0], [0, 1]] and "netCDF's own, -32767" in cube.attrs["note"]
    assert ingested(row(), write(tmp_path / "b.h5", own)).valid().all()
    with h5py.File(tmp_path / "d.nc", "w") as file:
        file.attrs["_NCProperties"] = "version=2"
        file.create_dataset("cube", data=(COUNTS + 36).astype("u1"), chunks=(5, 6, 4), fillvalue=255)
    assert ingested(row(), tmp_path / "d.nc").valid().all()
    with h5py.File(tmp_path / "c.h5", "w") as file:
        data = file.create_dataset("cube", (5, 6, 4), "f4", chunks=(5, 3, 4), fillvalue=-9999.0)
        data[:, :3] = COUNTS[:, :3]
    cube = ingested(row(), tmp_path / "c.h5")
    assert (
        np.argwhere(~cube.valid())[:, 1].tolist() == [3, 4, 5] * 5
        and "-9999, that of the dataset" in cube.attrs["note"]
    )
    np.testing.assert_allclose(values(cube)[:, :3], COUNTS[:, :3], atol=0.001)


@pytest.mark.parametrize(("stored", "attrs"), [
    ([0.45, 0.55, 0.65, 0.75], {"units": "micrometers"}), ([0.45, 0.55, 0.65, 0.75], {"wavelength_units": b"um"}),
    (NM, {"Units": "Nanometers (nm)"}), (NM, {}), ([450, 550, 650, 750], {"units": "nm"}),
    (np.array([4500, 5500, 6500, 7500], "u2"), {"scale_factor": 0.1, "units": "nm"}),
    ([4.5e-7, 5.5e-7, 6.5e-7, 7.5e-7], {"units": "m"}),
])  # fmt: skip
def test_wavelengths_by_their_own_attributes(tmp_path, stored, attrs):
    path = write(tmp_path / "a.h5", beside={"meta/wl": np.array(stored)[:, None]})
    with h5py.File(path, "r+") as file:
        file["meta/wl"].attrs.update(attrs)
    raw = open_raw(row(wavelength={"variable": "wl"}), path)
    np.testing.assert_allclose(raw.wavelength_nm, NM)


def test_wavelengths_in_an_attribute_of_the_file(tmp_path):
    raw = open_raw(row(wavelength={"variable": "List_Cw"}), write(tmp_path / "a.h5", root={"List_Cw": NM[::-1]}))
    assert raw.wavelength_nm == tuple(NM[::-1])
    with pytest.raises(InputError, match="got 0"):
        open_raw(row(wavelength={"variable": "List_Cw"}), write(tmp_path / "b.h5", root={"List_Cw": [0.0, *NM[1:]]}))


def test_wavelengths_that_are_none_are_refused_with_what_there_is(tmp_path):
    path = write(tmp_path / "a.h5", beside={"meta/wl": np.array([-1.0, *NM[1:]]), "other": np.arange(4.0)})
    with h5py.File(path, "r+") as file:
        file["meta/wl"].attrs.update({"_FillValue": -1.0, "units": "cm-1"})
    with pytest.raises(InputError, match="units of the file are 'cm-1'"):
        open_raw(row(wavelength={"variable": "meta/wl"}), path)
    with h5py.File(path, "r+") as file:
        file["meta/wl"].attrs["units"] = "nm"
    with pytest.raises(InputError, match="got nan"):
        open_raw(row(wavelength={"variable": "meta/wl"}), path)
    with pytest.raises(InputError, match=r"no vector lambda \(it holds meta/wl, other\)"):
        open_raw(row(wavelength={"variable": "lambda"}), path)


@pytest.mark.parametrize(("name", "flags", "want"), [
    ("params/good_wavelengths", np.array([1, 1, 0, 1], "u1"), [False, False, True, False]),
    ("bad_bands", np.array([True, False, False, False]), [True, False, False, False]),
    ("bbl", np.array([1.0, 0.0, -1.0, 1.0])[:, None], [False, True, True, False]),
])  # fmt: skip
def test_flags_of_bands_beside_the_cube_are_used(tmp_path, ingested, name, flags, want):
    cube = ingested(row(), write(tmp_path / "a.h5", beside={name: flags}))
    assert cube.attrs["bad_band"] == want and f"bad bands are those of {name}" in cube.attrs["note"]


def test_lists_of_numbers_are_no_flags_and_noted(tmp_path, ingested):
    cube = ingested(row(), write(tmp_path / "a.h5", beside={"bad_bands": [3], "good_wavelengths": np.array(NM)}))
    assert not any(cube.attrs["bad_band"])
    assert "bad_bands = 3" in cube.attrs["note"] and "good_wavelengths = 450 550 650 750" in cube.attrs["note"]


def test_fwhm_beside_the_wavelengths(tmp_path):
    path = write(tmp_path / "a.h5", beside={"m/wl": np.array(NM) / 1000, "m/FWHM": np.full(4, 0.005)})
    with h5py.File(path, "r+") as file:
        file["m/wl"].attrs["units"] = "um"
    raw = open_raw(row(wavelength={"variable": "m/wl"}, fwhm_nm="file"), path)
    np.testing.assert_allclose(raw.fwhm_nm, [5.0] * 4)


def test_what_is_not_used_and_may_matter_is_noted(tmp_path):
    path = write(tmp_path / "a.h5", beside={"gain": np.arange(4.0), "zenith": np.zeros((5, 6)), "DN_to_refl": 0.5},
                 root={"ScaleFactor_Vnir": 100.0, "title": "x"}, bias=3, units="W/m2", history="y")  # fmt: skip
    note = open_raw(row(units="radiance"), path).note
    for word in (
        "gain = 0 1 2 3",
        "DN_to_refl = 0.5",
        "ScaleFactor_Vnir = 100",
        "bias = 3",
        "units of the file are 'W/m2'",
    ):
        assert word in note
    assert "zenith" not in note and "title" not in note and "history" not in note


def test_one_of_two_equals_is_never_taken(tmp_path):
    path = write(tmp_path / "a.h5", beside={"refl": COUNTS.astype("f4"), "small": np.zeros((2, 2, 2))})
    with pytest.raises(
        InputError, match=r"2 arrays of one size.*data/cube \(5, 6, 4\) int16, refl \(5, 6, 4\) float32.*say which"
    ):
        open_raw(row(), path)
    assert open_raw(row(variable="refl"), path).variable == "refl"
    assert open_raw(row(variable="cube"), path).variable == "data/cube"
    path = write(tmp_path / "b.h5", beside={"other/cube": COUNTS[:3]})
    with pytest.raises(InputError, match="2 arrays named 'cube': data/cube, other/cube; say which with variable"):
        open_raw(row(variable="cube"), path)
    raw = open_raw(row(), path)
    assert (
        raw.variable == "data/cube"
        and "data/cube is the cube, the largest of data/cube (5, 6, 4) int16, other/cube" in raw.note
    )


def test_what_a_file_holds_is_told_when_nothing_fits(tmp_path):
    path = write(tmp_path / "a.h5", COUNTS[None], name="refl")
    with pytest.raises(
        InputError, match=r"no 3-D array of numbers \(it holds refl \(1, 5, 6, 4\) int16\); save one cube"
    ):
        open_raw(row(), path)
    path = write(tmp_path / "b.h5", COUNTS + 1j)
    with pytest.raises(InputError, match=r"data/cube \(5, 6, 4\) of complex128, no numbers"):
        open_raw(row(), path)
    (tmp_path / "c.nc").write_bytes(b"CDF\x01" + bytes(60))
    with pytest.raises(InputError, match=r"classic netCDF file; save it as netCDF-4"):
        open_raw(row(), tmp_path / "c.nc")
    with h5py.File(tmp_path / "d.mat", "w") as file:
        file["#refs#/a"] = COUNTS
        cell = file.create_dataset("scans", (1, 1), h5py.ref_dtype)
        cell[0, 0] = file["#refs#/a"].ref
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
    with pytest.raises(InputError, match=r"holds #refs#/a \(4, 6, 5\) int16, scans cell\); "):
        open_raw(row("mat"), tmp_path / "d.mat")
    assert open_raw(row("mat", axes="bwh", variable="#refs#/a"), tmp_path / "d.mat").shape_HWB == (5, 6, 4)


def test_a_filter_that_is_not_installed_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((5, 6, 4))
        plist.set_filter(32017, h5py.h5z.FLAG_OPTIONAL, ())
        h5d.create(file.id, b"cube", h5py.h5t.NATIVE_INT16, h5s.create_simple((5, 6, 4)), plist)
    with pytest.raises(InputError, match=r"HDF5 filter .*not installed; repack it"):
        open_raw(row(), tmp_path / "a.h5")
