"""Several methods on one encoder: sums, streams, what is left out and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import config as config_lib
from byoljax import methods
from byoljax.length import Length
from byoljax.method import Phase, Setting
from byoljax.methods.pretext import multi_task
from tests.methods.test_contract import TinyEncoder, batch_of
from tests.paths import ROOT

SETTING = Setting(Length(32, 2, 20), num_examples=64, num_classes=3)
TURNS = {'name': 'rotation', 'hidden': (6,), 'views': (2,)}
PAIR = {'name': 'simsiam', 'projector': (16, 8), 'predictor': (16, 8)}
BYOL = {'name': 'byol', 'projector': (16, 8), 'predictor': (16, 8), 'base_tau': 0.9}
KEY, STEP = jax.random.key(3), jnp.int32(2)


def build(**parts):
  return methods.build_method(TinyEncoder, SETTING, {'name': 'multi_task', 'parts': parts})


def begin(method):
  batch = method.transform(batch_of('byol'), KEY, STEP)
  return batch, *method.init(jax.random.key(0), batch)


@functools.cache
def both():
  method = build(turns=TURNS | {'weight': 0.5}, pair=PAIR | {'weight': 2.0})
  return method, begin(method)


def gradients(method, params, state, batch, key):
  loss = lambda params: method.loss(params, state, batch, key, STEP)  # noqa: E731
  return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def test_value_and_gradient_are_the_weighted_sums():
  method, (batch, params, state) = both()
  (value, aux), grads = gradients(method, params, state, batch, KEY)
  expected, encoder = 0.0, jax.tree.map(jnp.zeros_like, params['encoder'])
  alone = {'pair': (PAIR, 2.0), 'turns': ({'name': 'rotation', 'hidden': (6,)}, 0.5)}
  bn = state.bn
  for name, (fields, weight) in alone.items():
    part = multi_task.Part(name, methods.build_method(TinyEncoder, SETTING, fields), weight)
    own_state = part.state(state.replace(bn=bn))
    (own, own_aux), own_grads = gradients(
      part.method, part.take(params), own_state, batch['parts'][name], part.key(KEY)
    )
    bn = bn | part.give(own_aux.method_state.bn)  # The encoder's statistics go from part to part.
    expected += weight * own
    assert float(aux.metrics[f'{name}/loss']) == pytest.approx(float(own), rel=1e-6)
    encoder = jax.tree.map(lambda a, b, w=weight: a + w * b, encoder, own_grads.pop('encoder'))
    for role, own_role in part.give(own_grads).items():
      for a, b in zip(jax.tree.leaves(grads[role]), jax.tree.leaves(own_role), strict=True):
        np.testing.assert_allclose(a, weight * b, rtol=1e-5, atol=1e-6)
  assert float(value) == pytest.approx(float(expected), rel=1e-6)
  for a, b in zip(jax.tree.leaves(grads['encoder']), jax.tree.leaves(encoder), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), aux.method_state.bn, bn)


def test_every_part_has_its_views_and_no_labels():
  _, (batch, _, _) = both()
  seen, views = batch['parts'], batch_of('byol')['views']
  np.testing.assert_array_equal(seen['turns']['views'][0][:32], views[1])
  assert len(seen['turns']['views'][0]) == 4 * 32
  jax.tree.map(np.testing.assert_array_equal, seen['pair']['views'], views)
  assert len(batch['views']) == 3 and 'label' in batch
  assert all('label' not in own for own in seen.values())


def test_a_weight_of_0_is_no_part():
  """Bit for bit: the others' draws are functions of their names."""
  without, absent = build(turns=TURNS | {'weight': 0.0}, pair=PAIR), build(pair=PAIR)
  found = []
  for method in (without, absent):
    batch, params, state = begin(method)
    found.append((params, state, *gradients(method, params, state, batch, KEY)))
  jax.tree.map(np.testing.assert_array_equal, *found)
  assert set(found[0][0]) == {'encoder', 'pair_projector', 'pair_predictor'}


def drawing(make_encoder, setting, fields):
  """A method whose views are drawn from its key."""
  method = methods.build_method(make_encoder, setting, {'name': 'simsiam', **fields})

  def transform(batch, key, step):
    del step
    return batch | {'views': tuple(jax.random.normal(key, v.shape) for v in batch['views'])}

  return method._replace(transform=transform)


def test_identical_parts_draw_apart_and_alike_in_any_company():
  small = {'projector': (16, 8), 'predictor': (16, 8)}
  two = multi_task.build(drawing, TinyEncoder, SETTING, parts={'a': small, 'b': small})
  one = multi_task.build(drawing, TinyEncoder, SETTING, parts={'b': small})
  batch, params, _ = begin(two)
  alone, own, _ = begin(one)
  a, b = (batch['parts'][name]['views'][0] for name in 'ab')
  assert np.abs(a - b).max() > 0.1
  np.testing.assert_array_equal(alone['parts']['b']['views'][0], b)
  kernels = [params[f'{name}_projector']['linear1']['kernel'] for name in 'ab']
  assert np.abs(kernels[0] - kernels[1]).max() > 0.01
  np.testing.assert_array_equal(own['b_projector']['linear1']['kernel'], kernels[1])


def test_a_target_and_a_queue_move_inside():
  moco = {'name': 'moco', 'projector': (16, 8), 'queue_size': 64, 'tau': 0.9, 'bn_groups': 0}
  method = build(one=BYOL, two=moco)
  batch, params, state = begin(method)
  _, aux = jax.jit(method.loss)(params, state, batch, KEY, STEP)
  written = method.remember(aux.method_state, aux.rows, jnp.array(True))
  assert int(written.parts['two'].queue.pointer) == 32
  moved, state_after, metrics = method.post_step(params, written, STEP)
  assert set(metrics) == {'one/tau', 'two/tau'}
  jax.tree.map(np.testing.assert_array_equal, moved, params)
  target = state_after.parts['one'].target_params['encoder']
  tau, before = metrics['one/tau'], state.parts['one'].target_params['encoder']
  expected = jax.tree.map(lambda t, p: tau * t + (1 - tau) * p, before, params['encoder'])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), target, expected)


@pytest.mark.parametrize(
  ('parts', 'message'),
  [
    ({}, 'give at least one'),
    ({'a': PAIR | {'weight': -1.0}}, 'at least 0'),
    ({'a b': PAIR}, 'identifier'),
    ({'a': PAIR | {'name': 'simsam'}}, "part 'a': .*did you mean 'simsiam'"),
    ({'a': {'name': 'deepcluster', 'num_clusters': 6, 'pca_dim': 4}}, 'between steps'),
    ({'a': {'name': 'supervised'}}, 'labelled images'),
    ({'a': {'name': 'rotation', 'angles': (0,)}}, "part 'a': angles"),
  ],
)
def test_what_cannot_be_a_part_is_refused(parts, message):
  with pytest.raises(ValueError, match=message):
    build(**parts)


def test_notes_of_parts_are_kept():
  method = build(two={'name': 'moco', 'projector': (16, 8), 'queue_size': 64, 'bn_groups': 0})
  assert len(method.notes) == 1 and method.notes[0].startswith("part 'two': the queue has 64 rows")


def test_phases_and_missing_views_are_refused():
  def phased(make_encoder, setting, fields):
    method = methods.build_method(make_encoder, setting, fields)
    return method._replace(phases=(Phase(method.loss, ('encoder',)),))

  with pytest.raises(ValueError, match='alternates updates'):
    multi_task.build(phased, TinyEncoder, SETTING, parts={'a': PAIR})
  with pytest.raises(ValueError, match='has views 1 to 2'):
    begin(build(a=PAIR | {'views': (2, 3)}))


def test_the_recipe_takes_each_part_from_its_own():
  config = config_lib.load(str(ROOT / 'configs/multi_task.py') + ':shapes,simclr,rotation')
  rotation, simclr = (
    config_lib.load(str(ROOT / 'configs' / f'{name}.py') + ':shapes')
    for name in ('rotation', 'simclr')
  )
  assert config.method.parts.rotation.views == (1,) and config.method.parts.simclr.views == (2, 3)
  assert config.views.view1 == rotation.views.view1 and config.views.view3 == simclr.views.view2
  assert config.method.parts.simclr.projector == simclr.method.projector
  gray = config_lib.load(str(ROOT / 'configs/multi_task.py') + ':shapes,harmonized')
  assert gray.encoder.input == 'gray' and len(gray.method.parts) == 2
  with pytest.raises(ValueError, match="unknown option 'rotaton'.* rotation, .*harmonized"):
    config_lib.load(str(ROOT / 'configs/multi_task.py') + ':shapes,rotaton')
