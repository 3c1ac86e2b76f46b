"""Optimisers: every form against recurrences in NumPy and PyTorch, schedules, masks and groups."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import models, optim
from byoljax.models import heads
from byoljax.models.net import stack

GOLDEN = pathlib.Path(__file__).parent / 'golden'
sys.path.append(str(GOLDEN))
import philox  # noqa: E402
import quadratic  # noqa: E402

schedule = optim.make_schedule(
  'cosine', quadratic.PEAK, total_steps=quadratic.STEPS, warmup_steps=quadratic.WARMUP
)
SETTINGS = {'weight_decay': quadratic.DECAY, 'trust_coefficient': quadratic.TRUST}


def nested(flat):
  tree = {}
  for name, value in flat.items():
    outer, inner = name.split('/')
    tree.setdefault(outer, {})[inner] = jnp.asarray(value, jnp.float32)
  return tree


def trajectory(tx, start=quadratic.start, steps=quadratic.STEPS):
  """Parameters after each step on the quadratic, [steps,...] by name, the step jitted."""
  names = tuple(quadratic.SHAPES)
  params = nested({name: start(name) for name in names})
  state = tx.init(params)

  @jax.jit
  def move(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  path = {name: [] for name in names}
  for step in range(steps):
    values = {name: np.asarray(params[name.split('/')[0]][name.split('/')[1]]) for name in names}
    grads = nested({name: quadratic.gradient(name, values[name], step) for name in names})
    params, state = move(params, state, grads)
    for name in names:
      path[name].append(np.asarray(params[name.split('/')[0]][name.split('/')[1]]))
  return {name: np.stack(values) for name, values in path.items()}


def recurrence(form, name, momentum=0.9, excluded=quadratic.EXCLUDED):
  """One tensor under one form of LARS, written from the published update rules, in float64."""
  w, m, path = quadratic.start(name), 0.0, []
  decay, trust = quadratic.DECAY, quadratic.TRUST
  for step in range(quadratic.STEPS):
    lr, g = quadratic.rate(step), quadratic.gradient(name, w, step)
    w_norm = np.sqrt((w**2).sum())
    if name in excluded:
      u = g
    elif form in 'AB':
      g = g + decay * w
      g_norm = np.sqrt((g**2).sum())
      u = g * (trust * w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0)
    else:
      g_norm = np.sqrt((g**2).sum())
      ratio = trust * w_norm / (g_norm + decay * w_norm + 1e-8)
      if form == 'D':
        ratio = 1.0 if lr == 0 else min(ratio / lr, 1.0)
      u = (g + decay * w) * ratio if w_norm > 0 and g_norm > 0 else g
    if form == 'B':
      m = momentum * m + lr * u
      w = w - m
    else:
      m = momentum * m + u
      w = w - lr * m
    path.append(w)
  return np.stack(path)


# --- optimisers -----------------------------------------------------------------------------------


@pytest.mark.parametrize('excluding', [True, False])
@pytest.mark.parametrize(
  ('name', 'form'), [('lars', 'A'), ('lars_simclr', 'B'), ('larc', 'C'), ('larc_clip', 'D')]
)
def test_lars_follows_its_published_recurrence(name, form, excluding):
  tx = optim.make_optimizer(name, schedule=schedule, exclude_bias_and_norm=excluding, **SETTINGS)
  path = trajectory(tx)
  for tensor in quadratic.SHAPES:
    expected = recurrence(form, tensor, excluded=quadratic.EXCLUDED if excluding else ())
    np.testing.assert_allclose(path[tensor], expected, rtol=2e-5, atol=2e-6, err_msg=tensor)


def test_the_four_forms_differ_so_that_a_mix_up_would_show():
  ends = [recurrence(form, 'linear/kernel')[-1] for form in 'ABCD']
  for i, a in enumerate(ends):
    for b in ends[i + 1 :]:
      assert np.abs(a - b).max() > 1e-4


@pytest.mark.parametrize(
  ('case', 'settings'),
  [
    ('larc', {'name': 'larc', 'exclude_bias_and_norm': False}),
    ('larc_clip', {'name': 'larc_clip'}),
    ('sgd', {'name': 'sgd', 'exclude_bias_and_norm': False}),
    ('sgd_nesterov', {'name': 'sgd', 'nesterov': True}),
    ('adamw', {'name': 'adamw'}),
  ],
)
def test_trajectories_equal_pytorchs(case, settings):
  path = trajectory(optim.make_optimizer(schedule=schedule, **SETTINGS, **settings))
  golden = np.load(GOLDEN / 'optim.npz')
  for tensor in quadratic.SHAPES:
    np.testing.assert_allclose(
      path[tensor], golden[f'{case}/{tensor}'], rtol=1e-4, atol=2e-5, err_msg=tensor
    )


def test_simclrs_form_equals_optax_lars():
  mask = optim.decay_mask(True)
  reference = optax.lars(
    schedule,
    weight_decay=quadratic.DECAY,
    weight_decay_mask=mask,
    trust_coefficient=quadratic.TRUST,
    trust_ratio_mask=mask,
    momentum=0.9,
  )
  expected = trajectory(reference)
  path = trajectory(optim.make_optimizer('lars_simclr', schedule=schedule, **SETTINGS))
  for tensor in quadratic.SHAPES:
    np.testing.assert_allclose(path[tensor], expected[tensor], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'w', 'g', 'update'),
  [
    # ratio 1, so w - (g + lambda w): both forms that decay first
    ('lars', 0.0, 3.0, -3.0),
    ('lars', 2.0, -0.5 * 2.0, 0.0),  # g + lambda w is zero
    ('lars_simclr', 0.0, 3.0, -3.0),
    # no ratio, no decay
    ('larc', 0.0, 3.0, -3.0),
    ('larc', 2.0, 0.0, 0.0),
    ('larc_clip', 0.0, 3.0, -3.0),
    ('larc_clip', 2.0, 0.0, 0.0),
  ],
)
def test_zero_norms(name, w, g, update):
  tx = optim.make_optimizer(
    name, schedule=optim.constant(1.0, total_steps=1), weight_decay=0.5, momentum=0.0
  )
  params = {'kernel': jnp.full((2, 2), w)}
  updates, _ = tx.update({'kernel': jnp.full((2, 2), g)}, tx.init(params), params)
  np.testing.assert_allclose(updates['kernel'], np.full((2, 2), update), atol=1e-7)


def test_a_zero_gradient_still_decays_in_byols_form():
  tx = optim.make_optimizer(
    'lars', schedule=optim.constant(1.0, total_steps=1), weight_decay=0.5, trust_coefficient=0.1
  )
  params = {'kernel': jnp.full((2, 2), 2.0)}
  updates, _ = tx.update({'kernel': jnp.zeros((2, 2))}, tx.init(params), params)
  # |w| = 4, g' = 1 everywhere with norm 2: u = 0.1 * 4 / 2 * g'
  np.testing.assert_allclose(updates['kernel'], np.full((2, 2), -0.2), rtol=1e-6)


@pytest.mark.parametrize('name', list(optim.OPTIMIZERS))
def test_the_first_update_of_a_warmed_up_run_moves_nothing(name):
  path = trajectory(optim.make_optimizer(name, schedule=schedule, **SETTINGS), steps=1)
  for tensor, values in path.items():
    np.testing.assert_array_equal(values[0], quadratic.start(tensor).astype(np.float32))


def test_clipping_bounds_the_norm_of_the_whole_group():
  params = {'a': jnp.zeros(2), 'b': jnp.zeros((1, 1))}
  make = functools.partial(
    optim.make_optimizer, 'sgd', schedule=optim.constant(1.0, total_steps=1), momentum=0.0
  )
  grads = {'a': jnp.array([2.0, 4.0]), 'b': jnp.array([[4.0]])}  # norm 6
  tx = make(clip_norm=3.0)
  updates, _ = tx.update(grads, tx.init(params), params)
  assert updates['a'].tolist() == [-1.0, -2.0] and updates['b'].tolist() == [[-2.0]]
  tx = make(clip_norm=7.0)
  updates, _ = tx.update(grads, tx.init(params), params)
  assert updates['a'].tolist() == [-2.0, -4.0]


@pytest.mark.parametrize('clip_norm', [0.0, 0.5])
@pytest.mark.parametrize('name', list(optim.OPTIMIZERS))
def test_stacked_heads_train_as_separate_runs(name, clip_norm):
  peaks = (0.05, 0.4, 1.3)
  shapes = {'kernel': (6, 4), 'bias': (4,)}
  starts = [
    {k: jnp.asarray(philox.uniform(f'{k}{i}', s, -1.0, 1.0)) for k, s in shapes.items()}
    for i in range(len(peaks))
  ]

  def train(peak, params, noise_of):
    rate = optim.cosine(peak, total_steps=20, warmup_steps=5)
    tx = optim.make_optimizer(name, schedule=rate, clip_norm=clip_norm, **SETTINGS)
    state = tx.init(params)

    @jax.jit
    def move(params, state, noise):
      grads = jax.tree.map(lambda w, n: 0.5 * w + n, params, noise)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    for step in range(20):
      params, state = move(params, state, noise_of(step))
    return params

  def noise(i, step):
    return {
      k: jnp.asarray(philox.uniform(f'{k}{i}{step}', s, -0.5, 0.5)) for k, s in shapes.items()
    }

  def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

  together = train(peaks, stacked(starts), lambda t: stacked([noise(i, t) for i in range(3)]))
  for i, peak in enumerate(peaks):
    alone = train(peak, starts[i], functools.partial(noise, i))
    for leaf in shapes:
      np.testing.assert_allclose(together[leaf][i], alone[leaf], rtol=2e-5, atol=1e-6)


def test_stacked_rates_need_a_leading_axis_of_their_number():
  tx = optim.make_optimizer('sgd', schedule=optim.constant((0.1, 0.2), total_steps=1))
  params = {'kernel': jnp.zeros((3, 2))}
  with pytest.raises(ValueError, match=r'2 learning rates need .* leading axis .* got \[3, 2\]'):
    tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'lar'}, "unknown optimizer 'lar': choose one of lars, .*did you mean 'lars'"),
    ({'name': 'sgd', 'weight_decay': -1.0}, 'weight_decay must be >= 0, got -1.0'),
    ({'name': 'sgd', 'momentum': 1.0}, r'momentum must be in \[0, 1\), got 1.0'),
    ({'name': 'sgd', 'clip_norm': -0.1}, 'clip_norm must be >= 0, got -0.1'),
    ({'name': 'lars', 'trust_coefficient': 0.0}, 'trust_coefficient must be > 0, got 0.0'),
  ],
)
def test_wrong_settings_are_named_with_what_is_allowed(settings, message):
  with pytest.raises(ValueError, match=message):
    optim.make_optimizer(schedule=schedule, **settings)


# --- schedules ------------------------------------------------------------------------------------


def test_cosine_is_exact_at_its_corners():
  rate = optim.cosine(0.3, total_steps=100, warmup_steps=10, end=0.001)
  assert float(rate(0)) == 0.0
  assert float(rate(10)) == np.float32(0.3)
  assert float(rate(100)) == float(rate(1000)) == np.float32(0.3) * np.float32(0.001)
  np.testing.assert_allclose(rate(5), 0.15, rtol=1e-6)
  np.testing.assert_allclose(rate(55), 0.3 * (0.001 + 0.999 * 0.5), rtol=1e-6)
  expected = 0.3 * (0.001 + 0.999 * 0.5 * (1 + np.cos(np.pi * 89 / 90)))
  np.testing.assert_allclose(rate(99), expected, rtol=1e-5)
  values = jax.jit(jax.vmap(rate))(jnp.arange(101))
  assert values.dtype == jnp.float32 and int(values.argmax()) == 10
  assert (jnp.diff(values[:11]) > 0).all() and (jnp.diff(values[10:]) < 0).all()


def test_cosine_equals_the_recurrences_and_optaxs():
  values = [float(schedule(step)) for step in range(quadratic.STEPS + 1)]
  expected = [quadratic.rate(step) for step in range(quadratic.STEPS + 1)]
  np.testing.assert_allclose(values, expected, atol=1e-7)
  other = optax.warmup_cosine_decay_schedule(0.0, quadratic.PEAK, quadratic.WARMUP, quadratic.STEPS)
  np.testing.assert_allclose(
    values, [float(other(s)) for s in range(quadratic.STEPS + 1)], atol=1e-6
  )


def test_no_warmup_starts_at_the_peak_and_a_full_one_ends_there():
  assert float(optim.cosine(0.5, total_steps=7)(0)) == 0.5
  assert float(optim.cosine(0.5, total_steps=7, warmup_steps=7)(7)) == 0.5
  warm = optim.cosine(4.8, total_steps=20, warmup_steps=10, start=0.0625)  # SwAV: from 0.3
  np.testing.assert_allclose([float(warm(0)), float(warm(5))], [0.3, 2.55], rtol=1e-6)


def test_constant_and_step_decay():
  rate = optim.make_schedule('constant', 0.2, total_steps=10, warmup_steps=4)
  np.testing.assert_allclose(
    [float(rate(s)) for s in (0, 1, 4, 9, 50)], [0, 0.05, 0.2, 0.2, 0.2], rtol=1e-6
  )
  rate = optim.make_schedule('step', 30.0, total_steps=100, boundaries=(0.6, 0.8), warmup_steps=5)
  np.testing.assert_allclose(
    [float(rate(s)) for s in (0, 5, 59, 60, 79, 80, 100)], [0, 30, 30, 3, 3, 0.3, 0.3], rtol=1e-6
  )


def test_a_tuple_of_peaks_gives_one_schedule_each():
  rates = optim.make_schedule('cosine', (0.4, 0.1), total_steps=20, warmup_steps=4)
  for step in (0, 2, 4, 11, 20):
    single = [float(optim.cosine(p, total_steps=20, warmup_steps=4)(step)) for p in (0.4, 0.1)]
    assert rates(step).tolist() == single


def test_peak_lr_scales_with_the_batch():
  assert optim.peak_lr(0.2, 4096) == 3.2
  assert optim.peak_lr((0.2, 0.1), 128) == (0.1, 0.05)


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('cosin', {'total_steps': 5}, "unknown schedule 'cosin'.*did you mean 'cosine'"),
    ('cosine', {'total_steps': 5, 'warmup_steps': 6}, 'warm-up of 6 steps does not fit into 5'),
    ('constant', {'total_steps': 5, 'warmup_steps': -1}, 'warm-up of -1 steps'),
    ('cosine', {'total_steps': 0}, 'at least 1 step of training, got 0'),
    ('step', {'total_steps': 9, 'boundaries': (0.8, 0.6)}, r'rising boundaries .* \(0.8, 0.6\)'),
    ('step', {'total_steps': 9, 'boundaries': (60, 80)}, r'rising boundaries .* \(60, 80\)'),
  ],
)
def test_impossible_schedules_are_refused(name, settings, message):
  with pytest.raises(ValueError, match=message):
    optim.make_schedule(name, 0.1, **settings)


# --- masks, groups, report ------------------------------------------------------------------------


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
  assert total == ['total', str(len(jax.tree.leaves(byol_params))), f'{size:,}']
  inclusive = {'default': settings['default'] | {'exclude_bias_and_norm': False}}
  rows = optim.param_report(byol_params, byol_groups(byol_params), inclusive).splitlines()
  assert all(row.split()[-2:] == ['yes', 'yes'] for row in rows[1:-1] if 'default' in row)
  frozen = [row for row in rows if ' probe ' in row]
  assert len(frozen) == 2 and all(row.split()[-2:] == ['-', '-'] for row in frozen)


@pytest.mark.parametrize('as_function', [True, False])
def test_groups_have_their_own_optimisers_and_frozen_ones_keep_every_bit(as_function):
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
  np.testing.assert_allclose(moved['probe']['kernel'], [[0.5]], rtol=1e-5)


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
def test_a_group_without_an_optimiser_is_named(as_function):
  params = {'w': jnp.ones(1)}
  groups = {'w': 'prob'}
  specs = {'probe': optim.make_optimizer('sgd', schedule=schedule)}
  with pytest.raises(ValueError, match="group 'prob' has no optimiser.*did you mean 'probe'"):
    optim.make((lambda _: groups) if as_function else groups, specs).init(params)
