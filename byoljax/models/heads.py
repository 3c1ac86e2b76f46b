"""Heads on top of an encoder: BYOL's projector and predictor, and a linear classifier.

Initialisation is BYOL's (Haiku's default for linear layers): a normal of sigma 1/sqrt(fan_in) cut
at two sigma and not rescaled, so the real standard deviation is 0.88 of that; biases zero. It is
not PyTorch's uniform nor He's normal.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers


def _linear(features: int, use_bias: bool, dtype: jnp.dtype, name: str) -> nn.Dense:
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=layers.fan_in_truncated_normal,
    name=name,
  )


class MLPHead(nn.Module):
  """BYOL's projector g and predictor q: (Linear, BN, relu)s, then a Linear without bias.

  There is no normalisation on the output (arXiv 2006.07733, section 3.3). `features` gives every
  layer's width: (4096, 256) is the published head, (256,) a single linear layer.
  """

  features: tuple[int, ...] = (4096, 256)
  bn_axis: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> float32 [b,features[-1]]."""
    for i, width in enumerate(self.features[:-1], start=1):
      x = _linear(width, True, self.dtype, f'linear{i}')(x)
      x = nn.relu(layers.batch_norm(train, self.bn_axis, self.dtype, f'bn{i}')(x))
    x = _linear(self.features[-1], False, self.dtype, f'linear{len(self.features)}')(x)
    return x.astype(jnp.float32)


class LinearHead(nn.Module):
  """Linear classifier with bias; float32, because probes are small and logits decide."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> logits float32 [b,features]."""
    del train
    return _linear(self.features, True, jnp.float32, 'linear1')(x.astype(jnp.float32))
