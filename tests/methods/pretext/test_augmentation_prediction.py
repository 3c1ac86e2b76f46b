"""Augmentation prediction: targets and loss by hand, alone and beside other methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import methods
from byoljax.data.augment import drawn
from byoljax.data.augment.views import ViewSpec
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.pretext import augmentation_prediction as task
from tests.methods.test_contract import CASES, TinyEncoder, batch_of, make, some_methods

SETTING = Setting(Length(32, 2, 20), num_examples=64)
SMALL = {'targets': ('crop', 'flip', 'color'), 'hidden': (16,)}


differences = jax.jit(task.differences)


def view(**parameters):
  """The row of 'drawn' of one view."""
  row = np.zeros((1, drawn.NUM_PARAMETERS), np.float32)
  for name, values in parameters.items():
    row[:, drawn.COLUMNS[name]] = values
  return row


def test_targets_are_the_differences_by_hand():
  """A left crop against a right one, the right one mirrored: both then lie on the left."""
  first = view(crop=(0.5, 0.25, 1.0, 0.5), color=(0.5, 0.0, -0.25, 0.0), blur=0.75)
  second = view(crop=(0.25, 0.75, 0.5, 0.5), flip=1, color=(-0.5, 0.25, 0.0, 0.0), solarize=1)
  found = differences(first, second)
  expected = {
    'crop': (0.25, 0.0, 0.5, 0.0),
    'flip': (-1.0,),
    'color': (1.0, -0.25, -0.25, 0.0),
    'gray': (0.0,),
    'blur': (0.75,),
    'solarize': (-1.0,),
  }
  assert {name: tuple(value[0].tolist()) for name, value in found.items()} == expected
  back = differences(second, first)
  for name in expected:
    np.testing.assert_array_equal(back[name], -found[name])


def numpy_loss(params, first, second, one, other):
  """The task in float64 NumPy: heads of one hidden layer, both orders in one batch."""
  pair = np.concatenate([np.hstack([first, second]), np.hstack([second, first])])
  true = differences(np.concatenate([one, other]), np.concatenate([other, one]))
  losses = {}
  for name in SMALL['targets']:
    own = jax.tree.map(lambda x: np.asarray(x, np.float64), params[name])
    hidden = pair.astype(np.float64) @ own['linear1']['kernel']
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    hidden = np.maximum(hidden * own['bn1']['scale'] + own['bn1']['bias'], 0)
    p = hidden @ own['linear2']['kernel'] + own['linear2']['bias']
    d = np.asarray(true[name], np.float64)
    if name == 'flip':
      losses[name] = np.mean(np.logaddexp(0, p) - p * np.abs(d))
    else:
      losses[name] = np.mean((np.tanh(p) - d) ** 2)
  return losses


@functools.cache
def alone():
  method = make('augmentation_prediction', axis=None)
  batch = batch_of('augmentation_prediction')
  batch['drawn'][0][:, 4] = batch['drawn'][0][:, 4] > 0.5  # flips are 0 or 1
  batch['drawn'][1][:, 4] = batch['drawn'][1][:, 4] > 0.5
  return method, batch, jax.jit(method.init)(jax.random.key(0), batch)


def test_the_loss_is_that_of_numpy():
  method, batch, (params, state) = alone()
  value, aux = jax.jit(method.loss)(params, state, batch, jax.random.key(1), jnp.int32(0))
  embeddings = (aux.embedding, *aux.others)
  expected = numpy_loss(params['augmentation'], *map(np.asarray, embeddings), *batch['drawn'])
  # float32 sums of 64 rows: 1e-6 was found, and five times it.
  assert float(value) == pytest.approx(sum(expected.values()), rel=5e-6)
  for name, own in expected.items():
    assert float(aux.metrics[f'augmentation/{name}/loss']) == pytest.approx(own, rel=5e-6)
  spread = np.mean(np.square(differences(*batch['drawn'])['crop']))
  r2 = float(aux.metrics['augmentation/crop/r2'])
  assert r2 == pytest.approx(1 - expected['crop'] / spread, abs=2e-5)


def test_what_is_shown_of_a_perfect_and_of_a_constant_predictor():
  true = jnp.asarray([[0.5, -0.2], [-0.5, 0.2]])
  assert float(task._criterion('crop', jnp.arctanh(true), true, None)[1]['crop/r2']) == 1.0
  assert float(task._criterion('crop', 0 * true, true, None)[1]['crop/r2']) == 0.0
  assert float(task._criterion('blur', true, 0 * true, None)[1]['blur/r2']) == 0.0
  # Of flips the share that is on the right side of 0: here all but the second.
  logits, flips = jnp.asarray([[2.0], [1.0], [-0.5], [3.0]]), jnp.asarray([[1.0], [0], [0], [-1.0]])
  assert float(task._criterion('flip', logits, flips, None)[1]['flip/accuracy']) == 0.75


FIELDS = {'name': 'simsiam', 'projector': (16, 8), 'predictor': (16, 8)}
BESIDE = {'auxiliary': 'augmentation_prediction', 'auxiliary_hidden': (16,)}


def test_beside_a_method_the_gradients_add_up():
  """Value, gradient and state of the method are its own, and weight times those of the task."""
  plain = methods.build_method(TinyEncoder, SETTING, FIELDS)
  _, batch, _ = alone()
  key, step = jax.random.key(1), jnp.int32(0)

  def of(method, params, state):
    loss = lambda p: method.loss(p, state, batch, key, step)  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

  both = {
    weight: methods.build_method(
      TinyEncoder, SETTING, FIELDS | BESIDE | {'auxiliary_weight': weight}
    )
    for weight in (1.0, 3.0)
  }
  params, state = jax.jit(both[1.0].init)(jax.random.key(0), batch)
  own = {role: value for role, value in params.items() if role != 'augmentation'}
  own_state = state.replace(bn={role: state.bn[role] for role in own})
  (value, aux), grads = jax.device_get(of(plain, own, own_state))
  (one, with_one), grads_one = jax.device_get(of(both[1.0], params, state))
  (three, _), grads_three = jax.device_get(of(both[3.0], params, state))
  assert float(three - value) == pytest.approx(3 * float(one - value), rel=1e-5)
  told = sum(float(with_one.metrics[f'augmentation/{name}/loss']) for name in task.TARGETS)
  assert float(one - value) == pytest.approx(told, rel=1e-5)
  for role in own:
    for g, g1, g3 in zip(*map(jax.tree.leaves, (grads[role], grads_one[role], grads_three[role])),
                         strict=True):  # fmt: skip
      np.testing.assert_allclose(g3 - g, 3 * (g1 - g), atol=1e-5)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-4, grads['encoder'],
                       grads_one['encoder'])  # fmt: skip
  assert any(jax.tree.leaves(moved)), 'the task reaches the encoder'
  for role in own:
    jax.tree.map(np.testing.assert_array_equal, aux.method_state.bn[role],
                 with_one.method_state.bn[role])  # fmt: skip
  before, after = state.bn['augmentation'], with_one.method_state.bn['augmentation']
  assert not np.array_equal(*(jax.tree.leaves(bn)[0] for bn in (before, after)))
  assert [role for role, _, _ in both[1.0].net.parts][-1] == 'augmentation'


@some_methods(0)
def test_methods_hand_on_the_views_that_they_encode(name):
  method, batch = make(name, axis=None), batch_of(name)
  key, step = jax.random.key(0), jnp.int32(0)

  def embeddings(batch):
    seen = method.transform(batch, key, step)
    params, state = method.init(key, seen)
    aux = method.loss(params, state, seen, key, step)[1]
    return (aux.embedding, *aux.others)

  found = jax.eval_shape(embeddings, batch)
  views = CASES[name][1]
  assert len(found) == views or not method.encodes_all_views
  assert method.encodes_all_views == (len(found) > 1)
  assert len({each.shape for each in found}) == 1


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (FIELDS | {'auxiliary': 'augmentation'}, "did you mean 'augmentation_prediction'"),
    (FIELDS | BESIDE | {'auxiliary_targets': ('crops',)}, "did you mean 'crop'"),
    (FIELDS | BESIDE | {'auxiliary_targets': ()}, 'must be at least one of'),
    (FIELDS | BESIDE | {'auxiliary_weight': 0.0}, 'must be above 0'),
    ({'name': 'rotation'} | BESIDE, 'sees one view only'),
    ({'name': 'moco', 'queue_size': 64, 'bn_groups': 0, 'symmetric': False} | BESIDE, 'one view'),
    ({'name': 'byoll'}, "did you mean 'byol'"),
  ],
)
def test_what_cannot_be_put_together_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    methods.build_method(TinyEncoder, SETTING, fields)


def test_what_is_not_predicted_is_said():
  views = (ViewSpec(), ViewSpec(vflip_prob=0.5, turn_prob=0.5), ViewSpec(shift=0.1))
  for fields in (FIELDS | BESIDE, {'name': 'augmentation_prediction', 'hidden': (16,)}):
    (note,) = methods.build_method(TinyEncoder, SETTING._replace(views=views), fields).notes
    assert 'no target for vflip_prob, turn_prob of the views' in note
    assert not methods.build_method(TinyEncoder, SETTING._replace(views=views[:1]), fields).notes
  parts = {'a': {'name': 'augmentation_prediction', 'hidden': (16,), 'views': (1, 3)}}
  several = {'name': 'multi_task', 'parts': parts}
  (note,) = methods.build_method(TinyEncoder, SETTING._replace(views=views), several).notes
  assert note.startswith("part 'a': ") and 'no target for shift of' in note


def test_one_view_is_refused():
  method, batch, _ = alone()
  with pytest.raises(ValueError, match='configure view1 and view2'):
    method.init(jax.random.key(0), batch | {'views': batch['views'][:1]})
