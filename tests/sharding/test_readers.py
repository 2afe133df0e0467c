"""Every container gives back what its writer put in, lazily, and refuses what is cut or cannot be meant."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sharding.catalog import Mosaic, Row
from sharding.errors import InputError
from sharding.generator import formats
from sharding.readers import open_raw

WL = tuple(float(nm) for nm in range(400, 560, 10))


@pytest.fixture
def cube():
    rng = np.random.default_rng(0)
    base = rng.random((3, 16))
    return (rng.random((10, 12, 3)) @ base / 3).astype(np.float32)


def row(container, **more):
    return Row("mine", container, "*", more.pop("wavelength", list(WL)), 0.01, **more)


def test_mat_picks_the_cube_and_reads_a_vector_beside_it(tmp_path, cube):
    path = tmp_path / "a.mat"
    savemat(
        path, {"z_last": np.zeros((2, 2)), "img": cube.transpose(2, 0, 1), "wl": np.array(WL), "ok": np.ones((10, 12))}
    )
    raw = open_raw(row("mat", axes="bhw", wavelength={"variable": ["wavelength", "wl"]}, valid_variable="ok"), path)
    np.testing.assert_array_equal(raw.read(), cube)
    assert raw.wavelength_nm == WL and raw.valid_HW.all()


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize(("dtype", "scale"), [("<f4", 1.0), (">u2", 10000.0), ("<i2", 5000.0), (">f8", 1.0)])
def test_envi_layouts_types_and_byte_orders(tmp_path, cube, interleave, dtype, scale):
    formats.write_envi(tmp_path / "a.hdr", cube, WL, interleave, dtype, ".img", scale)
    raw = open_raw(row("envi", wavelength="file"), tmp_path / "a.hdr")
    got = raw.read(slice(2, 5), slice(1, 4), [0, 7]) * (raw.scale or 1)
    np.testing.assert_allclose(got, cube[2:5, 1:4][..., [0, 7]], atol=0.51 / scale if scale > 1 else 0)
    assert raw.wavelength_nm == WL and isinstance(raw.base_HWX.base, np.memmap)


def test_envi_header_quirks(tmp_path, cube):
    formats.write_envi(tmp_path / "a.hdr", cube, tuple(nm / 1000 for nm in WL))
    header = (tmp_path / "a.hdr").read_text().replace("byte order = 0\n", "")
    (tmp_path / "a.hdr").write_text(header)
    with pytest.raises(InputError, match="looks like micrometres"):
        open_raw(row("envi", wavelength="file"), tmp_path / "a.hdr")
    (tmp_path / "a.hdr").write_text(header.replace("Nanometers", "Micrometers"))
    raw = open_raw(row("envi", wavelength="file"), tmp_path / "a.hdr")
    assert "lacks byte order" in raw.note
    np.testing.assert_allclose(raw.wavelength_nm, WL, atol=5)
    np.testing.assert_array_equal(raw.read(), cube)


def test_mosaic_keeps_counts_drops_bands_and_floors_sides(tmp_path):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 60000, (5, 6, 16)).astype(np.uint16)
    frame = np.zeros((22, 25), np.uint16)
    for b in range(16):
        frame[b // 4 : 20 : 4, b % 4 : 24 : 4] = counts[..., b]
    Image.fromarray(frame).save(tmp_path / "a.png")
    raw = open_raw(row("mosaic-png", mosaic=Mosaic(4, [15]), wavelength=list(WL[:15])), tmp_path / "a.png")
    np.testing.assert_array_equal(raw.read(), counts[..., :15])
    assert raw.dtype == np.uint16 and "2 rows and 1 columns" in raw.note
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match="one grey channel"):
        open_raw(row("mosaic-png", mosaic=Mosaic(4)), tmp_path / "rgb.png")


def test_hsd_windows_equal_the_whole_and_its_header_tells_the_axis(tmp_path, cube):
    formats.write_hsd(tmp_path / "a.hsd", cube, WL, rank=4)
    raw = open_raw(row("hsd", wavelength="file", spatial_ops=["rot90cw"]), tmp_path / "a.hsd")
    assert raw.wavelength_nm == WL and raw.shape_HWB == (12, 10, 16)
    turned = np.rot90(cube, -1)
    np.testing.assert_allclose(raw.read(), turned, atol=1e-5)
    np.testing.assert_allclose(raw.read(slice(3, 7), slice(0, 2), [2, 9]), turned[3:7, 0:2][..., [2, 9]], atol=1e-5)


def test_hsd_impossible_headers(tmp_path, cube):
    formats.write_hsd(tmp_path / "a.hsd", cube, WL)
    good = (tmp_path / "a.hsd").read_bytes()
    for word, value in ((0, 2**31 - 1), (3, 0), (3, 99), (2, -4)):
        bad = bytearray(good)
        bad[4 * word : 4 * word + 4] = np.array([value], "<i4").tobytes()
        (tmp_path / "a.hsd").write_bytes(bad)
        with pytest.raises(InputError, match="header"):
            open_raw(row("hsd", wavelength="file"), tmp_path / "a.hsd")


WRITE = {
    "mat": lambda p, c: (formats.write_mat(p / "a.mat", c), p / "a.mat")[1],
    "envi": lambda p, c: (formats.write_envi(p / "a.hdr", c, WL), p / "a.dat")[1],
    "mosaic-png": lambda p, c: (formats.write_mosaic4(p / "a.png", c, WL), p / "a.png")[1],
    "hsd": lambda p, c: (formats.write_hsd(p / "a.hsd", c, WL), p / "a.hsd")[1],
}


@pytest.mark.parametrize("container", sorted(WRITE))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_cut_file_is_one_sentence(tmp_path, cube, container, share):
    path = WRITE[container](tmp_path, cube)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    header = path.with_suffix(".hdr") if container == "envi" else path
    with pytest.raises(InputError) as caught:
        open_raw(row(container, mosaic=Mosaic(4)), header).read()
    assert str(path.name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("container", sorted(WRITE))
def test_a_wrong_number_of_wavelengths_is_one_sentence(tmp_path, cube, container):
    path = WRITE[container](tmp_path, cube)
    header = path.with_suffix(".hdr") if container == "envi" else path
    with pytest.raises(InputError, match=r"gives 15 wavelengths but the cube has 16 bands; mend wavelength"):
        open_raw(row(container, mosaic=Mosaic(4), wavelength=list(WL[:15])), header)


def test_a_missing_file_and_a_missing_header(tmp_path):
    for container, name in (("mat", "a.mat"), ("envi", "a.hdr"), ("hsd", "a.hsd"), ("mosaic-png", "a.png")):
        with pytest.raises(InputError, match="does not exist"):
            open_raw(row(container, mosaic=Mosaic(4)), tmp_path / name)
