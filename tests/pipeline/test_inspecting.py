"""`inspect` on a raw scene tells what to know before ingesting: shape, axis, values, what lies beside it."""

import numpy as np
import pytest

from sharding.catalog import Row, load_row
from sharding.cube_writer import write_cube
from sharding.generator.fakes import BESIDE, FAKES, write_beside, write_fake
from sharding.readers import RawCube


@pytest.mark.parametrize("key", ["hsiroad", "hykov2nir"])
def test_a_raw_scene_with_its_companions(cli, tmp_path, key):
    row = load_row(key)
    write_fake(key, tmp_path, list(row.known_wavelength_nm))
    write_beside(key, tmp_path)
    code, out, err = cli("inspect", tmp_path / FAKES[key][0], "--row", key, "--out", tmp_path / "p.png")
    assert code == 0, err
    flat = " ".join(out.split())
    assert f"{row.bands} bands, 6 x 9" in flat and "companions" in flat and (tmp_path / "p.png").is_file()
    assert "not found" not in flat and all(name in flat for name in BESIDE[key])


def test_a_missing_companion_is_told(cli, tmp_path):
    write_fake("aphid", tmp_path, np.array(load_row("aphid").known_wavelength_nm).tolist())
    code, out, _ = cli("inspect", tmp_path / FAKES["aphid"][0], "--row", "aphid", "--out", tmp_path / "p.png")
    assert code == 0 and "labels (not found)" in out


def test_a_cube_whose_bands_have_steps_of_their_own(cli, tmp_path):
    cube = np.random.default_rng(0).random((12, 9, 3)).astype("f4") * np.array([1, 1e5, 1], "f4")
    wl = (450.0, 550.0, 650.0)
    write_cube(tmp_path / "c", Row("mine", "npy", "*", list(wl), 0.01), "one", RawCube(cube, (), wl))
    code, out, err = cli("inspect", tmp_path / "c", "--out", tmp_path / "p.png")
    assert code == 0, err
    assert "by band)" in " ".join(out.split())
