"""Soft assignments: Sinkhorn, swapped prediction, self-distillation, distillation."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses.clustering import cross_entropy_soft, self_distillation, swapped_prediction
from byoljax.losses.distillation import distillation
from byoljax.ops import sinkhorn
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'family_losses.npz'))


def draw(name, *shape, low=-1.0, high=1.0):
  return jnp.asarray(philox.uniform(name, shape, low, high))


def cosines(seed, rows, prototypes, dim=128):
  """Similarities of random unit vectors: what SwAV's scores are at the start."""
  rng = np.random.default_rng(seed)
  a, b = (rng.normal(size=(count, dim)) for count in (rows, prototypes))
  a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
  return jnp.asarray(a @ b.T, jnp.float32)


assign = jax.jit(sinkhorn.assign, static_argnames=('epsilon', 'iterations'))

# --- Sinkhorn -------------------------------------------------------------------------------------


def test_sinkhorn_equals_lightlys(golden):
  scores = draw('scores0', 6, 5)
  codes = assign(scores, epsilon=0.05, iterations=3)
  np.testing.assert_allclose(codes, golden['sinkhorn'], rtol=1e-4, atol=1e-6)
  queued = draw('queued0', 9, 5)
  codes = assign(scores, epsilon=0.05, iterations=3, extra=queued)
  np.testing.assert_allclose(codes, golden['sinkhorn_queue'], rtol=1e-4, atol=1e-6)


def test_rows_sum_to_1_and_prototypes_nearly_share_the_batch():
  scores = cosines(0, 512, 30)
  codes = assign(scores, epsilon=0.05, iterations=3)
  np.testing.assert_allclose(codes.sum(1), np.ones(512), rtol=1e-5)
  masses = codes.sum(0) / (512 / 30)
  assert 1e-4 < float(jnp.abs(masses - 1).max()) < 0.1
  exact = assign(scores, epsilon=0.05, iterations=50)
  np.testing.assert_allclose(exact.sum(0) / (512 / 30), np.ones(30), rtol=1e-4)
  assert codes.dtype == jnp.float32


def test_equal_scores_are_shared_equally():
  codes = assign(jnp.ones((6, 4)), epsilon=0.05, iterations=3)
  np.testing.assert_allclose(codes, np.full((6, 4), 0.25), rtol=1e-6)


def test_sinkhorn_separates_what_argmax_would_collapse():
  """Both rows prefer prototype 0; the one that prefers it less is moved."""
  codes = assign(jnp.array([[1.0, 0.0], [1.0, 0.6]]), epsilon=0.2, iterations=50)
  # Q = [[p, 1 - p], [1 - p, p]] with p^2 / (1 - p)^2 = e^{(1 + .6 - 1 - 0) / .2}
  p = 1 / (1 + math.exp(-1.5))
  np.testing.assert_allclose(codes, [[p, 1 - p], [1 - p, p]], rtol=1e-4)


@pytest.mark.parametrize('epsilon', [0.05, 1e-3])
def test_large_scores_stay_finite(epsilon):
  scores = cosines(1, 64, 10).at[:, 3].set(-1.0).at[5].set(1.0)
  scores = (scores if epsilon < 0.01 else 50.0 * scores).astype(jnp.bfloat16)
  assert float(jnp.abs(scores / epsilon).max()) >= 999  # beyond exp's range
  codes = assign(scores, epsilon=epsilon, iterations=3)
  assert jnp.isfinite(codes).all()
  # Logits of 1000 are rounded by 6e-5, and so are their exponentials; five times that.
  np.testing.assert_allclose(codes.sum(1), np.ones(64), rtol=3e-4)


def test_codes_carry_no_gradient():
  scores = draw('scores0', 6, 5)
  sharpness = lambda s: jnp.sum(sinkhorn.assign(s, epsilon=0.05, iterations=3, extra=s) ** 2)  # noqa: E731
  assert not jax.grad(sharpness)(scores).any()


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'epsilon': 0.0}, 'epsilon above 0 and at least 1 iteration, got 0.0 and 3'),
    ({'iterations': 0}, 'got 0.05 and 0'),
    ({'extra': jnp.ones((2, 4))}, r'extra \[m,K\], got \(6, 5\) and \(2, 4\)'),
    ({'scores': jnp.ones(6)}, r'got \(6,\) and None'),
  ],
)
def test_sinkhorn_refuses_bad_inputs(changed, message):
  arguments = {'scores': jnp.ones((6, 5)), 'epsilon': 0.05, 'iterations': 3} | changed
  with pytest.raises(ValueError, match=message):
    sinkhorn.assign(arguments.pop('scores'), **arguments)


# --- losses over crops ----------------------------------------------------------------------------

SCORES = tuple(draw(f'scores{i}', 6, 5) for i in range(5))


def agree(golden, name, loss, inputs, names):
  value, gradients = jax.jit(jax.value_and_grad(loss))(inputs)
  np.testing.assert_allclose(value, golden[name], rtol=2e-5)
  for key, gradient in zip(names, jax.tree.leaves(gradients), strict=True):
    np.testing.assert_allclose(gradient, golden[f'{name}/{key}'], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('name', ['swapped', 'swapped_queue'])
def test_swapped_prediction_equals_lightlys_value_and_gradient(golden, name):
  queued = [draw(f'queued{i}', 9, 5) if 'queue' in name else None for i in range(2)]

  def loss(scores):
    codes = [
      sinkhorn.assign(scores[i], epsilon=0.05, iterations=3, extra=queued[i]) for i in range(2)
    ]
    return swapped_prediction(codes, scores, 0.1)

  agree(golden, name, loss, SCORES, [f'scores{i}' for i in range(5)])


def test_self_distillation_equals_lightlys_value_and_gradient(golden):
  center = draw('center', 1, 5)
  teacher = [jax.nn.softmax((draw(f'teacher{i}', 6, 5) - center) / 0.04) for i in range(2)]
  loss = lambda student: self_distillation(teacher, student, 0.1)  # noqa: E731
  agree(golden, 'dino', loss, SCORES, [f'scores{i}' for i in range(5)])


def test_a_crop_never_predicts_its_own_target():
  targets = [jax.nn.softmax(10 * s) for s in SCORES[:1]]
  value, gradient = jax.value_and_grad(lambda s: self_distillation(targets, s, 0.1))(SCORES[:2])
  assert not gradient[0].any() and gradient[1].any()
  np.testing.assert_allclose(
    value, jnp.mean(cross_entropy_soft(targets[0], SCORES[1], 0.1)), rtol=1e-6
  )


def test_uniform_scores_cost_log_k_and_targets_carry_no_gradient():
  targets = jax.nn.softmax(SCORES[0])
  zeros = [jnp.zeros((6, 5))] * 3
  for loss in (swapped_prediction, self_distillation):
    assert float(loss([targets], zeros, 0.1)) == pytest.approx(math.log(5), rel=1e-6)
    assert not jax.grad(lambda t, loss=loss: loss([t], SCORES, 0.1))(targets).any()


def test_cross_entropy_by_hand():
  targets = jnp.array([[0.25, 0.75], [1.0, 0.0]])
  scores = jnp.array([[0.0, math.log(3.0) / 2], [0.0, 0.0]])
  # at T = 1/2 the first row's probabilities are its targets: the entropy
  entropy = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
  expected = [entropy, math.log(2)]
  np.testing.assert_allclose(cross_entropy_soft(targets, scores, 0.5), expected, rtol=1e-6)
  assert cross_entropy_soft(targets, scores.astype(jnp.bfloat16), 0.5).dtype == jnp.float32


@pytest.mark.parametrize(
  ('targets', 'scores', 'message'),
  [
    (1, 1, 'at least 2 crops, got 1 targets and 1 crops'),
    (0, 2, 'got 0 targets'),
    (3, 2, 'got 3 targets and 2 crops'),
  ],
)
def test_losses_over_crops_refuse_other_counts(targets, scores, message):
  for loss in (swapped_prediction, self_distillation):
    with pytest.raises(ValueError, match=message):
      loss(SCORES[:targets], SCORES[:scores], 0.1)


def test_losses_over_crops_refuse_other_shapes_and_temperatures():
  for loss in (swapped_prediction, self_distillation):
    with pytest.raises(ValueError, match=r'one shape \[b,K\], got \[\(6, 5\), \(6, 5\), \(3, 5\)'):
      loss(SCORES[:1], [SCORES[0], SCORES[1][:3]], 0.1)
    with pytest.raises(ValueError, match='above 0, got 0'):
      loss(SCORES[:1], SCORES, 0)
  with pytest.raises(ValueError, match=r'got \(6, 5\) and \(6, 4\)'):
    cross_entropy_soft(SCORES[0], SCORES[1][:, :4], 0.1)


# --- distillation ---------------------------------------------------------------------------------


def test_distillation_equals_pytorch(golden):
  student = draw('student', 7, 4, low=-3.0)
  teacher = draw('classes', 7, 4, high=4.0)
  losses = distillation(student, teacher, 0.7)
  np.testing.assert_allclose(losses, golden['distillation'], rtol=1e-5)
  mean = lambda s, t: jnp.mean(distillation(s, t, 0.7))  # noqa: E731
  to_student, to_teacher = jax.grad(mean, (0, 1))(student, teacher)
  np.testing.assert_allclose(to_student, golden['distillation/student'], rtol=1e-4, atol=1e-7)
  assert not to_teacher.any()


def test_a_student_like_its_teacher_is_at_the_minimum():
  teacher = draw('classes', 7, 4, high=4.0)
  gradient = jax.grad(lambda s: jnp.sum(distillation(s, teacher, 2.0)))(teacher)
  np.testing.assert_allclose(gradient, np.zeros((7, 4)), atol=1e-6)
