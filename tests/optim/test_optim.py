"""Optimizers: every form against recurrences in NumPy and PyTorch; stacked heads."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import optim
from tests.paths import GOLDEN

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


@pytest.mark.parametrize('excluding', [True, False])
@pytest.mark.parametrize(
  ('name', 'form'), [('lars', 'A'), ('lars_simclr', 'B'), ('larc', 'C'), ('larc_clip', 'D')]
)
def test_lars_follows_its_published_recurrence(name, form, excluding):
  tx = optim.make_optimizer(name, schedule=schedule, exclude_bias_and_norm=excluding, **SETTINGS)
  path = trajectory(tx)
  for tensor in quadratic.SHAPES:
    expected = recurrence(form, tensor, excluded=quadratic.EXCLUDED if excluding else ())
    np.testing.assert_allclose(path[tensor], expected, rtol=5e-5, atol=5e-6, err_msg=tensor)


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
  # Adam divides by the gradient's size, which amplifies the rounding of the smallest: 1e-5 seen.
  atol = 1e-4 if case == 'adamw' else 2e-5
  for tensor in quadratic.SHAPES:
    np.testing.assert_allclose(
      path[tensor], golden[f'{case}/{tensor}'], rtol=1e-4, atol=atol, err_msg=tensor
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


@pytest.mark.parametrize(
  ('name', 'clip_norm'),
  [
    *((name, 0.5) for name in optim.OPTIMIZERS),
    ('sgd', 0.0),
    *(pytest.param(n, 0.0, marks=pytest.mark.slow) for n in optim.OPTIMIZERS if n != 'sgd'),
  ],
)
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
    ({'name': 'sgd', 'weight_decay': np.nan}, 'weight_decay must be >= 0, got nan'),
    ({'name': 'adamw', 'eps': 0.0}, 'eps must be > 0, got 0.0'),
    ({'name': 'sgd', 'momentum': 1.0}, r'momentum must be in \[0, 1\), got 1.0'),
    ({'name': 'sgd', 'clip_norm': -0.1}, 'clip_norm must be >= 0, got -0.1'),
    ({'name': 'lars', 'trust_coefficient': 0.0}, 'trust_coefficient must be > 0, got 0.0'),
  ],
)
def test_wrong_settings_are_named_with_what_is_allowed(settings, message):
  with pytest.raises(ValueError, match=message):
    optim.make_optimizer(schedule=schedule, **settings)
