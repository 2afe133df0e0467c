"""The stages of a recipe in order, each a function of (Config, RunOptions); `run` calls them one after the other.

Every stage imports its engine when it is called, so that no other verb waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.config import Config
from pipeline.evidence_view import print_evidence
from sharding.errors import ConfigError
from sharding.records import write_atomic
from sharding.stage import RunOptions, StageResult

Stage = Callable[[Config, RunOptions], StageResult]


def corpus(config: Config, options: RunOptions) -> StageResult:
    """Generate the corpus of the recipe."""
    from sharding.generator.corpus import make_corpus

    assert config.corpus is not None
    return make_corpus(config.work, config.corpus, config.ingest.workers or 2, options)


def ingest(config: Config, options: RunOptions) -> StageResult:
    """Raw datasets to cubes."""
    from sharding.ingest import ingest as bring_in

    return bring_in(config.work, config.datasets, config.ingest.workers, options)


def pseudolabel(config: Config, options: RunOptions) -> StageResult:
    """Cubes to shards, and what they are worth."""
    from pipeline.quality_view import report_quality
    from pseudolabel.factory import pseudolabel as label

    result = label(config.work, config.training_datasets, config.pseudolabel, options)
    report_quality(config.work, config.training_datasets, anew=bool(result.new))
    return result


def ablate(config: Config, options: RunOptions) -> StageResult:
    """What each step of the fusion is worth."""
    from pipeline.ablate import ablate as score

    return score(config, options)


def cache_teacher(config: Config, options: RunOptions) -> StageResult:
    """Teacher features of every shard."""
    from distill.fill import cache_teacher as fill

    return fill(config.work, config.training_datasets, config.teacher, options)


def pretrain(config: Config, options: RunOptions) -> StageResult:
    """Shards to checkpoints."""
    from pretrain.launch import pretrain as train

    return train(config.run_spec(), options)


def export(config: Config, options: RunOptions) -> StageResult:
    """Checkpoint to weights."""
    from pipeline.export import export as write_out

    return write_out(config, options)


def evidence(config: Config, options: RunOptions) -> StageResult:
    """Probes and label scores, where generated truth is there."""
    from pipeline.evidence import evidence as gather

    result = gather(config, options)
    print_evidence(config.run_folder / "evidence.json")
    return result


def report(config: Config, options: RunOptions) -> StageResult:  # noqa: ARG001 - same signature for every stage
    """Some tiles and the curves of the run, as a picture; drawn anew when the run went on."""
    from pipeline.report import write_report

    began, path, metrics = time.perf_counter(), config.work / "report.png", config.run_folder / "metrics.jsonl"
    new = not path.is_file() or path.stat().st_mtime < metrics.stat().st_mtime
    if new:
        write_report(config.work, config.training_datasets, config.run_folder, path)
    return StageResult("report", path, 1, int(new), path.stat().st_size, time.perf_counter() - began)


def compare(config: Config, options: RunOptions) -> StageResult:  # noqa: ARG001 - same signature for every stage
    """Runs to MLflow and a table."""
    from pipeline.compare import compare as put_side_by_side

    return put_side_by_side(config.work, config.tracking)


STAGES: dict[str, Stage] = {
    "corpus": corpus,
    "ingest": ingest,
    "pseudolabel": pseudolabel,
    "cache-teacher": cache_teacher,
    "pretrain": pretrain,
    "export": export,
    "evidence": evidence,
    "report": report,
    "compare": compare,
}
RAY_STAGES = ("corpus", "ingest", "pseudolabel", "cache-teacher")
HELPERS: dict[str, Stage] = {"ablate": ablate}
FOLDERS = {
    "ablate": "ablation",
    "ingest": "cubes",
    "pseudolabel": "shards",
    "corpus": "corpus",
    "cache-teacher": "teacher",
    "report": "",
    "compare": "",
}


def stages_of(config: Config) -> list[str]:
    """Names of the stages that a recipe has, up to `until`.

    Raises:
        ConfigError: no stage is named `until`.
    """
    skipped = {"corpus"} if config.corpus is None else set()
    if not config.evidence.enabled:
        skipped.add("evidence")
    if config.teacher.mode != "cache":  # else pretrain computes what it needs
        skipped.add("cache-teacher")
    names = [name for name in STAGES if name not in skipped]
    if config.until is not None and config.until not in names:
        raise ConfigError(f"until={config.until}: the stages of this recipe are {', '.join(names)}")
    return names if config.until is None else names[: names.index(config.until) + 1]


def output_folder(name: str, config: Config) -> Path:
    """Where a stage commits its units."""
    return config.work / FOLDERS[name] if name in FOLDERS else config.run_folder


def run_stage(name: str, config: Config, options: RunOptions) -> StageResult:
    """One stage; its resolved configuration is written into its output folder."""
    result = (STAGES | HELPERS)[name](config, options)
    folder = output_folder(name, config)
    if result.new and folder != config.work:  # no run is known by the pictures of all
        write_atomic(folder / "config.yaml", config.yaml().encode())
    return result


def run_all(config: Config, options: RunOptions) -> list[StageResult]:
    """All stages of a recipe in order, then the picture."""
    from sharding.workers import ray_kept

    config.check()
    results: list[StageResult] = []
    names = stages_of(config)
    labelling = [name for name in names if name in RAY_STAGES]
    with ray_kept():
        for name in labelling:
            results.append(run_stage(name, config, options))
    for name in names[len(labelling) :]:
        results.append(run_stage(name, config, options))
    return results
