"""`datasets`: the catalog as a table, one row in full, JSON for programs, and the page docs/datasets.md."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from pipeline.console import console, table
from sharding.catalog import Row, keys, load_row

COLUMNS = ("key", "title", "sensor", "bands", "nm", "scenes", "labels", "licence")
PLACES = ("key", "where to get it", "what to put where")


def all_rows() -> list[Row]:
    """Every known row, by key."""
    return [load_row(key) for key in keys()]


def band_count(row: Row) -> str:
    """Bands of the ingested cube, as far as the row knows."""
    return str(row.bands or "by file")


def spectral_range(row: Row) -> str:
    """First and last wavelength in nm, as far as the row knows."""
    axis = row.known_wavelength_nm
    return f"{min(axis):.0f}-{max(axis):.0f}" if len(axis) > 1 else "by file"


def _short(text: str) -> str:
    """The first clause, for a table; `show` tells the rest."""
    return re.split(r"[;(,]", text)[0].strip() or "-"


def show_catalog() -> None:
    """Two tables: what the datasets are, and where their files come from and go to."""
    rows = all_rows()
    facts = [
        [row.key, row.title, _short(row.sensor), band_count(row), spectral_range(row), str(row.scenes or "-"),
         _short(row.labels), _short(row.licence)] for row in rows
    ]  # fmt: skip
    table(f"{len(rows)} rows of {len({row.family for row in rows})} datasets", COLUMNS, facts)
    table("Their files", PLACES, [[row.key, row.download, row.layout or row.files] for row in rows])
    console.print("hypervision datasets show KEY tells all about one; hypervision ingest dataset=KEY root=DIR reads it")


def _axis(row: Row) -> str:
    spec = row.wavelength
    if isinstance(spec, list):
        return f"{len(spec)} values, {spec[0]:g} ... {spec[-1]:g} nm"
    if isinstance(spec, dict) and "variable" in spec:
        spec = f"variable {spec['variable']} of the file"
    other = "" if row.wavelength_else is None else f"; else {spectral_range(row)} nm of the row"
    return f"{spec}{other}"


def show_row(key: str) -> None:
    """Everything that is known about one row, and what the public reader does differently."""
    row = load_row(key)
    told = {name: value for name, value in asdict(row).items() if value not in (None, [], "")}
    told |= {"wavelength": _axis(row), "nm": spectral_range(row), "scenes": row.scenes or "not counted"}
    told.pop("wavelength_else", None)
    differs = told.pop("differs", [])
    table(row.title or row.key, ("", ""), [[name, str(value)] for name, value in told.items()])
    for sentence in differs:
        console.print(f"the public reader: {sentence}", highlight=False)


def as_json() -> str:
    """Every row with all its fields and the wavelengths that it knows."""
    rows: list[dict[str, Any]] = [asdict(row) | {"known_wavelength_nm": row.known_wavelength_nm} for row in all_rows()]
    return json.dumps(rows, indent=1)


def as_markdown() -> str:
    """The text of docs/datasets.md."""
    rows = all_rows()
    families = len({row.family for row in rows})
    lines = [
        "# Datasets",
        "",
        f"{len(rows)} rows of {families} datasets. Written by `make docs` from `sharding/rows/`; do not edit by hand.",
        "A row can be overridden: copy it, change it, and give it as `row=my.yaml`. Counts are those of the published",
        "lists; GSD is nominal everywhere. What is doubtful is said under each table.",
        "",
        "| key | bands | nm | scenes | sensor |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| [{r.key}](#{r.key}) | {band_count(r)} | {spectral_range(r)} | {r.scenes or '-'} | {r.sensor} |"
        for r in rows
    ]
    for row in rows:
        lines += ["", f"## {row.key}", "", f"{row.title}. Labels: {row.labels}. Licence: {row.licence}.", ""]
        lines += [f"- get it: {row.download or '-'}", f"- put: {row.layout or row.files}"]
        lines += [f"- read as: {row.container}, files `{row.files}`, wavelengths {_axis(row)}"]
        beside = ", ".join(f"{one.name} ({one.kind})" for one in row.companions)
        lines += [f"- beside it: {beside}"] if beside else []
        lines += [f"- published splits: {', '.join(row.splits)}"] if row.splits else []
        lines += [f"- doubtful: {row.confidence}"] if row.confidence else []
        lines += [f"- the public reader: {sentence}" for sentence in row.differs]
    return "\n".join(lines) + "\n"
