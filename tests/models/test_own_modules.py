"""Linen modules of the user's own, parts with further inputs, and options of other families."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import models
from byoljax.encoders.encoder import EMBEDDING, Encoder, Preprocessing
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import METHODS
from byoljax.models import layers, options
from byoljax.models.net import stack
from byoljax.models.taps import taps_of, truncate

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


class Mine(nn.Module):
  """What a user may write."""

  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(8, (3, 3), strides=2)(x)
    x = nn.relu(layers.batch_norm(train, self.bn_axis, x.dtype, 'bn', groups=self.bn_groups)(x))
    self.sow('intermediates', 'map', x)
    return x.mean((1, 2))


class Plain(nn.Module):
  """Without batch normalization."""

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(5)(x.reshape(x.shape[0], -1))


class Fill(nn.Module):
  """A decoder: tokens of some patches in their places, zeros in the others."""

  @nn.compact
  def __call__(self, x, *, train, keep):
    tokens = nn.Dense(3, name='out')(x[:, 1:])
    rows = jnp.arange(x.shape[0])[:, None]
    return jnp.zeros((x.shape[0], 4, 3)).at[rows, keep].set(tokens)


def test_a_module_or_a_function_is_an_encoder():
  for given in (Mine(), Mine):
    made = models.encoder_factory(given)('batch', bn_groups=2)
    assert (made.bn_axis, made.bn_groups) == ('batch', 2)
  assert models.encoder_factory(Plain())('batch') == Plain()
  assert models.encoder_factory({'name': 'small'})('batch') == models.make_encoder(
    'small', bn_axis='batch'
  )


@pytest.mark.parametrize('module', [Mine(), Plain()])
def test_a_method_trains_it(module):
  setting = Setting(Length(batch_size=4, steps_per_epoch=1, total_steps=10))
  make = models.encoder_factory(module, mean=(0.5,) * 3, std=(0.2,) * 3, input='gray')
  method = METHODS['byol'](make, setting, projector=(8, 4), predictor=(8, 4))
  batch = {'views': (IMAGES, IMAGES[::-1]), 'index': np.arange(4), 'label': np.zeros(4, np.int32)}
  params, state = jax.eval_shape(method.init, jax.random.key(0), batch)
  value, aux = jax.eval_shape(method.loss, params, state, batch, jax.random.key(0), 0)
  assert value.shape == () and aux.embedding.shape == (4, 8 if isinstance(module, Mine) else 5)


class Odd(nn.Module):
  """What is no encoder."""

  kind: str

  @nn.compact
  def __call__(self, x, *, train):
    if self.kind == 'dropout':
      x = nn.Dropout(0.5, deterministic=not train)(x)
    if self.kind == 'state':
      self.variable('state', 'seen', lambda: jnp.zeros(()))
    self.sow('metrics', 'mean', x.mean())
    x = nn.Dropout(0.0, deterministic=not train)(x)
    return x if self.kind == 'map' else x.mean((1, 2))


@pytest.mark.parametrize('input', ['gray', 'lab_halves'])
def test_statistics_are_shared_behind_an_input_that_is_there_already(input):
  """So it is with the module of a run, which has that input."""
  found = models.encoder_factory(Mine(), mean=(0.5,) * 3, std=(0.5,) * 3, input=input)(None)
  module = models.encoder_factory(found)('batch', 2)
  parts = (
    [module.network] if input == 'gray' else [m.network for m in (module.first, module.second)]
  )
  assert all((part.bn_axis, part.bn_groups) == ('batch', 2) for part in parts)


@pytest.mark.parametrize(
  ('kind', 'sentence'),
  [
    ('dropout', 'the module Dropout_0 is an nn.Dropout, but'),
    ('state', "the module Odd has variables in 'state', but"),
    ('map', r'the encoder Odd returns \[4, 8, 8, 3\] for a batch of images, but an embedding is'),
    ('fine', ''),
  ],
)
def test_what_is_no_encoder_is_refused_before_it_trains(kind, sentence):
  net = stack((('encoder', EMBEDDING, Odd(kind)), ('head', 'logits', Plain())))
  if not sentence:
    assert 'Dense_0' in jax.eval_shape(net.init, jax.random.key(0), IMAGES)[0]['head']
    return
  with pytest.raises(ValueError, match=sentence):
    jax.eval_shape(net.init, jax.random.key(0), IMAGES)


def test_it_is_read_out_like_any_other():
  net = stack((('encoder', EMBEDDING, Mine()),))
  preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, 8)
  embed = Encoder(net, *net.init(jax.random.key(0), preprocessing.example()), preprocessing)
  images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
  assert embed(images).shape == (2, embed.dim) == (2, 8)
  whole = dataclasses.replace(embed, net=truncate(net, ['map']), tap='map', pool=None)
  maps = whole(images)
  assert maps.shape == (2, 4, 4, 8) and whole.dim == 8
  np.testing.assert_allclose(maps.mean((1, 2)), embed(images), rtol=1e-5, atol=1e-6)


class TestTokens:
  VIT = models.make_encoder('vit_micro')

  def masked(self):
    """An encoder of some patches with a decoder behind its tokens."""
    parts = (('encoder', 'embedding', self.VIT), ('decoder', 'filled', Fill()))
    return stack(parts, reads={'decoder': 'tokens'})

  def test_kept_patches_alone_are_computed(self):
    """All patches in another order give the same tokens in that order; half of them, others."""
    params = jax.jit(lambda key: self.VIT.init(key, IMAGES, train=False))(jax.random.key(0))
    run = jax.jit(lambda images, keep: self.VIT.apply(params, images, keep, method='tokens'))
    whole = jax.jit(lambda: self.VIT.apply(params, IMAGES, method='tokens'))()
    assert whole.shape == (4, 5, 64)
    order = np.array([[2, 0, 3, 1]] * 4)
    shuffled = np.concatenate([whole[:, :1], whole[:, 1:][:, order[0]]], axis=1)
    np.testing.assert_allclose(run(IMAGES, order), shuffled, rtol=1e-4, atol=1e-5)
    half = np.array([[0, 1], [0, 1], [2, 3], [3, 2]])
    made = run(IMAGES, half)
    assert made.shape == (4, 3, 64)
    # What is not kept has no influence.
    other = IMAGES.copy()
    other[:2, 4:] += 1
    again = run(other, half)
    np.testing.assert_allclose(again[:2], made[:2], rtol=1e-4, atol=1e-5)
    assert np.abs(made[0, 1:] - whole[0, 1:3]).max() > 1e-3, 'fewer patches to attend to'
    with pytest.raises(ValueError, match=r'keep is \[b,k\]'):
      self.VIT.apply(params, IMAGES, half[:2], method='tokens')

  def test_parts_read_tokens_and_take_named_inputs(self):
    net, keep = self.masked(), np.array([[0, 3], [1, 2], [2, 0], [3, 1]])
    inputs = {'encoder': {'keep': keep}, 'decoder': {'keep': keep}}
    params, stats = jax.jit(net.init)(jax.random.key(0), IMAGES, inputs)
    assert params['decoder']['out']['kernel'].shape == (64, 3)
    apply = jax.jit(lambda x: net.apply(params, stats, x, train=True, inputs=inputs)[0])
    outputs = apply(IMAGES)
    read = jax.jit(lambda p: self.VIT.apply({'params': p}, IMAGES, keep, method='tokens'))
    tokens = read(params['encoder'])
    tokens, out = jax.tree.map(np.asarray, (tokens, params['decoder']['out']))
    wanted = np.zeros((4, 4, 3), np.float32)
    for row in range(4):
      wanted[row, keep[row]] = np.asarray(tokens[row, 1:]) @ np.asarray(out['kernel']) + np.asarray(
        out['bias']
      )
    np.testing.assert_allclose(outputs['filled'], wanted, rtol=1e-4, atol=1e-5)
    # Evaluations know nothing of the decoder, nor of what is kept.
    embedding, _ = truncate(net, ['embedding']).apply(params, stats, IMAGES, train=False)
    assert embedding['embedding'].shape == (4, 64)

  def test_taps_and_cuts_keep_what_is_read(self):
    net, keep = self.masked(), jax.ShapeDtypeStruct((4, 2), jnp.int32)
    inputs = {'encoder': {'keep': keep}, 'decoder': {'keep': keep}}
    found = taps_of(net, IMAGES, inputs)
    assert found['tokens'] == (4, 3, 64) and found['filled'] == (4, 4, 3)
    assert truncate(net, ['filled']).reads == (('decoder', 'tokens'),)
    assert truncate(net, ['embedding']).reads == ()
    assert truncate(net, ['filled']) is truncate(net, ('filled',)), (
      'what was compiled is found again'
    )

  def test_wrong_names(self):
    with pytest.raises(ValueError, match="role that reads 'head'.*has decoder"):
      stack(self.masked().parts, reads={'head': 'tokens'})
    with pytest.raises(ValueError, match="unknown tap 'token'.*did you mean 'tokens'"):
      jax.eval_shape(stack(self.masked().parts, reads={'decoder': 'token'}).init,
                     jax.random.key(0), IMAGES)  # fmt: skip
    with pytest.raises(ValueError, match="unknown role of an input 'decode'"):
      self.masked().apply({}, {}, IMAGES, train=False, inputs={'decode': {}})


def test_options_at_their_defaults_fit_every_family():
  """`config.encoder` lists those of all families."""
  defaults = options.defaults()
  for name in ('resnet18', 'small', 'vit_micro', 'pixels'):
    assert models.make_encoder(name, **defaults) == models.make_encoder(name)


@pytest.mark.parametrize(
  ('name', 'field', 'value'),
  [('vit_micro', 'stem', 'cifar'), ('vit_micro', 'padding', 'same'), ('resnet18', 'pool', 'mean'),
   ('small', 'positions', 'learned'), ('vit_micro', 'zero_init_residual', True)],
)  # fmt: skip
def test_an_option_that_does_not_apply_is_refused(name, field, value):
  sentence = f'{name!r} has no {field}: only .* leave {field} at its default, '
  with pytest.raises(ValueError, match=sentence):
    models.make_encoder(name, **{field: value})


def test_an_unknown_option_is_refused():
  with pytest.raises(
    ValueError, match="unknown option of an encoder 'widht'.*did you mean 'width'"
  ):
    models.make_encoder('small', widht=2)
