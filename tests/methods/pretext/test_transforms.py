"""What holds for the transform of every pretext task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.devices import mapping
from byoljax.method import same_batch, transformed
from byoljax.methods import METHODS
from byoljax.methods.pretext import classification
from byoljax.models import heads
from byoljax.models.net import stack
from tests.methods.test_contract import BATCH, batch_of, make
from tests.methods.test_pair_methods import Pixels

PRETEXT = sorted(name for name in METHODS if 'pretext' in METHODS[name].__module__)
# Long to compile; that training does not depend on the devices is in the contract.
SLOW = {'exemplar', 'relative_patch_location'}


def regrouped(x, devices):
  """[devices, m * b / devices, ...] -> [m, b, ...]: all first ones first."""
  x = np.asarray(x)
  rows = x.reshape(devices, -1, BATCH // devices, *x.shape[2:])
  return np.concatenate(list(rows), axis=1)


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in PRETEXT]
)
def test_the_same_images_are_asked_the_same_on_one_and_four_devices(name):
  batch, key = batch_of(name), jax.random.key(3)
  single = make(name, axis=None)
  alone = jax.jit(lambda batch: transformed(single, batch, key, jnp.int32(0)))(batch)
  method = make(name)

  def see(key, part):
    return method.transform(part, jax.random.wrap_key_data(key), jnp.int32(0))

  key = mapping.replicate(jax.random.key_data(key))
  four = mapping.spmd_map(see)(key, mapping.shard(batch))
  for field in sorted(set(alone) - {'index', 'epoch', 'label'}):
    for one, parts in zip(jax.tree.leaves(alone[field]), jax.tree.leaves(four[field]), strict=True):
      assert one.dtype == parts.dtype
      # Exact but for powers and principal components, 2.5e-6; five times that.
      tolerance = 1.3e-5 if name == 'exemplar' and one.dtype == jnp.float32 else 0
      np.testing.assert_allclose(
        regrouped(one[None], 1), regrouped(parts, 4), rtol=0, atol=tolerance
      )


@pytest.mark.parametrize('parts', [True, False])
def test_what_an_image_is_embedded_as(parts):
  """The mean over its parts, such as tiles; or what is made of the image as it is."""
  head = ('head', 'logits', heads.LinearHead(6))
  net = stack((('encoder', 'embedding', Pixels()), head))
  method = classification.from_labels(net, same_batch, parts=parts)
  views = np.random.default_rng(0).normal(size=(3 * 2, 1, 2, 3)).astype(np.float32)
  labels = np.array([0, 5, 3, 3, 1, 2], np.int32)
  batch = {'views': (views,), 'pretext_label': labels, 'index': np.arange(2)}
  params, state = method.init(jax.random.key(0), batch)
  value, aux = jax.jit(method.loss)(params, state, batch, jax.random.key(0), 0)
  pixels = views.reshape(3, 2, 6)
  wanted = pixels.mean(0) if parts else pixels[0]
  np.testing.assert_allclose(aux.embedding, wanted, rtol=1e-6, atol=1e-6)
  logits = views.reshape(6, 6) @ np.asarray(params['head']['linear1']['kernel'], np.float64)
  chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  assert float(value) == pytest.approx(-np.log(chances[np.arange(6), labels]).mean(), rel=1e-5)
  right = (logits.argmax(1) == labels).mean()
  assert float(aux.metrics['pretext_accuracy']) == pytest.approx(right)
