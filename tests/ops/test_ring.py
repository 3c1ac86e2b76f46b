"""The queue: order, wrap-around, sizes that do not divide, in place."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.ops import ring

push = jax.jit(ring.push)


def rows(start, count, dim=3):
  return np.arange(start, start + count, dtype=np.float32)[:, None].repeat(dim, 1)


def test_a_new_queue_holds_unit_rows_of_which_none_counts():
  queue = ring.init(jax.random.key(0), 64, 8)
  items = np.asarray(queue.items)
  np.testing.assert_allclose(np.linalg.norm(items, axis=1), np.ones(64), rtol=1e-5)
  assert abs(items.mean()) < 0.05 and len(np.unique(items)) == 64 * 8
  assert int(queue.pointer) == 0 == int(queue.filled)
  assert queue.items.dtype == jnp.float32 and queue.pointer.dtype == jnp.int32
  assert not np.array_equal(queue.items, ring.init(jax.random.key(1), 64, 8).items)
  # the state is donated: no two leaves may share a buffer
  assert queue.pointer.unsafe_buffer_pointer() != queue.filled.unsafe_buffer_pointer()


@pytest.mark.parametrize('batch', [1, 3, 4, 7, 10, 11, 25])
def test_pushes_of_any_size_are_first_in_first_out(batch):
  size = 10
  queue = ring.init(jax.random.key(0), size, 3)
  newest = deque(maxlen=size)
  for start in range(0, 5 * batch, batch):
    queue = push(queue, rows(start, batch))
    newest.extend(range(start, start + batch))
    assert int(queue.filled) == len(newest)
    assert int(queue.pointer) == (start + batch) % size
    # from the oldest on: the pointer's row once it is full
    oldest_first = np.roll(np.asarray(queue.items), -int(queue.pointer), axis=0)
    np.testing.assert_array_equal(oldest_first[-len(newest) :, 0], list(newest))


def test_rows_that_are_not_valid_leave_no_trace():
  queue = push(ring.init(jax.random.key(0), 10, 3), rows(0, 7))
  after = push(queue, np.full((5, 3), np.nan, np.float32), np.bool_(False))
  for kept, before in zip(after, queue, strict=True):
    np.testing.assert_array_equal(kept, before)
  assert int(push(queue, rows(7, 5), np.bool_(True)).pointer) == 2


def test_rows_outside_the_push_are_kept():
  queue = ring.init(jax.random.key(0), 10, 3)
  pushed = push(push(queue, rows(0, 8)), rows(8, 4))  # wraps around
  assert np.asarray(pushed.items)[:, 0].tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
  once = push(queue, rows(0, 4))
  np.testing.assert_array_equal(np.asarray(once.items)[4:], np.asarray(queue.items)[4:])


def test_no_gradient_and_float32():
  queue = ring.init(jax.random.key(0), 4, 3)
  total = lambda x: jnp.sum(ring.push(queue, x).items)  # noqa: E731
  assert not np.any(jax.jit(jax.grad(total))(rows(0, 2)))
  assert push(queue, rows(0, 2).astype(jnp.bfloat16)).items.dtype == jnp.float32


def test_a_donated_queue_is_changed_in_place():
  queue = jax.eval_shape(lambda: ring.init(jax.random.key(0), 65536, 128))
  batch = jax.ShapeDtypeStruct((256, 128), jnp.float32)
  compiled = jax.jit(ring.push, donate_argnums=0).lower(queue, batch).compile()
  memory = compiled.memory_analysis()
  size = 65536 * 128 * 4
  assert memory.alias_size_in_bytes >= size and memory.temp_size_in_bytes < size / 10


def test_bad_shapes_are_refused():
  queue = ring.init(jax.random.key(0), 4, 3)
  with pytest.raises(ValueError, match=r'takes rows \[B,3\], got \(2, 4\)'):
    ring.push(queue, np.ones((2, 4), np.float32))
  with pytest.raises(ValueError, match='at least 1, got 0 and 3'):
    ring.init(jax.random.key(0), 0, 3)
