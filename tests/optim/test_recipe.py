"""Optimizers from a configuration: schedules, scalings, and groups that differ."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import optim, own
from byoljax.length import Length
from byoljax.optim import lars, recipe, schedules

LENGTH = Length(batch_size=512, steps_per_epoch=10, total_steps=100)
FIELDS = {
  'name': 'sgd', 'base_lr': 0.1, 'lr_scaling': 'linear', 'schedule': 'cosine', 'start_lr': 0.0,
  'end_lr': 0.0, 'decay_at': (0.6, 0.8), 'decay_factor': 0.1, 'lr_update': 'step',
  'weight_decay': 0.0, 'weight_decay_end': -1.0, 'momentum': 0.0, 'exclude_bias_and_norm': True,
}  # fmt: skip
PARAMS = {
  'encoder': {'conv': {'kernel': jnp.ones((2, 3))}, 'bn': {'scale': jnp.ones(3)}},
  'predictor': {'linear': {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)}},
}

# A rate is a product of a few float32 factors, each rounded by 6e-8.
FLOAT32 = 1e-6


def made(warmup=0, **changes):
  return recipe.make_recipe(FIELDS | {'warmup': f'{warmup} steps'} | changes, LENGTH)


def after_step(made_recipe, step=0, gradient=1.0):
  """How far each parameter moves at one update, by path."""
  names = jax.tree.map(lambda _: 'default', PARAMS)
  tx = optim.make(made_recipe.label(names, PARAMS), made_recipe.transformations)
  state = tx.init(PARAMS)
  grads = jax.tree.map(lambda x: gradient * jnp.ones_like(x), PARAMS)
  for _ in range(step + 1):
    updates, state = tx.update(grads, state, PARAMS)
  moved = jax.tree_util.tree_leaves_with_path(updates)
  return {optim.path_name(path): float(np.ravel(x)[0]) for path, x in moved}


@pytest.mark.parametrize(
  ('scaling', 'rate'), [('linear', 0.2), ('sqrt', 0.1 * math.sqrt(512)), ('none', 0.1)]
)
def test_scaling_with_the_batch(scaling, rate):
  assert float(made(lr_scaling=scaling).schedule(0)) == pytest.approx(rate)


def test_unknown_scaling_and_lr_update():
  with pytest.raises(ValueError, match="'cube': choose one of linear, sqrt, none"):
    made(lr_scaling='cube')
  with pytest.raises(ValueError, match="lr_update='week' is not one of step, epoch"):
    made(lr_update='week')


def test_rates_by_epoch_stand_still_within_each():
  """MoCo's and SimSiam's: the cosine of the epoch's first step."""
  rate = made(lr_update='epoch').schedule
  for step in (0, 9, 10, 55, 99):
    start = step - step % 10
    assert float(rate(step)) == pytest.approx(0.1 * (1 + math.cos(math.pi * start / 100)), rel=1e-5)


def test_warmup_goes_by_step_even_where_the_rate_goes_by_epoch():
  rate = made(warmup=15, lr_update='epoch').schedule
  np.testing.assert_allclose(
    [float(rate(s)) for s in (0, 3, 14)], [0, 0.04, 0.2 * 14 / 15], FLOAT32
  )
  # Step 17 lies in an epoch that began before the warm-up ended: it has the peak.
  assert float(rate(17)) == pytest.approx(0.2)


def test_stepwise_decay():
  """MoCo v1: tenfold down at 60 and at 80 %."""
  rate = made(schedule='step').schedule
  np.testing.assert_allclose(
    [float(rate(s)) for s in (59, 60, 79, 80)], [0.2, 0.02, 0.02, 0.002], FLOAT32
  )


def test_a_role_with_a_schedule_of_its_own():
  """SimSiam's predictor keeps its rate."""
  made_recipe = made(groups={'predictor': {'schedule': 'constant'}})
  moved = after_step(made_recipe, step=50)
  assert moved['predictor/linear/kernel'] == pytest.approx(-0.2)
  assert moved['encoder/conv/kernel'] == pytest.approx(-0.1, rel=1e-5)


def test_biases_and_norms_with_a_rate_of_their_own_but_not_in_an_overridden_role():
  groups = {'bias_and_norm': {'base_lr': 0.01}, 'predictor': {'base_lr': 1.0}}
  moved = after_step(made(groups=groups))
  assert moved == pytest.approx(
    {
      'encoder/conv/kernel': -0.2,
      'encoder/bn/scale': -0.02,
      'predictor/linear/kernel': -2.0,
      'predictor/linear/bias': -2.0,
    }
  )


def test_a_methods_own_groups_stay():
  names = jax.tree.map(lambda _: 'default', PARAMS)
  names['predictor']['linear']['bias'] = 'frozen'
  labels = made(groups={'predictor': {'base_lr': 1.0}}).label(names, PARAMS)
  assert labels['predictor']['linear'] == {'kernel': 'predictor', 'bias': 'frozen'}


def test_an_optimizer_of_ones_own_moves_all_but_what_is_frozen():
  names = jax.tree.map(lambda _: 'default', PARAMS)
  names['predictor']['linear'] = {'kernel': 'frozen', 'bias': 'late'}
  its = recipe.Recipe.of(optax.adamw(0.1))
  tx = optim.make(its.label(names, PARAMS), its.transformations)
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
  assert not np.any(updates['predictor']['linear'].pop('kernel'))
  assert all(np.all(moved) for moved in jax.tree.leaves(updates))


def test_mistakes_in_groups():
  with pytest.raises(ValueError, match='groups.predictor.base_rl .*did you mean .base_lr.'):
    made(groups={'predictor': {'base_rl': 1.0}})
  with pytest.raises(ValueError, match='groups.head: .* only encoder, predictor, bias_and_norm'):
    after_step(made(groups={'head': {'base_lr': 1.0}}))
  names = jax.tree.map(lambda _: 'default', PARAMS)
  names['predictor'] = jax.tree.map(lambda _: 'probe', PARAMS['predictor'])
  with pytest.raises(ValueError, match="groups.predictor: .* belong to 'probe': leave"):
    made(groups={'predictor': {'base_lr': 1.0}}).label(names, PARAMS)


def test_weight_decay_that_rises():
  """DINO: .04 to .4 on a cosine, decoupled from the gradient."""
  rising = made(
    name='adamw', schedule='constant', base_lr=0.5, weight_decay=0.04, weight_decay_end=0.4
  )
  for step, decay in ((0, 0.04), (50, 0.22)):
    moved = after_step(rising, step, gradient=0.0)
    assert moved['encoder/conv/kernel'] == pytest.approx(-decay, rel=1e-4)
    assert moved['encoder/bn/scale'] == 0.0
  with pytest.raises(ValueError, match="needs optimizer 'adamw'"):
    made(weight_decay=0.04, weight_decay_end=0.4)


def test_a_groups_own_decay_does_not_follow_the_end_of_the_others():
  rising = made(
    name='adamw', schedule='constant', base_lr=0.5, weight_decay=0.04, weight_decay_end=0.4,
    groups={'predictor': {'weight_decay': 0.0}},
  )  # fmt: skip
  moved = after_step(rising, 50, gradient=0.0)
  assert moved['encoder/conv/kernel'] == pytest.approx(-0.22, rel=1e-4)
  assert moved['predictor/linear/kernel'] == 0.0


def test_momentum_is_adams_first_moment():
  """The first moment of gradients 1, then 0, beside the second; each without its bias."""
  for momentum in (0.0, 0.5, 0.95):
    tx = made(name='adamw', momentum=momentum, b2=0.9).transformations['default']
    state = tx.init({'w': jnp.zeros(())})
    _, state = tx.update({'w': jnp.ones(())}, state, {'w': jnp.zeros(())})
    (adam,) = (part for part in state if isinstance(part, optax.ScaleByAdamState))
    assert float(adam.mu['w']) == pytest.approx(1 - momentum, rel=FLOAT32)
    assert float(adam.nu['w']) == pytest.approx(0.1, rel=FLOAT32)


def test_where_the_rate_ends():
  ended = made(min_lr=0.02)
  assert float(ended.schedule(100)) == pytest.approx(0.02)
  still = made(min_lr=0.02, groups={'predictor': {'base_lr': 0.0}})
  assert set(after_step(still).items()) >= {('predictor/linear/kernel', 0.0)}
  # A group with a schedule that has no end has none of the others'.
  flat = made(min_lr=0.02, groups={'predictor': {'schedule': 'constant'}})
  assert after_step(flat, 99)['predictor/linear/kernel'] == pytest.approx(-0.2)
  for changes, message in (
    ({'base_lr': -0.1}, r'base_lr=-0.1 must be at least 0 and finite'),
    ({'base_lr': math.nan}, r'base_lr=nan must be at least 0'),
    ({'min_lr': -0.001}, r'min_lr must be >= 0, got -0.001'),
    ({'end_lr': 10.0}, r'end_lr must be in \[0, 1\], a share of the highest rate, got 10.0'),
    ({'start_lr': -2.0}, r'start_lr must be in \[0, 1\]'),
    ({'schedule': 'step', 'decay_factor': -1.0}, r'decay_factor must be in \(0, 1\], got -1.0'),
    ({'name': 'adamw', 'weight_decay_end': -0.5}, r'weight_decay_end must be >= 0, or -1 for none'),
    ({'min_lr': 0.3}, r'min_lr=0.3 is above the rate that it is the end of, 0.2 at base_lr=0.1'),
    ({'schedule': 'step', 'min_lr': 0.02}, r"'cosine' or 'wsd' ends, but schedule='step'"),
    ({'schedule': 'constant', 'end_lr': 0.1}, r"end_lr=0.1 .* but schedule='constant'"),
  ):
    with pytest.raises(ValueError, match=message):
      made(**changes)


def test_parameters_that_start_late_start_anew():
  """Adam's moments and count begin at the release; the learning rate's position goes on.

  Of zeros until then Adam would count the steps: after 1251 of them its first update is 2.67 times
  as large, the tenth 5.5 times, the 300th 1.7 times.
  """
  frozen, lr = 1251, 0.5
  length = Length(batch_size=256, steps_per_epoch=frozen, total_steps=10 * frozen)
  own = {'name': 'adamw', 'momentum': 0.9, 'base_lr': lr, 'warmup': '0 steps', 'unadapted': ()}
  fields = FIELDS | own
  late = recipe.make_recipe(fields, length).starting({'a/last': frozen, 'b': 0})
  params = {'a': {'last': {'kernel': jnp.ones(2)}, 'lastly': jnp.ones(2)}, 'b': jnp.ones(2)}
  names = jax.tree.map(lambda _: 'default', params)
  labels = late.label(names, params)
  assert labels == {
    'a': {'last': {'kernel': f'default from {frozen}'}, 'lastly': 'default'},
    'b': 'default',
  }
  tx = optim.make(labels, late.transformations)

  def step(carry, number):
    state, counted = carry
    released = number >= frozen
    grads = jax.tree.map(lambda x: jnp.sin(1.0 + number) * x, params)
    zero = {**grads, 'a': jax.tree.map(lambda x: jnp.where(released, x, 0.0), grads['a'])}
    updates, state = tx.update(grads, state, params)
    wrong, counted = plain.update(zero, counted, params)
    return (state, counted), (updates['a']['last']['kernel'][0], wrong['a']['last']['kernel'][0])

  plain = optim.make(names, late.transformations)
  start = (tx.init(params), plain.init(params))
  _, (got, wrong) = jax.lax.scan(step, start, jnp.arange(frozen + 300))
  got, wrong = np.asarray(got, np.float64), np.asarray(wrong, np.float64)
  assert not got[:frozen].any() and np.signbit(got[:frozen]).all()
  m = v = 0.0
  for count in range(1, 301):
    position = frozen + count - 1
    g = np.sin(1.0 + position)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    rate = lr * 0.5 * (1 + math.cos(math.pi * position / (10 * frozen)))
    expected = -rate * m / (1 - 0.9**count) / (math.sqrt(v / (1 - 0.999**count)) + 1e-8)
    # float32 over 300 updates: 5 x the largest error seen, 2e-6 of the rate.
    assert abs(got[position] - expected) < 1e-5 * rate
  ratio = abs(wrong / np.where(got, got, 1))[frozen:]
  np.testing.assert_allclose(ratio[0], 0.1 / math.sqrt(0.001 / (1 - 0.999**1252)), rtol=1e-3)


@pytest.mark.parametrize('name', ['lars', 'lars_simclr', 'larc', 'larc_clip'])
def test_a_supervised_head_is_decayed_and_not_adapted(name):
  """SimCLR's rule: plain momentum, and an explicit penalty of half the squared norm."""
  changes = {'name': name, 'trust_coefficient': 0.01, 'weight_decay': 0.25, 'schedule': 'constant'}
  moved = after_step(made(**changes, unadapted=('predictor',)))
  assert moved['predictor/linear/kernel'] == pytest.approx(-0.2 * (1 + 0.25))
  assert moved['predictor/linear/bias'] == pytest.approx(-0.2)
  assert moved['encoder/conv/kernel'] != pytest.approx(-0.2 * (1 + 0.25), rel=0.5)


def test_a_head_that_starts_at_zero_learns_under_simclrs_fine_tuning():
  """50 classes, 720 updates at batch 256 and rate .005 sqrt(256) = .08, features fixed.

  Adapted like other kernels the head stays near zero and the loss near that of a guess.
  """
  from configs.finetune import PROTOCOLS

  length = Length(batch_size=256, steps_per_epoch=12, total_steps=720)
  features = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
  features /= np.linalg.norm(features, axis=1, keepdims=True) / 4

  def final(**changes):
    made_recipe = recipe.make_recipe(dict(PROTOCOLS['simclr_v2']['optim']) | changes, length)
    params = {'head': {'kernel': jnp.zeros((64, 50))}}
    labels = made_recipe.label(jax.tree.map(lambda _: 'default', params), params)
    tx = optim.make(labels, made_recipe.transformations)

    def loss(params):
      logits = features @ params['head']['kernel']
      return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(50)).mean()

    def step(carry, _):
      params, state = carry
      updates, state = tx.update(jax.grad(loss)(params), state, params)
      return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=720)
    return float(loss(params)), float(jnp.linalg.norm(params['head']['kernel']))

  loss, norm = final()
  adapted_loss, adapted_norm = final(unadapted=())
  assert loss < 0.3 and norm > 10
  assert adapted_loss > 3 and adapted_norm < 3


@pytest.mark.parametrize(('probe', 'adapted'), [('simsiam', True), ('mae', False)])
def test_whether_a_probes_bias_is_adapted_is_its_authors_choice(probe, adapted):
  """LARC of apex excludes nothing, MAE's LARS vectors; SGD after PyTorch decays biases, too."""
  from byoljax.protocols.linear import LinearProtocol
  from configs import linear

  fields = linear.get_config(probe).linear.to_dict()
  optimizer = LinearProtocol(**fields).optimizer | {'lr_scaling': 'none', 'warmup': '0 steps'}
  length = Length(batch_size=256, steps_per_epoch=10, total_steps=100)
  made_recipe = recipe.make_recipe(optimizer | {'end_lr': 0.0}, length)
  params = {'head': {'bias': jnp.full((1, 1, 4), 2.0)}}
  tx = optim.make(jax.tree.map(lambda _: 'default', params), made_recipe.transformations)
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
  # The ratio of LARS is .001 |w| / |g|.
  np.testing.assert_allclose(updates['head']['bias'], -0.1 * (0.002 if adapted else 1), rtol=1e-5)
  for name in ('barlow_twins', 'vicreg', 'swav', 'moco'):
    assert not linear.get_config(name).linear.exclude_bias_and_norm


def test_clipping_by_tensor():
  clip = lars.clip_each_by_norm(3.0, stacked=False)
  big, small = jnp.array([6.0, 8.0]), jnp.array([0.3, 0.4])
  updates, _ = clip.update({'big': big, 'small': small}, optax.EmptyState(), None)
  np.testing.assert_allclose(updates['big'], [1.8, 2.4], rtol=1e-6)
  np.testing.assert_allclose(updates['small'], small)


def test_by_epoch_needs_no_whole_number_of_epochs():
  rate = schedules.by_epoch(schedules.cosine(1.0, total_steps=25), 10, 0)
  assert float(rate(24)) == pytest.approx(0.5 * (1 + math.cos(math.pi * 20 / 25)), rel=1e-5)


def test_a_decay_is_a_duration_and_other_things_move_within_it():
  assert recipe.steady_steps({'schedule': 'wsd', 'decay': '2 epochs'}, LENGTH) == 80
  assert recipe.steady_steps({'schedule': 'cosine', 'decay': '2 epochs'}, LENGTH) == 0
  rate = made(schedule='wsd', decay='10 %', end_lr=0.5).schedule
  rates = [rate(0), rate(90), rate(95), rate(100)]
  np.testing.assert_allclose(rates, [0.2, 0.2, 0.15, 0.1], rtol=FLOAT32)
  late = recipe.moving(LENGTH._replace(steady_steps=80))
  expected = [1.0, 1.0, 0.5, 0.0]
  np.testing.assert_allclose([late(0), late(80), late(90), late(100)], expected, atol=1e-7)
  assert float(recipe.moving(LENGTH)(50)) == pytest.approx(0.5)
  with pytest.raises(ValueError, match="optim.decay='11 epochs' is 110 steps, longer than"):
    made(schedule='wsd', decay='11 epochs')


def test_what_starts_late_may_be_trained_by_one_phase_of_several():
  late = recipe.Recipe.of(optax.sgd(0.5)).starting({'critic': 3})
  params = {'critic': {'kernel': jnp.ones(2)}, 'encoder': jnp.ones(2)}

  def labels(params):
    return late.label(jax.tree.map(lambda _: 'default', params), params)

  for role in params:  # The other's role is there, and empty.
    own = {name: value if name == role else {} for name, value in params.items()}
    tx = optim.make(labels, late.transformations)
    updates, _ = tx.update(own, tx.init(own), own)
    np.testing.assert_array_equal(jax.tree.leaves(updates)[0], 0.0 if role == 'critic' else -0.5)
  with pytest.raises(ValueError, match="no parameters are at 'critic'"):
    labels({'encoder': params['encoder']})


def lion(schedule, weight_decay, mask):
  return optax.lion(schedule, weight_decay=weight_decay, mask=mask)


def test_an_optimizer_of_the_users_own():
  length = Length(batch_size=256, steps_per_epoch=5, total_steps=10)
  fields = {'name': own.give(lion), 'base_lr': 0.1, 'weight_decay': 0.3, 'warmup': '2 steps'}
  made = recipe.make_recipe(fields, length)
  params = {'encoder': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
  plain = optax.lion(made.schedule, weight_decay=0.3, mask=optim.decay_mask(True))
  state, wanted = made.transformations['default'].init(params), plain.init(params)
  for number in range(3):
    grads = jax.tree.map(lambda x, n=number: jnp.cos(n + x), params)
    updates, state = made.transformations['default'].update(grads, state, params)
    expected, wanted = plain.update(grads, wanted, params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
  with pytest.raises(ValueError, match=':nothing. returns NoneType: it must return an optax'):
    recipe.make_recipe(fields | {'name': own.give(nothing)}, length)


def nothing(schedule):
  del schedule
