"""The arithmetic of a step by count, against what can be worked out by hand."""

from types import SimpleNamespace

import torch
from torch import nn

from pretrain.speed import Speedometer, device_flops, forward_flops, memory_bytes


def test_matrix_products_are_counted():
    assert forward_flops(nn.Linear(30, 50), torch.ones(7, 30)) == 2 * 7 * 30 * 50
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    assert forward_flops(convolution, torch.ones(2, 3, 10, 10)) == 2 * 2 * 100 * 3 * 9 * 8


def test_utilisation_is_the_share_of_what_the_device_can_do():
    speed = Speedometer(forward=10, passes=4, peak=1000.0)
    assert speed.mfu(seconds=1.0) == 0.12  # three forwards' worth, four times


def test_the_rate_of_a_device_is_its_best_of_five_products(monkeypatch):
    times = iter([0, 4, 10, 12, 20, 20.5, 30, 33, 40, 41])  # begin and end of each
    monkeypatch.setattr("pretrain.speed.time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert device_flops(torch.device("cpu"), torch.float32) == 2 * 1024**3 / 0.5


def test_memory_is_that_of_this_process():
    assert 50 << 20 < memory_bytes(torch.device("cpu")) < 64 << 30
