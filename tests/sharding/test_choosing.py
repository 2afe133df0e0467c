"""One of several arrays is named, never guessed: MATLAB v5, npz and npy; matrices of pixels; what is told beside."""

import numpy as np
import pytest
from scipy.io import savemat

from sharding.catalog import Row
from sharding.errors import InputError
from sharding.readers import open_raw

NM = [450.0, 550.0, 650.0, 750.0]
COUNTS = np.arange(100, 100 + 5 * 6 * 4).reshape(5, 6, 4).astype("u2")
SAVE = {"mat": savemat, "npz": lambda path, arrays: np.savez(path, **arrays)}


def row(container, **more):
    return Row("mine", container, "*", more.pop("wavelength", NM), 0.01, **more)


@pytest.mark.parametrize("container", SAVE)
def test_two_cubes_of_one_size_are_listed(tmp_path, container):
    path = tmp_path / f"a.{container}"
    for names in (("raw", "refl"), ("refl", "raw")):
        SAVE[container](path, {name: COUNTS.astype("f4") if name == "refl" else COUNTS for name in names})
        with pytest.raises(InputError, match=r"2 arrays of one size") as caught:
            open_raw(row(container), path)
        assert "raw (5, 6, 4) uint16" in str(caught.value) and "refl (5, 6, 4) float32" in str(caught.value)
    assert open_raw(row(container, variable="raw"), path).variable == "raw"


@pytest.mark.parametrize("container", SAVE)
def test_the_largest_is_told_with_what_else_is_there(tmp_path, container):
    path = tmp_path / f"a.{container}"
    SAVE[container](path, {"white": COUNTS[:1], "cube": COUNTS, "wl": np.array(NM), "gain": np.array([2.0]),
                           "good_bands": np.array([1, 1, 0, 1])})  # fmt: skip
    raw = open_raw(row(container, wavelength={"variable": "wl"}), path)
    assert raw.wavelength_nm == tuple(NM) and raw.bad == (False, False, True, False) and raw.variable == "cube"
    assert "cube is the cube, the largest of white (1, 6, 4) uint16, cube (5, 6, 4) uint16" in raw.note
    assert "gain = 2" in raw.note and "bad bands are those of good_bands" in raw.note
    with pytest.raises(InputError, match=r"no vector lambda \(it holds .*wl"):
        open_raw(row(container, wavelength={"variable": "lambda"}), path)


def test_members_with_one_last_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"white/data": COUNTS + 1, "cube/data": COUNTS})
    np.testing.assert_array_equal(open_raw(row("npz", variable="cube/data"), path).read(), COUNTS)
    with pytest.raises(InputError, match="2 arrays named 'data': white/data, cube/data; say which"):
        open_raw(row("npz", variable="data"), path)


def test_structs_cells_and_complex_numbers_are_named(tmp_path):
    path = tmp_path / "a.mat"
    cells = np.empty((1, 2), object)
    cells[0, 0] = cells[0, 1] = COUNTS
    savemat(path, {"scan": {"cube": COUNTS, "wl": np.array(NM)}, "scans": cells, "wave": COUNTS * 1j, "title": "x"})
    with pytest.raises(InputError) as caught:
        open_raw(row("mat"), path)
    held = ("scan 1x1 struct of cube, wl", "scans 1x2 cell", "wave 5x6x4 complex array")
    for words in (*held, "save('new.mat', '-struct'"):
        assert words in str(caught.value)


def test_objects_and_files_under_another_name(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="never unpickled; save a plain array"):
        open_raw(row("npy"), tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", cube=COUNTS)
    with pytest.raises(InputError, match="set container: npz"):
        open_raw(row("npy"), (tmp_path / "b.npz").rename(tmp_path / "b.npy"))
    np.savez(tmp_path / "c.npz", cube=np.array([{}], object), flat=COUNTS[..., 0])
    with pytest.raises(InputError, match=r"holds cube \(1,\) of object, no numbers, flat \(5, 6\) uint16\)"):
        open_raw(row("npz"), tmp_path / "c.npz")


def write_matrix(container, path, matrix):
    import h5py
    import tifffile

    if container in SAVE:
        SAVE[container](path, {"x": matrix})
    elif container == "npy":
        np.save(path, matrix)
    elif container == "tiff":
        tifffile.imwrite(path, matrix, photometric="minisblack", metadata=None)
    else:
        with h5py.File(path, "w", userblock_size=512 if container == "mat73" else 0) as file:
            file["x"] = matrix.transpose() if container == "mat73" else matrix
        if container == "mat73":
            with path.open("r+b") as file:
                file.write(b"MATLAB 7.3 MAT-file")


@pytest.mark.parametrize("container", ["npy", "npz", "tiff", "hdf5", "mat", "mat73"])
@pytest.mark.parametrize("axes", ["hwb", "whb", "bhw", "bwh"])
def test_a_matrix_of_pixels_is_unfolded_in_the_order_of_its_axes(tmp_path, container, axes):
    matlab = container.startswith("mat")
    first, second = (letter for letter in axes if letter != "b")
    plane = COUNTS if (first, second) == ("h", "w") else COUNTS.swapaxes(0, 1)
    matrix = plane.reshape(30, 4, order="F" if matlab else "C")
    path = tmp_path / "a.npy"
    write_matrix(container, path, matrix.T if axes[0] == "b" else matrix)
    name = "mat" if matlab else container
    if container == "npz":
        path = path.with_name("a.npy.npz")
    raw = open_raw(row(name, axes=axes, shape=[5, 6]), path)
    np.testing.assert_array_equal(raw.read(), COUNTS)
    np.testing.assert_array_equal(raw.read(slice(1, 4), slice(2, 5), [3, 0]), COUNTS[1:4, 2:5][..., [3, 0]])
    np.testing.assert_array_equal(raw.read(slice(0, 5, 2), slice(5, 6), slice(1, 3)), COUNTS[::2, 5:6, 1:3])
    with pytest.raises(InputError, match=r"shape|\(30, 4\)|\(4, 30\)"):
        open_raw(row(name, axes=axes, shape=[5, 5]), path)


def test_a_matrix_without_its_shape_says_what_to_give(tmp_path):
    np.save(tmp_path / "a.npy", COUNTS.reshape(30, 4))
    with pytest.raises(InputError, match=r"shape: \[height, width\]"):
        open_raw(row("npy"), tmp_path / "a.npy")
    savemat(tmp_path / "a.mat", {"x": COUNTS.reshape(30, 4)})
    with pytest.raises(InputError, match=r"holds x \(30, 4\) uint16\); .*shape: \[height, width\]"):
        open_raw(row("mat"), tmp_path / "a.mat")


@pytest.mark.parametrize(("field", "value"), [("scale", 0.0), ("scale", float("nan")), ("offset", float("inf")),
                                              ("shape", [3]), ("shape", [0, 4])])  # fmt: skip
def test_rows_that_make_no_values_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        row("npy", **{field: value})


def test_a_file_of_another_kind_is_named_and_one_that_lacks_bytes_is_to_be_fetched_again(tmp_path):
    starts = {"npy": (b"\x89HDF", "HDF5 .container: hdf5"), "tiff": (b"\x89PNG", "container: mosaic-png"),
              "hdf5": (b"CDF\1", "classic netCDF file; save it as netCDF-4"), "mat": (b"\x93NUMPY", "container: npy"),
              "npz": (b"", "is empty; get the file again")}  # fmt: skip
    for container, (start, words) in starts.items():
        (tmp_path / "a").write_bytes(start + bytes(600 if start else 0))
        with pytest.raises(InputError, match=words) as caught:
            open_raw(row(container), tmp_path / "a")
        assert ("get the file again" in str(caught.value)) == (not start)
    np.save(tmp_path / "b.npy", COUNTS)
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-5])
    with pytest.raises(InputError, match="cut short or damaged, get the file again"):
        open_raw(row("npy"), tmp_path / "b.npy")
