"""The cube store is lossless for integers, within half a step for floats, and keeps invalid pixels invalid."""

from dataclasses import replace

import numpy as np
import pytest

from sharding import cube_writer, statistics
from sharding.catalog import Row
from sharding.cube_writer import write_cube
from sharding.errors import InputError
from sharding.readers import RawCube
from sharding.store import open_cube

ROW = Row("mine", "mat", "*", [450.0, 550.0, 650.0], 0.02, units="reflectance")
WL = (450.0, 550.0, 650.0)


def store(path, cube, row=ROW, **raw):
    body = write_cube(path, row, "one", RawCube(cube, (), WL, **raw))
    return open_cube(path), body


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, ">u2", ">i2"])
def test_sensor_integers_come_back_as_they_are(tmp_path, dtype):
    info = np.iinfo(dtype)
    cube = np.random.default_rng(0).integers(info.min, info.max, (300, 20, 3), endpoint=True).astype(dtype)
    got, body = store(tmp_path / "c", cube)
    np.testing.assert_array_equal(np.moveaxis(got.stored[:], 0, -1), cube)
    assert got.stored.dtype == np.dtype(dtype).newbyteorder("=") and body.extra["largest_error"] == 0


def test_floats_are_within_half_a_step_which_is_declared(tmp_path):
    cube = np.random.default_rng(0).normal(0, 3, (30, 20, 3)).astype(np.float32)
    got, body = store(tmp_path / "c", cube)
    error = np.abs(np.moveaxis(got.window().physical(), 0, -1) - cube).max()
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
    share = np.array(got.attrs["statistics"]["invalid_share"])
    np.testing.assert_allclose(share * 64, [2, 2, 3])
    assert got.good_band.tolist() == [0, 2] and body.counts["invalid_pixels"] == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32])
def test_sums_are_those_of_float64(dtype):
    rng = np.random.default_rng(0)
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if np.dtype(dtype).kind != "f" else (-1e4, 1e4)
    values = rng.uniform(low, high, (3, 3 * statistics.PIECE + 5)).astype(dtype)
    values[1:] = [[high], [low]]
    total, square = statistics._sums(values)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(total, wide.sum(1), rtol=1e-9)
    np.testing.assert_allclose(square, (wide * wide).sum(1), rtol=1e-9)


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
    assert body.counts["saturated_pixels"] == got.saturated().sum() == mask[5, :7].sum()
    floats, body = store(tmp_path / "f", cube / 7.0, row)
    np.testing.assert_allclose(floats.attrs["statistics"]["mean"], (cube / 7.0).mean((0, 1)) * 0.001 - 0.5)
    assert body.counts["saturated_pixels"] == 0


def lowrank(height=300, width=40, bands=9, rank=3):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(height, width, rank)).astype(np.float32)
    scores[3, 5, 1] = np.nan
    basis = (rng.random(bands).astype(np.float32), rng.normal(size=(rank, bands)).astype(np.float32))
    return RawCube(scores, (), tuple(np.linspace(450.0, 650.0, bands)), basis=basis)


def test_a_low_rank_cube_keeps_its_rank_and_is_the_same_cube_as_expanded(tmp_path):
    raw = lowrank()
    row = Row("mine", "hsd", "*", "file", 0.02, scale=2.0, offset=-1.0)
    kept, expanded = tmp_path / "kept", tmp_path / "expanded"
    body = write_cube(kept, row, "one", raw)
    write_cube(expanded, row, "one", raw, expand=True)
    a, b = open_cube(kept), open_cube(expanded)
    assert body.extra["largest_error"] == 0 and a.stored.shape == (3, 300, 40) and b.stored.shape == (9, 300, 40)
    assert a.shape_CHW == b.shape_CHW == (9, 300, 40)
    assert a.attrs["statistics"] == b.attrs["statistics"] and a.attrs["bad_band"] == b.attrs["bad_band"]
    np.testing.assert_array_equal(np.argwhere(~a.valid()), [[3, 5]])
    np.testing.assert_array_equal(a.valid(), b.valid())
    rows, cols, bands = slice(0, 290), slice(2, 30), [7, 0, 3]
    want = np.moveaxis(raw.read(rows, cols, bands).astype(np.float64) * 2 - 1, 2, 0)
    ok = a.valid(rows, cols)
    for cube, limit in ((a, 1e-5), (b, 0.5 * b.attrs["scale"] + 1e-5)):
        assert np.abs(cube.window(rows, cols).physical(bands) - want)[:, ok].max() <= limit
    kept_bands = replace(raw, kept=(1, 4, 8), wavelength_nm=(460.0, 500.0, 600.0))
    write_cube(tmp_path / "some", row, "one", kept_bands)
    got = open_cube(tmp_path / "some").window(rows, cols).physical()
    np.testing.assert_allclose(got, a.window(rows, cols).physical([1, 4, 8]), atol=1e-5)


def test_strips_make_the_same_cube(tmp_path, monkeypatch):
    cube = np.random.default_rng(0).normal(0, 3, (300, 20, 3)).astype(np.float32)
    whole, _ = store(tmp_path / "a", cube)
    monkeypatch.setattr("sharding.statistics.STRIP_BYTES", 4 * 20 * 3 * 7)
    strips, _ = store(tmp_path / "b", cube)
    np.testing.assert_array_equal(whole.stored[:], strips.stored[:])
    assert whole.stored.chunks == (3, 256, 20)
    monkeypatch.setattr("sharding.statistics.BLOCK_BYTES", 100 * 20 * 3 * 2)
    for name, values in (("floats", cube), ("counts", (cube * 100).astype(np.int16))):
        few, _ = store(tmp_path / name, values)
        assert few.stored.chunks == (3, 64, 20)
        limit = few.attrs["largest_error"] + 1e-6
        assert np.abs(np.moveaxis(few.window().physical(), 0, -1) - values).max() <= limit


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_a_block_that_does_not_read_back_is_told(tmp_path, monkeypatch, place):
    check = cube_writer.check_shard

    def failing_disk(path, chunks):
        data = bytearray(path.read_bytes())
        data[int(place * len(data)) if place >= 0 else -1] ^= 1
        path.write_bytes(data)
        check(path, chunks)

    monkeypatch.setattr(cube_writer, "check_shard", failing_disk)
    with pytest.raises(InputError, match="does not read back as it was written"):
        store(tmp_path / "c", np.random.default_rng(0).random((8, 8, 3)).astype(np.float32))


def test_a_flipped_bit_of_a_stored_cube_is_noticed_when_it_is_read(tmp_path):
    cube, _ = store(tmp_path / "c", np.random.default_rng(0).random((8, 8, 3)).astype(np.float32))
    path = next(path for path in (tmp_path / "c" / "cube" / "c").rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        cube.window()


def test_nothing_valid_and_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no pixel is valid"):
        write_cube(tmp_path / "c", ROW, "one", RawCube(np.full((4, 4, 3), np.nan), (tmp_path / "x.mat",), WL))
    with pytest.raises(InputError, match="not an ingested cube"):
        open_cube(tmp_path / "none")
