"""Rows: known ones load, the user's own are checked with sentences that say what to do."""

import pytest
import yaml

from sharding.catalog import find_scenes, keys, load_row
from sharding.errors import ConfigError, InputError

ROW = {"key": "mine", "container": "mat", "files": "*.mat", "wavelength": [450.0, 550.0], "gsd_m": 0.01}


def write(tmp_path, **change):
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump({**ROW, **change}))
    return str(path)


def test_known_rows_load():
    assert {"cave", "libhsi", "hotvis", "hyperspectralcityv2"} <= set(keys())
    for key in keys():
        assert load_row(key).key == key


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"wavelengths": [1]}, "there is no key wavelengths; did you mean wavelength?"),
        ({"wavelength": [0.45, 0.55]}, "looks like micrometres, multiply by 1000"),
        ({"wavelength": {"start": 400}}, "must be a list, or have start, count and stop or step"),
        ({"container": "bmp"}, "container 'bmp' is not one of"),
        ({"axes": "hwc"}, "must be the letters h, w and b"),
        ({"spatial_ops": ["spin"]}, "spatial_ops 'spin' is not one of"),
        ({"gsd_m": 0}, "gsd_m must be a positive number"),
        ({"gsd_m": "near"}, "gsd_m"),
        ({"container": "mosaic-png"}, "needs mosaic"),
    ],
)
def test_a_wrong_row_says_what_to_do(tmp_path, change, sentence):
    with pytest.raises(ConfigError) as caught:
        load_row(write(tmp_path, **change))
    assert sentence in str(caught.value) and "camera.yaml" in str(caught.value)


def test_an_unknown_dataset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean cave"):
        load_row("cav")


def test_scene_ids_come_from_paths(tmp_path):
    row = load_row(write(tmp_path, files="**/*.mat"))
    with pytest.raises(InputError, match="no file below"):
        find_scenes(row, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_scenes(row, tmp_path / "nowhere")
    for name in ("a b.mat", "sub/a.mat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [scene for scene, _ in find_scenes(row, tmp_path)] == ["a_b", "sub-a"]
