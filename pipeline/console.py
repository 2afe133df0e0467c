"""What a person sees: progress with rate and ETA, tables, one-sentence errors."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sharding.stage import StageResult

# In a log there is no terminal width: 120 columns unless COLUMNS says otherwise.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "120")))
notes = Console(stderr=True, soft_wrap=True)
LINE_SECONDS = 10.0


def format_bytes(count: float) -> str:
    """Bytes as a person says them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def short_path(path: Path) -> str:
    """A path from here where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


class StageProgress:
    """Progress of the running stage: a bar on a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.stage, self.begun, self.first, self.told = "", 0.0, 0, 0.0

    def __call__(self, stage: str, done: int, total: int, failed: int, health: str = "") -> None:
        """Report that `done` of `total` items of a stage are ready, and what its workers do."""
        now = time.monotonic()
        if stage != self.stage:
            self.close()
            self.stage, self.first, self.begun, self.told = stage, done, now, now
        if done == self.first:  # start-up does not count into the rate
            self.begun = now
        if sys.stdout.isatty():
            self._draw(stage, done, total, failed, health)
        elif done == total or now - self.told > LINE_SECONDS:
            self.told = now
            console.print(
                self._line(stage, done, total, failed, now) + (f" [{health}]" if health else ""), markup=False
            )

    def _line(self, stage: str, done: int, total: int, failed: int, now: float) -> str:
        rate = (done - self.first) / max(now - self.begun, 1e-9)
        rest = f", about {format_seconds((total - done) / rate)} left" if rate and done < total else ""
        return f"{stage}: {done}/{total}, {rate:.2f}/s{rest}" + (f", {failed} failed" if failed else "")

    def _draw(self, stage: str, done: int, total: int, failed: int, health: str) -> None:
        if self.bar is None:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(), console=console, transient=True,
            )  # fmt: skip
            self.bar.start()
            self.bar.add_task(stage, total=total, note="")
        rate = (done - self.first) / max(time.monotonic() - self.begun, 1e-9)
        note = f"{rate:.2f}/s" + (f", {failed} failed" if failed else "") + (f"  {health}" if health else "")
        self.bar.update(self.bar.task_ids[0], completed=done, total=total, note=note)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
        self.bar, self.stage = None, ""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; numbers are whatever text the caller made of them."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def stage_table(results: Sequence[StageResult]) -> None:
    """The final table of a run."""
    rows = []
    for result in results:
        made = f"{result.units}" if result.new == result.units else f"{result.units} ({result.new} new)"
        rate = f"{result.rate:.2f}/s" if result.new else "-"
        rows.append([
            result.stage, made, str(len(result.failures)), format_bytes(result.bytes), f"{result.seconds:.1f}", rate,
            short_path(result.where),
        ])  # fmt: skip
    table("Stages", ["stage", "units", "failures", "size", "seconds", "rate", "where"], rows)
    for result in results:
        for failure in result.failures[:5]:
            console.print(f"[yellow]failed[/yellow] {failure}", highlight=False)
        if len(result.failures) > 5:
            console.print(f"... and {len(result.failures) - 5} more failures in the records below {result.where}")
    for note in dict.fromkeys(note for result in results for note in result.notes):
        console.print(f"[bold yellow]note[/bold yellow] {note}", highlight=False)
