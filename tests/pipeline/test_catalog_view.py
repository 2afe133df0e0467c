"""`datasets` tells the catalog to people and programs, and its page in the documentation is what it says."""

import json
from pathlib import Path

from sharding.catalog import keys


def test_the_table_names_every_row_and_where_its_files_go(cli):
    code, out, err = cli("datasets")
    assert code == 0, err
    assert "36 rows of 26 datasets" in out and all(f"│ {key} " in out for key in keys())
    assert "VIS_COR/<day>/*.hdr" in out


def test_one_row_in_full(cli):
    code, out, _ = cli("datasets", "show", "hs_sod")
    assert code == 0 and "380-780" in out and "the public reader: uses 380-720 nm" in out
    code, _, err = cli("datasets", "show", "hs_sot")
    assert code == 2 and "did you mean hs_sod?" in err
    code, _, err = cli("datasets", "hs_sod")
    assert code == 2 and "hypervision datasets show KEY" in err


def test_json_for_programs(cli):
    code, out, _ = cli("datasets", "--json")
    rows = {row["key"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == set(keys())
    assert rows["arad_1k_16"]["known_wavelength_nm"][8] == 415


def test_the_page_is_what_the_catalog_says(cli):
    _, out, _ = cli("datasets", "--markdown")
    page = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
    assert page.read_text() == out, "run `make docs`"
