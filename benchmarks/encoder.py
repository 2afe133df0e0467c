"""The encoder against this machine's matrix-multiply rate: `python benchmarks/encoder.py [--repeats 5] [--name ...]`.

s is the float32 rate of a 4096 x 3072 x 768 multiply in the same run; forward and training step (forward, backward,
no optimiser) of one 512 px image are told in seconds and in GFLOP = seconds x s, which does not depend on the machine's
mood. The same in bfloat16 (autocast) beside it, which pays where the processor multiplies in it. Interleaved; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from hypervision import create_model


def matmul_rate() -> float:
    """float32 GFLOP/s of a multiply of the shape of the MLP's."""
    a, b, out = torch.randn(4096, 768), torch.randn(768, 3072), torch.empty(4096, 3072)
    torch.mm(a, b, out=out)
    began = time.perf_counter()
    for _ in range(5):
        torch.mm(a, b, out=out)
    return 5 * 2 * 4096 * 768 * 3072 / (time.perf_counter() - began) / 1e9


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--name", default="hypervision_base")
    parser.add_argument("--side", type=int, default=512)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = create_model(given.name)
    cases = {bands: torch.linspace(400, 1000, bands).tolist() for bands in (31, 204)}
    cubes = {bands: torch.rand(1, bands, given.side, given.side) for bands in cases}

    def forward(bands: int, half: bool) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.eval().encode(cubes[bands], cases[bands], 0.01)

    def step(bands: int, half: bool) -> None:
        model.train().zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            maps = model.encode(cubes[bands], cases[bands], 0.01)
        sum(one.float().square().mean() for one in maps).backward()  # type: ignore[union-attr]

    works = {
        f"{what.__name__} {bands} {'bf16' if half else 'f32'}": (what, bands, half)
        for half in (False, True)
        for bands in cases
        for what in (forward, step)
    }
    for what, *case in works.values():
        what(*case)
    rates, seconds = [], {name: [] for name in works}  # type: ignore[var-annotated]
    for _ in range(given.repeats):
        rates.append(matmul_rate())
        for name, (what, *case) in works.items():
            seconds[name].append(timed(lambda what=what, case=case: what(*case)))  # type: ignore[misc]
    rate = statistics.median(rates)
    print(
        f"{given.name}, {given.side} px, {torch.get_num_threads()} threads, torch {torch.__version__}: "
        f"s = {rate:.0f} GFLOP/s"
    )
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:16s} {median:6.3f} s = {median * rate:5.0f} GFLOP  ({' '.join(f'{one:.3f}' for one in found)})")
    for kind in ("f32", "bf16"):
        for bands in cases:
            step_s, forward_s = (statistics.median(seconds[f"{what} {bands} {kind}"]) for what in ("step", "forward"))
            plain_s = statistics.median(seconds[f"forward {bands} f32"])
            ratios = f"{step_s / forward_s:.2f}, / float32 forward {step_s / plain_s:.2f}"
            print(f"step {kind} / forward at {bands} bands: {ratios}")


if __name__ == "__main__":
    main()
