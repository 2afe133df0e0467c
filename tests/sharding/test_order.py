"""The order is a pure function of its key, all samples come equally often, ranks and batches only share it out."""

from collections import Counter

import numpy as np
import pytest

from sharding.errors import ConfigError
from sharding.order import MixingConfig, Order, keyed_rng

LAYOUT = {"a": [4, 3, 5, 1], "b": [2, 2], "c": [30]}
SIZE = 47


def test_without_temperature_an_epoch_is_every_sample_once_and_epochs_differ():
    order = Order(LAYOUT, "m", 0)
    epochs = [order.draws(e * SIZE, SIZE) for e in range(3)]
    for number, draws in enumerate(epochs):
        assert sorted(draws.index.tolist()) == list(range(SIZE))
        assert set(draws.visit.tolist()) == {number}
    assert not np.array_equal(epochs[0].index, epochs[1].index)


def test_draws_are_the_same_however_they_are_cut():
    order, other = Order(LAYOUT, "m", 3), Order(LAYOUT, "m", 3)
    whole = order.draws(0, 200)
    pieces = [other.draws(start, 7) for start in range(196, -1, -7)]  # backwards: no state is carried along
    assert np.array_equal(np.concatenate([p.index for p in pieces[::-1]])[:200], whole.index)
    assert np.array_equal(np.concatenate([p.visit for p in pieces[::-1]])[:200], whole.visit)


def test_every_part_of_the_key_counts():
    base = Order(LAYOUT, "m", 0).draws(0, SIZE).index
    others = (Order(LAYOUT, "n", 0), Order(LAYOUT, "m", 1), Order(LAYOUT, "m", 0, MixingConfig(temperature=2)))
    for other in (*others, Order(LAYOUT, "m", 0, MixingConfig(block_shards=1))):
        assert not np.array_equal(base, other.draws(0, SIZE).index)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1000.0])
def test_the_temperature_sets_the_shares_and_no_sample_is_favoured(temperature):
    order = Order(LAYOUT, "m", 0, MixingConfig(temperature))
    sizes = {"a": 13, "b": 4, "c": 30}
    draws = order.draws(0, 20 * SIZE)
    counts = order.counts(draws)
    assert counts == {name: 20 * quota for name, quota in order.quotas.items()} and sum(counts.values()) == 20 * SIZE
    total = sum(n ** (1 / temperature) for n in sizes.values())
    for name, size in sizes.items():
        assert abs(order.quotas[name] - SIZE * size ** (1 / temperature) / total) <= 1
    times = Counter(draws.index.tolist())
    for first, last in ((0, 13), (13, 17), (17, 47)):
        own = [times[i] for i in range(first, last)]
        assert max(own) - min(own) <= 1
    assert len(set(zip(draws.index.tolist(), draws.visit.tolist(), strict=True))) == len(draws)


def test_weights_multiply_and_shares_are_even_along_an_epoch():
    order = Order({"a": [100], "b": [100]}, "m", 0, MixingConfig(weights={"b": 3.0}))
    assert order.quotas == {"a": 50, "b": 150}
    for start in range(0, 200, 20):
        assert 3 <= order.counts(order.draws(start, 20))["a"] <= 7


def test_samples_are_read_from_few_shards_at_a_time():
    layout = {"a": [10] * 40}
    order = Order(layout, "m", 0, MixingConfig(block_shards=4))
    shard = order.draws(0, 400).index // 10
    for start in range(0, 400, 40):
        assert len(set(shard[start : start + 40].tolist())) == 4
    runs = np.sum(shard[1:] != shard[:-1])
    assert runs > 200  # but within a block they are mixed


def test_every_dataset_has_a_draw_and_empty_shards_do_no_harm():
    order = Order({"small": [1], "large": [0, 1000, 0]}, "m", 0, MixingConfig(weights={"small": 1e-6}))
    assert order.quotas == {"small": 1, "large": 1000}


def test_what_stands_in_is_of_the_same_dataset_and_always_the_same():
    order = Order(LAYOUT, "m", 0)
    chosen = [order.stand_in(position, 14, 0) for position in range(50)]
    assert set(chosen) == {13, 14, 15, 16}
    assert chosen == [Order(LAYOUT, "m", 0).stand_in(position, 14, 0) for position in range(50)]
    assert chosen != [order.stand_in(position, 14, 1) for position in range(50)]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"mixing\.weights names 'z'; the datasets are a, b, c"):
        Order(LAYOUT, "m", 0, MixingConfig(weights={"z": 1.0}))
    with pytest.raises(ConfigError, match="temperature and weights must be above 0"):
        Order(LAYOUT, "m", 0, MixingConfig(temperature=0))
    with pytest.raises(ConfigError, match="no samples"):
        Order({"a": [0]}, "m")


def test_the_order_is_the_same_on_every_machine_and_version():
    """Changing these numbers breaks the resume of every run: raise order.LOGIC when it must be."""
    assert keyed_rng("a", 1).integers(0, 1000, 4).tolist() == [569, 103, 75, 937]
    assert Order(LAYOUT, "m", 0).draws(40, 12).index.tolist() == [24, 17, 10, 41, 23, 11, 34, 30, 23, 9, 40, 15]
