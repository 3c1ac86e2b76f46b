"""Memories that devices share: what whole ones give, at the edges too, and nothing collected."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.devices import collectives, mapping
from byoljax.losses import contrastive
from byoljax.ops import bank, memory, ring

DEVICES = 4
# The last device's rows: as many as the others', fewer, none; two devices without any.
SIZES = (12, 10, 9, 5)

# Cosines are rounded by 1e-7, logits are 20 times as large; ten times that.
LOGITS = 2e-5


def crossed(others, by_default):
  """Every size with each of the others; those that are not tried by default are slow."""
  return [
    pytest.param(size, other, marks=() if (size, other) in by_default else pytest.mark.slow)
    for size in SIZES
    for other in others
  ]


def rows(count, dim=6, seed=0):
  x = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def parts(items):
  """[devices, rows of each, ...], as they are placed."""
  return np.asarray(mapping.place_row_shards(items))


def on_devices(function, *arguments):
  """Maps over what has a device axis in front, but for the first result's rows of all devices."""
  return jax.pmap(function, axis_name=collectives.AXIS)(*arguments)


@pytest.mark.parametrize('size', SIZES)
def test_parts_are_placed_and_joined(size):
  items = rows(size)
  cut = parts(items)
  assert cut.shape == (DEVICES, -(-size // DEVICES), 6)
  np.testing.assert_array_equal(cut.reshape(-1, 6)[:size], items)
  assert not cut.reshape(-1, 6)[size:].any()
  joined = on_devices(lambda part: collectives.unshard(part, items.shape), cut)
  for each in joined:
    np.testing.assert_array_equal(each, items)


@pytest.mark.parametrize(
  ('size', 'crowded'),
  crossed((False, True), {(12, False), (10, True), (9, True), (5, False), (5, True)}),
)
def test_rows_are_read(size, crowded):
  """Each device asks for rows of its own; crowded: all for those of one device, in many rounds."""
  items = rows(size)
  shape = (DEVICES, 5, 40)
  index = np.random.default_rng(0).integers(0, 2 if crowded else size, shape).astype(np.int32)
  index[2] = index[2, 0, 0]
  read = functools.partial(memory.take, size=size, axis=collectives.AXIS)
  found = on_devices(read, parts(items), index)
  np.testing.assert_array_equal(found, np.asarray(items)[index])


@pytest.mark.parametrize('size', SIZES)
def test_rows_are_written(size):
  items = rows(size)
  index = np.asarray([size - 1, 0, -1, size, 3, size + 7], np.int32)
  new = rows(len(index), seed=1)
  expected = np.asarray(
    jax.jit(functools.partial(memory.put, size=size, axis=None))(items, index, new)
  )
  assert (expected != items).any(axis=1).sum() == 3
  write = functools.partial(memory.put, index=index, rows=new, size=size, axis=collectives.AXIS)
  found = on_devices(write, parts(items))
  np.testing.assert_array_equal(found, parts(expected))


@pytest.mark.parametrize(
  ('size', 'chunk'), crossed((0, 2), {(12, 2), (10, 0), (9, 2), (5, 0), (5, 2)})
)
def test_log_sum_exp(size, chunk):
  """Values and gradients, sharp: one row decides."""
  items, z = rows(size), rows(DEVICES * 3, seed=2).reshape(DEVICES, 3, 6)
  weights = np.arange(1.0, 13.0, dtype=np.float32).reshape(DEVICES, 3)

  def weighted(z, part, weights, axis):
    each = memory.log_sum_exp(z, part, 0.05, size=size, axis=axis, chunk=chunk)
    return jnp.sum(weights * each), each

  def objective(z, part, weights, axis):
    return collectives.psum(weighted(z, part, weights, axis)[0], axis)

  alone = functools.partial(weighted, axis=None)
  (_, expected), gradient = jax.jit(
    jax.vmap(jax.value_and_grad(alone, has_aux=True), in_axes=(0, None, 0))
  )(z, items, weights)
  logits = np.asarray(z, np.float64) @ np.asarray(items, np.float64).T / 0.05
  np.testing.assert_allclose(expected, np.log(np.exp(logits).sum(-1)), atol=LOGITS)

  def shared(z, part, weights):
    _, each = weighted(z, part, weights, collectives.AXIS)
    # As the step does: the mean of all devices' objectives, then the mean of the gradients.
    mean = lambda z: objective(z, part, weights, collectives.AXIS) / DEVICES  # noqa: E731
    return each, jax.grad(mean)(z)

  found, slope = on_devices(shared, z, parts(items), weights)
  np.testing.assert_allclose(found, expected, atol=LOGITS)
  # Weights of up to 12 of rows 20 times as long, whose shares are off as logits are: 5e-6 seen.
  np.testing.assert_allclose(slope, gradient, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize('size', SIZES)
def test_nearest(size):
  """Ties go to the first row, and rows that are not there are never found."""
  items = np.array(rows(size))
  items[size - 1] = items[0]
  z = np.array(rows(DEVICES * 3, seed=3).reshape(DEVICES, 3, 6))
  z[1, 1] = items[0]

  def find(z, part, filled):
    return memory.nearest(z, part, filled=filled, size=size, axis=collectives.AXIS)

  mapped = jax.pmap(find, axis_name=collectives.AXIS, in_axes=(0, 0, None))
  of_all = jax.jit(functools.partial(memory.nearest, size=size, axis=None))
  for filled in (size, size - 1, 1):
    best = (z @ items[:filled].T).argmax(-1)
    np.testing.assert_array_equal(mapped(z, parts(items), filled), items[best])
    whole = of_all(z[1], items, filled=filled)
    np.testing.assert_array_equal(whole, items[best[1]])


def test_a_queue_and_a_bank_in_parts_move_as_whole_ones():
  whole = jax.jit(ring.init, static_argnums=(1, 2))(jax.random.key(0), 10, 6)
  entries = jax.jit(bank.init, static_argnums=(1, 2))(jax.random.key(1), 10, 6)
  cut, cut_entries = parts(whole.items), parts(entries)
  options = {'size': 10, 'axis': collectives.AXIS}

  def move(items, entries, pointer, filled, new, index):
    queue = ring.push(ring.Queue(items, pointer, filled), new, **options)
    return queue, bank.update(entries, index, new, 0.5, **options)

  mapped = jax.pmap(move, axis_name=collectives.AXIS, in_axes=(0, 0, None, None, None, None))
  alone = jax.jit(lambda q, e, n, i: (ring.push(q, n), bank.update(e, i, n, 0.5)))
  # The end of the queue is crossed by the third, and passed twice by the last.
  for number, count in enumerate((4, 4, 4, 14)):
    new = rows(count, seed=number)
    index = np.random.default_rng(number).integers(-1, 11, count).astype(np.int32)
    queue, cut_entries = mapped(cut, cut_entries, whole.pointer, whole.filled, new, index)
    whole, entries = alone(whole, entries, new, index)
    cut = queue.items
    np.testing.assert_array_equal(cut, parts(whole.items))
    np.testing.assert_allclose(cut_entries, parts(entries), rtol=1e-6, atol=1e-6)
    assert set(np.asarray(queue.pointer)) == {int(whole.pointer)}
    assert set(np.asarray(queue.filled)) == {int(whole.filled)}


def test_losses_are_those_against_given_negatives():
  q, k, negatives = rows(5), rows(5, seed=1), rows(9, seed=2)
  inside = functools.partial(contrastive.info_nce_in_memory, size=9, axis=None)
  found, wanted = jax.jit(lambda: (inside(3 * q, k, negatives, 0.1),
                                   contrastive.info_nce(q, k, negatives, 0.1)))()  # fmt: skip
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def _collected(function, *arguments):
  """Numbers that each kind of collective in the compiled program has at most."""
  compiled = jax.pmap(function, axis_name=collectives.AXIS).lower(*arguments).compile()
  found = {}
  for result, name in re.findall(
    r'= (.*?) (all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute)\(',
    compiled.as_text(),
  ):
    shapes = re.findall(r'[a-z]\d+\[([\d,]*)\]', result)
    count = sum(int(np.prod([int(d) for d in s.split(',') if d] or [1])) for s in shapes)
    found[name] = max(found.get(name, 0), count)
  return found


def test_what_is_moved_does_not_grow_with_the_memory():
  size, dim, b = 40_000, 8, 3
  cut = jnp.zeros((DEVICES, size // DEVICES, dim))
  z = jnp.ones((DEVICES, b, dim))
  options = {'size': size, 'axis': collectives.AXIS}
  index = jnp.zeros((DEVICES, b, 5), jnp.int32)

  def all_of_it(part, z, index):
    lse = memory.log_sum_exp(z, part, 0.1, **options)
    found = memory.nearest(z, part, filled=size, **options)
    return lse, found, memory.take(part, index, **options)

  found = _collected(all_of_it, cut, z, index)
  assert found['all-gather'] == DEVICES * b * dim
  assert 0 < max(found.values()) <= 2 * DEVICES * b * 5 * dim


def test_parts_of_another_size_are_refused():
  with pytest.raises(ValueError, match='a memory of 10 rows .* got 4 rows with axis=None'):
    memory.take(rows(4), jnp.zeros(3, jnp.int32), size=10, axis=None)
