"""Optimizers from a configuration: schedules, scalings, and groups that differ."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import optim
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
  np.testing.assert_allclose([float(rate(s)) for s in (0, 3, 14)], [0, 0.04, 0.2 * 14 / 15])
  # Step 17 lies in an epoch that began before the warm-up ended: it has the peak.
  assert float(rate(17)) == pytest.approx(0.2)


def test_stepwise_decay():
  """MoCo v1: tenfold down at 60 and at 80 %."""
  rate = made(schedule='step').schedule
  np.testing.assert_allclose([float(rate(s)) for s in (59, 60, 79, 80)], [0.2, 0.02, 0.02, 0.002])


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


def test_mistakes_in_groups():
  with pytest.raises(ValueError, match='groups.predictor.base_rl .*did you mean .base_lr.'):
    made(groups={'predictor': {'base_rl': 1.0}})
  with pytest.raises(ValueError, match='groups.head: .* only encoder, predictor, bias_and_norm'):
    after_step(made(groups={'head': {'base_lr': 1.0}}))


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


def test_clipping_by_tensor():
  clip = lars.clip_each_by_norm(3.0, stacked=False)
  big, small = jnp.array([6.0, 8.0]), jnp.array([0.3, 0.4])
  updates, _ = clip.update({'big': big, 'small': small}, optax.EmptyState(), None)
  np.testing.assert_allclose(updates['big'], [1.8, 2.4], rtol=1e-6)
  np.testing.assert_allclose(updates['small'], small)


def test_by_epoch_needs_no_whole_number_of_epochs():
  rate = schedules.by_epoch(schedules.cosine(1.0, total_steps=25), 10, 0)
  assert float(rate(24)) == pytest.approx(0.5 * (1 + math.cos(math.pi * 20 / 25)), rel=1e-5)
