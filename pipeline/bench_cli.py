"""`hypervision bench`: how fast samples come, and whether pre-training teaches something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench = typer.Typer(no_args_is_help=True, help="Measure: the loader against its peers, learning against doing without.")
Words = Annotated[list[str] | None, typer.Argument(help="recipe name or .yaml file, then key=value overrides")]


@bench.command()
def loader(
    shards: Annotated[Path | None, typer.Argument(help="shards folder (none: generated tiles)")] = None,
    bands: Annotated[int, typer.Option(help="bands of the generated tiles")] = 204,
    wanted: Annotated[int, typer.Option(help="bands that are read of a sample (0 = all)")] = 40,
    side: Annotated[int, typer.Option(help="pixels of the generated tiles")] = 512,
    samples: Annotated[int, typer.Option(help="samples there are")] = 16,
    batch: Annotated[int, typer.Option(help="samples of a batch")] = 4,
    workers: Annotated[int, typer.Option(help="worker processes")] = 1,
    cores: Annotated[int, typer.Option(help="cores to run on (0 = all)")] = 1,
    repeats: Annotated[int, typer.Option(help="rounds, of which the median counts")] = 5,
    peers: Annotated[bool, typer.Option(help="also what else one would use, where it is installed")] = True,
    folder: Annotated[Path, typer.Option(help="where generated data is kept")] = Path("work/bench"),
    json_only: Annotated[bool, typer.Option("--json", help="every run of every contestant, for programs")] = False,
) -> None:
    """How fast samples come: bounds, our loader, and peers on identical data."""
    from pipeline.bench_loader import BenchConfig, as_json, bench_loader, show

    config = BenchConfig(shards, folder, bands, side, wanted, samples, batch, workers, cores, repeats, peers)
    result = bench_loader(config)
    if json_only:
        typer.echo(as_json(result))
    else:
        show(result)


@bench.command()
def real(
    words: Words = None,
    model: Annotated[list[str] | None, typer.Option(help="weights as NAME=FILE, as often as you like")] = None,
    shots: Annotated[int, typer.Option(help="labelled pixels a class")] = 5,
    draws: Annotated[int, typer.Option(help="choices of them; halves of the scene take turns")] = 8,
    pixels: Annotated[int, typer.Option(help="pixels of the scene along a side of a patch (enlarged until then)")] = 2,
    json_only: Annotated[bool, typer.Option("--json", help="every draw, for programs")] = False,
) -> None:
    """Weights against doing without, on labelled scenes of one's own (`train: false` and `truth:` in the recipe)."""
    from pipeline.bench_real import as_json, bench_real, show
    from pipeline.config import load_config
    from pipeline.console import StageProgress, console
    from sharding.errors import ConfigError
    from sharding.stage import RunOptions

    pairs = [word.partition("=") for word in model or []]
    if not words or not pairs or not all(name and path for name, _, path in pairs) or min(shots, draws, pixels) < 1:
        raise ConfigError("a recipe with labelled scenes and at least one --model NAME=FILE are needed, numbers from 1")
    console.quiet = json_only
    progress = StageProgress()
    try:
        weights = {name: Path(path).expanduser() for name, _, path in pairs}
        config = load_config(words[0], words[1:])
        told = bench_real(config, weights, shots, draws, pixels, RunOptions(progress=progress))
    finally:
        progress.close()
    if json_only:
        typer.echo(as_json(told))
    else:
        show(told)


@bench.command()
def learning(
    words: Words = None,
    seeds: Annotated[str, typer.Option(help="corpora and starts, by comma")] = "0,1,2",
    rows: Annotated[str, typer.Option(help="rows by comma; `all` (every term) is always there")] = "",
    folder: Annotated[Path, typer.Option(help="where everything is kept")] = Path("work/learning"),
    json_only: Annotated[bool, typer.Option("--json", help="every score of every seed, for programs")] = False,
) -> None:
    """Pre-train on generated corpora and probe: every term alone, all, a control; against nets and spectra without."""
    from pipeline.bench_learning import CHOICES, ROWS, as_json, bench_learning, show
    from pipeline.console import StageProgress, console
    from sharding.errors import ConfigError
    from sharding.stage import RunOptions

    given = list(words or [])
    recipe = given.pop(0) if given and "=" not in given[0] else "demo"
    wanted = [row for row in rows.split(",") if row] or list(ROWS)
    unknown = [row for row in wanted if row not in ROWS | CHOICES]
    if unknown or not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise ConfigError(
            f"--rows {rows!r} or --seeds {seeds!r}: rows are {', '.join(ROWS | CHOICES)}; seeds are whole numbers"
        )
    numbers = [int(seed) for seed in seeds.split(",")]
    console.quiet = json_only
    progress = StageProgress()
    try:
        told = bench_learning(
            recipe, given, folder, numbers, list(dict.fromkeys(["all", *wanted])), RunOptions(progress=progress)
        )
    finally:
        progress.close()
    if json_only:
        typer.echo(as_json(told))
    elif not show(told):
        raise typer.Exit(1)
