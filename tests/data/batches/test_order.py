"""Mixed orders: fixed shares on every device and micro-batch, epochs of every part's own."""

import numpy as np
import pytest

from byoljax.data.batches.order import MixedOrder, Order

# 5 labelled images, 8 of them in a batch (more than there are), beside 100 others.
SIZES, ROWS = (5, 100), (8, 56)


def mixed(**changes):
  settings = {'sizes': SIZES, 'batch_sizes': ROWS, 'seed': 3, 'num_devices': 4, 'accumulate': 2}
  return MixedOrder(**(settings | changes))


def of_parts(order, steps):
  """(part, epoch, index within the part) of all rows, in order."""
  rows = [np.stack(order.at(step)) for step in range(steps)]
  epoch, index = np.concatenate(rows, axis=1)
  part = np.searchsorted(np.cumsum(order.sizes), index, side='right')
  return part, epoch, index - np.cumsum([0, *order.sizes])[part]


def test_devices_and_micro_batches_get_equal_shares():
  order = mixed()
  assert (order.batch_size, order.local_size, order.shares) == (64, 64, (1, 7))
  _, index = order.at(11)
  for device in np.split(index, 4):
    for micro_batch in range(2):
      # As the step splits the rows of a device; the labelled come first in every unit.
      rows = device[micro_batch::2].reshape(-1, 8)
      np.testing.assert_array_equal(rows < 5, [[True] + [False] * 7] * len(rows))


@pytest.mark.parametrize('part', [0, 1])
def test_every_part_is_gone_through_again_and_again(part):
  """Whole permutations one after the other: no (epoch, image) comes twice, none is left out."""
  found, epochs, index = of_parts(mixed(), 25)
  own, size = found == part, SIZES[part]
  assert own.sum() == 25 * ROWS[part]
  pairs = list(zip(epochs[own], index[own], strict=True))
  assert len(set(pairs)) == len(pairs)
  whole = len(pairs) // size
  assert set(pairs) >= {(epoch, i) for epoch in range(whole) for i in range(size)}
  assert {tuple(index[own & (epochs == epoch)]) for epoch in range(3)} != {tuple(range(size))}


def test_the_rows_do_not_depend_on_processes_or_devices():
  for step in (0, 7):
    whole = mixed().at(step)
    np.testing.assert_array_equal(mixed(num_devices=1).at(step), whole)
    for count in (2, 4):
      parts = [mixed(process_index=p, process_count=count).at(step) for p in range(count)]
      np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
  assert not np.array_equal(mixed(seed=4).at(0), mixed().at(0))
  assert mixed().at(0)[0].dtype == np.int32 and mixed().at(0)[1].dtype == np.int64


def test_parts_of_one_size_are_permuted_differently():
  first, second = np.split(MixedOrder((30, 30), (30, 30), 0).at(0)[1].reshape(30, 2), 2, axis=1)
  assert sorted(first.ravel()) == list(range(30))
  assert (first.ravel() != second.ravel() - 30).any()


def test_an_epoch_is_one_pass_over_the_part_that_takes_longest():
  assert mixed(sizes=(5, 600)).steps_per_epoch == 600 // 56
  assert mixed(sizes=(800, 600)).steps_per_epoch == 800 // 8
  assert mixed(sizes=(5, 20)).steps_per_epoch == 1


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'batch_sizes': (8, 50)}, 'part 1 has 50 rows.*4 devices x 2 micro-batches: use 48 or 56'),
    ({'batch_sizes': (3, 56)}, 'part 0 has 3 rows.*: use 8 or 16'),
    ({'batch_sizes': (8,)}, 'one batch size per part, got 1 for 2 parts'),
    ({'sizes': (0, 5)}, r'\[0, 5\] examples'),
    ({'process_count': 3}, 'num_devices 4 must be a multiple of 3 processes'),
    ({'process_index': 2, 'process_count': 2}, 'process_index 2'),
  ],
)
def test_mistakes_name_what_would_fit(changes, message):
  with pytest.raises(ValueError, match=message):
    mixed(**changes)


def test_a_plain_order_has_one_epoch_at_a_time():
  epoch, index = Order(10, 4, seed=1).at(5)
  assert epoch.tolist() == [2] * 4 and len(set(index)) == 4
