"""The processes of a run: who am I, and decisions that all ranks take together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Number of this process."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world() -> int:
    """Number of processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def device() -> torch.device:
    """The device of this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def from_rank0(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and give its result, or its exception, to every rank.

    Without this an error on rank 0 alone leaves the others waiting until a timeout.
    """
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = function()
        except Exception as error:
            box[1] = error
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]  # type: ignore[no-any-return]


def mean_over_ranks(values_N: torch.Tensor) -> torch.Tensor:
    """Mean of each value over all ranks; every rank gives as many, on its own device."""
    if world() == 1:
        return values_N
    total = values_N.clone()
    dist.all_reduce(total)
    return total / world()


def barrier() -> None:
    """Wait for every rank."""
    if world() > 1:
        dist.barrier()
