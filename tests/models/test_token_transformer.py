"""The transformer over tokens: against NumPy, what depends on what, cached and uncached draws."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from byoljax.models.token_transformer import Size, TokenHead, TokenTransformer, generate
from byoljax.ops.sampling import Sampling

SIZE, VOCABULARY, LENGTH = Size(8, 2, 2), 5, 6


def made(seed=0, **changes):
  settings = {'causal': True} | changes
  model = TokenTransformer(SIZE, VOCABULARY, LENGTH, **settings)
  tokens = jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, (3, LENGTH)))
  condition = None
  if model.conditions:
    condition = jnp.asarray([[0, 1], [2, 3], [1, 1]])

  def init(key):
    return nn.meta.unbox(model.init(key, tokens, condition=condition))['params']

  shapes = jax.eval_shape(init, jax.random.key(0))
  # Larger than at first, so that what is attended to matters.
  rng = np.random.default_rng(seed + 1)
  params = jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), jnp.float32), shapes)
  return model, params, tokens, condition


def expected(params, tokens, *, causal, condition=None, hidden=None):
  """The same in float64."""
  tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def norm(p, x):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * p['scale'] + p['bias']

  def linear(p, x):
    return x @ p['kernel'] + p['bias']

  x = tree['token_table'][np.asarray(tokens)]
  if hidden is not None:
    x = np.where(hidden[..., None], tree['hidden'][0], x)
  if condition is not None:
    x = np.concatenate([tree['condition_table'][np.asarray(condition)], x], 1)
  if causal:
    start = np.broadcast_to(tree['start'][0], (len(x), 1, x.shape[-1]))
    x = np.concatenate([start, x[:, :-1]], 1)
  x = x + tree['position_table']
  batch, count, dim = x.shape
  for number in range(SIZE.depth):
    p = tree[f'blocks_{number}']
    q, k, v = np.split(linear(p['qkv'], norm(p['norm1'], x)), 3, -1)
    q, k, v = (y.reshape(batch, count, SIZE.heads, -1).swapaxes(1, 2) for y in (q, k, v))
    scores = q @ k.swapaxes(2, 3) / np.sqrt(dim // SIZE.heads)
    if causal:
      scores = np.where(np.tri(count, dtype=bool), scores, -np.inf)
    y = special.softmax(scores, -1) @ v
    x = x + linear(p['proj'], y.swapaxes(1, 2).reshape(x.shape))
    y = linear(p['fc1'], norm(p['norm2'], x))
    x = x + linear(p['fc2'], y * special.ndtr(y))
  return norm(tree['norm'], x)


def test_causal_features_against_float64():
  model, params, tokens, condition = made(conditions=2, condition_vocabulary=4)
  found = jax.jit(model.apply)({'params': params}, tokens, condition=condition)
  assert len(found.blocks) == SIZE.depth and found.features.shape[1] == 2 + LENGTH
  wanted = expected(params, tokens, causal=True, condition=condition)
  np.testing.assert_allclose(found.features, wanted, atol=2e-5)


def test_hidden_tokens_against_float64():
  model, params, tokens, _ = made(causal=False)
  hidden = np.random.default_rng(1).random(tokens.shape) < 0.5
  found = jax.jit(model.apply)({'params': params}, tokens, hidden=jnp.asarray(hidden))
  wanted = expected(params, tokens, causal=False, hidden=hidden)
  np.testing.assert_allclose(found.features, wanted, atol=2e-5)


def test_a_token_depends_on_those_before_it_and_on_no_other():
  model, params, tokens, condition = made(conditions=2, condition_vocabulary=4)
  apply = jax.jit(lambda t, c: model.apply({'params': params}, t, condition=c).features)
  first = apply(tokens, condition)
  for place in range(LENGTH):
    changed = apply(tokens.at[:, place].set((tokens[:, place] + 1) % VOCABULARY), condition)
    moved = np.abs(np.asarray(changed - first)).max((0, 2)) > 0
    np.testing.assert_array_equal(moved, np.arange(2 + LENGTH) > 2 + place)
  moved = np.abs(np.asarray(apply(tokens, condition.at[:, 1].set(0)) - first)).max((0, 2)) > 0
  np.testing.assert_array_equal(moved, np.arange(2 + LENGTH) > 1)


def test_draws_with_a_cache_are_those_without():
  model, params, _, condition = made(conditions=2, condition_vocabulary=4)
  head = TokenHead(VOCABULARY)
  weights = {'logits': {'kernel': 2 * jax.random.normal(jax.random.key(5), (8, VOCABULARY)),
                        'bias': jnp.zeros(VOCABULARY)}}  # fmt: skip

  def drawn(cached):
    return generate(
      model, params, head, weights, jax.random.key(0), Sampling(3, temperature=3.0),
      condition=condition, prefix=jnp.asarray([[4], [3], [2]]), cached=cached,
    )  # fmt: skip

  with_cache, without = (np.asarray(jax.jit(drawn, static_argnums=0)(c)) for c in (True, False))
  np.testing.assert_array_equal(with_cache, without)
  assert with_cache.shape == (3, LENGTH) and len(np.unique(with_cache)) > 1
  np.testing.assert_array_equal(with_cache[:, 0], [4, 3, 2], err_msg='the beginning')


def test_what_does_not_fit():
  model, params, tokens, _ = made()

  def apply(tokens, **named):
    return jax.eval_shape(lambda: model.apply({'params': params}, tokens, **named))

  with pytest.raises(ValueError, match='for 6 tokens'):
    apply(tokens[:, 1:])
  with pytest.raises(ValueError, match='needs 0 conditions, got 2'):
    apply(tokens, condition=jnp.zeros((3, 2), jnp.int32))
  with pytest.raises(ValueError, match='hides what comes next'):
    apply(tokens, hidden=jnp.zeros((3, LENGTH), bool))
