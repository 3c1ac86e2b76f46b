"""What vision transformers are made of: a block of attention and MLP, and its parts; see `vit`."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import biased, initializers, layers
from byoljax.ops import fused_attention


def linear(
  features: int, dtype: jnp.dtype, name: str, parts: int = 1, bias: bool = True
) -> nn.Dense:
  """A linear layer as ViTs have it; its kernel is `parts` matrices side by side."""
  return biased.Dense(
    features,
    use_bias=bias,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=initializers.xavier_uniform(parts),
    dot_general=layers.product,
    name=name,
  )


def layer_norm(name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
  """LayerNorm in float32."""
  return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, name=name)


class Bias(nn.Module):
  """x plus a learned number for each channel, in the type of x."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] -> [..., D]."""
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:], jnp.float32)
    return biased.add_bias(x, bias)


class LayerScale(nn.Module):
  """x times a learned scale of each channel (Touvron et al., arXiv 2103.17239), in float32."""

  initial: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] -> [..., D]."""
    init = nn.initializers.constant(self.initial)
    scale = self.param('scale', init, x.shape[-1:], jnp.float32)
    return x * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


class Block(nn.Module):
  """x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x)).

  With `layer_scale` both are scaled, see `LayerScale`. The MLP is `hidden` wide inside, 0 for 4
  times the width; with `swiglu` it is SwiGLU (Shazeer, arXiv 2002.05202), silu(a) b. `attention` is
  one of `fused_attention.IMPLEMENTATIONS`.
  """

  heads: int
  dtype: jnp.dtype = jnp.float32
  layer_scale: float = 0.0
  swiglu: bool = False
  hidden: int = 0
  epsilon: float = 1e-6
  attention: str = 'xla'

  @nn.compact
  def __call__(
    self, x: jax.Array, *, branches: jax.Array | None = None, angles: jax.Array | None = None
  ) -> jax.Array:
    """Tokens float32 [b,n,D] -> float32 [b,n,D].

    Args:
      x: tokens.
      branches: [b,2], factors of what attention and MLP add; None: 1.
      angles: float32 [b,n,D / heads / 2], or [1,n,...] for all images, by which queries and keys
        are turned; keys then have no bias. None: they are not.
    """
    dim = x.shape[-1]
    first, second = (1.0, 1.0) if branches is None else branches.T[:, :, None, None]
    dense = functools.partial(linear, dtype=self.dtype)
    y = self._attention(layer_norm('norm1', self.epsilon)(x), angles)
    x = x + first * self._scaled(y.astype(jnp.float32), 'ls1')
    y = layer_norm('norm2', self.epsilon)(x)
    hidden = self.hidden or 4 * dim
    if self.swiglu:
      y = dense(2 * hidden, name='fc1', parts=2)(y)
      y = nn.silu(y[..., :hidden]) * y[..., hidden:]
    else:
      y = nn.gelu(dense(hidden, name='fc1')(y), approximate=False)
    y = dense(dim, name='fc2')(y)
    return x + second * self._scaled(y.astype(jnp.float32), 'ls2')

  def _attention(self, x: jax.Array, angles: jax.Array | None) -> jax.Array:
    batch, tokens, dim = x.shape
    rotary = angles is not None
    y = linear(3 * dim, self.dtype, 'qkv', parts=3, bias=not rotary)(x)
    shape = (batch, tokens, self.heads, dim // self.heads)
    y = y.reshape(batch, tokens, 3, *shape[2:])
    query, key, value = y[:, :, 0], y[:, :, 1], y[:, :, 2]
    if rotary:
      query = Bias(name='q')(query.reshape(batch, tokens, dim)).reshape(shape)
      value = Bias(name='v')(value.reshape(batch, tokens, dim)).reshape(shape)
      query, key = rotated(query, angles), rotated(key, angles)
    # Scores and softmax are float32.
    y = fused_attention.attention(query, key, value, self.attention)
    return linear(dim, self.dtype, 'proj')(y.reshape(batch, tokens, dim))

  def _scaled(self, y: jax.Array, name: str) -> jax.Array:
    return LayerScale(self.layer_scale, name=name)(y) if self.layer_scale else y


def rotated(x: jax.Array, angles: jax.Array) -> jax.Array:
  """Turns pairs of channels, i and d / 2 + i, by an angle each (RoPE, arXiv 2104.09864).

  Args:
    x: [b,n,heads,d]; the result has its type, and is computed in float32.
    angles: [b,n,d / 2], or [1,n,d / 2] for all images.
  """
  half = x.shape[-1] // 2
  first, second = (part.astype(jnp.float32) for part in (x[..., :half], x[..., half:]))
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)
