"""Memory is used again only when nobody looks at it any more."""

import copy
import gc

import pytest
import torch

from hypervision import create_model, memory
from hypervision.memory import kept_empty, kept_zeros

LIKE = torch.zeros(1)


@pytest.fixture(autouse=True)
def empty_pool(monkeypatch):
    monkeypatch.setattr(memory, "LEAST_BYTES", 1024)
    memory._free.clear()
    yield
    memory._free.clear()


def test_a_block_comes_again_when_the_last_tensor_that_shares_it_is_gone():
    first = kept_zeros((16, 32), LIKE)
    address, view = first.data_ptr(), first[3]
    view += 5
    del first
    assert kept_zeros((16, 32), LIKE).data_ptr() != address and view.eq(5).all()
    del view
    gc.collect()
    again = [kept_zeros((32, 16), LIKE), kept_zeros((32, 16), LIKE)]
    assert address in {one.data_ptr() for one in again} and not any(one.any() for one in again)


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(memory, "KEPT_BYTES", 3 * 4096)
    held = [kept_empty((1024,), LIKE) for _ in range(5)]
    del held
    gc.collect()
    assert len(memory._free[4096]) == 3


def test_small_tensors_do_not_come_from_the_pool():
    kept_zeros((8,), LIKE)
    assert not any(memory._free.values())


def test_gradients_of_two_steps_are_apart_and_a_trained_model_can_be_copied():
    torch.manual_seed(0)
    model, cube, wl = create_model("hypervision_nano").train(), torch.rand(1, 3, 32, 32), [450, 550, 650]
    bank = model.image_encoder.point_spectral_weight_bank_w
    gradients = []
    for scale in (1.0, 2.0):
        model.zero_grad()
        (model.encode(cube, wl, 0.1)[-1].sin().sum() * scale).backward()
        gradients.append(bank.grad)
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    before = gradients[1].clone()
    model.encode(cube, wl, 0.1)[-1].sin().sum().backward()
    torch.testing.assert_close(bank.grad, 1.5 * before)
    assert torch.equal(copy.deepcopy(model).image_encoder.point_spectral_weight_bank_w, bank)
