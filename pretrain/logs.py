"""What a run writes down as it goes: metrics of every step, and lists of what was skipped or dropped, by rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharding.records import write_atomic

SKIPPED, DROPPED = "skipped", "dropped"
METRICS = "metrics.jsonl"
SHOWN = 4
LINE_BYTES = 4096  # more than a line of metrics has
PROBE, UNTRAINED, BASIS = "probe/", "probe_untrained/", "probe_basis/"
SOLVED = 0.95  # accuracy at which an untrained net leaves nothing for training to show


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a list; nothing is made for none."""
    if rows:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a list; what a kill cut is left out."""
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def read_all(run: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of all ranks."""
    return [row for path in sorted(run.glob(f"{kind}-*.jsonl")) for row in read_rows(path)]


def shown(keys: Sequence[str]) -> str:
    """Some names for a sentence."""
    distinct = sorted(set(keys))
    return ", ".join(distinct[:SHOWN]) + (", ..." if len(distinct) > SHOWN else "")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics; a half-written last line is left out."""
    return read_rows(run / METRICS)


def sampled_metrics(path: Path, count: int) -> list[dict[str, Any]]:
    """At most `count` rows of a list of metrics, evenly spread, the first and the last among them."""
    lines = [line for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]
    few = min(count, len(lines))
    picked = range(len(lines)) if few == len(lines) else [round(i * (len(lines) - 1) / (few - 1)) for i in range(few)]
    return [json.loads(lines[i]) for i in picked]


def without_solved(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics without the probes that an untrained net solves, since they do not tell runs apart."""
    solved = {name.removeprefix(UNTRAINED) for name, value in row.items()
              if name.startswith(UNTRAINED) and value >= SOLVED}  # fmt: skip
    return {name: value for name, value in row.items() if name.partition("/")[2] not in solved or "/" not in name}


def tail(run: Path, count: int) -> list[dict[str, Any]]:
    """The last whole lines of a run's metrics, without reading the others; none where there are none."""
    try:
        with (run / METRICS).open("rb") as file:
            start = file.seek(max(0, (run / METRICS).stat().st_size - (count + 1) * LINE_BYTES))
            lines = file.read().splitlines()[bool(start) :]  # the first may be half a line
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in [line for line in lines if line.endswith(b"}")][-count:]]


class MetricsLog:
    """`metrics.jsonl`: one line a step, appended by rank 0; lines after the resumed step are cut off first."""

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] < start]
            write_atomic(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append the numbers of one step."""
        append(self.path, [row])
