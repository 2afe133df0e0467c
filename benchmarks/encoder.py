"""The encoder against this machine's matrix-multiply rate: `python benchmarks/encoder.py [--repeats 5] [--name ...]`.

s is the float32 rate of a 4096 x 3072 x 768 multiply in the same run; forward and training step (forward, backward,
no optimiser) of one 512 px image are told in seconds and in GFLOP = seconds x s, which does not depend on the machine's
mood. Everything is interleaved; medians.
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

    def forward(bands: int) -> None:
        with torch.inference_mode():
            model.eval().encode(cubes[bands], cases[bands], 0.01)

    def step(bands: int) -> None:
        model.train().zero_grad()
        maps = model.encode(cubes[bands], cases[bands], 0.01)
        sum(one.square().mean() for one in maps).backward()  # type: ignore[union-attr]

    works = {f"{what.__name__} {bands}": (what, bands) for bands in cases for what in (forward, step)}
    for what, bands in works.values():
        what(bands)
    rates, seconds = [], {name: [] for name in works}  # type: ignore[var-annotated]
    for _ in range(given.repeats):
        rates.append(matmul_rate())
        for name, (what, bands) in works.items():
            seconds[name].append(timed(lambda what=what, bands=bands: what(bands)))  # type: ignore[misc]
    rate = statistics.median(rates)
    print(
        f"{given.name}, {given.side} px, {torch.get_num_threads()} threads, torch {torch.__version__}: "
        f"s = {rate:.0f} GFLOP/s"
    )
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:12s} {median:6.3f} s = {median * rate:5.0f} GFLOP  ({' '.join(f'{one:.3f}' for one in found)})")
    for bands in cases:
        ratio = statistics.median(seconds[f"step {bands}"]) / statistics.median(seconds[f"forward {bands}"])
        print(f"step / forward at {bands} bands: {ratio:.2f}")


if __name__ == "__main__":
    main()
