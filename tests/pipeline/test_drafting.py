"""`inspect FILE` without a row, and its draft: what the file tells is there, the rest is ??? and refused until said."""

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from pipeline.drafting import draft, fitting_rows
from pipeline.inspecting import inspect
from sharding.catalog import load_row
from sharding.errors import ConfigError, InputError
from sharding.generator.fakes import FAKES, write_fake
from sharding.generator.formats import write_envi
from sharding.peek import peek
from sharding.readers import open_raw

NM = np.linspace(450.0, 800.0, 8)
CUBE = np.random.default_rng(0).integers(300, 3500, (6, 9, 8)).astype(np.uint16)


def row_of(path):
    text = draft(path, peek(path))
    return yaml.safe_load(text), text


def test_what_the_file_tells_is_filled_in(tmp_path):
    savemat(tmp_path / "My scene.mat", {"data": CUBE, "wl": NM, "mask": np.ones((6, 9))})
    row, _ = row_of(tmp_path / "My scene.mat")
    assert row == {
        "key": "my_scene", "container": "mat", "files": "**/*.mat", "variable": "data", "axes": "hwb",
        "wavelength": {"variable": "wl"}, "units": "???", "gsd_m": "???", "sensor": "???",
    }  # fmt: skip


@pytest.mark.parametrize(("order", "axes"), [((2, 0, 1), "bhw"), ((0, 2, 1), "hbw"), ((0, 1, 2), "hwb")])
def test_the_axes_follow_from_the_number_of_wavelengths(tmp_path, order, axes):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cube"], file["wavelengths"] = CUBE.transpose(order), NM
    assert row_of(tmp_path / "a.h5")[0]["axes"] == axes
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["cube"] = CUBE.transpose(order)
    row, text = row_of(tmp_path / "b.h5")
    assert row["axes"] == row["wavelength"] == "???" and "hwb, bhw or hbw" in text


def test_two_equal_candidates_are_both_named_and_none_is_taken(tmp_path):
    savemat(tmp_path / "a.mat", {"before": CUBE, "after": CUBE, "wl": NM, "nm": NM + 1})
    row, text = row_of(tmp_path / "a.mat")
    assert row["variable"] == row["wavelength"] == "???"
    assert "could be before (6, 9, 8) uint16, after (6, 9, 8) uint16" in text
    assert "could be {variable: wl} or {variable: nm}" in text


def test_a_drafted_row_reads_its_file_once_it_is_filled_in(tmp_path):
    files = {
        "a.mat": lambda path: savemat(path, {"data": CUBE, "wl": NM}),
        "a.npz": lambda path: np.savez(path, cube=CUBE, wl=NM / 1000),
        "a.hdr": lambda path: write_envi(path, CUBE, tuple(NM), "bil", "<u2", ".dat"),
    }
    for name, write in files.items():
        write(tmp_path / name)
        with pytest.raises(ConfigError, match=r"units, gsd_m, sensor still to be filled in \(it says \?\?\?\)"):
            inspect(tmp_path / name, None, None, tmp_path / f"{name}.yaml")
            load_row(str(tmp_path / f"{name}.yaml"))
        text = (tmp_path / f"{name}.yaml").read_text()
        filled = tmp_path / f"{name}-filled.yaml"
        filled.write_text(text.replace("gsd_m: ???", "gsd_m: 0.01").replace("???", "counts"))
        raw = open_raw(load_row(str(filled)), tmp_path / name)
        np.testing.assert_array_equal(raw.read(), CUBE)
        np.testing.assert_allclose(raw.wavelength_nm, NM)


def test_integers_called_reflectance_ask_for_a_scale_and_a_file_that_says_one_does_not(tmp_path):
    savemat(tmp_path / "a.mat", {"reflectance": CUBE})
    row, text = row_of(tmp_path / "a.mat")
    assert (row["units"], row["scale"]) == ("reflectance", "???") and "0.0001 if 10000 stands for 1" in text
    write_envi(tmp_path / "b.hdr", CUBE / 10000, tuple(NM), "bil", "<u2", ".dat", scale=10000.0)
    row, _ = row_of(tmp_path / "b.hdr")
    assert row["units"] == "reflectance" and "scale" not in row and row["wavelength"] == "file"


def test_a_fill_value_is_offered(tmp_path):
    cube = CUBE.astype(np.int16)
    cube[:3] = -9999
    np.save(tmp_path / "a.npy", cube)
    assert "# nodata: -9999" in row_of(tmp_path / "a.npy")[1]


def test_odd_names_make_a_row_that_is_yaml(tmp_path):
    name = "it's: a 'test'\n#1.mat"
    savemat(tmp_path / name, {"data": CUBE, "wl": NM}, appendmat=False)
    row, _ = row_of(tmp_path / name)
    assert row["variable"] == "data" and row["key"] == "it_s_a_test_1"
    for name in ("0001.mat", "2022_001.mat", "on.mat"):  # YAML would read numbers and a switch
        savemat(tmp_path / name, {"on": CUBE, "wl": NM}, appendmat=False)
        row, _ = row_of(tmp_path / name)
        assert (row["key"], row["variable"]) == (name.removesuffix(".mat"), "on")


def test_a_picture_per_band_names_the_row_of_the_catalog(tmp_path, capsys):
    write_fake("cave_png", tmp_path, list(load_row("cave_png").known_wavelength_nm))
    first = tmp_path / FAKES["cave_png"][0]
    for path in (first, first.with_name("balloons_ms_07.png")):
        assert fitting_rows(path, peek(path)) == ["cave_png"]
        inspect(path, None, None)
        assert "rows of the catalog that fit: cave_png; look with --row cave_png" in capsys.readouterr().out
    frame = tmp_path / "frame.png"
    Image.fromarray(CUBE[..., 0].copy()).save(frame)
    row, _ = row_of(frame)
    assert row["container"] == "mosaic-png" and row["mosaic"] == {"cell": "???"}
    Image.new("RGB", (4, 4)).save(frame)
    with pytest.raises(InputError, match="is a RGB picture in colours"):
        peek(frame)


def test_the_command_line(cli, tmp_path):
    savemat(tmp_path / "a.mat", {"data": CUBE, "wl": NM})
    code, out, err = cli("inspect", tmp_path / "a.mat", "--draft", tmp_path / "cam.yaml")
    flat = " ".join(out.split())
    assert code == 0, err
    assert "data │ 6 x 9 x 8 │ uint16" in flat and "the cube (hwb)" in flat and "wavelengths in nm" in flat
    assert (tmp_path / "cam.yaml").is_file()
    code, _, err = cli("inspect", tmp_path / "a.mat", "--draft", tmp_path / "cam.yaml")
    assert code == 2 and "is there already" in err


def test_what_needs_no_draft_is_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"data": CUBE})
    with pytest.raises(ConfigError, match="leave --row away"):
        inspect(tmp_path / "a.mat", "cave", None, tmp_path / "cam.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        inspect(tmp_path, None, None)
