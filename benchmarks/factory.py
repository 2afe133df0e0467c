"""The pseudo-label factory against the bare model loop: overhead, two actors against one, memory of the driver.

    PYTHONPATH=. python benchmarks/factory.py FOLDER [--windows 24] [--repeats 5] [--memory]

Models are SAM2-tiny and a small HyperFree with random weights (their time does not depend on what they have learnt),
one thread each. Every case is a process of its own; cases are interleaved. Rates leave out start-up: they count from
the second window of each actor (of the first, in a bare loop) to the last one. "Two bare loops" run side by side: what
the machine can give.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from pseudolabel.config import HyperfreeConfig, PseudolabelConfig, Sam2Config
from pseudolabel.factory import pseudolabel
from pseudolabel.units import pseudolabel_units, scene_windows
from pseudolabel.worker import LabelWorker
from sharding.ingest import DatasetConfig, ingest
from sharding.stage import RunOptions

BANDS = 60


def make_cubes(folder: Path, name: str, scenes: int, height: int, width: int, bands: int) -> None:
    """Random scenes of some materials, ingested."""
    raw = folder / f"{name}-raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(scenes):
        spectra = rng.uniform(0.1, 0.9, (6, bands))
        ids = rng.integers(0, 6, (-(-height // 16), -(-width // 16))).repeat(16, 0).repeat(16, 1)[:height, :width]
        values = spectra[ids] + 0.01 * rng.standard_normal((height, width, bands))
        np.save(raw / f"s{index:04d}.npy", (values * 10000).astype(np.uint16))
    row = raw / f"{name}.yaml"
    row.write_text(
        f"key: {name}\ncontainer: npy\nfiles: '*.npy'\naxes: hwb\ngsd_m: 0.01\nunits: counts\n"
        f"wavelength: {{start: 420, stop: 980, count: {bands}}}\n"
    )
    ingest(folder, [DatasetConfig(name, str(raw), str(row))], 2, RunOptions())


def config_of(name: str, workers: int) -> PseudolabelConfig:
    """Real models for rates, classical ones on tiny tiles for memory."""
    if name != "rate":
        shard = 160 * 160 * 8 * 2  # one scene, 100 tiles: twice as many as a real shard of 512 x 512 x 16 bands holds
        return PseudolabelConfig(segmenters="classical", tile=16, overlap=0, shard_bytes=shard, workers=workers)
    return PseudolabelConfig(
        tile=128, workers=workers, device="cpu",
        sam2=Sam2Config("tiny", None, True, 512, 12, -1.0, -1.0),
        hyperfree=HyperfreeConfig("hypervision_nano", None, True, 384, 12, 64, -1.0, -1.0),
    )  # fmt: skip


def bare(folder: Path) -> dict[str, float]:
    """One process, one model, window after window; nothing is written."""
    config = config_of("rate", 1)
    windows = [(scene[1], window) for unit in pseudolabel_units(folder, ["rate"], config) for scene in unit.payload
               for window in scene_windows(scene, config)]  # fmt: skip
    worker = LabelWorker(config)
    ready = []
    for path, window in windows:
        worker.make(path, window)
        ready.append(time.perf_counter())
    return {"rate": (len(ready) - 1) / (ready[-1] - ready[0])}


def factory(folder: Path, name: str, workers: int) -> dict[str, float]:
    """The stage; rate between its first and last window, peak memory of the driver."""
    ready: list[tuple[float, int]] = []

    def progress(stage: str, done: int, total: int, failed: int, health: str = "") -> None:  # noqa: ARG001
        ready.append((time.perf_counter(), done))

    work = folder / f"out-{os.getpid()}"
    work.mkdir()
    (work / "cubes").symlink_to(folder / "cubes")
    began = time.perf_counter()
    pseudolabel(work, [name], config_of(name, workers), RunOptions(progress=progress))
    (start, first), (end, last) = next(one for one in ready if one[1] >= 2 * workers), ready[-1]
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"rate": (last - first) / (end - start), "seconds": time.perf_counter() - began,
            "driver_mb": int(peak.split()[1]) / 1000}  # fmt: skip


def child(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A case in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, __file__, str(folder), "--case", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def result(process: subprocess.Popen[str]) -> dict[str, float]:
    """What it measured."""
    out, _ = process.communicate()
    found: dict[str, float] = json.loads(out.strip().splitlines()[-1])
    return found


def rates(folder: Path, windows: int, repeats: int) -> None:
    """Overhead and scaling, interleaved."""
    make_cubes(folder, "rate", windows, 128, 128, BANDS)
    found: dict[str, list[float]] = {name: [] for name in ("bare", "one actor", "two actors", "two bare loops")}
    for _ in range(repeats):
        found["bare"].append(result(child(folder, "bare"))["rate"])
        found["one actor"].append(result(child(folder, "rate", "1"))["rate"])
        found["two actors"].append(result(child(folder, "rate", "2"))["rate"])
        pair = [child(folder, "bare") for _ in range(2)]
        found["two bare loops"].append(sum(result(one)["rate"] for one in pair))
        print({name: [round(value, 3) for value in values] for name, values in found.items()}, flush=True)
    middle = {name: median(values) for name, values in found.items()}
    print({name: round(value, 3) for name, value in middle.items()}, "windows/s")
    print(f"overhead of the factory: {middle['bare'] / middle['one actor'] - 1:+.1%}")
    print(f"two actors / one: {middle['two actors'] / middle['one actor']:.2f}; "
          f"two bare loops / one: {middle['two bare loops'] / middle['bare']:.2f}")  # fmt: skip


def memory(folder: Path) -> None:
    """Peak memory of the driver at 100 and at 2,000 tiles of 16 x 16."""
    make_cubes(folder, "few", 1, 160, 160, 8)
    make_cubes(folder, "many", 20, 160, 160, 8)
    for name, tiles in (("few", 100), ("many", 2000), ("few", 100), ("many", 2000)):
        found = result(child(folder, name, "2"))
        told = f"{found['driver_mb']:.0f} MB, {found['rate']:.0f} windows/s, {found['seconds']:.0f} s"
        print(f"{tiles} tiles: driver {told}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--case", nargs="+")
    given = parser.parse_args()
    if given.case:
        found = (
            bare(given.folder) if given.case[0] == "bare" else factory(given.folder, given.case[0], int(given.case[1]))
        )
        print(json.dumps(found))
    elif given.memory:
        memory(given.folder)
    else:
        rates(given.folder, given.windows, given.repeats)


if __name__ == "__main__":
    main()
