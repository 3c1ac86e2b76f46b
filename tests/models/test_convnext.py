"""ConvNeXt's sizes, initial values and taps; its values are pinned where weights are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.models.net import stack
from byoljax.models.taps import taps_of
from tests.paths import GOLDEN


def net_of(name, **options):
  return stack((('encoder', 'embedding', models.make_encoder(name, **options)),))


def shapes(name, side=64, **options):
  net = net_of(name, **options)
  return jax.eval_shape(net.init, jax.random.key(0), np.zeros((2, side, side, 3)))


@pytest.mark.parametrize(
  ('name', 'count'),
  [('convnext_tiny', 27_820_128), ('convnext_base', 87_566_464)],
)
def test_parameter_counts_are_timms(name, count):
  params, stats = shapes(name)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
  assert count == np.load(GOLDEN / 'convnext.npz')[f'count/{name}']
  assert not jax.tree.leaves(stats)


def test_initial_values_are_the_papers_and_blocks_begin_near_the_identity():
  params, _ = net_of('convnext_micro').init(jax.random.key(0), np.zeros((2, 32, 32, 3)))
  block = params['encoder']['stage4_block0']
  for name in ('fc1', 'fc2'):
    assert float(block[name]['kernel'].std()) == pytest.approx(0.02, rel=0.03)
    assert not block[name]['bias'].any()
  assert (block['scale'] == np.float32(1e-6)).all()


def test_every_block_can_be_read_out():
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  found = taps_of(net_of('convnext_micro', width=2), image)
  assert {name: shape[1:] for name, shape in found.items()} == {
    'stem': (16, 16, 32),
    'stage1': (16, 16, 32),
    'stage2': (8, 8, 64),
    'stage3_1': (4, 4, 128),
    'stage3': (4, 4, 128),
    'stage4': (2, 2, 256),
    'embedding': (256,),
  }
  assert taps_of(net_of('convnext_micro', patch_size=1), image)['stage4'] == (1, 8, 8, 128)


def test_bfloat16_keeps_parameters_norms_and_the_residual_stream_float32():
  x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

  def outcome(dtype):
    net = net_of('convnext_micro', dtype=dtype)
    params, stats = net.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    return jax.jit(lambda p, x: net.apply(p, stats, x, train=True)[0]['embedding'])(params, x)

  exact, rounded = outcome('float32'), outcome('bfloat16')
  assert rounded.dtype == jnp.float32
  assert 1e-5 < float(jnp.abs(exact - rounded).max()) < 0.1


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'convnext_tiny', 'patch_size': -1}, 'patch_size -1 must not be negative'),
    ({'name': 'convnext_tiny', 'stem': 'cifar'}, "'convnext_tiny' has no stem: only"),
    ({'name': 'convnext_large'}, "unknown encoder 'convnext_large'"),
  ],
)
def test_wrong_settings_are_named_with_what_is_allowed(settings, message):
  with pytest.raises(ValueError, match=message):
    models.make_encoder(**settings)


def test_images_smaller_than_the_last_stage_are_named():
  with pytest.raises(ValueError, match='at least 32 pixels, got 24 x 24: set a smaller patch_size'):
    shapes('convnext_tiny', 24)
