"""The order is a pure function of its key, whole epochs see every sample once, ranks only share it out."""

import numpy as np
import pytest

from sharding.errors import ConfigError
from sharding.order import Order, keyed_rng


def test_an_epoch_sees_every_sample_at_most_once_and_epochs_differ():
    order = Order(23, "m", 0, 4)
    assert order.steps_per_epoch == 5
    seen = np.concatenate([order.step(s)[1] for s in range(5)])
    assert len(set(seen.tolist())) == 20
    assert [order.step(s)[0] for s in (0, 4, 5, 10)] == [0, 0, 1, 2]
    assert not np.array_equal(order.step(0)[1], order.step(5)[1])


def test_every_part_of_the_key_counts():
    base = Order(50, "m", 0, 5).step(3)[1]
    assert np.array_equal(base, Order(50, "m", 0, 5).step(3)[1])
    for other in (Order(50, "n", 0, 5), Order(50, "m", 1, 5)):
        assert not np.array_equal(base, other.step(3)[1])


def test_a_batch_that_cannot_be_filled_is_refused():
    with pytest.raises(
        ConfigError, match=r"global batch is 9 but there are only 8 samples; lower pretrain\.global_batch"
    ):
        Order(8, "m", 0, 9)


def test_keyed_rng_is_stable_over_versions():
    assert keyed_rng("a", 1).integers(0, 1000, 4).tolist() == keyed_rng("a", 1).integers(0, 1000, 4).tolist()
    assert keyed_rng("a", 1).integers(0, 1000, 4).tolist() != keyed_rng("a", 2).integers(0, 1000, 4).tolist()
