"""What a worker sees of a scene: the same picture, features and masks whatever the order of its bands on disk."""

import numpy as np
import pytest

from pseudolabel.config import ClassicalConfig, PseudolabelConfig
from pseudolabel.worker import LabelWorker
from sharding.catalog import Row, load_row
from sharding.cube_writer import write_cube
from sharding.readers import RawCube
from sharding.store import open_cube

ARAD = np.array(load_row("arad_1k_16").known_wavelength_nm)


def scene():
    """Four areas of one spectrum each, with noise: counts [H, W, 16], by rising wavelength."""
    rng = np.random.default_rng(3)
    area = (np.arange(40)[:, None] >= 18) * 2 + (np.arange(48)[None] >= 30)
    spectra = 300 + 2000 * rng.random((4, 16))
    return (spectra[area] + rng.integers(0, 30, (40, 48, 16))).astype(np.uint16)


def looked(path, wl_C, cube_HWB):
    row = Row("cam", "npy", "*", wl_C.tolist(), 0.01)
    write_cube(path, row, "a", RawCube(cube_HWB, (), tuple(wl_C.tolist())))
    worker = LabelWorker(PseudolabelConfig(segmenters="classical", classical=ClassicalConfig()))
    return worker.make(path, (0, 0, 40, 48))


@pytest.mark.parametrize("order", [np.argsort(np.argsort(ARAD)), np.arange(16)[::-1]], ids=["as published", "falling"])
def test_the_order_of_bands_changes_nothing(tmp_path, order):
    rising, cube = np.sort(ARAD), scene()
    wanted = looked(tmp_path / "a", rising, cube)
    found = looked(tmp_path / "b", rising[order], cube[..., order])
    for name in ("spatial", "spectral", "shape_HWK", "brightness_HW", "rgb"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    assert found.rgb_rule == wanted.rgb_rule == "cie1931-srgb"
    assert len(np.unique(wanted.spectral)) > 2
    assert open_cube(tmp_path / "b").wavelength_nm[open_cube(tmp_path / "b").good_band].tolist() == rising.tolist()
