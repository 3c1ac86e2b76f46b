"""Priors: the frozen codec, what a code's prediction sees, classes and their weights, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.encoders import codec as codec_lib
from byoljax.models.code_transformer import CodeTransformer
from byoljax.ops.sampling import Sampling
from tests.methods.test_contract import CLASSES, SIZE, _codec, batch_of, make

NAME, STEP, KEY = 'prior', jnp.int32(0), jax.random.key(0)
BATCH = batch_of(NAME, rows=6)
DALLE = {'condition': 'class', 'text_weight': 1.0, 'image_weight': 7.0, 'keep': 1.0}


@functools.cache
def made():
  method = make(NAME, axis=None, **DALLE)
  params, state = jax.jit(method.init)(jax.random.key(1), BATCH)
  # The heads start at zero.
  noise = {
    role: {'logits': {'kernel': jax.random.normal(KEY, params[role]['logits']['kernel'].shape)}}
    for role in ('head', 'text')
  }
  params = params | {
    role: {'logits': params[role]['logits'] | noise[role]['logits']} for role in noise
  }
  return method, params, state


def codes_of(images):
  found, _ = _codec().net.apply(_codec().params, _codec().bn, images, train=False, upto='codes')
  return np.asarray(found['codes']).astype(int)


@functools.cache
def _apply():
  return jax.jit(functools.partial(made()[0].net.apply, train=True))


def predicted(inputs):
  """The network's outputs for the batch; one program for all tests."""
  _, params, state = made()
  return _apply()(params, state.bn, BATCH['views'][0], inputs=inputs)[0]


def nll(logits, targets):
  logits = np.asarray(logits, np.float64)
  shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -np.take_along_axis(shares, targets[..., None], -1)[..., 0].mean()


def test_the_loss_of_text_and_image_from_its_parts():
  method, params, state = made()
  value, aux = jax.jit(method.loss)(params, state, BATCH, KEY, STEP)
  codes = codes_of(BATCH['views'][0])
  inputs = {'encoder': {'tokens': codes, 'condition': BATCH['label']}}
  outputs = predicted(inputs)
  image, text = (
    nll(outputs['logits'][:, 1:], codes),
    nll(outputs['text_logits'][:, 0], BATCH['label']),
  )
  assert float(value) == pytest.approx((text + 7 * image) / 8, rel=1e-5)
  assert float(aux.metrics['bits_per_dim']) == pytest.approx(image / np.log(2), rel=1e-5)
  # Nothing stands before the class; the codes know it, and another one changes them.
  others = inputs['encoder'] | {'condition': (BATCH['label'] + 1) % CLASSES}
  again = predicted({'encoder': others})
  np.testing.assert_array_equal(again['text_logits'][:, 0], outputs['text_logits'][:, 0])
  assert np.abs(again['logits'][:, 1] - outputs['logits'][:, 1]).max() > 1e-4


def test_a_code_is_predicted_from_those_before_it():
  codes = codes_of(BATCH['views'][0])
  outputs = []
  for change in (0, 1):
    tokens = codes.copy()
    tokens[:, 7] = (tokens[:, 7] + change) % 12
    inputs = {'encoder': {'tokens': tokens, 'condition': BATCH['label']}}
    outputs.append(predicted(inputs)['logits'])
  moved = np.abs(outputs[1] - outputs[0]).max((0, 2))
  # The class, and codes 0 to 7.
  assert not moved[: 1 + 8].any() and np.all(moved[1 + 8 :] > 1e-5)


def test_the_codec_is_frozen_and_a_copy():
  method, params, state = made()
  frozen = state.bn['encoder']['codec']
  jax.tree.map(np.testing.assert_array_equal, frozen['params'], _codec().params)
  _, aux = jax.jit(method.loss)(params, state, BATCH, KEY, STEP)
  jax.tree.map(np.testing.assert_array_equal, aux.method_state.bn, state.bn)
  assert 'decoder' in frozen['params'] and 'codec' not in params['encoder']


def test_a_class_that_is_not_told_is_trained_only_if_some_are_left_out(monkeypatch):
  """Evaluations tell none."""
  told = []
  plain = CodeTransformer.known

  def known(self, x, condition):
    told.append(condition)
    return plain(self, x, condition)

  monkeypatch.setattr(CodeTransformer, 'known', known)
  method, params, state = made()
  (note,) = method.notes
  assert 'method.drop_class=0.1' in note
  dropping = make(NAME, axis=None, **DALLE, drop_class=0.5)
  assert dropping.notes == make(NAME, axis=None).notes == ()
  with jax.disable_jit():
    for each in (method, dropping):
      each.loss(params, state, BATCH, KEY, STEP)
  np.testing.assert_array_equal(told[0], BATCH['label'])
  left_out = np.asarray(told[1]) < 0
  assert 0 < left_out.sum() < len(left_out)
  np.testing.assert_array_equal(told[1][~left_out], BATCH['label'][~left_out])


@pytest.mark.slow
def test_samples_are_decoded_codes_of_the_class():
  method, params, state = made()
  draw = jax.jit(method.sample, static_argnums=4)
  drawn = {
    name: np.asarray(draw(params, state, KEY, jnp.full(3, name), Sampling(3, SIZE)))
    for name in range(2)
  }
  assert drawn[0].shape == (3, SIZE, SIZE, 3) and not np.array_equal(drawn[0], drawn[1])
  with pytest.raises(ValueError, match='8 x 8 codes, but this prior was made for 4 x 4'):
    method.sample(params, state, KEY, None, Sampling(1, 2 * SIZE))
  plain = make(NAME, axis=None)
  with pytest.raises(ValueError, match='trained without classes'):
    plain.sample(params, state, KEY, jnp.zeros(1, jnp.int32), Sampling(1, SIZE))


def test_the_digest_is_of_every_number():
  tree = {'a': np.arange(3.0), 'b': {'c': np.zeros((2, 2), np.float32)}}
  other = {'a': np.arange(3.0), 'b': {'c': np.array([[0, 0], [0, 1e-9]], np.float32)}}
  assert codec_lib.digest(tree) == codec_lib.digest(jax.tree.map(np.copy, tree))
  assert len({codec_lib.digest(each) for each in (tree, other, tree['b'])}) == 3


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'setting': {'given': {}}}, 'a prior needs a codec: set config.codec'),
    ({'condition': 'text'}, "unknown condition 'text'"),
    ({'heads': 3}, 'heads must divide dim'),
    ({'text_weight': 1.0}, "0 where condition='none'"),
    ({'condition': 'class', 'setting': {'num_classes': 0}}, 'needs labelled images'),
    ({'keep': 0.0}, 'keep=0.0'),
    ({'drop_class': 0.1}, "0 where condition='none'"),
    ({'condition': 'class', 'drop_class': 1.0}, 'at least 0 and below 1'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)


def test_a_grid_that_does_not_fit_names_the_one_that_does():
  fitting = make(NAME, axis=None, **DALLE).net.parts[0][2].grid
  method = make(NAME, axis=None, **DALLE, grid=fitting + 1)
  with pytest.raises(ValueError, match=rf'set method\.grid={fitting}\.'):
    jax.eval_shape(method.init, KEY, BATCH)
