"""What a kept teacher saves: one epoch with features computed live, computed and kept (fill), and read (cache).

    python benchmarks/teacher.py WORKDIR [--teacher vit_base_patch16_224] [--repeats 5]

WORKDIR is a work folder of the demo recipe with shards in it. Every epoch is a run of its own from fresh weights; the
three take turns. Seconds are those of the steps, without start-up and without the first step, in which all wake up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

MODES = ("live", "fill", "cache")


def epoch(work: Path, mode: str, teacher: str, steps: int, extra: list[str]) -> tuple[float, float]:
    """(seconds a step, share of it without data) of one epoch."""
    run = work / "runs" / f"teacher-{mode}"
    shutil.rmtree(run, ignore_errors=True)
    if mode == "fill":
        shutil.rmtree(work / "teacher", ignore_errors=True)
    words = [sys.executable, "-m", "pipeline.cli", "pretrain", "demo", f"workdir={work}", f"pretrain.run={run.name}"]
    words += [f"pretrain.steps={steps}", f"pretrain.save_every={steps}", "pretrain.pictures_every=0"]
    words += ["pretrain.probe_every=0", f"teacher.name={teacher}", f"teacher.mode={mode}"]
    subprocess.run([*words, *extra], check=True, capture_output=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
    seconds = sum(row["seconds"] for row in rows)
    return seconds / len(rows), sum(row["data_wait_share"] * row["seconds"] for row in rows) / seconds


def main() -> None:
    """Print the medians and every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--teacher", default="vit_base_patch16_224")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("words", nargs="*", help="further key=value")
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for repeat in range(given.repeats):
        for mode in MODES:
            found[mode].append(epoch(given.workdir, mode, given.teacher, given.steps, given.words))
            print(repeat, mode, [f"{value:.4f}" for value in found[mode][-1]], flush=True)
    middle = {mode: statistics.median(seconds for seconds, _ in rows) for mode, rows in found.items()}
    for mode, rows in found.items():
        waits = statistics.median(wait for _, wait in rows)
        print(f"{mode}: {middle[mode]:.3f} s a step, {waits:.2%} of it without data")
    live, fill, cache = (middle[mode] for mode in MODES)
    print(f"cache is {live / cache:.2f}x live, fill costs {fill / live - 1:+.1%}")


if __name__ == "__main__":
    main()
