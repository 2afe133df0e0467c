"""Ingest of a dataset as it is published: the scene that is known to be bad stops nothing, another one does."""

import shutil

import numpy as np
import pytest
from PIL import Image

from sharding.catalog import load_row
from sharding.errors import ChangedError, StageFailed
from sharding.generator.fakes import write_fake
from sharding.ingest import DatasetConfig, ingest, ingest_units
from sharding.stage import RunOptions, pending
from sharding.store import open_cube


def cave(root):
    """CAVE as its archive unpacks: folders in folders, what Windows left, and watercolors in colour."""
    write_fake("cave_png", root, list(load_row("cave_png").known_wavelength_nm))
    for name in ("flowers", "watercolors"):
        folder = root / f"{name}_ms" / f"{name}_ms"
        shutil.copytree(root / "balloons_ms", folder)
        for path in sorted(folder.iterdir()):
            path.rename(path.with_name(path.name.replace("balloons", name)))
        (folder / "Thumbs.db").write_bytes(b"left")
    for path in (root / "watercolors_ms" / "watercolors_ms").glob("*.png"):
        Image.new("RGBA", (9, 6)).save(path)


def test_cave_as_published_passes_and_a_second_bad_scene_does_not(tmp_path):
    cave(tmp_path / "raw")
    datasets = [DatasetConfig("cave_png", str(tmp_path / "raw"))]
    result = ingest(tmp_path, datasets, 1, RunOptions())
    assert (result.units, len(result.failures)) == (3, 1)
    bad = "watercolors_ms-watercolors_ms-watercolors_ms_01"
    assert f"{bad} of cave_png cannot be read, of which its row knows (max_failed: 1)" in result.notes
    done = open_cube(tmp_path / "cubes" / "cave_png.zarr" / "flowers_ms-flowers_ms-flowers_ms_01")
    assert done.shape_CHW == (31, 6, 9)
    assert pending(ingest_units(tmp_path, datasets), RunOptions()) == []
    for path in (tmp_path / "raw" / "flowers_ms" / "flowers_ms").glob("*.png"):
        path.write_bytes(b"cut")
    with pytest.raises(ChangedError, match=r"flowers_ms_01\.png has another content; .*; \.\.\."):
        pending(ingest_units(tmp_path, datasets), RunOptions())
    with pytest.raises(StageFailed, match=r"1 of 3 units failed \(limit 0\.02, max_failed_fraction\)"):
        ingest(tmp_path, datasets, 1, RunOptions(overwrite=True))


def test_a_truth_goes_with_ingest_and_its_absence_is_told(tmp_path):
    cave(tmp_path / "raw")
    np.save(tmp_path / "balloons_ms_01.npy", np.arange(54).reshape(6, 9) // 20)
    datasets = [DatasetConfig("cave_png", str(tmp_path / "raw"), truth=str(tmp_path / "{stem}.npy"))]
    result = ingest(tmp_path, datasets, 1, RunOptions())
    assert result.new == 4  # three scenes and a truth
    assert any(
        note.startswith("1 of 2 scenes of cave_png have no truth, e.g. flowers_ms-flowers_ms-") for note in result.notes
    )
    labels = open_cube(tmp_path / "cubes" / "cave_png.zarr" / "balloons_ms-balloons_ms_01").labels()
    assert labels.max() == 2
