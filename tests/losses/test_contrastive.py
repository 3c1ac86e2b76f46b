"""Contrastive losses: peers' values and gradients, values at chance, chunks, masks, errors."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import contrastive
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

info_nce = jax.jit(contrastive.info_nce, static_argnames=('temperature', 'margin'))
info_nce_in_batch = jax.jit(contrastive.info_nce_in_batch, static_argnames='temperature')
nt_xent = jax.jit(contrastive.nt_xent, static_argnames=('temperature', 'axis', 'chunk'))


# Of logits of 2 and 3, rounded by 2e-7, a loss of 0.05 is left: 1e-6 of it, five times.
BY_HAND = 5e-6


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'family_losses.npz'))


def draw(name, *shape):
  return jnp.asarray(philox.uniform(name, shape, -1.0, 1.0))


def unit(name, *shape):
  rows = philox.uniform(name, shape, -1.0, 1.0).astype(np.float64)
  return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)


def unit_normal(seed, *shape):
  rows = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)


def agree(golden, name, loss, **inputs):
  """The loss equals the stored value, and the gradient of its mean the stored gradients."""

  @jax.jit
  def evaluate(arrays):
    value, pullback = jax.vjp(loss, *arrays)
    return value, pullback(jnp.ones_like(value) / value.size)

  value, gradients = evaluate(tuple(inputs.values()))
  np.testing.assert_allclose(value, golden[name], rtol=2e-5, atol=1e-6)
  for key, gradient in zip(inputs, gradients, strict=True):
    np.testing.assert_allclose(gradient, golden[f'{name}/{key}'], rtol=1e-4, atol=1e-6)


# --- InfoNCE --------------------------------------------------------------------------------------


def test_info_nce_by_hand():
  q = jnp.array([[2.0, 0.0], [0.0, 1.0]])
  k = jnp.array([[0.5, 0.0], [3.0, 0.0]])  # cosines 1 and 0
  negatives = jnp.array([[0.0, 1.0]])  # cosines 0 and 1
  expected = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))]
  np.testing.assert_allclose(info_nce(q, k, negatives, 0.5), expected, BY_HAND)
  # a margin of -.5 adds .5 / T to the positive's logit
  looser = [math.log(1 + math.exp(-3)), math.log(1 + math.exp(1))]
  np.testing.assert_allclose(info_nce(q, k, negatives, 0.5, margin=-0.5), looser, BY_HAND)


def test_info_nce_equals_mocos_value_and_gradient(golden):
  inputs = {'q': draw('q', 6, 8), 'k': draw('k', 6, 8)}
  queue, own = unit('queue', 20, 8), unit('own', 6, 5, 8)
  mask = jnp.asarray(philox.uniform('mask', (6, 20), 0.0, 1.0) < 0.6)
  agree(golden, 'info_nce', lambda q, k, n: info_nce(q, k, n, 0.2), **inputs, negatives=queue)
  agree(
    golden,
    'info_nce_margin',
    lambda q, k, n: info_nce(q, k, n, 0.2, margin=-0.5),
    **inputs,
    negatives=queue,
  )
  agree(
    golden,
    'info_nce_masked',
    lambda q, k, n: info_nce(q, k, n, 0.2, margin=-0.5, negative_mask=mask),
    **inputs,
    negatives=queue,
  )
  agree(golden, 'info_nce_own', lambda q, k, n: info_nce(q, k, n, 0.2), **inputs, negatives=own)


def test_info_nce_at_chance():
  """ln(K + 1) + 1/(2 D T^2) for random unit vectors: 9.12 for 4096 negatives."""
  q, k, queue = (unit_normal(i, n, 128) for i, n in enumerate((512, 512, 4096)))
  value = float(jnp.mean(info_nce(q, k, queue, 0.07)))  # Of draws: not an error of rounding.
  assert value == pytest.approx(math.log(4097) + 1 / (2 * 128 * 0.07**2), abs=0.15)


def test_a_query_without_negatives_is_finite():
  q, k, negatives = draw('q', 6, 8), draw('k', 6, 8), unit('queue', 20, 8)
  mask = jnp.ones((6, 20), bool).at[2].set(False)

  def loss(q, k, negatives):
    return info_nce(q, k, negatives, 0.07, margin=-0.5, negative_mask=mask)

  values = loss(q, k, negatives)
  assert float(values[2]) == 0.0 and (values[jnp.arange(6) != 2] > 0).all()
  gradients = jax.jit(jax.grad(lambda *x: jnp.sum(loss(*x)), (0, 1, 2)))(q, k, negatives)
  assert all(jnp.isfinite(g).all() for g in gradients)
  assert not gradients[0][2].any() and gradients[0][1].any()


def test_a_mask_equals_leaving_negatives_out():
  q, k, negatives = draw('q', 6, 8), draw('k', 6, 8), unit('queue', 20, 8)
  mask = jnp.broadcast_to(jnp.arange(20)[None, :] < 7, (6, 20))
  np.testing.assert_allclose(
    info_nce(q, k, negatives, 0.1, negative_mask=mask),
    info_nce(q, k, negatives[:7], 0.1),
    rtol=1e-5,
  )


def test_in_batch_info_nce_equals_pytorch(golden):
  keys = draw('keys', 18, 8)
  loss = lambda q, keys: info_nce_in_batch(q, keys, 0.3, offset=6)  # noqa: E731
  agree(golden, 'info_nce_in_batch', loss, q=draw('q', 6, 8), keys=keys)
  traced = jax.jit(lambda offset: info_nce_in_batch(draw('q', 6, 8), keys, 0.3, offset=offset))
  np.testing.assert_allclose(traced(6), golden['info_nce_in_batch'], rtol=1e-5)


def test_permuting_the_batch_permutes_the_losses():
  """A loss that gives every query the label 0 does not pass this."""
  q, keys = draw('q', 12, 8), draw('keys', 12, 8)
  order = jnp.roll(jax.random.permutation(jax.random.key(0), 12), 1)  # key 0 moves
  losses = info_nce_in_batch(q, keys, 0.1, offset=0)
  permuted = info_nce_in_batch(q[order], keys[order], 0.1, offset=0)
  np.testing.assert_allclose(permuted, losses[order], rtol=1e-5)
  label_0 = lambda q, keys: info_nce(q, jnp.tile(keys[:1], (12, 1)), unit('n', 4, 8), 0.1)  # noqa: E731
  assert np.abs(label_0(q[order], keys[order]) - label_0(q, keys)[order]).max() > 0.1
  queue = unit('queue', 20, 8)
  np.testing.assert_allclose(
    info_nce(q[order], keys[order], queue, 0.1), info_nce(q, keys, queue, 0.1)[order], rtol=1e-5
  )


# --- NT-Xent --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'chunk', [0, 5, 100, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))]
)
def test_nt_xent_equals_lightlys_value_and_gradient(golden, chunk):
  inputs = {'first': draw('first', 8, 16), 'second': draw('second', 8, 16)}
  if chunk in (0, 5):
    mean = lambda a, b: jnp.mean(jnp.stack(nt_xent(a, b, 0.5, chunk=chunk)))  # noqa: E731
    agree(golden, 'nt_xent', mean, **inputs)
  memory = unit('memory', 7, 16)
  both = lambda a, b: jnp.concatenate(nt_xent(a, b, 0.5, chunk=chunk, memory=memory))  # noqa: E731
  agree(golden, 'nt_xent_memory', both, **inputs)


def test_nt_xent_by_hand():
  # two orthogonal images, each like its other view: cosines 1 to the positive, 0 to both others
  first = jnp.array([[1.0, 0.0], [0.0, 3.0]])
  losses = nt_xent(first, 2.0 * first, 0.5)
  expected = math.log((math.exp(2) + 2) / math.exp(2))
  np.testing.assert_allclose(jnp.stack(losses), np.full((2, 2), expected), BY_HAND)


@pytest.mark.parametrize('chunk', [0, 100])
def test_nt_xent_of_collapsed_and_of_random_projections(chunk):
  collapsed = jnp.ones((256, 128))
  losses = nt_xent(collapsed, collapsed, 0.1, chunk=chunk)
  np.testing.assert_allclose(jnp.stack(losses), np.full((2, 256), math.log(511)), rtol=1e-5)
  # Tolerances of draws and of the expansion, not of rounding.
  a, b = unit_normal(0, 256, 128), unit_normal(1, 256, 128)
  for temperature, tolerance in ((0.5, 0.04), (0.1, 0.15)):
    value = jnp.mean(jnp.stack(nt_xent(a, b, temperature, chunk=chunk)))
    predicted = math.log(511) + 1 / (2 * 128 * temperature**2)
    assert float(value) == pytest.approx(predicted, abs=tolerance)


def test_chunks_do_not_overflow_or_underflow_at_a_small_temperature():
  """Logits from -1000 to 1000, where neither a fixed shift nor none would do."""
  a, b = unit_normal(0, 48, 3), unit_normal(1, 48, 3)

  def mean(a, b, chunk):
    return jnp.mean(jnp.stack(nt_xent(a, b, 1e-3, chunk=chunk)))

  naive, streamed = (
    jax.jit(jax.value_and_grad(mean, (0, 1)), static_argnums=2)(a, b, c) for c in (0, 36)
  )
  assert np.isfinite(float(naive[0]))
  np.testing.assert_allclose(streamed[0], naive[0], rtol=1e-5)
  for got, expected in zip(streamed[1], naive[1], strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_chunks_save_memory_in_the_backward_pass():
  shape = jax.ShapeDtypeStruct((2048, 32), jnp.float32)

  def temporaries(chunk):
    mean = lambda a, b: jnp.mean(jnp.stack(nt_xent(a, b, 0.1, chunk=chunk)))  # noqa: E731
    compiled = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(shape, shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  naive, streamed = temporaries(0), temporaries(128)
  assert naive >= 4096 * 4096 * 4  # the similarities
  assert streamed * 4 < naive


# --- both -----------------------------------------------------------------------------------------


def test_bfloat16_inputs_are_computed_in_float32():
  a, b = draw('q', 6, 8).astype(jnp.bfloat16), draw('k', 6, 8).astype(jnp.bfloat16)
  queue = unit('queue', 20, 8)
  for loss in (
    lambda a, b: info_nce(a, b, queue, 0.1),
    lambda a, b: nt_xent(a, b, 0.1, chunk=4)[1],
  ):
    value = loss(a, b)
    assert value.dtype == jnp.float32
    exact = loss(a.astype(jnp.float32), b.astype(jnp.float32))
    np.testing.assert_array_equal(value, exact)


def test_the_length_of_a_row_does_not_matter():
  a, b = draw('q', 6, 8), draw('k', 6, 8)
  scales = jnp.asarray(philox.uniform('scales', (6, 1), 0.01, 100.0))
  for loss in (
    lambda a, b: info_nce(a, b, unit('queue', 20, 8), 0.1),
    lambda a, b: info_nce_in_batch(a, b, 0.1, offset=0),
    lambda a, b: jnp.concatenate(nt_xent(a, b, 0.1)),
  ):
    np.testing.assert_allclose(loss(a * scales, b / scales), loss(a, b), rtol=1e-4)


Z = jnp.ones((4, 3))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: info_nce(Z, Z[:3], Z, 0.1), r'q and k of one shape \[b,D\], got \(4, 3\) and \(3, 3'),
    (lambda: info_nce(Z, Z, Z[:, :2], 0.1), r'negatives must be .* got \(4, 2\)'),
    (lambda: info_nce(Z, Z, jnp.ones((3, 5, 3)), 0.1), r'negatives must be .* got \(3, 5, 3\)'),
    (lambda: info_nce(Z, Z, Z, 0.0), 'temperature must be above 0, got 0.0'),
    (
      lambda: info_nce(Z, Z, Z, 0.1, negative_mask=jnp.ones((4, 3), bool)),
      r'negative_mask must be \[b,K\] \(4, 4\), got \(4, 3\)',
    ),
    (lambda: info_nce_in_batch(Z, Z[:3], 0.1, offset=0), r'got \(4, 3\) and \(3, 3\)'),
    (lambda: info_nce_in_batch(Z, Z, -1, offset=0), 'above 0, got -1'),
    (lambda: nt_xent(Z, Z[:2], 0.1), r'first and second of one shape'),
    (lambda: nt_xent(Z, Z, 0.1, chunk=-1), 'chunk must be 0 .* got -1'),
    (lambda: nt_xent(Z, Z, 0.1, memory=jnp.ones((5, 2))), r'memory must be \[K,3\], got \(5, 2\)'),
  ],
)
def test_bad_inputs_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
