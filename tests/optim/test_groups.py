"""Masks and groups by parameter path, and the report on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import models, optim
from byoljax.models import heads
from byoljax.models.net import stack


@pytest.fixture(scope='module')
def byol_params():
  """Shapes of ResNet-18 with BYOL's heads and an online probe."""
  net = stack(
    (
      ('encoder', 'embedding', models.make_encoder('resnet18')),
      ('projector', 'projection', heads.MLPHead()),
      ('predictor', 'prediction', heads.MLPHead()),
      ('probe', 'logits', heads.LinearHead(10)),
    )
  )
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  return jax.eval_shape(net.init, jax.random.key(0), images)[0]


def byol_groups(params):
  return {
    role: jax.tree.map(lambda _, r=role: 'probe' if r == 'probe' else 'default', tree)
    for role, tree in params.items()
  }


def test_masks_by_name_on_resnet18_with_heads(byol_params):
  mask = optim.decay_mask(True)(byol_params)
  decayed, spared = set(), set()
  for path, applies in jax.tree_util.tree_leaves_with_path(mask):
    (decayed if applies else spared).add(optim.path_name(path))
  blocks = [f'encoder/stage{s}_block{b}' for s in range(1, 5) for b in range(2)]
  shortcuts = [f'encoder/stage{s}_block0/shortcut' for s in range(2, 5)]
  assert decayed == {
    'encoder/stem_conv/kernel',
    *(f'{block}/conv{i}/kernel' for block in blocks for i in (1, 2)),
    *(f'{shortcut}_conv/kernel' for shortcut in shortcuts),
    *(f'{head}/linear{i}/kernel' for head in ('projector', 'predictor') for i in (1, 2)),
    'probe/linear1/kernel',
  }
  norms = ['encoder/stem_bn', *(f'{block}/bn{i}' for block in blocks for i in (1, 2))]
  norms += [f'{shortcut}_bn' for shortcut in shortcuts] + ['projector/bn1', 'predictor/bn1']
  assert spared == {
    *(f'{norm}/{name}' for norm in norms for name in ('scale', 'bias')),
    *(f'{head}/linear1/bias' for head in ('projector', 'predictor', 'probe')),
  }
  assert all(jax.tree.leaves(optim.decay_mask(False)(byol_params)))


def test_report_names_every_pattern_with_its_treatment(byol_params):
  settings = {
    'default': {'name': 'lars', 'weight_decay': 1e-6},
    'probe': {'name': 'sgd', 'weight_decay': 0.0},
  }
  report = optim.param_report(byol_params, byol_groups(byol_params), settings)
  print(report)
  header, *rows, total = (line.split() for line in report.splitlines())
  assert header == ['parameters', 'tensors', 'count', 'shape', 'group', 'decayed', 'adapted']
  treated = {row[0]: (*row[1:3], *row[-3:]) for row in rows}
  assert treated == {
    'encoder/stem_conv/kernel': ('1', '9,408', 'default', 'yes', 'yes'),
    'encoder/stem_bn/scale': ('1', '64', 'default', '-', '-'),
    'encoder/stem_bn/bias': ('1', '64', 'default', '-', '-'),
    'encoder/stage*_block*/conv*/kernel': ('16', '10,985,472', 'default', 'yes', 'yes'),
    'encoder/stage*_block*/bn*/scale': ('16', '3,840', 'default', '-', '-'),
    'encoder/stage*_block*/bn*/bias': ('16', '3,840', 'default', '-', '-'),
    'encoder/stage*_block*/shortcut_conv/kernel': ('3', '172,032', 'default', 'yes', 'yes'),
    'encoder/stage*_block*/shortcut_bn/scale': ('3', '896', 'default', '-', '-'),
    'encoder/stage*_block*/shortcut_bn/bias': ('3', '896', 'default', '-', '-'),
    'projector/linear*/kernel': ('2', '3,145,728', 'default', 'yes', 'yes'),
    'projector/linear*/bias': ('1', '4,096', 'default', '-', '-'),
    'projector/bn*/scale': ('1', '4,096', 'default', '-', '-'),
    'projector/bn*/bias': ('1', '4,096', 'default', '-', '-'),
    'predictor/linear*/kernel': ('2', '2,097,152', 'default', 'yes', 'yes'),
    'predictor/linear*/bias': ('1', '4,096', 'default', '-', '-'),
    'predictor/bn*/scale': ('1', '4,096', 'default', '-', '-'),
    'predictor/bn*/bias': ('1', '4,096', 'default', '-', '-'),
    'probe/linear*/kernel': ('1', '2,560', 'probe', '-', '-'),
    'probe/linear*/bias': ('1', '10', 'probe', '-', '-'),
  }
  size = sum(leaf.size for leaf in jax.tree.leaves(byol_params))
  larc = {'default': settings['default'] | {'name': 'larc', 'unadapted': ('projector',)}}
  rows = optim.param_report(byol_params, byol_groups(byol_params), larc).splitlines()
  treated = {row.split()[0]: row.split()[-2:] for row in rows[1:-1]}
  assert treated['encoder/stem_conv/kernel'] == ['yes', 'yes']
  assert treated['projector/linear*/kernel'] == ['yes', '-']
  assert total == ['total', str(len(jax.tree.leaves(byol_params))), f'{size:,}']
  inclusive = {'default': settings['default'] | {'exclude_bias_and_norm': False}}
  rows = optim.param_report(byol_params, byol_groups(byol_params), inclusive).splitlines()
  assert all(row.split()[-2:] == ['yes', 'yes'] for row in rows[1:-1] if 'default' in row)
  frozen = [row for row in rows if ' probe ' in row]
  assert len(frozen) == 2 and all(row.split()[-2:] == ['-', '-'] for row in frozen)


@pytest.mark.parametrize('as_function', [True, False])
def test_groups_have_their_own_optimizers_and_frozen_ones_keep_every_bit(as_function):
  params = {
    'encoder': {'kernel': jnp.array([[1.0, -0.0], [0.0, 3.0]])},
    'probe': {'kernel': jnp.array([[1.0]])},
    'head': {'kernel': jnp.array([[2.0]])},
  }
  names = {'encoder': 'frozen', 'probe': 'probe', 'head': 'default'}

  def groups(tree):
    return {role: jax.tree.map(lambda _, r=role: names[r], leaves) for role, leaves in tree.items()}

  specs = {
    'default': optim.make_optimizer('sgd', schedule=optim.constant(0.5, total_steps=9)),
    'probe': optim.make_optimizer('adamw', schedule=optim.constant(0.25, total_steps=9)),
  }
  tx = optim.make(groups if as_function else groups(params), specs)
  state = tx.init(params)
  grads = jax.tree.map(jnp.ones_like, params)
  moved = params
  for _ in range(2):
    updates, state = jax.jit(tx.update)(grads, state, moved)
    moved = optax.apply_updates(moved, updates)
  before, after = (np.asarray(p['encoder']['kernel']).view(np.uint32) for p in (params, moved))
  np.testing.assert_array_equal(after, before)  # the sign of -0. included
  np.testing.assert_allclose(moved['head']['kernel'], [[2.0 - 0.5 * 1.0 - 0.5 * 1.9]], rtol=1e-6)
  # Adam's 1 - 0.999 has an error of 6e-8 / 1e-3, of which the root halves.
  np.testing.assert_allclose(moved['probe']['kernel'], [[0.5]], rtol=1e-4)


def test_masks_clipping_and_lars_work_inside_groups():
  params = {
    'a': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
    'b': {'kernel': jnp.ones((1, 1))},
  }
  groups = {'a': {'kernel': 'default', 'bias': 'default'}, 'b': {'kernel': 'probe'}}
  constant = optim.constant(1.0, total_steps=9)
  settings = {'schedule': constant, 'momentum': 0.0, 'weight_decay': 0.5, 'trust_coefficient': 0.1}
  inside = optim.make(
    groups,
    {
      'default': optim.make_optimizer('lars', clip_norm=1.0, **settings),
      'probe': optim.make_optimizer('sgd', schedule=constant),
    },
  )
  alone = optim.make_optimizer('lars', clip_norm=1.0, **settings)
  grads = jax.tree.map(lambda w: 3.0 * w, params)
  updates, _ = inside.update(grads, inside.init(params), params)
  expected, _ = alone.update(grads['a'], alone.init(params['a']), params['a'])
  jax.tree.map(np.testing.assert_array_equal, updates['a'], expected)
  # the group's norm is 3 sqrt(6): the bias is 3 / (3 sqrt(6)), neither decayed nor adapted
  np.testing.assert_allclose(updates['a']['bias'], np.full(2, -1 / np.sqrt(6)), rtol=1e-6)
  np.testing.assert_allclose(updates['b']['kernel'], [[-3.0]])


@pytest.mark.parametrize('as_function', [True, False])
def test_a_group_without_an_optimizer_is_named(as_function):
  params = {'w': jnp.ones(1)}
  groups = {'w': 'prob'}
  specs = {'probe': optim.make_optimizer('sgd', schedule=optim.constant(0.1, total_steps=9))}
  with pytest.raises(ValueError, match="group 'prob' has no optimizer.*did you mean 'probe'"):
    optim.make((lambda _: groups) if as_function else groups, specs).init(params)
