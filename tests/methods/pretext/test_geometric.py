"""GEOM: which transforms are drawn, that each is applied, and what cannot be asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import geometric
from byoljax.length import Length
from byoljax.method import Setting, transformed
from byoljax.methods import METHODS
from byoljax.methods.pretext import classification
from tests.methods.test_contract import batch_of, make
from tests.methods.test_pair_methods import Pixels


def seen(rows=32, seed=0, **changes):
  batch = batch_of('geometric', rows=rows)
  method = make('geometric', axis=None, **changes)
  return method, batch, transformed(method, batch, jax.random.key(seed), jnp.int32(0))


def test_drawn_transforms_are_applied_and_differ_within_an_image():
  method, batch, made = seen()
  views = classification.per_image(made['views'][0], 32)
  labels = np.asarray(classification.per_image(made['pretext_label'], 32))
  assert labels.shape == (3, 32)
  assert all(len(set(own)) == 3 for own in labels.T)
  assert len({tuple(own) for own in labels.T}) > 20, 'examples draw for themselves'
  maps = geometric.index_maps(8, 2)
  for part, own in zip(views, labels, strict=True):
    np.testing.assert_array_equal(part, geometric.apply(batch['views'][0], maps, own))
  one = method.transforms.apply(batch['views'][0], jnp.int32(17))
  np.testing.assert_array_equal(one, geometric.apply(batch['views'][0], maps, jnp.int32(17)))
  assert method.transforms.count == 72
  _, _, again = seen(seed=1)
  assert not np.array_equal(again['pretext_label'], made['pretext_label'])


def test_all_labels_are_equally_likely():
  """With all 72 of every image exactly; drawn, within 5 standard deviations of a binomial."""
  _, _, made = seen(rows=4, per_image=72)
  np.testing.assert_array_equal(np.bincount(made['pretext_label']), [4] * 72)
  _, _, made = seen(rows=720, per_image=1)
  assert np.abs(np.bincount(made['pretext_label'], minlength=72) - 10).max() < 5 * np.sqrt(10)


def test_an_image_is_embedded_as_the_mean_of_its_transforms():
  setting = Setting(Length(4, 5, 20))
  method = METHODS['geometric'](lambda axis: Pixels(), setting, per_image=3)
  made = transformed(method, batch_of('geometric', rows=4), jax.random.key(0), jnp.int32(0))
  params, state = method.init(jax.random.key(0), made)
  _, aux = jax.jit(method.loss)(params, state, made, jax.random.key(0), jnp.int32(0))
  wanted = classification.per_image(made['views'][0].reshape(12, -1), 4).mean(0)
  np.testing.assert_allclose(aux.embedding, wanted, rtol=1e-6, atol=1e-6)


def test_settings_out_of_range():
  for changes, said in (
    ({'per_image': 73}, r'per_image=73 must be in \[1, 72\]'),
    ({'shift': 1.0}, 'share of the image'),
  ):
    with pytest.raises(ValueError, match=said):
      make('geometric', axis=None, **changes)
