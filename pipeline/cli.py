"""The command line: one verb per stage, the same word as in make and in the records.

hypervision VERB [RECIPE] [key=value ...] [--dry-run] [--overwrite] [--retry-failed]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.bench_cli import bench
from sharding.errors import HyperVisionError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(bench, name="bench")

Words = Annotated[list[str] | None, typer.Argument(help="recipe name or .yaml file, then key=value overrides")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would run and stop")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="redo work that another configuration or input made")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="try failed units again")]
DEFAULT_RECIPE = "one_gpu"


def _load(words: list[str] | None, need_datasets: bool = True) -> Any:
    from pipeline.config import load_config

    given = list(words or [])
    recipe = given.pop(0) if given and "=" not in given[0] else DEFAULT_RECIPE
    return load_config(recipe, given, need_datasets)


def _options(config: Any, overwrite: bool, retry_failed: bool, progress: Any = None) -> Any:
    from sharding.stage import RunOptions

    return RunOptions(overwrite, retry_failed, config.max_failed_fraction, progress)


def _execute(verb: str, words: list[str] | None, dry_run: bool, overwrite: bool, retry_failed: bool) -> None:
    from pipeline.console import StageProgress, console, format_seconds, short_path, stage_table
    from pipeline.stages import run_all, run_stage
    from pipeline.status import print_plan

    began = time.perf_counter()
    config = _load(words, need_datasets=verb not in ("compare", "ablate"))
    if dry_run:
        print_plan(config, _options(config, overwrite, retry_failed), f"{verb} would do this (dry run)")
        return
    progress = StageProgress()
    options = _options(config, overwrite, retry_failed, progress)
    try:
        results = run_all(config, options) if verb == "run" else [run_stage(verb, config, options)]
    finally:
        progress.close()
    stage_table(results)
    report = config.work / "report.png"
    took = format_seconds(time.perf_counter() - began)
    if not any(result.new for result in results):
        console.print(f"nothing to do: everything is done already ({took})", style="bold")
    else:
        console.print(
            f"done in {took}" + (f"; picture: {short_path(report)}" if verb == "run" and report.is_file() else "")
        )


def _stage_command(verb: str, text: str) -> None:
    def command(
        words: Words = None, dry_run: DryRun = False, overwrite: Overwrite = False, retry_failed: RetryFailed = False
    ) -> None:
        given = list(words or [])
        ablates = verb == "pseudolabel" and given[:1] == ["ablate"]
        _execute("ablate" if ablates else verb, given[ablates:], dry_run, overwrite, retry_failed)

    app.command(verb, help=text)(command)


for _verb, _text in {
    "run": "All stages of a recipe in order.",
    "corpus": "Generate the corpus of the recipe (demo).",
    "ingest": "Raw dataset folders -> cubes/<dataset>.zarr.",
    "pseudolabel": "Cubes -> shards with fused masks and materials; `pseudolabel ablate`: what each step is worth.",
    "cache-teacher": "Shards -> teacher features of every view; `pretrain` with teacher.mode=fill does it on the way.",
    "pretrain": "Shards -> checkpoints; starting it again is resume.",
    "export": "Newest checkpoint -> model.safetensors, loadable by hypervision.create_model.",
    "evidence": "Probe the exported net and score the labels, where generated truth is there.",
    "compare": "Runs -> MLflow (sqlite) and a printed table.",
}.items():
    _stage_command(_verb, _text)


@app.command()
def plan(words: Words = None, retry_failed: RetryFailed = False) -> None:
    """What would run: units, sizes, time from measured rates."""
    from pipeline.status import print_plan

    config = _load(words)
    print_plan(config, _options(config, False, retry_failed), "Plan", measured=True)


@app.command()
def status(words: Words = None) -> None:
    """What is done and what failed, with reasons."""
    from pipeline.console import console
    from pipeline.status import print_failures, print_plan

    config = _load(words)
    print_plan(config, _options(config, False, False), "Status")
    if config.work.is_dir() and print_failures(config.work):
        console.print("mend the input, then run the stage again with --retry-failed")


@app.command()
def verify(
    folder: Path,
    throw_away: Annotated[
        bool, typer.Option("--discard", help="remove broken units, so that a rerun makes them")
    ] = False,
) -> None:
    """Read everything below FOLDER again and compare it with its records."""
    from pipeline.console import StageProgress, console, format_bytes
    from sharding.verify import discard
    from sharding.verify import verify as check

    progress = StageProgress()
    result = check(folder, lambda done, total: progress("verify", done, total, 0))
    progress.close()
    for row in result.bad:
        console.print(f"[red]broken[/red] {row.item}: {row.reason}", highlight=False)
    failed = f", {result.failed_units} failed units" if result.failed_units else ""
    console.print(f"{result.units} units, {format_bytes(result.bytes)} read{failed}: {len(result.bad)} broken")
    if result.bad and throw_away:
        console.print(f"{discard(result)} broken units removed; run their stage again to redo them")
    elif result.bad:
        console.print("add --discard to remove the broken units, then run their stage again to redo them")
        raise typer.Exit(1)


@app.command()
def inspect(
    path: Path,
    row: Annotated[str | None, typer.Option(help="catalog key or .yaml row of a raw file")] = None,
    out: Annotated[Path | None, typer.Option(help="where to write the picture")] = None,
) -> None:
    """Show one raw scene, cube or shard as a table and a picture."""
    from pipeline.inspecting import inspect as show

    show(path, row, out)


@app.command()
def datasets(
    words: Annotated[list[str] | None, typer.Argument(metavar="[show KEY]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="every field of every row, for programs")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="the page docs/datasets.md")] = False,
) -> None:
    """The catalog as a table; `datasets show KEY` tells all about one row."""
    from pipeline import catalog_view
    from sharding.errors import ConfigError

    given = words or []
    if as_json or markdown:
        typer.echo(catalog_view.as_json() if as_json else catalog_view.as_markdown(), nl=as_json)
    elif not given:
        catalog_view.show_catalog()
    elif given[0] == "show" and len(given) == 2:
        catalog_view.show_row(given[1])
    else:
        raise ConfigError(f"datasets does not know {' '.join(given)!r}; say: hypervision datasets show KEY")


def main() -> None:
    """Entry point: errors that a user can act on are one sentence and an exit code, never a traceback."""
    try:
        app()
    except HyperVisionError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to continue\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
