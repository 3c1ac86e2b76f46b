"""PixelCNN++: what depends on what, mixtures against float64, whole probabilities, samples."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from byoljax.length import Length
from byoljax.losses import likelihoods
from byoljax.method import Setting
from byoljax.methods import METHODS
from byoljax.methods.generative.pixelcnn_pp import logistics
from byoljax.models.net import stack
from byoljax.models.pixelcnn_pp import PixelCNNpp, ShiftedConv, Size
from byoljax.ops import sampling
from byoljax.ops.sampling import Sampling
from tests.methods.test_contract import TinyEncoder, make

KEY, LEVELS = jax.random.key(0), 4


def test_a_pixel_depends_on_all_before_it_and_on_no_other():
  side = 8
  net = stack((('encoder', 'embedding', PixelCNNpp(Size(6, 1, 2))),), taps=('features',))
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, side, side, 3)).astype(np.float32)
  params, stats = net.init(KEY, x)
  # A random sum of a pixel's features, so that nothing cancels.
  weights = rng.normal(size=(1, 1, 1, 6)).astype(np.float32)

  def total(x):
    found = net.apply(params, stats, x, train=False)[0]['features']
    return (found * weights).sum(-1).ravel()

  jacobian = np.asarray(jax.jit(jax.jacrev(total))(x)).reshape(side * side, side * side, 3)
  depends = (jacobian != 0).any(-1)
  assert not np.any(np.triu(depends))
  # Rows above far away, and all that is left of it.
  here = 5 * side + 4
  assert depends[here, here - 1] and depends[here, 4 * side + 7] and depends[here, 0]


def test_mixtures_are_not_rounded_to_bfloat16():
  """Also where no bias, which is added in float32, hides it: all are 0 at first."""
  method, images = make('pixelcnn_pp', None, dtype='bfloat16'), jax.random.normal(KEY, (2, 8, 8, 3))
  params, stats = method.net.init(KEY, images)
  found = method.net.apply(params, stats, images, train=False)[0]['logits']
  # 2^-9 is the largest error of rounding: nearly all of 20 x 64 x 2 numbers would be as rounded.
  assert (found != found.astype(jnp.bfloat16)).mean() > 0.9


def mixture(seed=0, parts=3):
  return np.random.default_rng(seed).normal(size=(1, parts, 10)) * 0.7


def expected(output, numbers):
  """-log p of [n,3] in float64: differences of logistic functions."""
  x = 2 * numbers / (LEVELS - 1) - 1
  half, total = 1 / (LEVELS - 1), 0.0
  weights = special.softmax(output[..., 0], -1)
  c = np.tanh(output[..., 7:])
  for part in range(output.shape[1]):
    means = np.stack([
      output[:, part, 1] + 0 * x[:, 0],
      output[:, part, 2] + c[:, part, 0] * x[:, 0],
      output[:, part, 3] + c[:, part, 1] * x[:, 0] + c[:, part, 2] * x[:, 1],
    ], -1)  # fmt: skip
    scales = np.exp(np.maximum(output[:, part, 4:7], -7))
    above = np.where(numbers == LEVELS - 1, 1, special.expit((x + half - means) / scales))
    below = np.where(numbers == 0, 0, special.expit((x - half - means) / scales))
    total = total + weights[:, part] * np.prod(above - below, -1)
  return -np.log(total)


PIXELS = np.array(list(itertools.product(range(LEVELS), repeat=3)))


def test_mixtures_against_float64_sum_to_one_over_all_pixels():
  output = mixture()
  found = jax.jit(functools.partial(likelihoods.logistics_nll, levels=LEVELS))(
    np.repeat(output, len(PIXELS), 0).astype(np.float32), PIXELS.astype(np.int32)
  )
  np.testing.assert_allclose(found, expected(output, PIXELS), rtol=1e-4)
  assert np.exp(-np.asarray(found, np.float64)).sum() == pytest.approx(1.0, rel=1e-5)


def test_a_bin_of_hardly_any_mass_has_a_finite_loss_and_gradient():
  output = np.array([0, -1, -1, -1, -7, -7, -7, 0, 0, 0], np.float32).reshape(1, 1, 10)
  loss = lambda output: likelihoods.logistics_nll(output, jnp.asarray([[200, 3, 100]]), 256).sum()  # noqa: E731
  value, gradient = jax.jit(jax.value_and_grad(loss))(output)
  assert np.isfinite(value) and np.isfinite(gradient).all() and np.any(gradient[..., 1:4] < 0)


def test_draws_have_these_probabilities():
  output, count = mixture(1), 6000
  draw = logistics(LEVELS).draw
  keys = sampling.keys(KEY, count)
  given = jnp.asarray(np.repeat(output, count, 0).astype(np.float32))
  empty = jnp.asarray(np.zeros((count, 3), np.int32))
  drawn = jax.jit(lambda: draw(keys, jnp.int32(0), given, empty, jnp.int32(0), Sampling(count)))()
  which = np.asarray(drawn) @ LEVELS ** np.arange(3)[::-1]
  found = np.bincount(which, minlength=len(PIXELS)) / count
  chances = np.exp(-expected(output, PIXELS))
  # Five standard errors of each share.
  assert np.all(np.abs(found - chances) < 5 * np.sqrt(chances / count) + 1 / count)
  with pytest.raises(ValueError, match='top_k=3'):
    draw(keys, jnp.int32(0), given, empty, jnp.int32(0), Sampling(count, top_k=3))


IMAGES = np.random.default_rng(0).normal(size=(64, 4, 4, 3)).astype(np.float32) * 0.3 + 0.5


@functools.cache
def averaging():
  method = make('pixelcnn_pp', axis=None)
  return method, *jax.jit(method.init)(KEY, {'views': (jnp.asarray(IMAGES),)})


def test_first_values_fit_some_images_and_the_average_begins_there():
  """What convolutions put out, read by linen itself: mean 0, deviation as asked for."""
  method, params, state = averaging()
  embedded = jax.jit(method.refresh.embed)(params, state, IMAGES)
  assert method.refresh.rows == 64
  found, moved = method.refresh.apply(params, state, lambda: embedded, KEY, 0)
  assert method.refresh.apply(found, moved, None, KEY, 1)[0] is found
  jax.tree.map(np.testing.assert_array_equal, moved.target_params, found)
  own, first = (tree['encoder']['down0_0_left']['conv1']['kernel'] for tree in (found, params))
  np.testing.assert_array_equal(own, first)
  seen = method.transform({'views': (jnp.asarray(IMAGES),)}, KEY, jnp.int32(0))['views'][0]
  encoder = method.net.parts[0][2]
  capture = jax.jit(
    lambda x: encoder.apply(
      {'params': found['encoder']}, x, train=True, capture_intermediates=True
    )[1]
  )
  made = capture(seen)['intermediates']
  convolutions = (
    (made['above'], 1.0),
    (made['down0_0_left']['conv2'], 0.1),
    (made['up0_0_left']['other'], 1.0),
  )
  for captured, deviation in convolutions:
    (y,) = captured['__call__']
    # Sums of 1,024 numbers in float32: 1e-6 seen.
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), deviation, rtol=1e-4)


def test_a_kernel_is_a_direction_and_a_scale():
  conv = ShiftedConv(5, (2, 3), True, weight_norm=True)
  plain = ShiftedConv(5, (2, 3), True)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
  v, g, b = rng.normal(size=(2, 3, 3, 5)), rng.normal(size=5), rng.normal(size=5)
  own = {'kernel': g * v / np.sqrt((v**2).sum((0, 1, 2))), 'bias': b}
  expected = jax.jit(plain.apply)({'params': own}, x)
  found = jax.jit(conv.apply)({'params': {'kernel': v, 'scale': g, 'bias': b}}, x)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_samples_and_bits_are_of_the_average():
  method, params, state = averaging()
  batch = {'views': (jnp.asarray(IMAGES[:2]),)}
  other = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.2), params)
  bits = jax.jit(method.bits)
  np.testing.assert_array_equal(bits(other, state, batch), bits(params, state, batch))
  _, moved, _ = jax.jit(method.post_step)(other, state, 0)
  for old, new, average in zip(
    *map(jax.tree.leaves, (params, other, moved.target_params)), strict=True
  ):
    np.testing.assert_allclose(average, 0.9 * old + 0.1 * new, atol=1e-6)
  assert np.all(bits(other, moved, batch) != bits(params, state, batch))


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'levels': 1}, 'levels=1'),
    ({'mixtures': 0}, 'mixtures=0'),
    ({'average': 1.0}, 'average=1.0'),
    ({'setting': {'mean': (0.5,), 'std': (0.5,)}}, '3 colors, not 1'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make('pixelcnn_pp', axis=None, **changes)


def test_other_encoders_and_sizes():
  with pytest.raises(ValueError, match=r'encoder\.name one of pixelcnn_pp, '):
    METHODS['pixelcnn_pp'](TinyEncoder, Setting(Length(9, 1, 1)))
  net = stack((('encoder', 'embedding', PixelCNNpp(Size(6, 1, 2))),))
  with pytest.raises(ValueError, match='cannot be halved 1 times'):
    net.init(KEY, jnp.zeros((1, 7, 8, 3)))
