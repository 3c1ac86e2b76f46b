"""Guards against collapse: with them features stay spread, without them they do not.

BYOL's is in test_byol.py. SimSiam without its stop-gradient does not collapse within seconds on
pictures this easy: its projector's last normalization keeps every dimension's variance.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax.evals import collapse
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import METHODS
from byoljax.step import init_state, train_step
from tests.methods.test_contract import SIZE, TinyEncoder

KINDS, ROWS, STEPS = 8, 64, 200
NOT_NORMALIZED = ('vicreg',)


def pictures():
  return np.random.default_rng(0).normal(size=(KINDS, SIZE, SIZE, 3))


def batch_of(kinds, seed, views):
  """Pictures of eight kinds whose views differ by noise."""
  draw = np.random.default_rng(seed)
  chosen = draw.integers(0, KINDS, ROWS)
  return {
    'views': tuple(
      (kinds[chosen] + 0.3 * draw.normal(size=(ROWS, SIZE, SIZE, 3))).astype(np.float32)
      for _ in range(views)
    ),
    'index': np.arange(ROWS, dtype=np.int32),
  }, chosen


def train(name, *, rate, views=2, **arguments):
  """A small method after some steps.

  Returns:
    The spread of its projections, which is 0 where they are one point: of their directions, or for
    methods that do not normalize them their standard deviation; and how well the nearest neighbor
    in the embedding tells the kind.
  """
  setting = Setting(Length(ROWS, 1, STEPS), num_examples=ROWS)
  method = METHODS[name](functools.partial(TinyEncoder), setting, **arguments)
  tx = optax.sgd(rate, momentum=0.9)
  kinds = pictures()
  state = init_state(method, tx, batch_of(kinds, 0, views)[0], 0)
  step = jax.jit(
    functools.partial(
      train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
    )
  )
  for number in range(STEPS):
    state, metrics = step(state, batch_of(kinds, number, views)[0])
  assert np.isfinite(float(metrics['loss']))
  (batch, labels), (bank, bank_labels) = (
    batch_of(kinds, seed, 1) for seed in (STEPS + 1, STEPS + 2)
  )
  outputs, stored = (
    method.embed(state.params, state.method_state, part['views'][0]) for part in (batch, bank)
  )
  nearest = jnp.argmax(_unit(outputs['embedding']) @ _unit(stored['embedding']).T, axis=1)
  right = float(np.mean(bank_labels[np.asarray(nearest)] == labels))
  projections = outputs['projection']
  if name in NOT_NORMALIZED:
    return float(jnp.mean(jnp.std(projections, axis=0))), right
  return float(collapse.normalized_std(projections)), right


def _unit(x):
  x = x - x.mean(0, keepdims=True)
  return x / jnp.linalg.norm(x, axis=1, keepdims=True)


HEAD = {'projector': (32, 16)}
# name -> (learning rate, arguments, how the guard is removed)
GUARDS = {
  'vicreg': (0.05, {'projector': (32, 16)}, {'variance': 0.0, 'covariance': 0.0}),
  'dino': (  # With a slower center, whether it spreads depends on the seed.
    0.2,
    {
      'projector': (32, 16),
      'outputs': 32,
      'freeze_last': '0 steps',
      'base_tau': 0.9,
      'center_momentum': 0.5,
    },
    {'center_momentum': 1.0, 'teacher_temperature': 0.1, 'teacher_temperature_start': 0.1},
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vicreg', 'dino'])
def test_guards(name):
  rate, arguments, without = GUARDS[name]
  spread, right = train(name, rate=rate, **arguments)
  collapsed, _ = train(name, rate=rate, **(arguments | without))
  assert spread > 0.1
  assert collapsed < 0.1 * spread
  assert right > 0.5


LEARNERS = {
  'barlow_twins': (0.05, {'projector': (32, 16)}),
  'moco': (0.2, HEAD | {'queue_size': 256, 'bn_groups': 4, 'tau': 0.95}),
  'moco_v3': (0.2, HEAD | {'predictor': (32, 16), 'temperature': 0.2, 'base_tau': 0.95}),
  'simclr': (0.5, HEAD | {'temperature': 0.2}),
  'simsiam': (0.5, HEAD | {'predictor': (8, 16)}),
  'swav': (0.5, HEAD | {'prototypes': 12, 'freeze': '5 steps'}),
  'w_mse': (0.1, {'projector': (32, 8)}),
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name == 'simclr' else pytest.mark.slow)
    for name in sorted(LEARNERS)
  ],
)
def test_methods_do_not_collapse_and_learn_the_kinds(name):
  rate, arguments = LEARNERS[name]
  spread, right = train(name, rate=rate, **arguments)
  assert spread > 0.4
  assert right > 0.5
