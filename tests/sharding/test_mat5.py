"""MATLAB v5: arrays of any class and packing equal scipy's reading; what lies about its size is refused."""

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from sharding.errors import InputError
from sharding.readers.mat5 import list_arrays, read_array


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_arrays_equal_those_of_scipy(tmp_path, dtype, packed):
    path = tmp_path / "a.mat"
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    other = {"text": "words", "cell": np.array([1, "a"], object), "z": np.array([[1 + 2j]]), "v": np.arange(3.0)}
    savemat(path, {**other, "cube": values, "mask": np.ones((2, 3), bool)}, do_compression=packed)
    arrays = list_arrays(path)
    assert set(arrays) == {"cube", "mask", "v"}
    np.testing.assert_array_equal(read_array(path, arrays["cube"]), loadmat(path)["cube"])
    np.testing.assert_array_equal(read_array(path, arrays["v"]), [[0, 1, 2]])
    assert isinstance(read_array(path, arrays["cube"]), np.memmap) is not packed


def test_files_that_lie_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"cube": np.zeros((40, 50, 6))})
    good = path.read_bytes()
    at = good.index(np.array([40, 50, 6], "<i4").tobytes())
    path.write_bytes(good[:at] + np.array([40000, 50000, 600], "<i4").tobytes() + good[at + 12 :])
    with pytest.raises(ValueError, match="does not have 96000 bytes"):
        list_arrays(path)
    path.write_bytes(good[:-5])
    with pytest.raises(InputError, match="cut short"):
        list_arrays(path)
    path.write_bytes(good[:128] + np.array([14, 0], "<u4").tobytes() * 20000)
    with pytest.raises(InputError, match="claims more than"):
        list_arrays(path)
