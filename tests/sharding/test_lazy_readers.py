"""HDF5, MATLAB v7.3, numpy and TIFF: windows equal the whole in any turn, little is read, lies are refused."""

import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from sharding.catalog import SPATIAL_OPS, Row
from sharding.errors import ConfigError, InputError
from sharding.readers import open_raw
from sharding.readers.lazy import LazyCube

WL = [400.0 + 10 * band for band in range(6)]
AXES = ("hwb", "bhw", "bwh", "whb")


@pytest.fixture
def cube():
    return np.random.default_rng(0).integers(0, 4000, (7, 9, 6)).astype(np.uint16)


def row(container, **more):
    return Row("mine", container, "*", more.pop("wavelength", WL), 0.01, **more)


def on_disk(cube, axes):
    return np.ascontiguousarray(cube.transpose(["hwb".index(letter) for letter in axes]))


def write(container, path, array):
    if container in ("hdf5", "mat"):
        with h5py.File(path, "w", userblock_size=512 if container == "mat" else 0) as file:
            stored = array.transpose() if container == "mat" else array
            chunks = tuple(min(3, side) for side in stored.shape)
            file.create_dataset("cube", data=stored, chunks=chunks, compression="gzip")
            file["small"], file["wl"] = np.zeros((2, 2)), np.array(WL)
        if container == "mat":
            with path.open("r+b") as file:
                file.write(b"MATLAB 7.3 MAT-file")
    elif container == "npy":
        np.save(path, array)
    elif container == "npz":
        np.savez_compressed(path, cube=array)
    else:
        tifffile.imwrite(path, array, photometric="minisblack", planarconfig="separate")


@pytest.mark.parametrize("container", ["hdf5", "mat", "npy", "npz", "tiff"])
@pytest.mark.parametrize("axes", AXES)
def test_every_container_gives_back_its_cube_turned(tmp_path, cube, container, axes):
    path = tmp_path / f"scene.{container}"
    write(container, path, on_disk(cube, axes))
    raw = open_raw(row(container, axes=axes, spatial_ops=["rot90cw", "flipud"]), path)
    want = np.flipud(np.rot90(cube, -1))
    assert raw.shape_HWB == want.shape and raw.dtype == np.uint16
    np.testing.assert_array_equal(raw.read(), want)
    np.testing.assert_array_equal(raw.read(slice(2, 8), slice(1, 4), [0, 4, 5]), want[2:8, 1:4][..., [0, 4, 5]])


@pytest.mark.parametrize("axes", AXES)
def test_a_lazy_cube_turns_as_numpy_does(cube, axes):
    turns = {
        "rot90cw": lambda a: np.rot90(a, -1), "rot90ccw": np.rot90, "transpose": lambda a: a.swapaxes(0, 1),
        "fliplr": np.fliplr, "flipud": np.flipud,
    }  # fmt: skip
    assert set(turns) == set(SPATIAL_OPS)
    rng = np.random.default_rng(1)
    for _ in range(40):
        ops = rng.choice(list(turns), rng.integers(0, 4)).tolist()
        lazy, want = LazyCube(on_disk(cube, axes), axes), cube
        for op in ops:
            lazy, want = lazy.turned(op), turns[op](want)
        assert lazy.shape == want.shape
        for rows, cols in (
            (slice(None), slice(None)),
            (slice(1, 6, 2), slice(-3, None)),
            (slice(5, 1, -1), slice(2, 3)),
        ):
            got = lazy.read(rows, cols, [5, 0, 1, 3])
            np.testing.assert_array_equal(got, want[rows, cols][..., [5, 0, 1, 3]], str((ops, rows, cols)))


def test_kept_bands_and_a_wavelength_vector_beside_the_cube(tmp_path, cube):
    write("hdf5", tmp_path / "a.h5", cube)
    raw = open_raw(row("hdf5", keep_bands=["1-2", "5"], wavelength={"variable": "wl"}), tmp_path / "a.h5")
    np.testing.assert_array_equal(raw.read(), cube[..., [1, 2, 5]])
    np.testing.assert_array_equal(raw.read(bands=[2, 0]), cube[..., [5, 1]])
    assert raw.wavelength_nm == (410.0, 420.0, 450.0)
    with pytest.raises(InputError, match="has 6 bands, row mine keeps band 9"):
        open_raw(row("hdf5", keep_bands=["9"], wavelength=[500.0]), tmp_path / "a.h5")
    for wrong in (["b"], ["3", "1"], []):
        with pytest.raises((ValueError, ConfigError), match="keep_bands"):
            row("hdf5", keep_bands=wrong)


def test_a_window_of_hdf5_reads_only_its_chunks(tmp_path):
    path = tmp_path / "big.h5"
    with h5py.File(path, "w") as file:
        noise = np.random.default_rng(0).integers(0, 65535, (512, 512, 32)).astype(np.uint16)
        file.create_dataset("cube", data=noise, chunks=(64, 64, 32), compression="gzip", compression_opts=1)
    raw = open_raw(row("hdf5", wavelength={"start": 400, "step": 5, "count": 32}), path)
    counter = {"before": _bytes_read()}
    window = raw.read(slice(64, 128), slice(0, 64))
    counter["after"] = _bytes_read()
    np.testing.assert_array_equal(window, noise[64:128, :64])
    assert counter["after"] - counter["before"] < path.stat().st_size / 20


def _bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])


def test_values_that_lie_elsewhere_are_not_followed(tmp_path, cube):
    np.save(tmp_path / "secret.bin", cube)
    for name in ("external", "virtual", "link"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            if name == "external":
                size = (str(tmp_path / "secret.bin.npy"), 0, h5py.h5f.UNLIMITED)
                file.create_dataset("cube", cube.shape, "u2", external=[size])
            elif name == "virtual":
                layout = h5py.VirtualLayout(cube.shape, "u2")
                layout[:] = h5py.VirtualSource("other.h5", "cube", cube.shape)
                file.create_virtual_dataset("cube", layout)
            else:
                file["cube"] = h5py.ExternalLink("other.h5", "cube")
        with pytest.raises(InputError, match=r"another file|no 3-D"):
            open_raw(row("hdf5"), tmp_path / f"{name}.h5")


def test_objects_and_sizes_that_lie_are_refused(tmp_path, cube):
    np.save(tmp_path / "a.npy", np.array([[["x", None]]], object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects"):
        open_raw(row("npy"), tmp_path / "a.npy")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<u2", "fortran_order": False, "shape": (10**6, 10**6, 6)})
    (tmp_path / "b.npy").write_bytes(header.getvalue() + bytes(100))
    with pytest.raises(InputError, match=r"b\.npy"):
        open_raw(row("npy"), tmp_path / "b.npy")
    for name, body in (("lie.npz", bytes(100)), ("bomb.npz", bytes(1 << 24))):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("cube.npy", header.getvalue() + body)
        with pytest.raises(InputError, match=r"bytes are not"):
            open_raw(row("npz"), tmp_path / name)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("cube", (10**5, 10**5, 10**4), "u2", chunks=(10**3, 10**3, 10**3))
    with pytest.raises(InputError, match="chunks of"):
        open_raw(row("hdf5"), tmp_path / "c.h5")


def test_a_missing_name_lists_what_is_there(tmp_path, cube):
    write("hdf5", tmp_path / "a.h5", cube)
    with pytest.raises(
        InputError, match=r"no 3-D array 'hypercube' of numbers \(it holds cube \(7, 9, 6\) uint16, small"
    ):
        open_raw(row("hdf5", variable="hypercube"), tmp_path / "a.h5")
    np.savez(tmp_path / "a.npz", a=cube, b=cube)
    with pytest.raises(
        InputError, match=r"a \(7, 9, 6\) uint16, b \(7, 9, 6\) uint16; say which with variable: a in row mine"
    ):
        open_raw(row("npz"), tmp_path / "a.npz")
    tifffile.imwrite(tmp_path / "grey.tif", cube[..., 0])
    with pytest.raises(InputError, match="not a cube of bands"):
        open_raw(row("tiff"), tmp_path / "grey.tif")
