"""FixMatch: its loss on a whole batch in float64, what it reads of a batch, and its average."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import config as config_lib
from byoljax.data.sources import arrays
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.supervised import fixmatch
from byoljax.protocols import labelled
from byoljax.train import assemble
from tests.methods import test_contract as contract

SETTING = Setting(Length(32, 2, 20), num_classes=3, shares=(1, 3))


@functools.cache
def method():
  return fixmatch.build(contract.TinyEncoder, SETTING, threshold=0.4, weight=2.0, tau=0.75)


@functools.cache
def start():
  return jax.jit(method().init)(jax.random.key(0), contract.batch_of('fixmatch'))


@functools.cache
def compiled():
  return jax.jit(jax.value_and_grad(method().loss, has_aux=True))


def run(batch):
  params, state = start()
  return compiled()(params, state, batch, jax.random.key(0), jnp.int32(0))


def test_the_loss_is_the_papers():
  """Equations 3 and 4 in float64, from the logits of one pass over all images."""
  batch = contract.batch_of('fixmatch')
  first = np.arange(32) % 4 == 0
  weak, strong = batch['views']
  images = np.concatenate([weak[first], weak[~first], strong[~first]])
  params, state = start()
  outputs, _ = method().net.apply(params, state.bn, jnp.asarray(images), train=True)
  logits = np.asarray(outputs['logits'], np.float64)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  known, guess, learn = np.split(log_p, [8, 32])
  own = -known[np.arange(8), batch['label'][first]].mean()
  sure = np.exp(guess.max(1)) >= 0.4
  assert 3 < sure.sum() < 24
  others = -(sure * learn[np.arange(24), guess.argmax(1)]).mean()
  (value, aux), _ = run(batch)
  np.testing.assert_allclose(value, own + 2.0 * others, rtol=1e-5)
  np.testing.assert_allclose(aux.metrics['confident'], sure.mean(), rtol=1e-6)
  # The embedding is that of the batch's rows, whose labels the online probe pairs it with.
  np.testing.assert_allclose(aux.embedding[first], outputs['embedding'][:8], rtol=1e-5)
  np.testing.assert_allclose(aux.embedding[~first], outputs['embedding'][8:32], rtol=1e-5)


def test_labels_of_the_second_stream_are_never_read():
  batch = contract.batch_of('fixmatch')
  second = np.arange(32) % 4 > 0
  wrong = batch | {'label': np.where(second, (batch['label'] + 1) % 3, batch['label'])}
  contract.assert_equal(run(batch), run(wrong))
  known = batch | {'label': np.where(second, batch['label'], (batch['label'] + 1) % 3)}
  assert run(known)[0][0] != run(batch)[0][0]
  # Nor is the strong view of a labelled image.
  weak, strong = batch['views']
  other = np.where(second[:, None, None, None], strong, 0.0).astype(np.float32)
  contract.assert_equal(run(batch), run(batch | {'views': (weak, other)}))


def test_the_average_moves_with_the_weights_and_takes_their_statistics():
  params, state = start()
  contract.assert_equal(state.target_params, params)
  moved = jax.tree.map(lambda x: x + 1.0, params)
  statistics = state.replace(bn=jax.tree.map(lambda x: x + 2.0, state.bn))
  _, after, _ = method().post_step(moved, statistics, jnp.int32(0))
  for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(after.target_params), strict=True):
    np.testing.assert_allclose(new, old + 0.25, rtol=1e-5, atol=1e-6)
  contract.assert_equal(after.target_bn, statistics.bn)


def test_an_early_average_forgets_its_start():
  early = fixmatch.build(contract.TinyEncoder, SETTING, early=True)
  params, state = start()
  moved = jax.tree.map(lambda x: x + 1.0, params)
  # min(.999, 1 / 10), min(.999, 100,001 / 100,010)
  for step, share in ((0, 0.9), (100_000, 0.001)):
    _, after, _ = early.post_step(moved, state, jnp.int32(step))
    for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(after.target_params), strict=True):
      np.testing.assert_allclose(new, old + share, rtol=1e-5, atol=1e-6)


def test_other_methods_have_one_stream():
  """They would see the labelled images as a share of every batch, and again among all."""
  config = config_lib.load('configs/byol.py:smoke')
  config.update(data={'labels': '8'}, train={'batch_size': 32})
  images = np.zeros((32, 32, 32, 3), np.uint8)
  source = arrays.from_arrays(images, np.arange(32) % 4, name='few')
  with pytest.raises(config_lib.ConfigError, match="data.labels='8' .* byol learns from one"):
    assemble.from_config(config, labelled.two_streams(source, '8', 0))


def test_what_cannot_be_is_refused():
  def build(setting=SETTING, **fields):
    return fixmatch.build(contract.TinyEncoder, setting, **fields)

  with pytest.raises(ValueError, match='at least 2 classes'):
    build(SETTING._replace(num_classes=0))
  with pytest.raises(ValueError, match='set config.data.labels'):
    build(SETTING._replace(shares=(1,)))
  with pytest.raises(ValueError, match='threshold=1.5'):
    build(threshold=1.5)
  with pytest.raises(ValueError, match='weight=-1'):
    build(weight=-1.0)
  batch = contract.batch_of('fixmatch')
  for changed, message in (
    ({'views': batch['views'][:1]}, 'compares two views of every image, but there are 1'),
    ({'label': np.zeros((32, 3), np.int32)}, 'have several'),
  ):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(method().init, jax.random.key(0), batch | changed)
