"""Learning-rate schedules: exact corners, published formulas, errors."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import optim
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import quadratic  # noqa: E402

schedule = optim.make_schedule(
  'cosine', quadratic.PEAK, total_steps=quadratic.STEPS, warmup_steps=quadratic.WARMUP
)


def test_cosine_is_exact_at_its_corners():
  rate = optim.cosine(0.3, total_steps=100, warmup_steps=10, end=0.001)
  assert float(rate(0)) == 0.0
  assert float(rate(10)) == np.float32(0.3)
  assert float(rate(100)) == float(rate(1000)) == np.float32(0.3) * np.float32(0.001)
  np.testing.assert_allclose(rate(5), 0.15, rtol=1e-6)
  np.testing.assert_allclose(rate(55), 0.3 * (0.001 + 0.999 * 0.5), rtol=1e-6)
  expected = 0.3 * (0.001 + 0.999 * 0.5 * (1 + np.cos(np.pi * 89 / 90)))
  # 1 + cos, 6e-4 here, is rounded as numbers near 1 are: 6e-8 of 2, beside 1e-3.
  np.testing.assert_allclose(rate(99), expected, rtol=1e-4)
  values = jax.jit(jax.vmap(rate))(jnp.arange(101))
  assert values.dtype == jnp.float32 and int(values.argmax()) == 10
  assert (jnp.diff(values[:11]) > 0).all() and (jnp.diff(values[10:]) < 0).all()


def test_cosine_equals_the_recurrences_and_optaxs():
  values = [float(schedule(step)) for step in range(quadratic.STEPS + 1)]
  expected = [quadratic.rate(step) for step in range(quadratic.STEPS + 1)]
  np.testing.assert_allclose(values, expected, rtol=1e-6, atol=5e-7)
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


def test_warm_up_stable_decay_does_not_see_the_length_before_it_decays():
  made = {
    total: optim.make_schedule(
      'wsd', 0.3, total_steps=total, warmup_steps=4, steady_steps=total - 10, end=0.1
    )
    for total in (30, 50)
  }
  values = {total: np.asarray(jax.vmap(rate)(jnp.arange(60))) for total, rate in made.items()}
  assert (values[30][:21] == values[50][:21]).all()
  assert (values[30][4:21] == np.float32(0.3)).all() and float(values[30][2]) == np.float32(0.15)
  expected = 0.3 * np.array([0.91, 0.55, 0.1, 0.1])
  np.testing.assert_allclose(values[30][[21, 25, 30, 59]], expected, rtol=1e-6)
  assert float(optim.make_schedule('wsd', 0.5, total_steps=7, steady_steps=7)(7)) == 0.5


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
    (
      'wsd',
      {'total_steps': 9, 'warmup_steps': 4, 'steady_steps': 3},
      'a warm-up of 4 steps and a decay of 6 do not fit into 9 steps',
    ),
    ('cosine', {'total_steps': 0}, 'at least 1 step of training, got 0'),
    ('step', {'total_steps': 9, 'boundaries': (0.8, 0.6)}, r'rising boundaries .* \(0.8, 0.6\)'),
    ('step', {'total_steps': 9, 'boundaries': (60, 80)}, r'rising boundaries .* \(60, 80\)'),
  ],
)
def test_impossible_schedules_are_refused(name, settings, message):
  with pytest.raises(ValueError, match=message):
    optim.make_schedule(name, 0.1, **settings)
