"""The rows of docs/own-data.md are whole and read the files that the page names them for, value by value."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from sharding.catalog import load_row
from sharding.generator.corpus import AXES_NM
from sharding.generator.fakes import write_beside, write_fake
from sharding.ingest import DatasetConfig, ingest_one, ingest_units, truth_units
from sharding.store import open_cube
from sharding.truth import store_truth

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text()
BLOCKS = re.findall(r"```yaml\n# (\S+)\.yaml\n(.*?)```", PAGE, re.DOTALL)
ROWS = {name: text for name, text in BLOCKS if name != "own"}
FAKE_OF = {"iq": "libhsi", "mat": "arad_1k_31", "road": "hsiroad", "snapshot": "hotvis", "tunable": "cave_png"}


def test_the_page_has_five_cameras_and_a_recipe_of_all():
    assert set(ROWS) == set(FAKE_OF) and len({yaml.safe_load(text)["container"] for text in ROWS.values()}) == 5
    recipe = yaml.safe_load(dict(BLOCKS)["own"])
    assert {one["name"]: one["root"].split("/")[2] for one in recipe["datasets"]} == FAKE_OF


@pytest.mark.parametrize("name", FAKE_OF)
def test_a_row_of_the_page_reads_its_files_as_the_row_of_the_catalog_does(tmp_path, name):
    (tmp_path / f"{name}.yaml").write_text(ROWS[name])
    known, row = load_row(FAKE_OF[name]), load_row(str(tmp_path / f"{name}.yaml"))
    axis = list(AXES_NM.get(known.key, known.known_wavelength_nm))
    wanted = write_fake(known.key, tmp_path / "raw", axis)
    write_beside(known.key, tmp_path / "raw")
    truth = "masks/{stem}.tif" if name == "road" else None
    datasets = [DatasetConfig(name, str(tmp_path / "raw"), str(tmp_path / f"{name}.yaml"), truth=truth)]
    (unit,) = ingest_units(tmp_path, datasets)
    record = ingest_one(unit)
    assert record.done, record.failures
    cube = open_cube(unit.data)
    found = cube.window().physical().transpose(1, 2, 0)
    scale = 1.0 if row.scale is None else row.scale
    np.testing.assert_allclose(found, wanted.astype(float) * scale, atol=1e-4)
    np.testing.assert_allclose(np.sort(cube.wavelength_nm), np.sort(axis), atol=1.0)
    labels = [store_truth(one).done for one in truth_units([unit], datasets)[0]]
    assert labels == ([True] if truth else [])
    assert (cube.labels() is not None) == (name in ("iq", "road"))
