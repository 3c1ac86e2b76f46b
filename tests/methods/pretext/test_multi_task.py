"""Several methods on one encoder: sums, streams, what is left out and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import config as config_lib
from byoljax import methods
from byoljax.data.sources import datasets
from byoljax.encoders.encoder import Encoder, Preprocessing
from byoljax.length import Length
from byoljax.method import Phase, Setting
from byoljax.methods.pretext import multi_task
from byoljax.step import TrainState
from byoljax.train import assemble, sharding, warm_start
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
  method = build(one=BYOL, two=MOCO)
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


MOCO = {'name': 'moco', 'projector': (16, 8), 'queue_size': 64, 'tau': 0.9, 'bn_groups': 0}


def test_a_target_that_is_a_copy_is_one_of_the_shared_encoder():
  """MoCo's is a copy; BYOL's an independent draw, as it is alone."""
  _, params, state = begin(build(one=BYOL, two=MOCO))
  copied, drawn = (state.parts[name].target_params for name in ('two', 'one'))
  jax.tree.map(np.testing.assert_array_equal, copied['encoder'], params['encoder'])
  jax.tree.map(np.testing.assert_array_equal, copied['projector'], params['two_projector'])
  kernels = zip(jax.tree.leaves(drawn['encoder']), jax.tree.leaves(params['encoder']), strict=True)
  assert any(np.abs(a - b).max() > 0.01 for a, b in kernels)


def test_targets_and_queues_of_parts_are_found():
  """By the distribution over devices, and by warm starts."""
  method = build(one=BYOL, two=MOCO | {'queue_size': 42})
  assert method.memories == (('parts', 'two', 'queue', 'items'),)
  _, params, state = jax.eval_shape(lambda: begin(method))
  whole = TrainState(STEP, params, (), state, jnp.zeros(2, jnp.uint32))
  _, _, placement = sharding.shard(method, optax.identity(), whole)
  shapes = placement.sharded_shapes(whole, 4).method_state
  for name in ('one', 'two'):
    targets = (each.parts[name].target_params for each in (shapes, state))
    for own, all_ in zip(*map(jax.tree.leaves, targets), strict=True):
      assert own.shape == (-(-all_.size // 4) * 4,)
  assert shapes.parts['two'].queue.items.shape == (44, 8)
  assert shapes.bn == state.bn
  _, params, state = begin(method)
  given = jax.tree.map(lambda x: x + 1, {'encoder': params['encoder']})
  heads = {'two_projector': jax.tree.map(lambda x: x + 2, params['two_projector'])}
  encoder = Encoder(method.net, given | heads, state.bn, Preprocessing((0.5,) * 3, (0.2,) * 3, 8))
  new, after, report = warm_start.replace(
    params, state, encoder, heads=True, targets=method.targets
  )
  jax.tree.map(np.testing.assert_array_equal, new['encoder'], given['encoder'])
  for name in ('one', 'two'):
    found = after.parts[name].target_params
    jax.tree.map(np.testing.assert_array_equal, found['encoder'], given['encoder'])
  found = after.parts['two'].target_params['projector']
  jax.tree.map(np.testing.assert_array_equal, found, heads['two_projector'])
  assert "target network of 'two': encoder, projector from the given weights" in report


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
  method = build(two=MOCO)
  assert len(method.notes) == 1 and method.notes[0].startswith("part 'two': the queue has 64 rows")


@pytest.mark.parametrize(
  ('own', 'message'),
  [
    (TURNS | {'views': ()}, r"part 'a', whose .*a.views=\(\) chooses: .* takes one view .* are 2"),
    (PAIR | {'views': (1,)}, r"part 'a', whose .*a.views=\(1,\) chooses: .*two views .* are 1"),
  ],
)
def test_a_part_of_the_wrong_views_is_named(own, message):
  method = build(a=own)
  with pytest.raises(ValueError, match=message):
    batch = jax.eval_shape(method.transform, batch_of('byol'), KEY, STEP)
    jax.eval_shape(method.init, KEY, batch)


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
  with pytest.raises(ValueError, match="unknown option 'rotaton'.* rotation, .*harmonized"):
    config_lib.load(str(ROOT / 'configs/multi_task.py') + ':shapes,rotaton')


def test_the_recipe_has_the_tasks_of_the_paper():
  """Where images move, all four; harmonized, nothing that is done to colors is left."""
  load = lambda options: config_lib.load(f'{ROOT}/configs/multi_task.py:{options}')  # noqa: E731
  three = {'colorization', 'exemplar', 'relative_patch_location'}
  paper, still = load('shapes,harmonized,lasso'), load('cifar10_small')
  assert set(paper.method.parts) == three | {'motion_segmentation'}
  assert paper.data.name == 'sprites' and paper.data.fields == ('moving:mask',)
  assert paper.encoder.input == 'lightness' and paper.method.lasso == 0.1
  tiles, exemplar = paper.method.parts.relative_patch_location.tiles, paper.method.parts.exemplar
  assert tiles.gray_prob == exemplar.gray_prob == 0.0
  assert tiles.standardize == exemplar.standardize == 'none'
  assert set(still.method.parts) == three and still.data.name == 'cifar10'
  assert still.encoder.input == 'rgb' and still.method.lasso == 0.0
  assert still.method.parts.relative_patch_location.tiles.standardize == 'tile'


def test_micro_batches_that_are_too_small_are_refused_before_training(npz):
  """A part that compares images gets those of all micro-batches, another one does not."""

  source = datasets.load('npz', 'pretrain', data_dir=npz)
  fields = {'data.dir': str(npz), 'train.batch_size': '2', 'train.accumulate': '2'}

  def assembled(options):
    recipe = f'{ROOT}/configs/multi_task.py:{options}'
    config = config_lib.load(recipe, [('data.name', 'npz'), *fields.items()])
    return assemble.from_config(config, source, num_devices=1)

  assert assembled('smoke,simclr').accumulate == 2
  with pytest.raises(config_lib.ConfigError, match='a batch needs at least two'):
    assembled('smoke,simclr,counting')
