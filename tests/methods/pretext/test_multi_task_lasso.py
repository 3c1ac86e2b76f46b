"""Parts that read a sparse sum of the encoder's maps: penalty, projection, evaluation, refusals."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import methods
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.pretext import multi_task
from byoljax.methods.pretext.parts import Part, PartsState
from byoljax.models import lasso, layers
from byoljax.models.net import Statistics, stack
from tests.methods.test_contract import batch_of

SETTING = Setting(Length(32, 2, 20), num_examples=64, num_classes=3)
TURNS = {'name': 'rotation', 'hidden': (), 'views': (2,)}
CLEAN = {'name': 'denoising_autoencoder', 'decoder_width': 4, 'views': (1,)}
KEY, STEP = jax.random.key(3), jnp.int32(2)


class TwoMaps(nn.Module):
  """A network with two maps that compiles quickly."""

  bn_axis: str | None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x, *, train):
    for name, features in (('fine', 4), ('coarse', 6)):
      x = layers.conv(features, 3, 2, 'torch', jnp.float32, f'{name}_conv')(x)
      x = nn.relu(layers.batch_norm(train, self.bn_axis, jnp.float32, f'{name}_bn')(x))
      self.sow('intermediates', name, x)
    return x.mean((1, 2))


def build(penalty, taps=(), **parts):
  fields = {'name': 'multi_task', 'parts': parts, 'lasso': penalty, 'lasso_taps': taps}
  return methods.build_method(TwoMaps, SETTING, fields)


@functools.cache
def begun():
  return begin(build(0.25, turns=TURNS, clean=CLEAN | {'weight': 2.0}))


def begin(method):
  batch = method.transform(batch_of('byol'), KEY, STEP)
  return method, batch, *method.init(jax.random.key(0), batch)


def test_the_penalty_is_the_sum_of_all_weights():
  method, batch, params, state = begun()
  value, aux = jax.jit(method.loss)(params, state, batch, KEY, STEP)
  parts = aux.metrics['turns/loss'] + 2.0 * aux.metrics['clean/loss']
  penalty = 0.25 * 4 * np.sqrt(0.5)  # Two tasks, two maps.
  assert float(aux.metrics['lasso']) == pytest.approx(penalty, rel=1e-6)
  assert float(value) == pytest.approx(float(parts) + penalty, rel=1e-6)


def test_weights_learn_from_their_own_task_and_from_the_penalty():
  """A task's gradient with respect to its weights w, plus 0.25 (1 - sum(w) w)."""
  method, batch, params, state = begin(build(0.25, turns=TURNS))
  params = params | {'turns_lasso': {**params['turns_lasso'], 'scale': jnp.asarray([0.6, 0.8])}}
  without = build(1e-30, turns=TURNS)
  found, plain = (
    jax.jit(jax.grad(lambda p, m=m: m.loss(p, state, batch, KEY, STEP)[0]))(params)
    for m in (method, without)
  )
  weights = [grads['turns_lasso']['scale'] for grads in (found, plain)]
  assert np.abs(weights[1]).max() > 1e-4
  np.testing.assert_allclose(weights[0], weights[1] + 0.25 * np.array([0.16, -0.12]), atol=1e-6)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-6), found['encoder'], plain['encoder']
  )


def test_weights_are_projected_after_a_step():
  method, _, params, state = begun()
  changed = {
    'turns_lasso': {**params['turns_lasso'], 'scale': jnp.asarray([-0.1, 0.5])},
    'clean_lasso': {**params['clean_lasso'], 'scale': jnp.asarray([3.0, 4.0])},
  }
  moved, _, metrics = method.post_step(params | changed, state, STEP)
  assert moved['turns_lasso']['scale'].tolist() == [0.0, 1.0]
  np.testing.assert_allclose(moved['clean_lasso']['scale'], [0.6, 0.8], rtol=1e-6)
  expected = {'turns/weight_fine': 0.0, 'turns/weight_coarse': 1.0}
  expected |= {'clean/weight_fine': 0.6, 'clean/weight_coarse': 0.8}
  assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected)
  rest = [{role: x for role, x in tree.items() if role not in changed} for tree in (moved, params)]
  jax.tree.map(np.testing.assert_array_equal, *rest)


def test_evaluations_find_encoder_sums_and_heads():
  method, batch, params, state = begun()
  assert set(params) == set(state.bn) == {role for role, _, _ in method.net.parts}
  (view,) = batch['parts']['turns']['views']
  outputs, _ = method.net.apply(params, state.bn, view, train=False)
  np.testing.assert_array_equal(
    method.embed(params, state, view)['embedding'], outputs['embedding']
  )
  assert outputs['embedding'].shape == outputs['turns_mixture'].shape == (len(view), 6)
  bias, kernel = jax.tree.leaves(params['turns_head'])
  maps, _ = stack(method.net.parts[:1], ('fine', 'coarse')).apply(
    params, state.bn, view, train=False
  )
  roles = {'sum': params['turns_lasso']}, {'sum': state.bn['turns_lasso']}
  summed = stack((('sum', 'sum', lasso.WeightedMaps()),))
  mixture, _ = summed.apply(*roles, (maps['fine'], maps['coarse']), train=False)
  np.testing.assert_allclose(outputs['turns_mixture'], mixture['sum'], atol=1e-6)
  expected = np.asarray(mixture['sum'] @ kernel) + np.asarray(bias)
  np.testing.assert_allclose(outputs['turns_logits'], expected, atol=1e-5)


def test_pictures_are_those_of_the_parts():
  method, _, params, state = begun()
  batch = batch_of('byol')
  shown = jax.eval_shape(method.pictures, params, state, batch | {'views': batch['views'][:1]}, KEY)
  assert set(shown) == {'image', 'clean input', 'clean output'}
  assert shown['clean output'].shape == batch['views'][0].shape
  assert build(0.25, turns=TURNS).pictures is None


def test_pictures_of_parts_see_no_label():
  seen = []

  def look(params, state, batch, key):
    seen.append(set(batch))
    return {}

  fields = {'name': 'denoising_autoencoder', 'decoder_width': 4}
  method = methods.build_method(TwoMaps, SETTING, fields)._replace(pictures=look)
  part = Part('clean', method)
  roles = {part.role(role): {} for role, _, _ in method.net.parts}
  state = PartsState(roles, {'clean': Statistics({})})
  multi_task.multi_task([part]).pictures(roles, state, batch_of('byol'), KEY)
  assert seen == [set(batch_of('byol')) - {'label'}]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'penalty': -1.0, 'turns': TURNS}, 'lasso=-1.0 must be at least 0'),
    ({'penalty': 0.0, 'taps': ('fine', 'coarse'), 'turns': TURNS}, 'set method.lasso above 0'),
    ({'penalty': 1.0, 'taps': ('corse', 'fine'), 'turns': TURNS}, "did you mean 'coarse'"),
  ],
)
def test_what_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    build(**options)


def test_a_target_network_is_refused():
  method = build(1.0, pair={'name': 'byol', 'projector': (16, 8), 'predictor': (16, 8)})
  batch = method.transform(batch_of('byol'), KEY, STEP)
  with pytest.raises(ValueError, match="part 'pair' has a target network"):
    jax.eval_shape(method.init, jax.random.key(0), batch)
