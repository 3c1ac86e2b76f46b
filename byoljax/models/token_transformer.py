"""A transformer over tokens: causal, as GPT, or in both directions, as BERT.

Pre-norm blocks of attention and a GELU MLP (Radford et al. 2019, GPT-2), learned positions, a
LayerNorm at the end. A causal one is given the sequence moved by one place, with a learned token
before it: feature i says what is before token i. Before the tokens there may be others, with a
vocabulary of their own: a class, or a caption. They are predicted like the tokens, so that a loss
can count them, too (Ramesh et al. 2021, arXiv 2102.12092).

`generate` draws sequences token by token; keys and values of what was drawn are kept, so that each
token costs one token's pass. Weights start as GPT-2's: normals of sigma 0.02, the layers that write
to the residual stream divided by sqrt(2 depth). Different from it: the exact GELU, and a head of
its own that starts at zero (`TokenHead`) in place of the embedding's transpose: all tokens are
equally probable at first.
"""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from byoljax.models import biased, initializers, layers
from byoljax.ops import sampling as drawing
from byoljax.ops.attention import attention
from byoljax.ops.sampling import Sampling

PyTree = Any
Cache = tuple[tuple[jax.Array, jax.Array], ...]
"""Keys and values of every block, [b,L,heads,dim / heads] each."""


class Size(NamedTuple):
  """Dimensions of a transformer.

  Attributes:
    dim: width of a token.
    depth: blocks.
    heads: attention heads of a block; they divide `dim`.
  """

  dim: int
  depth: int
  heads: int


class Output(NamedTuple):
  """What a pass gives.

  Attributes:
    features: float32 [b,m + n,D], after the last LayerNorm: of m conditions and n tokens.
    blocks: the residual stream after each block, float32 [b,m + n,D].
  """

  features: jax.Array
  blocks: tuple[jax.Array, ...]


class Block(nn.Module):
  """x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x)) with 4 times the width inside.

  Attributes:
    size: of the transformer.
    causal: whether a token attends to itself and to those before it alone.
    dtype: compute type; the residual stream, LayerNorm and softmax are float32.
  """

  size: Size
  causal: bool
  dtype: jnp.dtype = jnp.float32

  def setup(self) -> None:
    """The layers, which a pass over a sequence shares with that over one token."""
    dim, into = self.size.dim, 0.02 / math.sqrt(2 * self.size.depth)
    self.norm1, self.norm2 = _norm(), _norm()
    self.qkv, self.proj = _linear(3 * dim, self.dtype), _linear(dim, self.dtype, into)
    self.fc1, self.fc2 = _linear(4 * dim, self.dtype), _linear(dim, self.dtype, into)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Tokens float32 [b,n,D] -> the same."""
    q, k, v = self._attended(x)
    return self._finished(x, attention(q, k, v, causal=self.causal))

  def step(
    self, x: jax.Array, cache: tuple[jax.Array, jax.Array], place: jax.Array
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One token float32 [b,1,D] at a place, after those in the cache -> the same, new cache."""
    q, k, v = self._attended(x)
    keys, values = (
      lax.dynamic_update_slice(old, new.astype(old.dtype), (0, place, 0, 0))
      for old, new in zip(cache, (k, v), strict=True)
    )
    seen = (jnp.arange(keys.shape[1]) <= place)[None, None, None]
    y = jax.nn.dot_product_attention(q, keys, values, mask=seen)
    return self._finished(x, y), (keys, values)

  def _attended(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    shape = (*x.shape[:2], self.size.heads, -1)
    q, k, v = jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)
    return q.reshape(shape), k.reshape(shape), v.reshape(shape)

  def _finished(self, x: jax.Array, attended: jax.Array) -> jax.Array:
    x = x + self.proj(attended.reshape(x.shape)).astype(jnp.float32)
    y = nn.gelu(self.fc1(self.norm2(x)), approximate=False)
    return x + self.fc2(y).astype(jnp.float32)


class TokenTransformer(nn.Module):
  """See the module.

  Attributes:
    size: dimensions.
    vocabulary: K, tokens.
    length: n, of a sequence.
    causal: whether it is moved by one place and sees what is before alone.
    conditions: m, how many further tokens stand before it.
    condition_vocabulary: theirs.
    remat: compute the activations in blocks again for the gradient.
    dtype: compute type; features are float32.
  """

  size: Size
  vocabulary: int
  length: int
  causal: bool = True
  conditions: int = 0
  condition_vocabulary: int = 0
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  def setup(self) -> None:
    """Tables and blocks."""
    dim = self.size.dim

    def table(name: str, rows: int, sigma: float = 0.02) -> jax.Array:
      return self.param(name, initializers.normal(sigma), (rows, dim), jnp.float32)

    self.tokens = table('token_table', self.vocabulary)
    self.positions = table('position_table', self.total, 0.01)
    # What stands before a causal sequence, or in the place of a hidden token.
    self.special = table('start' if self.causal else 'hidden', 1)
    if self.conditions:
      self.before = table('condition_table', self.condition_vocabulary)
    kind = nn.remat(Block) if self.remat else Block
    self.blocks = [kind(self.size, self.causal, self.dtype) for _ in range(self.size.depth)]
    self.norm = _norm()

  @property
  def total(self) -> int:
    """m + n."""
    return self.conditions + self.length

  def __call__(
    self,
    tokens: jax.Array,
    *,
    train: bool = False,
    condition: jax.Array | None = None,
    hidden: jax.Array | None = None,
  ) -> Output:
    """Features of a whole sequence.

    Args:
      tokens: int [b,n] in [0, K). Causal: features [b,m + i] depend on condition and tokens before
        i, and the last token is not seen at all.
      train: nothing here depends on it.
      condition: int [b,m]; not without m.
      hidden: bool [b,n], True where a token is not shown; not of a causal one.

    Raises:
      ValueError: another length, a condition too much or too little, or hidden tokens of a causal
        transformer.
    """
    del train
    self._check(tokens, condition, hidden)
    x = self.tokens[tokens.astype(jnp.int32)]
    if hidden is not None:
      x = jnp.where(hidden[:, :, None], self.special[None], x)
    if condition is not None:
      x = jnp.concatenate([self.before[condition.astype(jnp.int32)], x], axis=1)
    if self.causal:
      start = jnp.broadcast_to(self.special[None], (len(x), 1, x.shape[-1]))
      x = jnp.concatenate([start, x[:, :-1]], axis=1)
    x = x + self.positions[None]
    made = []
    for block in self.blocks:
      x = block(x)
      made.append(x)
    return Output(self.norm(x), tuple(made))

  def step(self, before: jax.Array, place: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """The feature at a place of a causal sequence, float32 [b,D], and the cache with this place.

    Args:
      before: int [b], the token, or the condition, at the place before; not looked at for place 0.
      place: int scalar in [0, m + n).
      cache: of the places before; `empty_cache` for place 0.
    """
    x = self.tokens[jnp.minimum(before, self.vocabulary - 1)]
    if self.conditions:
      given = self.before[jnp.minimum(before, self.condition_vocabulary - 1)]
      x = jnp.where(place <= self.conditions, given, x)
    x = jnp.where(place == 0, self.special, x) + self.positions[place][None]
    x, kept = x[:, None], []
    for block, own in zip(self.blocks, cache, strict=True):
      x, own = block.step(x, own, place)
      kept.append(own)
    return self.norm(x)[:, 0], tuple(kept)

  def empty_cache(self, batch: int) -> Cache:
    """For `batch` sequences of which nothing is known yet."""
    shape = (batch, self.total, self.size.heads, self.size.dim // self.size.heads)
    zeros = jnp.zeros(shape, self.dtype)
    return tuple((zeros, zeros) for _ in range(self.size.depth))

  def _check(
    self, tokens: jax.Array, condition: jax.Array | None, hidden: jax.Array | None
  ) -> None:
    if tokens.ndim != 2 or tokens.shape[1] != self.length:
      raise ValueError(f'this transformer is for {self.length} tokens, got {tokens.shape}.')
    found = 0 if condition is None else condition.shape[1]
    if found != self.conditions:
      raise ValueError(f'this transformer needs {self.conditions} conditions, got {found}.')
    if hidden is not None and self.causal:
      raise ValueError('a causal transformer hides what comes next, and nothing else.')


class TokenHead(nn.Module):
  """Logits [..., K] of features [..., D]: a linear layer that starts at zero."""

  vocabulary: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Features float32 [..., D] -> logits float32 [..., K]."""
    del train
    zeros = nn.initializers.zeros_init()
    dense = biased.Dense(
      self.vocabulary,
      dtype=self.dtype,
      kernel_init=zeros,
      dot_general=layers.product,
      name='logits',
    )
    return dense(x).astype(jnp.float32)


def generate(
  model: TokenTransformer,
  params: PyTree,
  head: nn.Module,
  head_params: PyTree,
  key: jax.Array,
  sampling: Sampling,
  *,
  condition: jax.Array | None = None,
  prefix: jax.Array | None = None,
  cached: bool = True,
) -> jax.Array:
  """Draws sequences of a causal transformer, token by token: int32 [sampling.count, n].

  Args:
    model: causal.
    params: its parameters.
    head: of the tokens.
    head_params: its parameters.
    key: each sequence has draws of its own, which do not depend on how many there are.
    sampling: how many, and how.
    condition: int [count,m]; not without m.
    prefix: int [count,p], the first p tokens; None: all are drawn.
    cached: whether keys and values are kept; without, every token costs a pass over the sequence.
      The same sequences up to rounding.
  """
  params = jax.tree.map(jnp.asarray, params)  # Tables are indexed: arrays of NumPy will not do.
  count, before = sampling.count, model.conditions
  keys = drawing.keys(key, count)
  start = jnp.zeros((count, model.total), jnp.int32)
  if condition is not None:
    start = start.at[:, :before].set(condition)
  given = before + (0 if prefix is None else prefix.shape[1])
  if prefix is not None:
    start = start.at[:, before:given].set(prefix)
  apply: Any = functools.partial(model.apply, {'params': params})

  def drawn(feature: jax.Array, sequence: jax.Array, place: jax.Array) -> jax.Array:
    logits: Any = head.apply({'params': head_params}, feature, train=False)
    own = lax.dynamic_slice(sequence, (0, place), (count, 1))[:, 0]
    token = jnp.where(place < given, own, drawing.draw(keys, place, logits, sampling))
    return lax.dynamic_update_slice(sequence, token[:, None], (0, place))

  def one(place: jax.Array, carry: tuple[jax.Array, Cache]) -> tuple[jax.Array, Cache]:
    sequence, cache = carry
    last = lax.dynamic_slice(sequence, (0, jnp.maximum(place - 1, 0)), (count, 1))[:, 0]
    feature, cache = apply(last, place, cache, method='step')
    return drawn(feature, sequence, place), cache

  def whole(place: jax.Array, sequence: jax.Array) -> jax.Array:
    made = apply(sequence[:, before:], condition=sequence[:, :before] if before else None)
    feature = lax.dynamic_index_in_dim(made.features, place, axis=1, keepdims=False)
    return drawn(feature, sequence, place)

  if cached:
    sequence, _ = lax.fori_loop(0, model.total, one, (start, model.empty_cache(count)))
  else:
    sequence = lax.fori_loop(0, model.total, whole, start)
  return sequence[:, before:]


def _linear(features: int, dtype: jnp.dtype, sigma: float = 0.02) -> nn.Dense:
  return biased.Dense(
    features, dtype=dtype, kernel_init=initializers.normal(sigma), dot_general=layers.product
  )


def _norm() -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32)
