"""Large CPU tensors in memory that is used again.

Memory that is new to a process is handed out page by page, which costs as much as several copies of it, and the
allocator gives large blocks back as soon as they are freed: a gradient of hundreds of megabytes pays for that in every
step. A block from here goes back to the pool when the last tensor that shares it is gone, and serves the next one.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import defaultdict

import torch
from torch import Tensor

LEAST_BYTES = 4 << 20
KEPT_BYTES = 512 << 20

_free: dict[int, list[mmap.mmap]] = defaultdict(list)
_lock = threading.RLock()


def _give_back(block: mmap.mmap) -> None:
    """Keep a block for the next tensor of its size, unless enough is kept."""
    with _lock:
        if len(block) + sum(size * len(blocks) for size, blocks in _free.items()) <= KEPT_BYTES:
            _free[len(block)].append(block)


def kept_empty(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Like `like.new_empty(shape)`; large CPU tensors come from the pool, with what was there before."""
    return _take(shape, like, dtype or like.dtype)[0]


def kept_zeros(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Like `like.new_zeros(shape)`; large CPU tensors come from the pool."""
    tensor, clean = _take(shape, like, dtype or like.dtype)
    return tensor if clean else tensor.zero_()


def _take(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """A tensor and whether it holds zeros."""
    size = math.prod(shape) * dtype.itemsize
    if like.device.type != "cpu" or size < LEAST_BYTES:
        return like.new_empty(shape, dtype=dtype), False
    with _lock:
        block = _free[size].pop() if _free[size] else None
    fresh = block is None
    if block is None:
        block = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
    lease = memoryview(block)  # the tensor's storage holds it, and nobody else does
    weakref.finalize(lease, _give_back, block).atexit = False
    return torch.frombuffer(lease, dtype=dtype).view(shape), fresh
