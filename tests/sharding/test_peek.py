"""A file without a row: every container shows its arrays, their ranges, what they say of themselves, what is odd."""

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from sharding.errors import InputError
from sharding.generator.formats import write_envi, write_hsd
from sharding.peek import Held, peek
from sharding.suspicions import axis_suspicions, plateaus, suspicions, value_range, wavelength_unit

NM = np.linspace(450.0, 800.0, 8)
CUBE = np.random.default_rng(0).integers(300, 3500, (6, 9, 8)).astype(np.uint16)


def npz(path):
    np.savez_compressed(path, cube=CUBE, wl=NM)


def png_bands(path):
    for band in range(8):
        Image.fromarray(np.ascontiguousarray(CUBE[..., band])).save(path.with_name(f"toys_{band + 1}.png"))


def v73(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["cube"] = CUBE.T
        file["wl"] = NM[None]


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["a/cube"] = CUBE
        file["a/cube"].attrs["scale_factor"] = 0.0001
        file["wl"] = NM
        file.attrs["title"] = "reflectance of a field"


WRITERS = {
    "a.npy": lambda path: np.save(path, CUBE),
    "a.npz": npz,
    "v5.mat": lambda path: savemat(path, {"cube": CUBE, "wl": NM}),
    "packed.mat": lambda path: savemat(path, {"cube": CUBE, "wl": NM}, do_compression=True),
    "v73.mat": v73,
    "a.h5": hdf5,
    "a.tif": lambda path: tifffile.imwrite(path, CUBE.transpose(2, 0, 1), photometric="minisblack"),
    "a.hdr": lambda path: write_envi(path, CUBE, tuple(NM), "bil", "<u2", ".raw"),
    "toys_3.png": png_bands,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_cube_of_every_container_is_found_with_its_range(tmp_path, name):
    WRITERS[name](tmp_path / name)
    seen = peek(tmp_path / name)
    (cube,) = [held for held in seen.arrays if held.is_cube]
    assert cube.dtype.endswith(("uint16", "u2")) and value_range(cube) == f"{CUBE.min()} to {CUBE.max()}"
    assert sorted(cube.shape) == [6, 8, 9]
    assert cube.shape == ((8, 6, 9) if seen.container in ("tiff", "png-bands") else (6, 9, 8))
    units = [wavelength_unit(held) for held in seen.arrays if held.is_vector]
    assert units == (["nm"] if name in ("a.npz", "v5.mat", "packed.mat", "v73.mat", "a.h5", "a.hdr") else [])


def test_what_files_say_of_themselves(tmp_path):
    for name in ("a.h5", "a.hdr", "toys_3.png"):
        WRITERS[name](tmp_path / name)
    seen = peek(tmp_path / "a.h5")
    assert seen.header == {"title": "reflectance of a field"} and seen.arrays[0].facts == {"scale_factor": "0.0001"}
    assert peek(tmp_path / "a.hdr").header["interleave"] == "bil"
    assert peek(tmp_path / "a.raw").container == "envi"
    seen = peek(tmp_path / "toys_3.png")
    assert (seen.files, seen.scene) == ("**/*oys_1.png", tmp_path / "toys_1.png")


def test_a_low_rank_file(tmp_path):
    write_hsd(tmp_path / "a.hsd", CUBE.astype(np.float32), tuple(NM.round()), rank=3)
    seen = peek(tmp_path / "a.hsd")
    assert seen.container == "hsd" and seen.arrays[0].shape == (6, 9, 8)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.dat", b"something", "which is none of MATLAB"),
        ("a.nc", b"CDF\x01" + bytes(600), "NetCDF 3, which is not read; convert it"),
        ("a.mat", b"\x93NUMPY\x01", "is not a readable file of a camera"),
    ],
)
def test_what_is_none_of_them_is_told(tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=sentence):
        peek(tmp_path / name)


def held(values, name="cube"):
    values = np.asarray(values)
    return Held(name, values.shape, str(values.dtype), values)


def test_a_large_array_is_looked_at_in_parts(tmp_path):
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (3000, 3000, 8))[2999:] = 7
    (cube,) = peek(tmp_path / "a.npy").arrays
    assert cube.shape == (3000, 3000, 8) and cube.values.size < 1 << 23 and cube.values.shape[2] == 8


def test_zeros_plateaus_and_constant_bands_are_told_each_with_its_number():
    cube = np.random.default_rng(0).integers(1, 5000, (40, 40, 10))
    assert suspicions(held(cube), "hwb", False) == []
    cube[:4] = 0
    cube[..., 3] = 14998
    words = suspicions(held(cube), "hwb", False)
    assert len(words) == 3
    assert words[0].startswith("9.0% of the values are 0") and words[1].startswith(
        "10.0% of the values are 14998, a fill"
    )
    assert words[2].startswith("1 bands are constant (3)")
    assert plateaus(cube) == [(14998.0, 0.1)]
    assert suspicions(held(cube.transpose(2, 0, 1)), "bhw", False)[2] == words[2]


def test_full_scale_negative_fill_and_values_that_are_not_finite_are_told():
    cube = np.random.default_rng(0).integers(1, 4000, (40, 40, 10))
    cube[:3] = 4095
    assert "4095, full scale of the sensor, or fill value" in suspicions(held(cube), "", False)[0]
    values = np.random.default_rng(0).random((40, 40, 10))
    values[0], values[1] = np.nan, -9999
    words = suspicions(held(values), "", False)
    assert words[0].startswith("2.5% of the values are NaN or infinite") and "-9999" in words[1]
    assert value_range(held(values)).startswith("-9999 to 0.99")
    assert value_range(held(np.full(3, np.nan))) == "no finite value"


def test_integers_and_per_cent_called_reflectance_are_told():
    cube = np.random.default_rng(0).integers(1, 9000, (8, 8, 4))
    assert "scale: 0.0001 if 10000 stands for 1" in suspicions(held(cube), "", True)[0]
    assert "per cent? then scale: 0.01" in suspicions(held(cube / 100), "", True)[0]
    assert suspicions(held(cube / 10000), "", True) == []


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (NM, "nm"), (NM[::-1], "nm"), (NM / 1000, "um"), ([1.0, 2.0, 3.0], ""), ([400.0, 400.0, 410.0], ""),
        ([0.1, 0.2], ""), ([400.0, np.nan], ""), ([[400.0, 500.0], [600.0, 700.0]], ""),
    ],
)  # fmt: skip
def test_what_looks_like_wavelengths(values, unit):
    assert wavelength_unit(held(values)) == unit


def test_odd_wavelengths_are_told():
    assert axis_suspicions(held(NM)) == []
    assert "in micrometres" in axis_suspicions(held(NM / 1000, "wl"))[0]
    assert axis_suspicions(held([500.0, 400.0], "wl")) == [
        "wl does not rise: bands may lie in any order, that is read as it is"
    ]
