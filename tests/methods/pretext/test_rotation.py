"""RotNet: all turns with their labels, and what cannot be asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import turns
from byoljax.method import transformed
from byoljax.methods.pretext import classification
from byoljax.report import preview
from tests.methods.test_contract import batch_of, make


def seen(**changes):
  batch = batch_of('rotation')
  method = make('rotation', axis=None, **changes)
  see = jax.jit(lambda batch, key: transformed(method, batch, key, jnp.int32(0)))
  return batch, see(batch, jax.random.key(0))


def test_every_image_is_seen_in_every_turn():
  batch, made = seen()
  images, count = batch['views'][0], len(batch['index'])
  (view,), labels = made['views'], np.asarray(made['pretext_label'])
  assert view.shape == (4 * count, *images.shape[1:]) and labels.dtype == np.int32
  np.testing.assert_array_equal(np.bincount(labels), [count] * 4)
  for turned, label, image in zip(view, labels, np.tile(images, (4, 1, 1, 1)), strict=True):
    np.testing.assert_array_equal(turned, np.rot90(image, label))


@pytest.mark.parametrize('angles', [(90, 270), tuple(range(0, 360, 45))])
def test_other_angles(angles):
  batch, made = seen(angles=angles)
  parts = np.asarray(classification.per_image(made['views'][0], len(batch['index'])))
  labels = classification.per_image(made['pretext_label'], len(batch['index']))
  assert len(parts) == len(angles)
  np.testing.assert_array_equal(labels[:, 0], np.arange(len(angles)))
  disc = turns.inscribed_disc(parts.shape[2]) if 45 in angles else 1.0
  for part, angle in zip(parts, angles, strict=True):
    expected = jax.jit(turns.turn, static_argnums=1)(batch['views'][0], angle) * disc
    # Five times float32's rounding of four products; quarter turns are exact.
    np.testing.assert_allclose(part, expected, rtol=0, atol=2e-6 if angle % 90 else 0)


def test_what_is_not_a_set_of_angles():
  for angles, said in (
    ((0,), 'at least two'),
    ((0, 360), 'different'),
    ((0, 60), 'multiples of 45'),
  ):
    with pytest.raises(ValueError, match=said):
      make('rotation', axis=None, angles=angles)
  with pytest.raises(ValueError, match='width of at least 1'):
    make('rotation', axis=None, hidden=(0,))


def test_a_second_view_is_refused():
  batch = batch_of('rotation')
  batch['views'] *= 2
  with pytest.raises(ValueError, match='there are 2: configure view1 alone'):
    transformed(make('rotation', axis=None), batch, jax.random.key(0), jnp.int32(0))


def test_the_loss_starts_at_chance_and_the_upright_image_is_embedded():
  """ln 4 with a head at zero; the embedding is that of the images as they are."""
  method = make('rotation', axis=None, hidden=())
  batch, made = seen(hidden=())
  params, state = method.init(jax.random.key(0), made)
  params['head'] = jax.tree.map(jnp.zeros_like, params['head'])
  value, aux = method.loss(params, state, made, jax.random.key(0), jnp.int32(0))
  assert float(value) == pytest.approx(np.log(4), rel=1e-6)
  assert float(aux.metrics['pretext_accuracy']) == 0.25  # Ties go to class 0.
  outputs, _ = method.net.apply(params, state.bn, made['views'][0], train=True)
  np.testing.assert_array_equal(aux.embedding, outputs['embedding'][: len(batch['index'])])


def test_captions_stand_where_labels_belong():
  labels = np.array([[0, 0], [1, 1]])
  assert preview.captions_of(labels, 2) == [['', ''], ['label 0'] * 2, ['label 1'] * 2]
  assert preview.captions_of(np.array([[7, 8]]), 2) == [['label 7', 'label 8'], ['', ''], ['', '']]
  assert preview.captions_of(np.array([[7, 8], [1, 2], [3, 4]]), 2)[0][1] == 'label 8, 2, 4'
