"""Shuffling a batch over devices and back."""

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.devices import collectives, mapping
from byoljax.ops.shuffle import shuffle, unshuffle

X = jnp.arange(24.0).reshape(4, 3, 2)  # 4 devices, 3 rows each


def test_back_and_forth_is_the_identity_over_devices():
  def there(key, x):
    return shuffle(x, key, collectives.AXIS)

  def and_back(key, x):
    return unshuffle(10.0 * shuffle(x, key, collectives.AXIS), key, collectives.AXIS)

  key = jax.random.key(0)
  shuffled = mapping.spmd_map(there)(key, X)
  rows = np.asarray(shuffled).reshape(12, 2)
  order = np.asarray(jax.random.permutation(key, 12))
  np.testing.assert_array_equal(rows, np.asarray(X).reshape(12, 2)[order])
  crossed = np.asarray(shuffled)[:, :, 0] // 6 != np.arange(4)[:, None]
  assert crossed.any(), 'no row changed its device'
  np.testing.assert_array_equal(mapping.spmd_map(and_back)(key, X), 10.0 * X)
  other = mapping.spmd_map(there)(jax.random.key(1), X)
  assert not np.array_equal(other, shuffled)


def test_one_device_sees_the_same_global_order_as_four():
  key, flat = jax.random.key(3), X.reshape(12, 2)
  four = jax.vmap(lambda x: shuffle(x, key, 'batch'), axis_name='batch')(X)
  np.testing.assert_array_equal(shuffle(flat, key, None), four.reshape(12, 2))
  np.testing.assert_array_equal(unshuffle(shuffle(flat, key, None), key, None), flat)
