"""A run whose method learns from further fields, and from an order that mixes two sources."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import config as config_lib
from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches.order import MixedOrder
from byoljax.data.fields import Field
from byoljax.data.sources import arrays
from byoljax.data.sources.joined import join
from byoljax.devices import mapping
from byoljax.length import make_length
from byoljax.method import Aux, Method, default_groups, keep
from byoljax.models.net import Statistics
from byoljax.train import assemble, loop
from byoljax.train.run import DataOptions, make_run
from byoljax.workdir.clock import Clock
from tests.paths import ROOT

SPEC = ViewSpec(size=8, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
AGAIN = dataclasses.replace(SPEC, field='again', geometry_of=0)  # Shows the image's copy.
WEIGHTS = np.array([0.5, 0.25, -0.5], np.float32)


def depth_from_color(setting):
  """Predicts depth from a pixel's colors in view 2; counts labeled rows of a micro-batch."""
  del setting

  def init(key, batch):
    del key
    return {'encoder': {'kernel': jnp.zeros(batch['views'][0].shape[-1])}}, Statistics({})

  def loss(params, state, batch, key, step):
    del key, step
    predicted = batch['views'][1] @ params['encoder']['kernel']
    value = jnp.mean((predicted - batch['depth'][0][..., 0]) ** 2)
    labeled = jnp.mean((batch['label'] >= 0).astype(jnp.float32))
    embedding = jnp.mean(batch['views'][0], axis=(1, 2))
    return value, Aux(state, {'labeled': labeled}, embedding)

  def embed(params, state, images):
    del params, state
    return {'embedding': jnp.mean(images, axis=(1, 2))}

  return Method(init, loss, keep, embed, default_groups)


def scenes(count, seed, labels=None):
  coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
  images = coarse.repeat(4, axis=1).repeat(4, axis=2)
  depth = (images / np.float32(255)) @ WEIGHTS
  return arrays.from_arrays(
    images,
    labels,
    fields={Field('depth', 'map', resample='bicubic'): depth, Field('again', 'image'): images},
  )


def test_fields_of_a_configuration_accompany_the_views_or_are_one():
  config = config_lib.load(str(ROOT / 'configs' / 'byol.py') + ':shapes')
  assert assemble.data_options(config).fields == ()
  config.data.fields = ('second:image', 'moving:mask', 'depth:map')
  config.views.view2 = config.views.view1.to_dict() | {'field': 'second', 'geometry_of': 'view1'}
  assert assemble.data_options(config).fields == ('moving', 'depth')


@pytest.mark.parametrize('resident', ['off', 'on'])
def test_a_method_learns_from_depth_in_a_mixed_order(resident, monkeypatch):
  monkeypatch.setattr(mapping, 'must_unroll', lambda: False)
  source = join([scenes(5, 0, np.arange(5) % 2), scenes(40, 1)])
  order = MixedOrder((5, 40), (8, 24), seed=0, num_devices=jax.device_count(), accumulate=2)
  run = make_run(
    source,
    (SPEC, AGAIN),
    depth_from_color,
    optax.sgd(0.5),
    make_length('40 steps', batch_size=32, num_examples=source.size),
    data=DataOptions((0.0,), (1.0,), resident=resident, fields=('depth',)),
    order=order,
    accumulate=2,
  )
  losses, state = [], run.layout.place(run.create())
  with contextlib.closing(loop.training(run, state, 0, Clock(40, 32))) as steps:
    for _, last, values in steps:
      state = last
      losses.append(float(mapping.fetch(values)['loss']))
      assert mapping.fetch(values)['labeled'] == 0.25
  assert losses[-1] < losses[0] / 20
  kernel = mapping.fetch(state.params)['encoder']['kernel']
  np.testing.assert_allclose(kernel, WEIGHTS, atol=0.1)


@pytest.mark.parametrize(
  ('order', 'sentence'),
  [
    (
      MixedOrder((5, 40), (8, 56), seed=0, accumulate=2),
      'batches of 64 images, but the length .* of 32',
    ),
    (
      MixedOrder((5, 41), (8, 24), seed=0, accumulate=2),
      'covers 46 examples, but the source has 45',
    ),
    (MixedOrder((5, 40), (8, 24), seed=0), 'num_devices=4, accumulate=2'),
    (MixedOrder((5, 40), (4, 28), seed=0, accumulate=2), 'num_devices=4, accumulate=2'),
  ],
)
def test_an_order_for_another_run_is_refused(order, sentence):
  source = join([scenes(5, 0, np.arange(5) % 2), scenes(40, 1)])
  length = make_length('2 steps', batch_size=32, num_examples=source.size)
  data = DataOptions((0.0,), (1.0,), fields=('depth',))
  with pytest.raises(ValueError, match=sentence):
    make_run(
      source, (SPEC, SPEC), depth_from_color, optax.sgd(0.5), length,
      data=data, order=order, accumulate=2, num_devices=4,
    )  # fmt: skip
