"""What fine-tuning adds for vision transformers: drop path, mixed images, smoothed labels."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import streams
from byoljax.config import ConfigError
from byoljax.data.augment import mixing
from byoljax.data.sources import arrays
from byoljax.encoders.encoder import Preprocessing, random_encoder
from byoljax.length import Length
from byoljax.method import Setting, transformed
from byoljax.methods.supervised import supervised
from byoljax.models import encoder_factory, vit
from byoljax.ops import stochastic_depth
from byoljax.protocols import extraction, finetune
from byoljax.train.record import Logging
from configs import finetune as finetune_config
from tests.imported import FIELDS

SETTING = Setting(Length(4, 2, 10), num_classes=3)
SIZE = vit.Size(8, 3, 2, patch=4, grid=2)


def tiny_vit(bn_axis=None, bn_groups=0):
  return vit.ViT(SIZE)


def batch_of(rows=4):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(rows, 8, 8, 3)).astype(np.float32)
  return {'views': (images,), 'label': rng.integers(0, 3, rows).astype(np.int32)}


def test_branches_are_left_out_by_their_blocks_rates():
  np.testing.assert_allclose(stochastic_depth.branch_rates(3, 0.5), [0, 0.25, 0.5])
  keys = jax.random.split(jax.random.key(0), 4000)
  factors = np.asarray(stochastic_depth.branch_factors(keys, 3, 0.5))
  assert factors.shape == (4000, 3, 2) and (factors[:, 0] == 1).all()
  for block, rate in ((1, 0.25), (2, 0.5)):
    np.testing.assert_allclose(np.unique(factors[:, block]), [0, 1 / (1 - rate)], rtol=1e-6)
    left_out = (factors[:, block] == 0).mean(0)
    assert np.abs(left_out - rate).max() < 5 * 0.008  # standard deviation of either
  both = (factors[:, 2] == 0).all(1).mean()
  assert abs(both - 0.25) < 5 * 0.007  # the two are drawn apart


def test_factors_reach_the_branches():
  module, x = tiny_vit(), batch_of()['views'][0]
  params = jax.jit(lambda key: module.init(key, x, train=True))(jax.random.key(0))

  @jax.jit
  def run(branches):
    tokens = module.apply(params, x, branches=branches, method=vit.ViT.tokens)
    return tokens, module.apply(params, x, branches=branches, train=True)

  plain = jax.jit(lambda: module.apply(params, x, method=vit.ViT.tokens))()
  ones, embedding = run(jnp.ones((4, 3, 2)))
  # Normalized tokens of another program: 1.1e-6 seen.
  np.testing.assert_allclose(ones, plain, atol=1e-5)
  np.testing.assert_allclose(embedding, ones[:, 0], atol=1e-5)
  nothing, _ = run(jnp.zeros((4, 3, 2)))
  stem = nn.meta.unbox(params)['params']['patch_embed']
  here = vit.patches(jnp.asarray(x), 4) @ stem['kernel'] + stem['bias'][None, None]
  here = np.asarray(here) + vit.sincos_positions(2, 2, 8, 2)[None]
  here = (here - here.mean(-1, keepdims=True)) / np.sqrt(here.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(nothing[:, 1:], here, atol=2e-5)
  # Of one image alone: its neighbors are as they were.
  one, _ = run(jnp.ones((4, 3, 2)).at[2, 1, 0].set(0.0))
  moved = np.abs(np.asarray(one) - np.asarray(ones)).max((1, 2))
  assert moved[2] > 1e-3 and moved[[0, 1, 3]].max() == 0


def test_loss_of_mixed_images_and_smoothed_labels():
  method = supervised.build(tiny_vit, SETTING, mixup=0.8, label_smoothing=0.1, drop_path=0.2)
  batch, zero = batch_of(), jnp.zeros((), int)
  key = jax.random.key(1)
  made = jax.jit(functools.partial(transformed, method))(batch, key, zero)
  own = np.eye(3)[batch['label']] * 0.9 + 0.1 / 3
  weights = functools.partial(mixing.weights, height=8, width=8, mixup=0.8, cutmix=0.0)
  kept = jax.jit(weights)(jax.random.fold_in(key, streams.MIXING))
  share = float(kept[0, 0])
  assert 0.01 < share < 0.99
  other = [1, 0, 3, 2]
  for mixed, whole in ((made['label_targets'], own), (made['views'][0], batch['views'][0])):
    np.testing.assert_allclose(mixed, share * whole + (1 - share) * whole[other], atol=1e-5)
  params, state = method.init(jax.random.key(0), made)
  params['head']['linear1']['bias'] = jnp.array([0.0, 1.0, -1.0])  # Its kernel is zero at first.
  value, aux = jax.jit(method.loss)(params, state, made, jax.random.key(2), zero)
  log_softmax = np.array([0, 1, -1]) - np.log(np.exp([0, 1, -1]).sum())
  wanted = -(np.asarray(made['label_targets']) * log_softmax).sum(1).mean()
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  assert aux.metrics['top1'] == np.mean(batch['label'] == 1)


def test_drop_path_is_random_in_training_alone():
  method = supervised.build(tiny_vit, SETTING, drop_path=0.9)
  batch, zero = batch_of(), jnp.zeros((), int)
  params, state = method.init(jax.random.key(0), batch)
  embedding = [
    np.asarray(method.loss(params, state, batch, jax.random.key(i), zero)[1].embedding)
    for i in (0, 0, 1)
  ]
  np.testing.assert_array_equal(embedding[0], embedding[1])
  assert np.abs(embedding[0] - embedding[2]).max() > 1e-3
  tested = method.embed(params, state, batch['views'][0])['embedding']
  plain = supervised.build(tiny_vit, SETTING).embed(params, state, batch['views'][0])
  np.testing.assert_array_equal(tested, plain['embedding'])


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'drop_path': 1.0}, 'drop_path=1.0 must be at least 0 and below 1'),
    ({'label_smoothing': -0.1}, 'label_smoothing=-0.1 must be at least 0'),
    ({'mixup': -1.0}, 'mixup=-1.0 must not be negative'),
  ],
)
def test_values_out_of_range_are_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    supervised.build(tiny_vit, SETTING, **changes)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'drop_path': 0.1}, 'finetune: drop_path=0.1 needs a vision transformer'),
    ({'pool': 'mean'}, 'finetune.pool=mean needs a vision transformer'),
    ({'pool': 'max'}, "unknown finetune.pool 'max'"),
    ({'optim': {'layer_decay': 0.5}}, 'finetune.optim.layer_decay=0.5 needs a vision transformer'),
  ],
)
def test_networks_without_blocks_are_refused_before_anything_is_read(changes, said):
  encoder = random_encoder(FIELDS | {'name': 'small'}, Preprocessing((0.5,) * 3, (0.2,) * 3, 32), 0)
  protocol = finetune.FinetuneProtocol(**finetune_config.get_config('small').finetune.to_dict())
  optim = {**protocol.optim, **changes.pop('optim', {})}
  changed = dataclasses.replace(protocol, optim=optim, **changes)
  with pytest.raises(ConfigError, match=said):
    finetune.check_network(encoder, changed)


def test_protocols_of_vision_transformers_fit_them():
  fields = FIELDS | {'name': 'vit_micro'}
  encoder = random_encoder(fields, Preprocessing((0.5,) * 3, (0.2,) * 3, 32), 0)
  for name in ('mae', 'small_vit'):
    protocol = finetune.FinetuneProtocol(**finetune_config.PROTOCOLS[name])
    finetune.check_network(encoder, protocol)
    assert protocol.optim['layer_decay'] < 1 and protocol.pool == 'mean'
  assert encoder_factory(fields)(None).depth == 4


def test_labels_must_be_one_an_image():
  method = supervised.build(tiny_vit, SETTING, label_smoothing=0.1)
  several = batch_of() | {'label': np.ones((4, 3), np.int32)}
  with pytest.raises(ValueError, match='are for images with one label each'):
    transformed(method, several, jax.random.key(0), jnp.zeros((), int))


def finetuned(recipe, labels, **changes):
  """Checks a protocol on so many images; the batch that a training would take."""
  fields = FIELDS | {'name': 'vit_micro'}
  encoder = random_encoder(fields, Preprocessing((0.5,) * 3, (0.2,) * 3, 32), 0)
  train = arrays.from_arrays(np.zeros((len(labels), 4, 4, 3), np.uint8), labels)
  data = extraction.EvalData(train, train, 32, (0.5,) * 3, (0.2,) * 3, 16)
  protocol = finetune.FinetuneProtocol(**finetune_config.get_config(recipe).finetune.to_dict())
  protocol = dataclasses.replace(protocol, **changes)
  finetune.check(data, protocol, Logging(), encoder)
  chosen = finetune._set_up(train, data, protocol, protocol.choices[0], Logging(), 'finetune')
  return chosen.length.batch_size


@pytest.mark.parametrize('name', finetune_config.PROTOCOLS)
def test_smoke_fits_every_protocol(name):
  changes = {'head_layers': 0, 'optim': finetune_config.get_config(f'{name},smoke').finetune.optim}
  assert finetuned(f'{name},smoke', np.arange(80) % 10, **changes) == 32


def test_mixed_batches_are_made_of_pairs():
  """All but one of an odd number of images; odd batches are refused before any training."""
  devices = jax.device_count()
  odd = np.arange(2 * devices + 1 + 80 * devices) % 2
  changes = {'length': '4 steps', 'optim': finetune_config.get_config('mae,smoke').finetune.optim}
  assert finetuned('mae', odd, **changes) == len(odd) - 1
  for labels, batch in ((odd, 3 * devices), (np.arange(2 * devices - 1) % 2, 64)):
    said = f'finetune.batch_size={batch} with {len(labels)} labelled images: mixup and CutMix'
    with pytest.raises(ConfigError, match=said):
      finetuned('mae', labels, batch_size=batch, **changes)
    assert finetuned('mae', odd, batch_size=batch, mixup=0.0, cutmix=0.0, **changes)


def test_images_with_several_labels_are_refused_before_training():
  with pytest.raises(ConfigError, match='finetune: mixup, CutMix .* one label each: set them to 0'):
    finetuned('mae', np.ones((80, 3), np.int32))
