"""Causal convolutions: what depends on what, against a convolution written out, their reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.models import image_transformer, make_encoder, pixelcnn, pixelcnn_pp, taps
from byoljax.models.image_transformer import ImageTransformer
from byoljax.models.net import stack
from byoljax.models.pixelcnn import CausalConv, PixelCNN, PixelHead, Size
from byoljax.models.pixelcnn_pp import PixelCNNpp

SIDE, COLORS, LEVELS = 7, 3, 4


def network(gated):
  size = Size(16, 1, gated, first=3)
  parts = (('encoder', 'embedding', PixelCNN(size)), ('head', 'logits', PixelHead(LEVELS, 16)))
  net = stack(parts, reads={'head': 'features'})
  params, stats = net.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, COLORS)))
  # The last kernel starts at zero, which would depend on nothing.
  last = params['head']['logits']
  last['kernel'] = jax.random.normal(jax.random.key(1), last['kernel'].shape)
  return lambda x: net.apply(params, stats, x, train=False)[0]['logits']


def dependence(gated):
  """Which number's logits depend on which number: bool [asked, given], in raster order."""
  logits = network(gated)

  def total(x):
    # A random sum of the logits of a number, so that nothing cancels.
    weights = jax.random.normal(jax.random.key(2), (LEVELS,))
    return (logits(x[None])[0] * weights[None, None, None]).sum(-1).ravel()

  x = jax.random.normal(jax.random.key(3), (SIDE, SIDE, COLORS))
  jacobian = jax.jit(jax.jacrev(total))(x)
  return np.asarray(jacobian).reshape(SIDE * SIDE * COLORS, -1) != 0


@pytest.mark.parametrize('gated', [False, True])
def test_a_number_depends_on_those_before_it_and_on_no_other(gated):
  depends = dependence(gated)
  assert not np.any(np.triu(depends))
  # Of its pixel the colors before, of its row the pixels to the left, and the rows above.
  here = (3 * SIDE + 3) * COLORS
  assert depends[here + 1, here] and depends[here + 2, here] and depends[here + 2, here + 1]
  assert all(depends[here, here - COLORS : here])
  assert depends[here, here - SIDE * COLORS]
  # A row above, two to the right: with masks alone it is in the blind spot.
  assert depends[here, here + (2 - SIDE) * COLORS] == gated


def test_a_causal_convolution_written_out():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(1, 4, 5, 4)), rng.normal(size=(2, 3, 4, 5))
  layer = CausalConv(5, 3, 'own', colors=2)
  given, asked = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1, 1])
  expected = np.zeros((4, 5, 5))
  for y, column, dy, dx in np.ndindex(4, 5, 2, 3):
    row, at = y + dy - 1, column + dx - 1
    if row < 0 or not 0 <= at < 5 or (dy == 1 and dx == 2):
      continue
    seen = given[:, None] <= asked[None] if (dy, dx) == (1, 1) else np.ones((4, 5))
    expected[y, column] += x[0, row, at] @ (kernel[dy, dx] * seen)
  variables = {'params': {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': jnp.zeros(5)}}
  found = layer.apply(variables, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_colors_share_features_as_evenly_as_may_be():
  np.testing.assert_array_equal(pixelcnn.color_of(7, 3), [0, 0, 0, 1, 1, 2, 2])
  np.testing.assert_array_equal(pixelcnn.color_of(6, 3, parts=2), [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize('gated', [False, True])
def test_nothing_beyond_the_reach_is_seen(gated):
  size = Size(6, 1, gated, first=3)
  module = PixelCNN(size)
  side = 2 * module.reach + 3
  x = jnp.zeros((1, side, side, COLORS))
  net = stack((('encoder', 'embedding', module),), taps=('features',))
  params, stats = net.init(jax.random.key(0), x)
  middle = module.reach + 1

  def features(x):
    return net.apply(params, stats, x, train=False)[0]['features'][0, -1, middle].sum()

  depends = np.asarray(jax.grad(features)(x + 1.0)).any((0, 3))
  rows, columns = np.nonzero(depends)
  assert rows.min() >= side - 1 - module.reach
  assert np.abs(columns - middle).max() <= module.reach


@pytest.mark.parametrize(
  ('module', 'channels', 'dim'),
  [
    (make_encoder('pixelcnn_micro'), 1, 48),
    (PixelCNN(Size(6, 1, gated=True), width=0.5), 4, 3),
    (PixelCNNpp(pixelcnn_pp.Size(4, 1, 1), width=0.5), 2, 2),
  ],
)
def test_images_have_any_number_of_colors_and_networks_are_halved(module, channels, dim):
  x = jax.ShapeDtypeStruct((2, 8, 8, channels), jnp.float32)
  found = taps.taps_of(stack((('encoder', 'embedding', module),)), x)
  assert found['embedding'] == (2, dim)


def test_the_logits_of_all_colors_are_read_as_one_vector():
  """What `byoljax layers` does with the last tap: averages over places, color by color."""
  x = np.random.default_rng(0).normal(size=(2, 4, 5, COLORS, LEVELS)).astype(np.float32)
  found = taps.pooled(jnp.asarray(x))
  np.testing.assert_allclose(found, x.mean((1, 2)).reshape(2, -1), atol=1e-6)


@pytest.mark.parametrize(
  'module',
  [
    PixelCNN(Size(6, 2, first=3)),
    ImageTransformer(image_transformer.Size(4, 2, 1), palette=3, grid=4),
  ],
)
def test_the_embedding_is_the_mean_of_the_block_in_the_middle(module):
  net = stack((('encoder', 'embedding', module),), taps=('block1',))
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  params, stats = net.init(jax.random.key(1), x)
  made = jax.jit(lambda params, x: net.apply(params, stats, x, train=False)[0])(params, x)
  # Sums of 16 numbers in float32.
  np.testing.assert_allclose(made['embedding'], made['block1'].mean((1, 2)), atol=1e-6)
