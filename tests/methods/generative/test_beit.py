"""BEiT: the codes that are named, what of the image is seen, sizes that differ, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.method import transformed
from byoljax.methods.generative.beit import side_for
from byoljax.models import vit
from tests.methods import test_contract
from tests.methods.test_contract import SIZE, TinyEncoder, _codec, batch_of, make

NAME, STEP, KEY = 'beit', jnp.int32(0), jax.random.key(0)
BATCH = batch_of(NAME, rows=6)


@functools.cache
def made():
  method = make(NAME, axis=None)
  seen = jax.jit(lambda batch: transformed(method, batch, KEY, STEP))(BATCH)
  params, state = jax.jit(method.init)(jax.random.key(1), seen)
  # The head starts at zero.
  noise = jax.random.normal(KEY, params['decoder']['head']['logits']['kernel'].shape)
  own = params['decoder']['head']['logits'] | {'kernel': noise}
  params = params | {'decoder': params['decoder'] | {'head': {'logits': own}}}
  learn = jax.jit(jax.value_and_grad(lambda p, b: method.loss(p, state, b, KEY, STEP)[0]))
  return method, params, state, seen, learn


def test_the_loss_is_that_of_hidden_patches_codes():
  method, params, state, seen, learn = made()
  where = np.asarray(seen['asked']).reshape(6, 16)
  assert np.all(where.sum(1) == 8)
  np.testing.assert_array_equal(vit.patches(seen['views'][0], 2)[..., 0] == 0, where)
  found, _ = _codec().net.apply(
    _codec().params, _codec().bn, BATCH['views'][0], train=False, upto='codes'
  )
  codes = np.asarray(found['codes']).astype(int)
  inputs = {'encoder': {'hidden': jnp.asarray(where), 'filler': params['decoder']['mask']}}
  outputs, _ = method.net.apply(params, state.bn, seen['views'][0], train=True, inputs=inputs)
  logits = np.asarray(outputs['logits'], np.float64)
  shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  picked = -np.take_along_axis(shares, codes[..., None], -1)[..., 0]
  value, gradient = learn(params, seen)
  assert float(value) == pytest.approx(picked[where].mean(), rel=1e-5)
  # The vector of hidden patches is learned, through the encoder.
  assert np.abs(gradient['decoder']['mask']).max() > 1e-4


def test_hidden_pixels_are_not_seen_and_others_are():
  _, params, _, seen, learn = made()
  value, _ = learn(params, seen)
  view = seen['views'][0]
  noise = jax.random.normal(KEY, view.shape)
  cover = jnp.repeat(jnp.repeat(seen['asked'], 2, 1), 2, 2)[..., None]
  hidden = seen | {'views': (jnp.where(cover, noise, view),)}
  shown = seen | {'views': (jnp.where(cover, view, noise),)}
  assert float(learn(params, hidden)[0]) == float(value)
  assert abs(float(learn(params, shown)[0] - value)) > 1e-4


def test_the_codec_is_given_images_with_as_many_codes_as_patches(monkeypatch):
  """The tiny codec has 2 pixels a code: beside patches of 4 it sees half of 16 pixels."""
  assert side_for(_codec(), SIZE, 4) == SIZE and side_for(_codec(), 2 * SIZE, 4) == SIZE

  def coarse(bn_axis, bn_groups=0, dtype=jnp.float32):
    del bn_axis, bn_groups
    return vit.ViT(vit.Size(8, 1, 2, patch=4, grid=4), dtype=dtype)

  monkeypatch.setitem(test_contract.ENCODERS, NAME, coarse)
  given = []
  apply = _codec().net.apply

  def noted(params, bn, x, **how):
    given.append(x.shape)
    return apply(params, bn, x, **how)

  codec = dataclasses.replace(_codec(), net=_codec().net._replace(apply=noted))
  method = make(NAME, axis=None, setting={'given': {'codec': codec}})
  batch = BATCH | {'views': (np.zeros((6, 2 * SIZE, 2 * SIZE, 3), np.float32),)}

  def value(batch):
    seen = transformed(method, batch, KEY, STEP)
    params, state = method.init(KEY, seen)
    return seen['asked'], method.loss(params, state, seen, KEY, STEP)[0]

  asked, loss = jax.eval_shape(value, batch)
  assert asked.shape == (6, 4, 4) and loss.shape == ()
  assert given == [(6, SIZE, SIZE, 3)]


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'setting': {'given': {}}}, 'BEiT needs a codec: set config.codec'),
    ({'mask_ratio': 1.0}, 'mask_ratio=1.0'),
    ({'least_block': -1}, 'least_block=-1'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)


def test_an_encoder_without_patches_is_refused(monkeypatch):
  monkeypatch.setitem(test_contract.ENCODERS, NAME, TinyEncoder)
  with pytest.raises(ValueError, match='needs a vision transformer'):
    make(NAME, axis=None)
