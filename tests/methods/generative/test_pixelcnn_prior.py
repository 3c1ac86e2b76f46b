"""A Gated PixelCNN over codes: causality by gradient, classes, draws, an independent pass."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.models.code_pixelcnn import CodePixelCNN, TokenPixelCNN
from byoljax.models.pixelcnn import Size
from byoljax.models.token_transformer import TokenHead
from byoljax.ops.sampling import Sampling
from tests.methods.test_contract import CLASSES, SIZE, batch_of, make

KEY, GRID, K = jax.random.key(0), 4, 5
CNN = TokenPixelCNN(Size(6, 2, gated=True, first=3), K, classes=3)
OWN = {'network': 'pixelcnn', 'keep': 1.0, 'heads': 1, 'condition': 'class'}


@functools.cache
def weights():
  tokens = jnp.zeros((1, GRID, GRID), jnp.int32)
  params = nn.meta.unbox(jax.jit(CNN.init)(KEY, tokens, jnp.zeros(1, jnp.int32)))['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: jnp.asarray(0.6 * rng.normal(size=x.shape), jnp.float32), params)


@functools.cache
def _features():
  return jax.jit(lambda tokens, given: CNN.apply({'params': weights()}, tokens, given)[0])


def test_a_code_depends_on_those_before_it_and_on_no_other():
  """By gradient in the vectors of the codes: none from itself and from later ones."""
  params = weights()
  own = jax.random.normal(KEY, (GRID * GRID, 6))

  def features(vectors):
    # A vocabulary of a code for each place.
    model = TokenPixelCNN(CNN.size, GRID * GRID, classes=3)
    tokens = jnp.arange(GRID * GRID).reshape(1, GRID, GRID)
    given = params | {'token_table': vectors}
    made, blocks = model.apply({'params': given}, tokens, jnp.ones(1, jnp.int32))
    return jnp.concatenate([made, *blocks], -1).reshape(GRID * GRID, -1)

  slopes = np.abs(jax.jit(jax.jacrev(features))(own)).sum((1, 3))
  later = np.triu(np.ones_like(slopes)) > 0
  assert not slopes[later].any()
  # No blind spot: three layers of 3 x 3 reach over the whole of 4 x 4.
  assert np.all(slopes[~later] > 0)


def test_all_places_know_the_class():
  tokens = jax.random.randint(KEY, (1, GRID, GRID), 0, K)
  made = [np.asarray(_features()(tokens, jnp.full(1, number))) for number in (0, 1)]
  assert np.all(np.abs(made[0] - made[1]).max(-1) > 1e-4)


def test_against_a_pass_in_numpy():
  """Place by place, in float64, from the papers' formulas; of the first layer and a further one."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), weights())
  tokens = np.random.default_rng(2).integers(0, K, (GRID, GRID))
  found = np.asarray(_features()(jnp.asarray(tokens[None]), jnp.full(1, 2)))[0]

  def conv(x, layer, left, right, up):
    """Sums over rows up to `up` above and columns from `left` to `right`, at every place."""
    kernel, half = layer['kernel'], layer['kernel'].shape[1] // 2
    made = np.zeros((*x.shape[:2], kernel.shape[-1])) + layer['bias']
    for row in range(x.shape[0]):
      for column in range(x.shape[1]):
        for above in range(up + 1):
          for shift in range(left, right + 1):
            y, z = row - above, column + shift
            if y >= 0 and 0 <= z < x.shape[1]:
              made[row, column] += x[y, z] @ kernel[len(kernel) - 1 - above, shift + half]
    return made

  def gated(x):
    a, b = np.split(x, 2, -1)
    return np.tanh(a) / (1 + np.exp(-b))

  vertical = horizontal = params['token_table'][tokens]
  for number in range(3):
    layer = params[f'layer{number}']
    down = conv(vertical, layer['vertical'], -1, 1, 1)
    above = np.concatenate([np.zeros_like(down[:1]), down[:-1]])
    # Mask A in the first layer: the place itself is not seen.
    across = conv(horizontal, layer['horizontal'], -1, 0 if number else -1, 0)
    across += conv(above, layer['between'], 0, 0, 0)
    across += layer['given_horizontal']['kernel'][2]
    new = conv(gated(across), layer['out'], 0, 0, 0)
    horizontal = horizontal + new if number else new
    vertical = gated(down + layer['given_vertical']['kernel'][2])
  expected = np.maximum(conv(np.maximum(horizontal, 0), params['out'], 0, 0, 0), 0)
  # Sums of float32: 2e-6 of the largest seen.
  np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_draws_are_those_of_the_predicted_codes():
  """At temperature 0 each code is the most probable one; those that are given stay."""
  model = CodePixelCNN(None, CNN.size, K, GRID, classes=2)
  head = TokenHead(K)
  kernel = jax.random.normal(KEY, (6, K))
  heads = {'logits': {'kernel': kernel, 'bias': jnp.zeros(K)}}
  prefix = jax.random.randint(KEY, (3, 5), 0, K)
  draw = jax.jit(model.generate, static_argnames=('head', 'sampling'))
  codes = draw(
    {'pixelcnn': weights()}, head, heads, KEY, Sampling(3, temperature=0.0),
    condition=jnp.arange(3), prefix=prefix,
  )  # fmt: skip
  np.testing.assert_array_equal(codes[:, :5], prefix)
  made = _features()(codes.reshape(3, GRID, GRID), jnp.arange(3))
  named = np.argmax(made.reshape(3, -1, 6) @ kernel, -1)
  np.testing.assert_array_equal(codes[:, 5:], named[:, 5:])


@pytest.mark.slow
def test_the_method_learns_draws_and_goes_on():
  method = make('prior', axis=None, **OWN)
  batch = batch_of('prior', rows=6)
  params, state = jax.jit(method.init)(KEY, batch)
  value, aux = jax.jit(method.loss)(params, state, batch, KEY, jnp.int32(0))
  # All codes are equally probable at first.
  assert float(value) == pytest.approx(np.log(12), rel=1e-5)
  assert aux.embedding.shape == (6, 8)
  draw = jax.jit(method.sample, static_argnums=4)
  images = draw(params, state, KEY, jnp.full(3, 1), Sampling(3, SIZE))
  assert images.shape == (3, SIZE, SIZE, 3) and CLASSES == 3
  shown = jax.jit(method.pictures)(params, state, batch, KEY)
  assert shown['output'].shape == (6, SIZE, SIZE, 3)


def test_a_class_is_not_predicted_by_a_pixelcnn():
  with pytest.raises(ValueError, match="0 where condition='none' or network='pixelcnn'"):
    make('prior', axis=None, **OWN, text_weight=1.0)
  with pytest.raises(ValueError, match="unknown network 'pixelcnns'.*did you mean 'pixelcnn'"):
    make('prior', axis=None, network='pixelcnns')
