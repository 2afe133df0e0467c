"""`ingest`: raw dataset folder + catalog row -> `cubes/<dataset>.zarr/<scene>`, on Ray CPU tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharding.catalog import Row, load_row
from sharding.companions import find_companions
from sharding.errors import InputError
from sharding.folders import is_litter
from sharding.inputs import Inputs, fingerprint_of, look_again
from sharding.readers import open_raw
from sharding.records import Failure, Record, Unit, commit, commit_failure, read_record
from sharding.scenes import find_scenes, path_text
from sharding.stage import RunOptions, StageResult, run_units
from sharding.truth import STAGE, missing_note, store_truth, truth_place, truth_unit

LOGIC = "5: what files say of their values is used (docs/reading.md), every file of a scene is in its record"
NOTE_LENGTH = 300


@dataclass
class DatasetConfig:
    """One dataset of a recipe: a catalog key, where its files are, and optionally the user's own row.

    `expand` writes low-rank scenes (`.hsd`) as full cubes; by default they keep their rank, a tenth of the bytes.
    `truth` are label maps to score pseudo-labels against, a picture, TIFF, .npy, .npz, .mat or .h5 per scene: a path in
    which {scene} stands for the scene's id, {stem} for the name of its file without ending, {folder} for its folder
    below the root; `truth_variable` names the array, where a file holds several maps.
    """

    name: str
    root: str
    row: str | None = None
    limit: int | None = None
    train: bool = True
    expand: bool = False
    truth: str | None = None
    truth_variable: str | None = None


def dataset_row(dataset: DatasetConfig) -> Row:
    """The catalog row of a dataset, under the dataset's own name."""
    row = load_row(dataset.row or dataset.name)
    row.key = dataset.name
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
        misfits = write_companions(temporary, found, inputs)
        body.counts |= {"companions": len(found), "missing_companions": len(missing)}
        body.extra |= {"missing": missing, "misfits": misfits, **made_of()}
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

    known_bad = {unit.payload[0].key: unit.payload[0].max_failed for unit in units}
    result = run_units("ingest", units, workdir / "cubes", options, go, known_bad=known_bad)
    result.notes += _missing_note(new) + _told_note(new) + _misfit_note(new) + _known_bad_note(units)
    _add_truth(result, units, datasets, options)
    return result


def truth_units(units: Sequence[Unit], datasets: Sequence[DatasetConfig]) -> tuple[list[Unit], list[str]]:
    """(one unit for each truth whose scene is a cube, a sentence for each dataset that lacks some)."""
    found, notes = [], []
    for dataset in (one for one in datasets if one.truth):
        missing, scenes = {}, 0
        for unit in (unit for unit in units if unit.payload[0].key == dataset.name and unit.record.is_file()):
            record = read_record(unit.record)
            if not record.done:
                continue
            scenes += 1
            _, scene, path, root = unit.payload
            place = truth_place(dataset.truth or "", scene, root, path)
            if place.is_file():
                found.append(truth_unit(unit.data, record, place, dataset.truth_variable or ""))
            else:
                missing[scene] = place
        notes += missing_note(dataset.name, missing, scenes)
    return found, notes


def _add_truth(
    result: StageResult, cubes: Sequence[Unit], datasets: Sequence[DatasetConfig], options: RunOptions
) -> None:
    """Put label maps beside the cubes; small as they are, without other processes."""
    units, notes = truth_units(cubes, datasets)
    result.notes += notes
    if units:
        told = run_units(STAGE, units, result.where, options, lambda todo: map(store_truth, todo))
        result.new += told.new
        result.bytes += told.bytes
        result.seconds += told.seconds
        result.failures += told.failures


def _misfit_note(new: list[Unit]) -> list[str]:
    """A sentence for each dataset with label maps that do not lie pixel on pixel over their cubes."""
    words: dict[str, list[str]] = {}
    for unit in new:
        for word in read_record(unit.record).extra.get("misfits", []) if unit.record.is_file() else ():
            words.setdefault(unit.payload[0].key, []).append(f"{unit.payload[1]}: {word}")
    return [
        f"{len(told)} label maps of {dataset} are of another size than their cubes and are not used, e.g. {told[0]}"
        for dataset, told in sorted(words.items())
    ]


def _known_bad_note(units: Sequence[Unit]) -> list[str]:
    """A sentence for each dataset of which scenes failed that its row knows to be bad."""
    notes = []
    rows = {unit.payload[0].key: unit.payload[0] for unit in units if unit.payload[0].max_failed}
    for key, row in sorted(rows.items()):
        failed = [unit.payload[1] for unit in units if unit.payload[0].key == key and not read_record(unit.record).done]
        if failed:
            scenes = ", ".join(failed[: row.max_failed])
            notes.append(f"{scenes} of {key} cannot be read, of which its row knows (max_failed: {row.max_failed})")
    return notes


def _told_note(new: list[Unit]) -> list[str]:
    """A sentence for each dataset about what was noted in reading its new scenes."""
    notes: dict[str, list[tuple[str, str]]] = {}
    for unit in new:
        record = read_record(unit.record) if unit.record.is_file() else None
        if record is not None and record.done and record.extra.get("note"):
            notes.setdefault(unit.payload[0].key, []).append((unit.payload[1], record.extra["note"]))
    return [
        f"{len(told)} new scenes of {dataset} have a note in their records, e.g. "
        f"{told[0][0]}: {told[0][1][:NOTE_LENGTH]}"
        for dataset, told in sorted(notes.items())
    ]


def _missing_note(new: list[Unit]) -> list[str]:
    """A sentence for each companion that some new scenes of a dataset have and others lack.

    A dataset that has none of a kind at all was fetched without it, which its records say.
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
            if words and len(words) < len(own):
                notes.append(f"{len(words)} of {len(own)} new scenes of {dataset} lack companions, e.g. {words[0]}")
    return notes
