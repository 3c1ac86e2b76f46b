"""From a map of features to codes of a codebook, and to the codes' vectors, as a part of a network.

Every quantizer is called as module(map, train=...), gives the codes in raster order, and hands out

    latents    [b, h, w, D]   what is quantized: the map after a 1x1 convolution
    vectors    [b, h, w, D]   the codes' vectors
    quantized  [b, h, w, D]   what the decoder reads: the vectors, with a gradient for the latents

all float32. `codebook_of` is the codebook of any of them, from its parameters and statistics.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.models.initializers import he_normal_fan_in, normal
from byoljax.ops import codebook

PyTree = Any
_INIT = normal(1.0)


class VectorQuantizer(nn.Module):
  """The nearest of K codes (VQ-VAE, arXiv 1711.00937), straight through.

  With `decay` > 0 the codebook follows by moving averages of the global batch, which are running
  statistics like those of batch normalization: 'counts' [K] and 'sums' [K, D]; see `ops.codebook`.
  A training step reads the codebook before it moves. Without, the codebook is a parameter, and only
  its use is counted, with a decay of 0.99.

  Attributes:
    codes: K.
    dim: D.
    decay: of the moving averages, in [0, 1), of a whole step; 0: the codebook is a parameter.
    axis: the mapped axis whose devices share statistics in training.
    dtype: compute type of the convolution.
    accumulate: micro-batches of a step, each of which moves the averages by its part.
  """

  codes: int = 512
  dim: int = 64
  decay: float = 0.99
  axis: str | None = None
  dtype: Any = jnp.float32
  accumulate: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b, h, w, C] -> codes int32 [b, h * w]."""
    z = layers.conv(
      self.dim, 1, 1, 0, self.dtype, 'latents_conv', use_bias=True, kernel_init=he_normal_fan_in
    )(x.astype(self.dtype)).astype(jnp.float32)
    shape = (self.codes, self.dim)
    counts = self.variable('batch_stats', 'counts', jnp.ones, shape[:1], jnp.float32)
    if self.decay:
      sums = self.variable('batch_stats', 'sums', lambda: _INIT(self.make_rng('params'), shape))
      book = jax.lax.stop_gradient(codebook.means(counts.value, sums.value))
    else:
      sums = None
      book = self.param('codebook', _INIT, shape)
    chosen = codebook.nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(book))
    if train and not self.is_initializing():
      decay = (self.decay or 0.99) ** (1.0 / self.accumulate)
      used, total = codebook.use(jax.lax.stop_gradient(z), chosen, self.codes, self.axis)
      counts.value = decay * counts.value + (1.0 - decay) * used
      if sums is not None:
        sums.value = decay * sums.value + (1.0 - decay) * total
    vectors = book[chosen]
    self.sow('intermediates', 'latents', z)
    self.sow('intermediates', 'vectors', vectors)
    self.sow('intermediates', 'quantized', codebook.straight_through(z, vectors))
    return chosen.reshape(len(x), -1)


class GumbelQuantizer(nn.Module):
  """A code of K by its logit, drawn in training by the Gumbel-softmax (arXiv 1611.01144).

    y = softmax((logits + noise) / temperature),   vectors = y @ codebook

  the relaxation of DALL-E's discrete VAE (arXiv 2102.12092, section 2.1). In evaluation, and where
  there is no noise, the most probable code is taken. 'latents' are the logits [b, h, w, K].

  Attributes:
    codes: K.
    dim: D.
    dtype: compute type of the convolution.
  """

  codes: int = 8192
  dim: int = 128
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    noise: jax.Array | None = None,
    temperature: jax.Array | float = 1.0,
  ) -> jax.Array:
    """[b, h, w, C] -> the most probable codes, int32 [b, h * w].

    Args:
      x: the map.
      train: the noise says it.
      noise: float32 [b, h, w, K], of Gumbel's distribution.
      temperature: above 0.
    """
    del train
    logits = layers.conv(
      self.codes, 1, 1, 0, self.dtype, 'logits_conv', use_bias=True, kernel_init=he_normal_fan_in
    )(x.astype(self.dtype)).astype(jnp.float32)
    book = self.param('codebook', _INIT, (self.codes, self.dim))
    chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if noise is None:
      vectors = book[chosen]
    else:
      vectors = jax.nn.softmax((logits + noise) / temperature, axis=-1) @ book
    self.sow('intermediates', 'latents', logits)
    self.sow('intermediates', 'vectors', vectors)
    self.sow('intermediates', 'quantized', vectors)
    return chosen.reshape(len(x), -1)


def codebook_of(params: PyTree, bn: PyTree) -> jax.Array:
  """The codebook float32 [K, D] of a quantizer's parameters and statistics."""
  if 'codebook' in params:
    return params['codebook']
  return codebook.means(bn['counts'], bn['sums'])


def restart(params: PyTree, bn: PyTree, rows: jax.Array, below: float) -> tuple[PyTree, PyTree]:
  """Parameters and statistics after dead codes were put on rows; see `ops.codebook.restart`.

  An optimizer's moments of a restarted code stay as they are.
  """
  counts, codes = codebook.restart(bn['counts'], codebook_of(params, bn), rows, below)
  if 'codebook' in params:
    return params | {'codebook': codes}, bn | {'counts': counts}
  lost = codebook.dead(bn['counts'], below)
  # Others keep their sums to the last bit.
  sums = jnp.where(lost[:, None], rows * counts[:, None], bn['sums'])
  return params, bn | {'counts': counts, 'sums': sums}
