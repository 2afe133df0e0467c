"""White and dark references: reflectance by hand, in each container, with exposures and scales of their own."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.ingest import DatasetConfig, ingest_one, ingest_units
from sharding.readers import open_raw

NM = [450.0, 550.0, 650.0]
RNG = np.random.default_rng(0)
SCENE = RNG.integers(200, 3000, (9, 5, 3)).astype("<u2")
WHITE = (3000 + 10 * np.arange(15).reshape(5, 3)).astype(float)
DARK = (100 + np.arange(15).reshape(5, 3)).astype(float)


def write(folder, name, cube, *keys, code=12):
    text = f"ENVI\nsamples = {cube.shape[1]}\nlines = {cube.shape[0]}\nbands = {cube.shape[2]}\ndata type = {code}\n"
    text += "interleave = bip\nbyte order = 0\nfile type = ENVI Standard\nwavelength = {450, 550, 650}\n"
    (folder / f"{name}.hdr").write_text(text + "".join(f"{key}\n" for key in keys))
    (folder / f"{name}.raw").write_bytes(cube.tobytes())
    return folder / f"{name}.hdr"


def row(container="envi", **more):
    return Row("mine", container, "*", NM, 0.01, **{"white": "WHITE_{name}.hdr", "dark": "DARK_{name}.hdr", **more})


def constant(mean, count=4):
    return np.repeat(mean[None], count, 0).astype("<u2")


def values(cube):
    return cube.window().physical().transpose(1, 2, 0)


def test_reflectance_is_what_it_is_by_hand(tmp_path, ingested):
    path = write(tmp_path, "s", SCENE)
    write(tmp_path, "WHITE_s", constant(WHITE))
    write(tmp_path, "DARK_s", constant(DARK, 3))
    cube = ingested(row(), path)
    want = (SCENE - DARK) / (WHITE - DARK)
    np.testing.assert_allclose(values(cube), want, atol=2e-5)
    assert values(cube)[0, 0, 0] == pytest.approx((int(SCENE[0, 0, 0]) - 100) / 2900, abs=2e-5)
    assert "dark and white reference applied" in cube.attrs["note"] and "no exposure is told" in cube.attrs["note"]
    assert len(cube.attrs["sources"]) == 6
    panel = ingested(row(scale=0.5, dark=None), path)
    np.testing.assert_allclose(values(panel), 0.5 * SCENE / WHITE, atol=2e-5)
    raw = open_raw(row(spatial_ops=["rot90cw"]), path)
    np.testing.assert_allclose(
        raw.read(slice(1, 4), slice(2, 7), [2, 0]), np.rot90(want, -1)[1:4, 2:7][..., [2, 0]], rtol=1e-6
    )


def test_a_reference_is_its_mean_over_lines(tmp_path, ingested):
    path = write(tmp_path, "s", SCENE)
    noisy = constant(WHITE, 150)
    noisy[::2] += 20
    noisy[1::2] -= 20
    write(tmp_path, "WHITE_s", noisy)
    np.testing.assert_allclose(values(ingested(row(dark=None), path)), SCENE / WHITE, atol=2e-5)


def test_dark_is_taken_away_before_exposures_count(tmp_path, ingested):
    path = write(tmp_path, "s", SCENE, "tint = 20 ms")
    write(tmp_path, "WHITE_s", constant(WHITE), "tint = 5000 us")
    write(tmp_path, "DARK_s", constant(DARK))
    want = (SCENE - DARK) / 20 / ((WHITE - DARK) / 5)
    np.testing.assert_allclose(values(ingested(row(), path)), want, atol=2e-5)
    own = ingested(row(exposure={"scene": 1.0, "white": 2.0}), path)
    np.testing.assert_allclose(values(own), want * 8, atol=1e-4)
    write(tmp_path, "WHITE_s", constant(WHITE))
    with pytest.raises(
        InputError, match=r"the white reference does not tell its exposure.*give exposure: \{scene: T, white: T\}"
    ):
        open_raw(row(), path)


def test_each_file_is_read_in_its_own_scale_and_fill(tmp_path, ingested):
    scene = SCENE.copy()
    scene[0, 0] = 9999
    path = write(tmp_path, "s", scene, "data gain values = {2, 4, 8}", "data ignore value = 9999")
    white = constant(WHITE * 10)
    white[0] = 7
    write(tmp_path, "WHITE_s", white, "reflectance scale factor = 10", "data ignore value = 7", "bbl = {1, 0, 1}")
    write(tmp_path, "DARK_s", constant(DARK), "data offset values = {1, 2, 3}")
    cube = ingested(row(), path)
    dark = DARK + np.array([1, 2, 3])
    want = (scene * [2.0, 4.0, 8.0] - dark) / (WHITE - dark)
    assert np.argwhere(~cube.valid()).tolist() == [[0, 0]] and cube.attrs["bad_band"] == [False, True, False]
    np.testing.assert_allclose(values(cube)[cube.valid()], want[cube.valid()], atol=2e-4)


def test_where_white_is_as_dark_as_dark_there_is_no_value(tmp_path, ingested):
    white = WHITE.copy()
    white[2, 1] = DARK[2, 1]
    path = write(tmp_path, "s", SCENE)
    write(tmp_path, "WHITE_s", constant(white))
    write(tmp_path, "DARK_s", constant(DARK))
    cube = ingested(row(), path)
    assert np.argwhere(~cube.valid())[:, 1].tolist() == [2] * 9
    assert "not brighter than dark in 1 of 15 columns x bands" in cube.attrs["note"]
    write(tmp_path, "WHITE_s", np.full((4, 5, 3), 4095, "<u2"))
    assert "the white reference is saturated at 4095" in open_raw(row(), path).note


@pytest.mark.parametrize("container", ["hdf5", "mat", "npz"])
def test_references_in_the_file_of_the_scene(tmp_path, ingested, container):
    path = tmp_path / ("a.npz" if container == "npz" else "a.x")
    arrays = {"cube": SCENE, "white": constant(WHITE, 1), "dark": constant(DARK, 2)}
    if container == "hdf5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            file["white"].attrs["scale_factor"] = 2.0
    elif container == "mat":
        savemat(path, arrays, appendmat=False)
    else:
        np.savez(path, **arrays)
    mine = row(container, white={"variable": "white"}, dark={"variable": "dark"})
    white = WHITE * 2 if container == "hdf5" else WHITE
    np.testing.assert_allclose(values(ingested(mine, path)), (SCENE - DARK) / (white - DARK), atol=2e-5)


def test_references_that_do_not_fit_are_refused(tmp_path):
    path = write(tmp_path, "s", SCENE)
    with pytest.raises(InputError, match=r"its dark reference .*DARK_s.hdr is not there; mend dark in row mine"):
        open_raw(row(), path)
    write(tmp_path, "WHITE_s", constant(WHITE[:4]))
    with pytest.raises(InputError, match=r"WHITE_s.hdr is 4 x 4 with 3 bands, the scene has 5 columns and 3 bands"):
        open_raw(row(dark=None), path)
    for wrong in ({"white": {"file": "x"}}, {"exposure": {"scene": 1.0}}, {"exposure": {"scene": 0.0, "white": 1.0}}):
        with pytest.raises(ValueError, match="must be"):
            row(**wrong)


def test_a_reference_that_changes_is_new_input(tmp_path):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw", "s", SCENE)
    (tmp_path / "refs").mkdir()
    write(tmp_path / "refs", "white", constant(WHITE))
    (tmp_path / "row.yaml").write_text(
        'key: mine\ncontainer: envi\nfiles: "*.hdr"\nwavelength: file\ngsd_m: 0.01\nwhite: ../refs/white.hdr\n'
    )
    config = DatasetConfig("mine", str(tmp_path / "raw"), row=str(tmp_path / "row.yaml"))
    (unit,) = ingest_units(tmp_path, [config])
    record = ingest_one(unit)
    assert record.done, record.failures
    (same,) = ingest_units(tmp_path, [config])
    assert same.inputs == record.inputs
    write(tmp_path / "refs", "white", constant(WHITE + 1))
    (other,) = ingest_units(tmp_path, [config])
    assert other.inputs != record.inputs
