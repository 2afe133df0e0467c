"""Every row of the catalog reads its publisher's own layout: values, wavelengths and orientation.

The fakes are not square and hold no symmetry, so a flip, a swap of axes or a missing turn changes the cube.
"""

import numpy as np
import pytest

from sharding.catalog import keys, load_row
from sharding.generator.corpus import AXES_NM
from sharding.generator.fakes import FAKES, write_beside, write_fake
from sharding.ingest import DatasetConfig, cube_paths, ingest_one, ingest_units
from sharding.readers import open_raw
from sharding.scenes import find_scenes
from sharding.store import open_cube


def axis_of(key):
    return np.array(AXES_NM[key] if key in AXES_NM else load_row(key).known_wavelength_nm)


def test_every_row_has_its_fake():
    assert set(FAKES) == set(keys())


@pytest.mark.parametrize("key", keys())
def test_a_row_reads_its_own_layout(tmp_path, key):
    row = load_row(key)
    cube = write_fake(key, tmp_path, axis_of(key).tolist())
    ((_, path),) = find_scenes(row, tmp_path)
    raw = open_raw(row, path)
    assert len(raw.wavelength_nm) == raw.shape_HWB[2] == cube.shape[2]
    np.testing.assert_allclose(raw.wavelength_nm, axis_of(key), atol=0.01)
    assert raw.dtype.kind == cube.dtype.kind
    np.testing.assert_allclose(
        raw.read(slice(0, cube.shape[0])), cube, atol=1e-5 if key == "hyperspectralcityv2" else 0
    )
    if key == "hyperblood":
        assert np.flatnonzero(~raw.valid_HW.all(1)).tolist() == [445]
    else:
        assert raw.shape_HWB == cube.shape


@pytest.mark.parametrize("key", keys())
def test_an_ingested_row_is_the_cube_with_all_that_lies_beside_it(tmp_path, key):
    cube = write_fake(key, tmp_path / "raw", axis_of(key).tolist())
    beside = write_beside(key, tmp_path / "raw")
    assert [one.name for one in load_row(key).companions] == list(beside)
    (unit,) = ingest_units(tmp_path, [DatasetConfig(key, str(tmp_path / "raw"))])
    record = ingest_one(unit)
    assert record.done, record.failures
    assert (record.counts["companions"], record.extra["missing"]) == (len(beside), [])
    stored = open_cube(cube_paths(tmp_path, key, unit.payload[1])[0])
    got = stored.window(slice(0, cube.shape[0])).physical().transpose(1, 2, 0)
    scale = load_row(key).scale or 1.0
    limit = stored.attrs["largest_error"] * 1.01 + 1e-6
    assert np.abs(got - cube.astype(float) * scale).max() <= (limit if cube.dtype.kind == "f" else 1e-9)
    np.testing.assert_allclose(stored.wavelength_nm, axis_of(key), atol=0.01)
    for name, want in beside.items():
        told = stored.attrs["companions"][name]
        pixels = np.array(told["box"]) if told["kind"] == "boxes" else stored.companion(name)
        assert pixels is not None, f"{name} does not lie over the cube"
        lossy = told["file"].endswith(".jpg")
        np.testing.assert_allclose(pixels.astype(float), want, atol=20 if lossy else 0)
