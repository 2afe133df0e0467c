"""How much of the machine a run uses: arithmetic of a step by count, the rate of the device by measurement, memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

PROBE_SIDE = {"cuda": 8192, "cpu": 1024}
PROBE_RUNS = 5
BACKWARD = 2  # a backward pass costs two forwards


class _Counter(TorchDispatchMode):
    """Adds up what torch's own table says of every operation; FlopCounterMode's tracking of modules needs gradients."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(getattr(func, "_overloadpacket", None))
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=out))
        return out


@torch.no_grad()
def forward_flops(module: nn.Module, *inputs: Any) -> int:
    """Multiplications and additions of the matrix products in one forward pass, counted as it runs."""
    with _Counter() as counter, torch.compiler.set_stance("force_eager"):
        module(*inputs)
    return int(counter.total)


@torch.no_grad()
def device_flops(where: torch.device, dtype: torch.dtype) -> float:
    """What this device reaches in one large matrix product: the best of a few, in operations per second."""
    side = PROBE_SIDE.get(where.type, 1024)
    a, b = (torch.ones(side, side, device=where, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(PROBE_RUNS):
        began = time.perf_counter()
        product = a @ b
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


class Speedometer:
    """Share of the device's rate that the training steps of a rank reach (model FLOP utilisation)."""

    def __init__(self, forward: int, passes: int, peak: float) -> None:
        # A second forward in place of activations is not counted: it is no progress.
        self.step_flops, self.peak = forward * (1 + BACKWARD) * passes, peak

    def mfu(self, seconds: float) -> float:
        """Of a step that took so long."""
        return self.step_flops / seconds / self.peak


def memory_bytes(where: torch.device) -> int:
    """The most that was ever held: of the device, or of this process where there is none."""
    if where.type == "cuda":
        return int(torch.cuda.max_memory_allocated(where))
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
