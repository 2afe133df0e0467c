"""Real scenes of five cameras, each described by a row as a user would write it, through the command line."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import loadmat

from sharding.manifest import open_manifest
from sharding.store import open_cube

IN_FILE = {"variable": ["wavelengths", "wavlength"]}
ROWS = {
    "cave": {
        "container": "mat",
        "files": "*.mat",
        "wavelength": {"start": 400, "stop": 700, "count": 31},
        "gsd_m": 0.001,
    },
    "aviris": {
        "container": "mat",
        "files": "*.mat",
        "wavelength": IN_FILE,
        "gsd_m": 15,
        "scale": 0.0001,
        "units": "reflectance",
    },
    "muufl": {
        "container": "mat",
        "files": "*image_sub*.mat",
        "wavelength": IN_FILE,
        "gsd_m": 1,
        "valid_variable": "mask_sub",
    },
    "muufl_rest": {"container": "mat", "files": "*img_for*.mat", "wavelength": IN_FILE, "gsd_m": 1},
    "fenix": {"container": "envi", "files": "*.hdr", "wavelength": "file", "fwhm_nm": "file", "gsd_m": 0.001},
    "corn": {"container": "envi", "files": "4-22*.hdr", "wavelength": "file", "gsd_m": 0.0001},
}
FOLDERS = {
    "cave": "cave",
    "aviris": "aviris_gatorsense_vi",
    "muufl": "muufl_gulfport_gatorsense",
    "muufl_rest": "muufl_gulfport_gatorsense",
    "fenix": "fenix_rock_napari_hippo",
    "corn": "plantcv_corn_kernel",
}


@pytest.fixture(scope="module")
def work(shared, cli, tmp_path_factory):
    root = shared("realdata")
    folder = tmp_path_factory.mktemp("real")
    datasets = []
    for name, row in ROWS.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"key": name, **row}))
        datasets.append({"name": name, "root": str(root / FOLDERS[name]), "row": str(path)})
    recipe = folder / "real.yaml"
    label = {"segmenters": "classical", "tile": 64, "workers": 2}
    recipe.write_text(yaml.safe_dump({"workdir": str(folder / "w"), "datasets": datasets, "pseudolabel": label}))
    for verb in ("ingest", "pseudolabel"):
        code, out, err = cli(verb, recipe)
        assert code == 0, out + err
    return folder / "w"


def cube(work, dataset):
    (path,) = (work / "cubes" / f"{dataset}.zarr").iterdir()
    return open_cube(path)


def test_cave_counts_and_floats_both_come_in(work, shared):
    scenes = {p.name: open_cube(p) for p in (work / "cubes" / "cave.zarr").iterdir()}
    assert {name: scene.stored.dtype.name for name, scene in scenes.items()} == dict.fromkeys(scenes, "uint16")
    for name, scene in scenes.items():
        raw = loadmat(shared("realdata") / "cave" / f"{name}.mat")["Omsi"]
        got = np.moveaxis(scene.window().physical(), 0, -1)
        assert np.abs(got - raw).max() <= 0.51 * scene.attrs["scale"] + 1e-6
        assert scene.wavelength_nm.tolist() == list(range(400, 701, 10))


def test_aviris_keeps_its_integers_and_marks_43_constant_bands(work, shared):
    scene = cube(work, "aviris")
    raw = loadmat(shared("realdata") / FOLDERS["aviris"] / "a_hsi_img_for_VI_demo.mat")["hsi_img"]
    np.testing.assert_array_equal(np.moveaxis(scene.stored[:], 0, -1), raw)
    assert sum(scene.attrs["bad_band"]) == 43 and scene.attrs["scale"] == pytest.approx(1e-4)


def test_muufl_keeps_negatives_and_its_mask(work):
    scene = cube(work, "muufl")
    assert int((~scene.valid()).sum()) == 51 * 88 - 3884
    assert scene.window().physical()[:, scene.valid()].min() < 0
    assert len(list((work / "cubes" / "muufl_rest.zarr").iterdir())) == 2


def test_fenix_applies_its_scale_factor_and_keeps_fwhm(work):
    scene = cube(work, "fenix")
    assert scene.attrs["scale"] == pytest.approx(1 / 65535) and len(scene.attrs["fwhm_nm"]) == 450
    assert 0 < scene.window().physical().max() < 1


def test_corn_is_read_although_its_header_lacks_the_byte_order(work):
    scene = cube(work, "corn")
    assert scene.shape_CHW == (580, 31, 43) and "byte order" in scene.attrs["note"]
    assert scene.wavelength_nm[[0, -1]] == pytest.approx([366.551, 1048.421])


def test_every_tile_of_every_camera_is_labelled(work):
    manifest = open_manifest(work / "shards")
    assert set(manifest.counts) == set(ROWS)
    for ref in manifest:
        meta = ref.meta()
        instances, valid = ref.picture("instances"), ref.picture("valid")
        assert meta["masks"] and instances.shape == (64, 64) == valid.shape
        assert not instances[valid == 0].any()
        assert {row["id"] for row in meta["masks"]} == set(np.unique(instances)) - {0}


def test_a_tile_is_only_padded_where_its_scene_is_smaller(work):
    shapes, found = {}, {}
    for ref in open_manifest(work / "shards"):
        meta = ref.meta()
        scene = (ref.dataset, meta["scene"])
        shapes[scene] = open_cube(work / "cubes" / f"{ref.dataset}.zarr" / meta["scene"]).shape_CHW[1:]
        found.setdefault(scene, []).append(meta["window_yxhw"])
    assert found["cave", "balloons_100"] == [[y, x, 64, 64] for y in (0, 36) for x in (0, 36)]
    assert found["corn", "4-22-22_right_same_B73_top_00"] == [[0, 0, 31, 43]]
    for scene, (height, width) in shapes.items():
        assert {tuple(window[2:]) for window in found[scene]} == {(min(64, height), min(64, width))}


def nearest_class(scene, spectra):
    """Class of the nearest training spectrum by angle, from 1: a truth that is itself made from spectra."""
    unit = scene / np.maximum(np.linalg.norm(scene, axis=-1, keepdims=True), 1e-9)
    known = [one.mean(1) / np.linalg.norm(one.mean(1)) for one in spectra]
    return (unit @ np.stack(known, 1)).argmax(-1) + 1


def test_labels_of_a_real_scene_with_some_truth_are_above_spatial_and_near_spectral(shared, cli, tmp_path):
    root, name = shared("realdata") / FOLDERS["muufl"], "an_hsi_img_for_class_demo"
    found = loadmat(root / f"{name}.mat")
    spectra = [np.asarray(row["Spectra"], float) for row in found["train_data"].ravel()]
    (tmp_path / "truth").mkdir()
    classes = nearest_class(found["hsi_sub"], spectra)
    Image.fromarray(classes.astype(np.uint8)).save(tmp_path / "truth" / f"{name}.png")
    row = {"container": "mat", "files": f"{name}.mat", "wavelength": IN_FILE, "gsd_m": 1, "key": "panels"}
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump(row))
    truth = str(tmp_path / "truth" / "{scene}.png")
    dataset = {"name": "panels", "root": str(root), "row": str(tmp_path / "panels.yaml"), "truth": truth}
    recipe = tmp_path / "r.yaml"
    label = {"segmenters": "classical", "tile": 96}
    recipe.write_text(yaml.safe_dump({"workdir": str(tmp_path / "w"), "datasets": [dataset], "pseudolabel": label}))
    for words in (["ingest", recipe], ["pseudolabel", "ablate", recipe, "ablation.seeds=0"]):
        code, out, err = cli(*words)
        assert code == 0, out + err
    summary = json.loads((tmp_path / "w" / "ablation" / "summary.json").read_text())["real"]
    assert summary["scenes"] == 1
    for share in ("1 x", "1.5 x"):
        gain = {other: row["ASA"]["median"] for other, row in summary[share]["paired"].items()}
        assert gain["spatial"] > 0 and min(gain.values()) > -0.03, (share, gain)
