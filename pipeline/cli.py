"""The command line: one verb per stage, the same word as in make and in the records.

hypervision VERB [RECIPE] [key=value ...] [--dry-run] [--overwrite] [--retry-failed]
"""

from __future__ import annotations

import sys
import time
from io import TextIOWrapper
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


def _compare_runs(runs: list[str], overrides: list[str]) -> None:
    from pipeline.compare import compare_runs
    from pipeline.config import load_config

    compare_runs(runs, load_config(DEFAULT_RECIPE, overrides, need_datasets=False).work)


def _stage_command(verb: str, text: str) -> None:
    def command(
        words: Words = None, dry_run: DryRun = False, overwrite: Overwrite = False, retry_failed: RetryFailed = False
    ) -> None:
        given = list(words or [])
        plain = [word for word in given if "=" not in word]
        if verb == "compare" and len(plain) > 1:
            _compare_runs(plain, [word for word in given if "=" in word])
            return
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
    "report": "Some tiles and the curves of the run -> report.png.",
    "compare": "Runs -> MLflow and a printed table; `compare A B`: what differs between two runs, curves together.",
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
    """What is done, running, waiting and failed, with reasons, from records and the Slurm queue."""
    from pipeline.queue import submitted
    from pipeline.status import print_status

    config = _load(words)
    verb = "submit" if submitted(config) else "run"
    told = " ".join(words) if words else DEFAULT_RECIPE
    print_status(config, _options(config, False, False), f"hypervision {verb} {told}")


@app.command()
def submit(
    words: Words = None,
    site: Annotated[Path | None, typer.Option(help="site file (default: slurm/site.yaml, if it is there)")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="stay until the last job has ended")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the scripts and submit nothing")] = False,
    overwrite: Overwrite = False,
    retry_failed: RetryFailed = False,
) -> None:
    """The stages of a recipe as a chain of Slurm jobs; again: what is not done and not in the queue."""
    from pipeline.site import load_site
    from pipeline.submit import submit as send
    from pipeline.submit import wait as stay

    config = _load(words)
    links = send(config, load_site(site), _options(config, overwrite, retry_failed), dry_run)
    if wait and not dry_run:
        stay(config, links)


@app.command()
def mlflow(
    words: Words = None, port: Annotated[int, typer.Option(help="of the loopback address 127.0.0.1")] = 5000
) -> None:
    """MLflow's pages over the runs of a work folder, on loopback."""
    from pipeline.console import console
    from pipeline.tracking import serve

    work = _load(words, need_datasets=False).work
    console.print(f"http://127.0.0.1:{port} shows {work / 'mlflow.db'}; Ctrl-C ends it", highlight=False)
    raise typer.Exit(serve(work, port))


@app.command()
def batch(
    stage: str,
    words: Words = None,
    folder: Annotated[Path, typer.Option(help="where jobs note their end")] = Path("slurm"),
    output: Annotated[Path, typer.Option(help="where the stage commits its units")] = Path(),
    restarts: Annotated[int, typer.Option(help="in a row without anything finished")] = 3,
    ray: Annotated[str, typer.Option(help="node: one Ray per array element; job: one for all nodes")] = "node",
    overwrite: Overwrite = False,
    retry_failed: RetryFailed = False,
) -> None:
    """The body of a Slurm job (slurm/*.sbatch): run a stage, hand signals on, queue the job again where it stopped."""
    from pipeline.batch import batch as body

    flags = ["--overwrite"] * overwrite + ["--retry-failed"] * retry_failed
    raise typer.Exit(body(stage, [*(words or []), *flags], folder, output, restarts, ray))


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
    draft: Annotated[Path | None, typer.Option(help="where to write a row for a raw file that has none")] = None,
) -> None:
    """Show one raw scene, cube or shard as a table and a picture; without a row, what a raw file holds."""
    from pipeline.inspecting import inspect as show

    show(path, row, out, draft)


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
    for stream in (sys.stdout, sys.stderr):  # a name of a file may be no text at all
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
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
