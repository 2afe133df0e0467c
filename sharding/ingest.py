"""`ingest`: raw dataset folder + catalog row -> `cubes/<dataset>.zarr/<scene>`, on Ray CPU tasks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharding.catalog import Companion, Row, find_scenes, load_row
from sharding.companions import companion_path, find_companions
from sharding.errors import InputError
from sharding.readers import open_raw
from sharding.readers.png_bands import band_files
from sharding.readers.references import reference_files
from sharding.records import Failure, Record, Unit, commit, commit_failure, fingerprint, read_record, sha256_file
from sharding.stage import RunOptions, StageResult, run_units

LOGIC = "5: what files say of their values is used (docs/reading.md)"
NOTE_LENGTH = 300


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


def _stat(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def _source_files(row: Row, root: Path, path: Path) -> list[Path]:
    """A scene's file; for a header also the data files of the same stem beside it; and its companions."""
    files = [path]
    if path.suffix.lower() == ".hdr":
        files = sorted(other for other in path.parent.iterdir() if other.stem == path.stem and other.is_file())
    if row.container == "png-bands":
        files = list(band_files(path).values())
    beside = [companion_path(companion, root, path) for companion in row.companions]
    beside += [own for kind in ("white", "dark") for own in reference_files(row, path, kind)]
    return list(dict.fromkeys(files + [other for other in beside if other.is_file()]))


class _Digests:
    """sha256 of each of a scene's files, taken in a thread of its own while the scene is being read."""

    def __init__(self, row: Row, root: Path, path: Path) -> None:
        self.pool = ThreadPoolExecutor(1)
        try:
            files = _source_files(row, root, path)
        except OSError:
            files = [path]
        self.jobs = {file: self.pool.submit(sha256_file, file) for file in files}

    def __call__(self, path: Path) -> str:
        """Waits for it."""
        return self.jobs[path].result() if path in self.jobs else sha256_file(path)

    def fingerprint(self) -> str:
        """Of all files together."""
        try:
            return fingerprint([[file.name, self(file)] for file in self.jobs])
        except OSError as error:
            return f"unreadable: {error.strerror}"


def _known_inputs(row: Row, root: Path, path: Path, record_path: Path) -> str:
    """The hash of files that were ingested before; those whose size and time the record knows are not read again.

    Empty for a new scene: whoever ingests it hashes it, so that starting does not wait for every file to be read.
    """
    if not record_path.is_file():
        return ""
    record = read_record(record_path)
    try:
        if record.extra.get("stat") == [_stat(file) for file in _source_files(row, root, path)]:
            return record.inputs
    except OSError:
        pass
    digests = _Digests(row, root, path)
    digests.pool.shutdown()
    return digests.fingerprint()


def ingest_units(workdir: Path, datasets: Sequence[DatasetConfig]) -> list[Unit]:
    """One unit per scene of every dataset.

    Raises:
        ConfigError, InputError: an unknown row, a missing or empty folder.
    """
    units = []
    for dataset in datasets:
        row = dataset_row(dataset)
        config = {"logic": LOGIC, "row": row.bytes_config(), "expand": dataset.expand}
        root = Path(dataset.root).expanduser()
        for scene, path in find_scenes(row, root, dataset.limit):
            data, record = cube_paths(workdir, dataset.name, scene)
            inputs = _known_inputs(row, root, path, record)
            payload = (row, scene, path, root)
            units.append(Unit("ingest", f"{dataset.name}/{scene}", data, record, inputs, config, payload))
    return units


def ingest_one(unit: Unit) -> Record:
    """Read one raw scene with its companions and write its cube; what cannot be read becomes a failure row."""
    from sharding.cube_writer import write_companions, write_cube

    row, scene, path, root = unit.payload
    digests = _Digests(row, root, path)

    def write(temporary: Path) -> Any:
        raw = open_raw(row, path)
        stats = [_stat(file) for file in digests.jobs]
        found, missing = find_companions(row, root, path)
        split = row.split_of(path.relative_to(root))
        body = write_cube(temporary, row, scene, raw, expand=unit.config["expand"], split=split, digest=digests)
        write_companions(temporary, found, digests)
        body.counts |= {"companions": len(found), "missing_companions": len(missing)}
        body.extra |= {"missing": missing, "stat": stats}
        body.inputs = digests.fingerprint()
        return body

    try:
        return commit(unit, write)
    except InputError as error:
        return commit_failure(replace(unit, inputs=digests.fingerprint()), Failure.of(str(path), error))
    finally:
        digests.pool.shutdown()


def ingest(workdir: Path, datasets: Sequence[DatasetConfig], workers: int, options: RunOptions) -> StageResult:
    """Bring every scene of the datasets into the cube store."""
    from sharding.workers import map_tasks, slots

    units = ingest_units(workdir, datasets)
    new: list[Unit] = []

    def go(todo: list[Unit]) -> Any:
        new.extend(todo)
        return map_tasks(ingest_one, todo, slots(workers))

    result = run_units("ingest", units, workdir / "cubes", options, go)
    result.notes += _missing_note(new) + _told_note(new)
    return result


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
