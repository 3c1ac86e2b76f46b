"""W-MSE in its authors' form: views together through the head, parts of the batch whitened."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import METHODS

ROWS = 16


class Linear(nn.Module):
  """An embedding without normalization."""

  bn_axis: str | None

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(6, use_bias=False)(x.reshape(x.shape[0], -1))


def build(**fields):
  return METHODS['w_mse'](Linear, Setting(Length(ROWS, 2, 4)), projector=(8, 3), **fields)


def loss(**fields):
  """The method's loss, and what NumPy needs to compute it."""
  rng = np.random.default_rng(0)
  scales = np.array([0.5, 2.0]).reshape(2, 1, 1, 1, 1)
  views = tuple((scales * (scales + rng.normal(size=(2, ROWS, 2, 2, 1)))).astype(np.float32))
  batch = {'views': views, 'index': np.arange(ROWS, dtype=np.int32)}
  method, key = build(**fields), jax.random.key(3)
  params, state = method.init(key, batch)
  value, aux = jax.jit(method.loss)(params, state, batch, key, 0)
  return float(value), jax.tree.map(np.float64, params), views, aux


def reference(params, views, joint):
  """float64, one part: h, the head, whitening, 2 - 2 cos."""
  h = [view.reshape(ROWS, -1) @ params['encoder']['Dense_0']['kernel'] for view in views]
  head = params['projector']

  def hidden(x):
    x = x @ head['linear1']['kernel']
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return np.maximum(x, 0) @ head['linear2']['kernel']

  z = np.split(hidden(np.concatenate(h)), 2) if joint else [hidden(each) for each in h]
  unit = []
  for each in z:
    each = each - each.mean(0)
    spread = 0.999 * each.T @ each / (ROWS - 1) + 0.001 * np.eye(3)
    each = np.linalg.solve(np.linalg.cholesky(spread), each.T).T
    unit.append(each / np.linalg.norm(each, axis=1, keepdims=True))
  return np.mean(2 - 2 * (unit[0] * unit[1]).sum(1))


def test_the_heads_statistics_are_of_one_view_or_of_both():
  """The two differ as they do in the authors' code; a part that is the batch changes nothing."""
  found = {}
  for joint in (False, True):
    for size in (0, ROWS):
      value, params, views, aux = loss(joint_head=joint, whiten_size=size, whiten_draws=1)
      found[joint] = reference(params, views, joint)
      # 5 x the largest error seen, 2e-6.
      assert value == pytest.approx(found[joint], abs=1e-5)
    assert aux.embedding.shape == (ROWS, 6)
  assert abs(found[True] - found[False]) > 0.02


def test_parts_are_a_function_of_the_steps_key_and_average_out():
  once = [loss(whiten_size=8, whiten_draws=draws)[0] for draws in (1, 1, 3)]
  assert once[0] == once[1] != once[2]


def test_sizes_that_do_not_fit():
  with pytest.raises(ValueError, match='whiten_size=7 must divide the batch of 16'):
    build(whiten_size=7)
  with pytest.raises(ValueError, match='3 dimensions cannot be whitened with a batch of 2'):
    build(whiten_size=2)
