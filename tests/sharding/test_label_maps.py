"""Label maps as they are published come back with the class numbers that their makers gave."""

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from sharding.errors import InputError
from sharding.label_maps import label_ids, read_label_map

IDS = (np.arange(54).reshape(6, 9) // 7).astype(np.uint8)


def v73(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["gt"] = IDS.astype(float).T
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file")


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["gt"], file["names"] = IDS, np.arange(8)


def palette(path):
    image = Image.fromarray(IDS, "P")
    image.putpalette([7] * 768)
    image.save(path)


WRITERS = {
    "v5.mat": lambda path: savemat(path, {"gt": IDS.astype(float), "names": np.arange(8)}),
    "v73.mat": v73,
    "a.h5": hdf5,
    "a.npy": lambda path: np.save(path, IDS.astype(np.int64)),
    "a.npz": lambda path: np.savez(path, gt=IDS, cube=np.zeros((6, 9, 3))),
    "grey.png": lambda path: Image.fromarray(IDS).save(path),
    "deep.png": lambda path: Image.fromarray(IDS.astype(np.uint16)).save(path),
    "palette.png": palette,
    "colour.png": lambda path: Image.fromarray(np.stack([IDS] * 3, -1)).save(path),
    "alpha.png": lambda path: Image.fromarray(np.stack([IDS] * 3 + [IDS * 0 + 255], -1)).save(path),
    "a.tif": lambda path: tifffile.imwrite(path, IDS.astype(np.int32)),
    "one_band.tif": lambda path: tifffile.imwrite(path, IDS[None].astype(np.float32)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_ids(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = read_label_map(tmp_path / name)
    np.testing.assert_array_equal(found, IDS)
    assert found.dtype.kind in "iu"


def test_of_several_maps_none_is_taken_unless_it_is_named(tmp_path):
    savemat(tmp_path / "a.mat", {"classes": IDS, "materials": IDS // 2})
    with pytest.raises(InputError, match=r"2 arrays that could be .*classes \(6, 9\), materials \(6, 9\)"):
        read_label_map(tmp_path / "a.mat")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.mat", "materials"), IDS // 2)
    with pytest.raises(InputError, match=r"has no array 'gt' \(it holds classes \(6, 9\), .*mend truth_variable"):
        read_label_map(tmp_path / "a.mat", "gt")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (IDS + 0.5, "not whole numbers"),
        (np.full((6, 9), np.nan), "not whole numbers"),
        (np.stack([IDS, IDS, IDS + 1], -1), "a label map has one channel"),
        (np.zeros((6, 9, 8), np.uint8), "a label map has one channel"),
        (np.full((6, 9), "road"), "a label map has whole numbers"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path, values, sentence):
    with pytest.raises(InputError, match=sentence):
        label_ids(values, tmp_path / "a.npy")
