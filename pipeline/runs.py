"""What a work folder tells of its stages and runs, for MLflow and for comparisons: settings, data, metrics.

recipe (the work folder)          one parent
  ingest, pseudolabel, teacher    a child each, from records
  pretrain, export, evidence      a child each for every run
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.logs import METRICS, sampled_metrics, tail, without_solved
from sharding.errors import InputError
from sharding.records import find_records, fingerprint, read_record, sha256_file
from sharding.schema import load_yaml

SHARED = {"ingest": "cubes", "pseudolabel": "shards", "cache-teacher": "teacher"}
MAKES = {"ingest": "cubes", "pseudolabel": "labels", "cache-teacher": "features"}
NUMBERS = ("units", "bytes", "failures", "unit_seconds")  # of a stage
POINTS = 500  # of a curve that are imported; MLflow draws 320
Point = tuple[int, str, float, int]
"""Step, metric, value, milliseconds since 1970."""


@dataclass(frozen=True)
class Data:
    """One dataset as a stage reads it: its name, what its bytes are, where it lies, how much it holds."""

    name: str
    digest: str
    source: str
    counts: dict[str, float] = field(default_factory=dict)


@dataclass
class Facts:
    """All that is told of a stage, or of the recipe; `content` changes when anything of it does."""

    key: str
    name: str
    stage: str
    content: str
    settings: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    data: list[Data] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    curves: Path | None = None
    files: list[Path] = field(default_factory=list)

    def points(self) -> list[Point]:
        """The curves, thinned to `POINTS` steps, and the single numbers at their end."""
        rows = [] if self.curves is None else sampled_metrics(self.curves, POINTS)
        last = int(rows[-1]["step"]) if rows else 0
        # A log has no clock: its file was written last at the last step, and steps take about as long as each other.
        end = 1000 * self.curves.stat().st_mtime if self.curves else 0.0
        pace = 1000 * sum(row.get("seconds", 0.0) for row in rows) / max(len(rows), 1)
        found = [
            (int(row["step"]), name, float(value), int(end - (last - row["step"]) * pace))
            for row in rows
            for name, value in flatten(without_solved(row)).items()
            if name != "step" and isinstance(value, (int, float))
        ]
        return found + [(last, name, value, int(end)) for name, value in self.numbers.items()]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find_runs(workdir: Path) -> list[Path]:
    """Run folders that have metrics."""
    return sorted(path.parent for path in (workdir / "runs").glob(f"*/{METRICS}"))


def read_evidence(run: Path) -> dict[str, float]:
    """Scores of a run's evidence as metrics, but for those that an untrained net solves; empty without evidence."""
    path = run / "evidence.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())
    scores: dict[str, float] = {}
    probes = found["probes"]
    for kind, prefix in (("trained", "probe"), ("random", "probe_untrained"), ("margins", "margin")):
        told_apart = {name: value for name, value in probes[kind].items() if name not in probes.get("solved", ())}
        scores |= {f"{prefix}/{name}": value for name, value in told_apart.items()}
    for kind, row in (found.get("masks") or {}).items():
        scores |= {f"masks/{name} {kind}": value for name, value in row.items()}
    for method, row in found["labels"]["scores"].items():
        scores[f"labels/{method}"] = row["ASA at 1 x"]
    return {name.replace(",", "").replace("+", "and"): value for name, value in scores.items()}


def _read_settings(*paths: Path) -> dict[str, Any]:
    """Settings from the first of some files that is there."""
    for path in paths:
        if path.is_file():
            return json.loads(path.read_text()) if path.suffix == ".json" else load_yaml(path)
    return {}


def _hashes(paths: Sequence[Path]) -> list[tuple[str, str]]:
    return [(path.name, sha256_file(path)) for path in paths if path.is_file()]


@functools.lru_cache(maxsize=256)
def _read_folder(folder: Path) -> tuple[str, dict[str, float]]:
    """(fingerprint, counts) of the records in a folder, which are read once however many runs use them."""
    records = [read_record(path) for path in find_records(folder)] if folder.is_dir() else []
    counts = {
        "units": len(records), "bytes": sum(record.bytes for record in records),
        "failures": sum(len(record.failures) for record in records),
        "unit_seconds": sum(record.seconds for record in records),
    }  # fmt: skip
    for key in ("samples", "scenes"):
        if any(key in record.counts for record in records):
            counts[key] = sum(record.counts.get(key, 0) for record in records)
    return fingerprint([(record.unit, record.sha256) for record in records]), counts


def data_of(folder: Path, kind: str) -> Data:
    """A dataset as it lies in a folder of records (cubes or shards)."""
    digest, counts = _read_folder(folder)
    return Data(f"{folder.name.removesuffix('.records')} {kind}", digest, str(folder), counts)


def training_data(workdir: Path, names: Sequence[str]) -> list[Data]:
    """The shards that a run trains on."""
    return [data_of(workdir / "shards" / name, "shards") for name in names]


def _cube_folders(workdir: Path) -> list[Path]:
    return sorted((workdir / "cubes").glob("*.records"))


def _shared_stage(workdir: Path, stage: str) -> Facts | None:
    """A stage that all runs of a work folder share, from its records."""
    folder = workdir / SHARED[stage]
    # cubes have a folder of records beside them, shards lie beside theirs
    inputs, made = [], [folder]
    if stage == "ingest":
        made = _cube_folders(workdir)
    elif stage == "pseudolabel":
        inputs = [data_of(path, "cubes") for path in _cube_folders(workdir)]
        made = sorted(path for path in folder.glob("*") if path.is_dir())
    told = [data_of(path, MAKES[stage]) for path in made]
    numbers = {name: float(sum(data.counts[name] for data in told)) for name in NUMBERS}
    if not numbers["units"]:
        return None
    resolved = _read_settings(folder / "config.yaml")
    settings = flatten(resolved.get(stage.removeprefix("cache-"), {}))
    if stage == "ingest":
        settings |= {f"datasets.{row['name']}": row["root"] for row in resolved.get("datasets", [])}
    files = [path for path in (folder / "config.yaml", *sorted(folder.glob("*/quality.*"))) if path.is_file()]
    content = fingerprint([[(data.name, data.digest) for data in told], numbers, settings, _hashes(files)])
    tags = {f"hv.{data.name.replace(' ', '.')}": data.digest for data in (*inputs, *told)}
    return Facts(
        fingerprint([str(workdir), stage]), stage, stage, content, settings, tags, inputs, numbers, None, files
    )


def _run_stages(workdir: Path, run: Path) -> list[Facts]:
    """pretrain, export and evidence of one run."""
    spec = _read_settings(run / "spec.json")
    data = training_data(workdir, spec.get("datasets", []))
    pictures = sorted((run / "pictures").glob("*.png"))[-1:]
    files = [path for path in (run / "spec.json", run / "config.yaml", *pictures) if path.is_file()]
    digests = [(one.name, one.digest) for one in data]
    content = fingerprint([_hashes([run / METRICS, *files]), digests])
    tags = {f"hv.{one.name.replace(' ', '.')}": one.digest for one in data}

    def facts(stage: str, content: str, **fields: Any) -> Facts:
        name = run.name if stage == "pretrain" else f"{stage} {run.name}"
        return Facts(fingerprint([str(workdir), stage, run.name]), name, stage, content, **fields)

    found = [
        facts("pretrain", content, settings=flatten(spec), tags=tags, data=data, curves=run / METRICS, files=files)
    ]
    if (run / "export.json").is_file():
        record = read_record(run / "export.json")
        size = {"step": float(record.counts.get("step", 0)), "bytes": float(record.bytes)}
        found.append(facts("export", record.sha256, numbers=size, files=[run / "export" / "model.json"]))
    if (run / "evidence.json").is_file():
        path = run / "evidence.json"
        found.append(facts("evidence", sha256_file(path), numbers=read_evidence(run), files=[path]))
    return found


def gather(workdir: Path, runs: Sequence[Path]) -> tuple[Facts, list[Facts]]:
    """The recipe, and all its stages.

    Raises:
        InputError: a record or settings file is not readable.
    """
    _read_folder.cache_clear()  # records may be new since
    newest = max(runs, key=lambda run: (run / METRICS).stat().st_mtime)
    settings = flatten(_read_settings(newest / "config.yaml", newest / "spec.json"))
    files = [path for path in (newest / "config.yaml", workdir / "report.png") if path.is_file()]
    children = [facts for stage in SHARED if (facts := _shared_stage(workdir, stage)) is not None]
    children += [facts for run in runs for facts in _run_stages(workdir, run)]
    numbers: dict[str, float] = {"runs": float(len(runs))} | read_evidence(newest)
    content = fingerprint([settings, _hashes(files), numbers])
    tags = {"hv.folder": str(workdir)}
    recipe = Facts(
        fingerprint([str(workdir), "recipe"]), workdir.name, "recipe", content, settings, tags, numbers=numbers,
        files=files,
    )  # fmt: skip
    return recipe, children


def run_folder(word: str, workdir: Path) -> Path:
    """The folder of a run that a user names: a folder, or a run of the work folder.

    Raises:
        InputError: neither is there.
    """
    for path in (workdir / "runs" / word, Path(word).expanduser()):
        if (path / METRICS).is_file():
            return path.absolute()
    known = ", ".join(path.name for path in find_runs(workdir)) or "none"
    raise InputError(f"no run {word!r}: {workdir / 'runs'} holds {known}; name one of them, or a run's folder")


def last_metrics(run: Path, count: int = 20) -> dict[str, float]:
    """Mean of every metric over the last steps of a run."""
    rows = [flatten(without_solved(row)) for row in tail(run, count)]
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    values = {name: [row[name] for row in rows if isinstance(row.get(name), (int, float))] for name in names}
    return {name: sum(have) / len(have) for name, have in values.items() if have}
