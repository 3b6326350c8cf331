"""Epochs can begin at any batch, and one seed decides the order of an epoch."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from padless.data import Batching, BatchIterableAdapter, EpochIterator, Examples


def epochs_of(data, size=None, shuffle=False, steps=None, **more):
    return EpochIterator(data, Batching(size, shuffle=shuffle, **more), steps, repeat=True)


def test_the_order_follows_torchs_seed():
    feed = epochs_of(Examples(np.arange(20)), 20, True)
    orders = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        orders += [next(feed.epoch()).x.tolist(), next(feed.epoch()).x.tolist()]
    assert orders[:2] == orders[2:4] and orders[0] != orders[1] and orders[0] != orders[4]
    assert all(sorted(order) == list(range(20)) for order in orders)


@pytest.mark.parametrize("batching", [
    Batching(3), Batching(3, shuffle=True), Batching(3, shuffle="batch"), Batching(tokens=7),
    Batching(tokens=7, shuffle=True),
])  # fmt: skip
@pytest.mark.parametrize("steps", [None, 4, 11])
def test_an_epoch_goes_on_from_its_state_at_the_begin_and_a_number_of_batches(batching, steps):
    def made():
        data = Examples([[i] * (i % 5 + 1) for i in range(20)])
        data.lengths = np.arange(20) % 5 + 1
        return EpochIterator(data, batching, steps, repeat=True)

    feed, kept = made(), []
    for _ in range(4):
        kept.append((torch.get_rng_state(), [feed.epoch(), feed.state_dict()], []))
        for batch in kept[-1][1][0]:
            kept[-1][2].append([row.tolist() for row in batch.x])
            torch.rand(3)  # whatever a step draws changes nothing
    for generator, (_, state), whole in kept:
        for start in (0, 1, len(whole) - 1, len(whole)):
            other = made()
            torch.set_rng_state(generator)
            other.load_state_dict(state, start)
            assert [[row.tolist() for row in batch.x] for batch in other.epoch()] == whole[start:]


def test_passes_of_one_epoch_are_in_different_orders():
    feed = epochs_of(Examples(np.arange(20)), 20, True, steps=3)
    orders = [tuple(batch.x.tolist()) for batch in feed.epoch()]
    assert len(set(orders)) == 3 and all(sorted(order) == list(range(20)) for order in orders)


def test_skipped_batches_are_not_read():
    data, read_rows = Examples(np.arange(10)), []
    feed = EpochIterator(data, Batching(2))
    batch_of = data.batch
    data.batch = lambda rows: read_rows.append(rows) or batch_of(rows)
    assert [batch.x.tolist() for batch in feed.epoch(start=4)] == [[8, 9]] and read_rows == [slice(8, 10)]


def test_a_loader_with_the_same_seed_gives_the_rest_of_an_epoch():
    loader = DataLoader(TensorDataset(torch.arange(9)), batch_size=2, shuffle=True)
    feed = EpochIterator(BatchIterableAdapter(loader), repeat=True)
    state = torch.get_rng_state()
    feed.data.head()
    assert torch.equal(torch.get_rng_state(), state)  # looking at the first batch draws nothing
    whole = [batch.x[0].tolist() for batch in feed.epoch()]
    torch.set_rng_state(state)
    assert [batch.x[0].tolist() for batch in EpochIterator(BatchIterableAdapter(loader)).epoch(start=2)] == whole[2:]


def test_an_epoch_draws_one_random_number_when_it_begins():
    feed = EpochIterator(Examples(np.arange(10)), Batching(2, shuffle=True))
    torch.manual_seed(0)
    todo = feed.epoch()
    after = torch.get_rng_state()
    list(todo)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(0)
    torch.randint(2**62, ())
    assert torch.equal(torch.get_rng_state(), after)
