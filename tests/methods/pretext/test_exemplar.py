"""Exemplar: one class for each image, and the triplet form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.method import transformed
from byoljax.methods.pretext.exemplar import retrieval
from tests.methods.test_contract import batch_of, make

TRIPLET = {'form': 'triplet', 'patches': 'views', 'projector': (6,), 'standardize': 'tile'}


def seen(batch, **changes):
  method = make('exemplar', axis=None, **changes)
  see = jax.jit(lambda batch: transformed(method, batch, jax.random.key(1), jnp.int32(0)))
  return method, jax.tree.map(np.asarray, see(batch))


def loss_of(method, made, head):
  """With a head at zero."""
  params, state = jax.jit(method.init)(jax.random.key(0), made)
  params[head] = jax.tree.map(jnp.zeros_like, params[head])
  value, aux = jax.jit(method.loss)(params, state, made, jax.random.key(0), jnp.int32(0))
  return float(value), jax.tree.map(float, aux.metrics)


def test_a_class_for_each_image():
  batch = batch_of('exemplar')
  batch['index'] = batch['index'][::-1].copy()
  method, made = seen(batch, samples=3, gray_prob=0.2, changes={'patch': 4})
  assert made['views'][0].shape == (3 * 32, 4, 4, 3)
  np.testing.assert_array_equal(made['pretext_label'], np.tile(batch['index'], 3))
  share = (np.ptp(made['views'][0], axis=-1).max((1, 2)) < 1e-5).mean()
  assert abs(share - 0.2) < 6 * np.sqrt(0.16 / 96)
  value, metrics = loss_of(method, made, 'head')
  assert value == pytest.approx(np.log(64), rel=1e-6)  # 64 images in the data set
  assert metrics['pretext_accuracy'] == pytest.approx(1 / 32)  # Ties go to class 0.


def test_triplets_of_views():
  batch = batch_of('exemplar')
  batch['views'] = tuple(batch['views'][0] + shift for shift in (0.0, 0.1, 0.2))
  method, made = seen(batch, **TRIPLET)
  assert made['views'][0].shape == (3 * 32, 8, 8, 3)
  # Standardized, the three are one: the nearest of each is of its image, and the margin is kept.
  np.testing.assert_allclose(made['views'][0][:32], made['views'][0][-32:], atol=1e-4)
  # All projections at zero: no distance anywhere, and the loss is the margin.
  value, metrics = loss_of(method, made, 'projector')
  assert value == pytest.approx(0.5, abs=1e-6) and metrics['active_triplets'] == 1.0


def test_retrieval_by_hand():
  z = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 3.0], [0.1, 2.0], [0.0, -1.0], [1.0, 0.05]])
  groups = jnp.array([0, 0, 1, 1, 2, 2])
  # Rows 2 and 3 are nearest to each other; 0 and 1 to the last one, and the two last to the first.
  assert float(retrieval(z, groups)) == pytest.approx(2 / 6)
  assert float(retrieval(z * jnp.array([[5.0]] + [[1.0]] * 5), groups)) == pytest.approx(2 / 6)
  # A row is not its own neighbor, however far all others are.
  assert float(retrieval(jnp.array([[1.0, 0.0], [-1.0, 0.1]]), jnp.array([0, 1]))) == 0.0


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'form': 'softmx'}, "did you mean 'softmax'"),
    ({'patches': 'view'}, "did you mean 'views'"),
    ({'form': 'triplet', 'samples': 1}, 'triplets need at least 2'),
    ({'margin': 5.0}, 'margin=5.0'),
    ({'gray_prob': -0.1}, 'gray_prob=-0.1'),
    ({'gray_prob': 0.5, 'setting': {'mean': (0.5,) * 4}}, 'of channels of these images is 4'),
    ({'mode': 'hard'}, 'triplet mode'),
    ({'standardize': 'image'}, 'standardization'),
    ({'setting': {'num_examples': 1}}, 'at least 2, got 1'),
  ],
)
def test_what_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    make('exemplar', axis=None, **changes)


def test_views_must_be_several_of_one_size():
  batch = batch_of('exemplar')
  with pytest.raises(ValueError, match='needs 2 or more'):
    seen(batch, **TRIPLET)
  batch['views'] = (batch['views'][0], batch['views'][0][:, :4, :4])
  with pytest.raises(ValueError, match='views of one size'):
    seen(batch, **TRIPLET)
