"""`ingest`: raw dataset folder + catalog row -> `cubes/<dataset>.zarr/<scene>`, on Ray CPU tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharding.catalog import Companion, Row, load_row
from sharding.companions import find_companions
from sharding.errors import InputError
from sharding.folders import is_litter
from sharding.inputs import Inputs, fingerprint_of, look_again
from sharding.readers import open_raw
from sharding.records import Failure, Record, Unit, commit, commit_failure, read_record
from sharding.scenes import find_scenes, path_text
from sharding.stage import RunOptions, StageResult, run_units

LOGIC = 5


@dataclass
class DatasetConfig:
    """One dataset of a recipe: a catalog key, where its files are, and optionally the user's own row.

    `expand` writes low-rank scenes (`.hsd`) as full cubes; by default they keep their rank, a tenth of the bytes.
    `truth` are label maps to score pseudo-labels against: a path in which {scene} stands for the scene's id.
    """

    name: str
    root: str
    row: str | None = None
    limit: int | None = None
    train: bool = True
    expand: bool = False
    truth: str | None = None


def dataset_row(dataset: DatasetConfig) -> Row:
    """The catalog row of a dataset, under the dataset's own name."""
    row = load_row(dataset.row or dataset.name)
    row.key = dataset.name
    if dataset.truth:
        row.companions = [*row.companions, Companion("truth", "labels", place=dataset.truth, turned=False)]
    return row


def cube_paths(workdir: Path, dataset: str, scene: str) -> tuple[Path, Path]:
    """Where a scene's data and its record lie."""
    cubes = workdir / "cubes"
    return cubes / f"{dataset}.zarr" / scene, cubes / f"{dataset}.records" / f"{scene}.json"


def _records(workdir: Path, dataset: str) -> dict[str, Record]:
    """Scene id -> record of every scene of a dataset that was ingested, failures too."""
    records = {}
    for path in sorted(cube_paths(workdir, dataset, "any")[1].parent.glob("*.json")):
        if not is_litter(path.name):
            with suppress(FileNotFoundError):  # another process makes it anew just now
                records[path.stem] = read_record(path)
    return records


def ingest_units(workdir: Path, datasets: Sequence[DatasetConfig]) -> list[Unit]:
    """One unit per scene of every dataset.

    A new scene has no inputs yet: whoever ingests it hashes it, so that starting does not wait for every file.

    Raises:
        ConfigError, InputError: an unknown row, a missing or empty folder.
    """
    units = []
    for dataset in datasets:
        row = dataset_row(dataset)
        config = {"logic": LOGIC, "row": row.bytes_config(), "expand": dataset.expand}
        root = Path(dataset.root).expanduser()
        records = _records(workdir, dataset.name)
        known = {record.extra["path"]: scene for scene, record in records.items() if "path" in record.extra}
        for scene, path in find_scenes(row, root, dataset.limit, known):
            data, record_path = cube_paths(workdir, dataset.name, scene)
            inputs, change = look_again(row, root, path, records[scene]) if scene in records else ("", "")
            payload = (row, scene, path, root)
            name = f"{dataset.name}/{scene}"
            units.append(Unit("ingest", name, data, record_path, inputs, config, payload, change))
    return units


def ingest_one(unit: Unit) -> Record:
    """Read one raw scene with its companions and write its cube; what cannot be read becomes a failure row."""
    from sharding.cube_writer import write_companions, write_cube

    row, scene, path, root = unit.payload
    inputs = Inputs.of(row, root, path)
    relative = path.relative_to(root)

    def made_of() -> dict[str, Any]:
        return {"path": path_text(relative), "inputs": inputs.rows()}

    def write(temporary: Path) -> Any:
        raw = open_raw(row, path)
        inputs.add(raw.sources)
        found, missing = find_companions(row, root, path)
        split = row.split_of(relative)
        body = write_cube(temporary, row, scene, raw, expand=unit.config["expand"], split=split, digest=inputs)
        write_companions(temporary, found, inputs)
        body.counts |= {"companions": len(found), "missing_companions": len(missing)}
        body.extra |= {"missing": missing, **made_of()}
        body.inputs = fingerprint_of(body.extra["inputs"])
        return body

    try:
        return commit(unit, write)
    except InputError as error:
        extra = made_of()
        failed = replace(unit, inputs=fingerprint_of(extra["inputs"]))
        return commit_failure(failed, Failure.of(str(path), error), extra)
    finally:
        inputs.close()


def ingest(workdir: Path, datasets: Sequence[DatasetConfig], workers: int, options: RunOptions) -> StageResult:
    """Bring every scene of the datasets into the cube store."""
    from sharding.workers import map_tasks, slots

    units = ingest_units(workdir, datasets)
    new: list[Unit] = []

    def go(todo: list[Unit]) -> Any:
        new.extend(todo)
        return map_tasks(ingest_one, todo, slots(workers))

    result = run_units("ingest", units, workdir / "cubes", options, go)
    result.notes += _missing_note(new)
    return result


def _missing_note(new: list[Unit]) -> list[str]:
    """A sentence for each companion that some new scenes of a dataset have and others lack.

    A dataset that has none of a kind at all was fetched without it, which its records say; what the user named himself
    (`truth`) is always told.
    """
    notes = []
    records = [(unit, read_record(unit.record)) for unit in new if unit.record.is_file()]
    rows = {unit.payload[0].key: unit.payload[0] for unit in new}
    for dataset, row in sorted(rows.items()):
        own = [record for unit, record in records if unit.payload[0].key == dataset and record.done]
        for companion in row.companions:
            words = [
                word for record in own for word in record.extra["missing"] if word.startswith(f"no {companion.name} ")
            ]
            if words and (len(words) < len(own) or companion.place):
                notes.append(f"{len(words)} of {len(own)} new scenes of {dataset} lack companions, e.g. {words[0]}")
    return notes
