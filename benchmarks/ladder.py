"""A training step of the encoder, rung by rung: `python benchmarks/ladder.py [--name ...] [--batch 16] [--side 512]`.

Rungs: float32; bf16; bf16 with recomputed activations; bf16 with compiled blocks. Each is told in images a second and
as model FLOP utilisation: the FLOP that torch counts for forward and backward of the float32 rung, over the rate of a
large multiply in the rung's precision, measured in the same run. Meant for a GPU; on a CPU it runs with small sizes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hypervision import HyperModel, create_model


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def ceiling(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a square multiply, best of five."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(6):
        settle(device)
        began = time.perf_counter()
        for _ in range(4):
            a @ b
        settle(device)
        rates.append(4 * 2 * side**3 / (time.perf_counter() - began))
    return max(rates[1:])


def step(model: HyperModel, cube: torch.Tensor, wl: list[float], bf16: bool) -> None:
    """Forward and backward of one batch."""
    model.zero_grad()
    with torch.autocast(cube.device.type, torch.bfloat16) if bf16 else nullcontext():
        maps = model.encode(cube, wl, 0.01)
    torch.stack([one.float().square().mean() for one in maps]).sum().backward()


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of some calls, after two that do not count."""
    found = []
    for index in range(repeats + 2):
        settle(device)
        began = time.perf_counter()
        work()
        settle(device)
        if index > 1:
            found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="hypervision_base")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--bands", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--square", type=int, default=8192)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.manual_seed(0)
    model = create_model(given.name).to(device).train()
    cube = torch.rand(given.batch, given.bands, given.side, given.side, device=device)
    wl = torch.linspace(400, 1000, given.bands).tolist()
    with FlopCounterMode(display=False) as counter:
        step(model, cube, wl, False)
    flop = counter.get_total_flops()
    rates = {bf16: ceiling(device, torch.bfloat16 if bf16 else torch.float32, given.square) for bf16 in (False, True)}
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}, {given.name}, batch {given.batch}, {given.side} px, {given.bands} bands")
    print(
        f"{flop / 1e12:.3f} TFLOP a step; ceiling {rates[False] / 1e12:.1f} TFLOP/s in float32, "
        f"{rates[True] / 1e12:.1f} in bf16"
    )

    def compiled() -> None:
        model.compile_blocks()

    def recomputed() -> None:
        model.image_encoder.checkpointing = True

    rungs: list[tuple[str, bool, Callable[[], Any]]] = [
        ("float32", False, lambda: None), ("bf16", True, lambda: None), ("bf16, recomputed", True, recomputed),
        ("bf16, compiled", True, compiled),
    ]  # fmt: skip
    for name, bf16, prepare in rungs:
        model.image_encoder.checkpointing = False
        prepare()
        found = seconds(lambda bf16=bf16: step(model, cube, wl, bf16), device, given.repeats)  # type: ignore[misc]
        median = statistics.median(found)
        peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
        print(
            f"{name:18s} {median:7.3f} s  {given.batch / median:7.1f} images/s  "
            f"MFU {flop / median / rates[bf16]:5.1%}  peak {peak:.1f} GB  ({' '.join(f'{one:.3f}' for one in found)})"
        )


if __name__ == "__main__":
    main()
