"""What a run writes down as it goes: metrics of every step, and lists of what was skipped or dropped, by rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharding.records import write_atomic

SKIPPED, DROPPED = "skipped", "dropped"
SHOWN = 4


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a list; nothing is made for none."""
    if rows:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def read_all(run: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of all ranks."""
    paths = sorted(run.glob(f"{kind}-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.endswith("}")]


def shown(keys: Sequence[str]) -> str:
    """Some names for a sentence."""
    distinct = sorted(set(keys))
    return ", ".join(distinct[:SHOWN]) + (", ..." if len(distinct) > SHOWN else "")


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
