"""Triplet loss and noise-contrastive estimation."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses.nce import nce
from byoljax.losses.triplet import MODES
from byoljax.losses.triplet import triplet as unjitted
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'family_losses.npz'))


Z = philox.uniform('rows', (10, 4), -1.0, 1.0)
triplet = jax.jit(unjitted, static_argnames=('margin', 'mode'))

# --- triplet --------------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', MODES)
def test_triplet_equals_a_loop_in_value_and_gradient(golden, mode):
  groups = jnp.asarray(golden['groups'], jnp.int32)
  loss = lambda z: triplet(z, groups, margin=0.2, mode=mode)  # noqa: E731
  (value, active), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(Z)
  np.testing.assert_allclose(value, golden[f'triplet_{mode}'], rtol=1e-5)
  np.testing.assert_allclose(active, golden[f'triplet_{mode}/active'], rtol=1e-6)
  np.testing.assert_allclose(gradient, golden[f'triplet_{mode}/z'], rtol=1e-3, atol=1e-6)


def test_triplet_by_hand():
  # angles 0, 60 and 90 degrees: squared distances 1 (positive), 2 and 2 - sqrt(3)
  angles = jnp.radians(jnp.array([0.0, 60.0, 90.0]))
  z = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
  groups = jnp.array([0, 0, 1])
  near = 2 - math.sqrt(3)
  for mode in MODES:  # one positive and one negative each: all modes agree
    value, active = triplet(z, groups, margin=0.5, mode=mode)
    assert float(value) == pytest.approx((0 + 1 - near + 0.5) / 2, rel=1e-5)
    assert float(active) == 0.5


@pytest.mark.parametrize('mode', MODES)
def test_scaling_one_row_changes_nothing(mode):
  """Normalizing over the batch instead of the features would."""
  groups = jnp.arange(10) % 3
  scaled = jnp.asarray(Z).at[4].multiply(25.0).at[7].multiply(0.04)
  np.testing.assert_allclose(
    triplet(scaled, groups, margin=0.2, mode=mode)[0],
    triplet(Z, groups, margin=0.2, mode=mode)[0],
    rtol=1e-5,
  )


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('groups', [[0] * 4, [0, 1, 2, 3]])
def test_without_negatives_or_without_positives_nothing_is_lost(mode, groups):
  loss = lambda z: triplet(z, jnp.array(groups), margin=0.5, mode=mode)  # noqa: E731
  (value, active), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(Z[:4])
  assert float(value) == 0.0 == float(active)
  assert not gradient.any()


def test_semi_hard_takes_the_farthest_negative_when_none_is_farther_than_the_positive():
  angles = jnp.radians(jnp.array([0.0, 120.0, 30.0, 45.0]))
  z = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
  groups = jnp.array([0, 0, 1, 2])
  # anchor 0: positive at 3; negatives at 2 - 2 cos 30 and 2 - sqrt 2, the farthest;
  # anchor 1: positive at 3; negatives at 2 (90 degrees) and 2 - 2 cos 75, the farthest is 2
  expected = ((3 - (2 - math.sqrt(2)) + 0.1) + (3 - 2 + 0.1)) / 2
  value, active = triplet(z, groups, margin=0.1, mode='semi_hard')
  assert float(value) == pytest.approx(expected, rel=1e-5) and float(active) == 1.0


def test_all_triplets_of_a_large_batch_need_little_memory():
  z, groups = jax.ShapeDtypeStruct((512, 16), jnp.float32), jnp.arange(512) % 256
  loss = lambda z: triplet(z, groups, margin=0.2, mode='all')[0]  # noqa: E731
  compiled = jax.jit(jax.grad(loss)).lower(z).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 512**3  # a quarter of one [n,n,n]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'mode': 'hardest'}, "'hardest' is not one of all, batch_hard, semi_hard"),
    ({'margin': -0.1}, 'at least 0, got -0.1'),
    ({'groups': jnp.arange(4)}, r'z \[n,D\] and integer groups \[n\], got \(10, 4\) and int32\(4'),
    ({'groups': jnp.zeros(10)}, r'float32\(10,\)'),
  ],
)
def test_triplet_refuses_bad_inputs(arguments, message):
  arguments = {'groups': jnp.arange(10), 'margin': 0.2, 'mode': 'all'} | arguments
  with pytest.raises(ValueError, match=message):
    triplet(jnp.asarray(Z), **arguments)


# --- noise-contrastive estimation -----------------------------------------------------------------


def test_nce_equals_the_formula_in_probabilities(golden):
  positive = philox.uniform('positive', (4,), -1.0, 9.0)
  noise = philox.uniform('noise', (4, 6), -9.0, 9.0)
  loss = lambda p, n: nce(p, n, 7.5, 6, 50)  # noqa: E731
  np.testing.assert_allclose(loss(positive, noise), golden['nce'], rtol=1e-5)
  gradients = jax.grad(lambda p, n: jnp.mean(loss(p, n)), (0, 1))(positive, noise)
  for key, gradient in zip(('positive', 'noise'), gradients, strict=True):
    np.testing.assert_allclose(gradient, golden[f'nce/{key}'], rtol=1e-4, atol=1e-7)


def test_nce_by_hand():
  # P = 1/n everywhere and K noise entries: data with probability 1 / (1 + K)
  losses = nce(jnp.zeros(2), jnp.zeros((2, 3)), math.log(10.0), 3, 10)
  expected = math.log(4) + 3 * math.log(4 / 3)
  np.testing.assert_allclose(losses, [expected, expected], rtol=1e-5)
  # one noise entry among 10^7 images, as rare as epsilon: P, K/n and epsilon are equal thirds
  (rare,) = nce(jnp.zeros(1), jnp.zeros((1, 1)), math.log(1e7), 1, 10**7)
  np.testing.assert_allclose(rare, 2 * math.log(3), rtol=1e-5)


def test_nce_of_extreme_and_of_masked_logits_is_finite():
  positive, noise = jnp.array([200.0, -200.0]), jnp.array([[200.0, -jnp.inf]] * 2)
  loss = lambda p, n: nce(p, n, 10.0, 2, 1000)  # noqa: E731
  values = loss(positive, noise)
  assert jnp.isfinite(values).all()
  # a noise entry of probability 0 costs nothing but epsilon's trace
  alone = nce(positive, noise[:, :1], 10.0, 1, 500)
  np.testing.assert_allclose(values, alone, rtol=1e-3)
  gradients = jax.grad(lambda p, n: jnp.sum(loss(p, n)), (0, 1))(positive, noise)
  assert all(jnp.isfinite(g).all() for g in gradients)


def test_nce_refuses_other_shapes():
  with pytest.raises(ValueError, match=r'noise_logits \[b,5\], got \(2,\) and \(2, 3\)'):
    nce(jnp.zeros(2), jnp.zeros((2, 3)), 0.0, 5, 10)
  with pytest.raises(ValueError, match='at least 1 noise entry and 1 example, got 3, 0'):
    nce(jnp.zeros(2), jnp.zeros((2, 3)), 0.0, 3, 0)
