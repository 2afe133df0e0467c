"""`inspect` on a raw scene tells what to know before ingesting: shape, axis, values, what lies beside it."""

import numpy as np
import pytest

from sharding.catalog import load_row
from sharding.generator.fakes import BESIDE, FAKES, write_beside, write_fake


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
