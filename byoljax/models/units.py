"""A convolution or a linear layer with what follows it in the networks before ResNets: ReLU.

With batch normalization, which has a bias of its own, the layer has none. Kernels begin as normals
of variance 2 / fan_in (He et al., arXiv 1502.01852), so that networks without normalization begin
with signals of one size at every depth.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import biased, layers
from byoljax.models.initializers import he_normal_fan_in


class ConvUnit(nn.Module):
  """relu(BN(conv(x))), or relu(conv(x) + bias) without `norm`.

  `padding` as for `layers.conv`; the other attributes as for `layers.batch_norm`.
  """

  features: int
  kernel: int
  stride: int = 1
  padding: str | int = 'torch'
  norm: bool = True
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,H,W,C] -> [b,h,w,features] in the compute dtype."""
    x = layers.conv(
      self.features,
      self.kernel,
      self.stride,
      self.padding,
      self.dtype,
      'conv',
      use_bias=not self.norm,
      kernel_init=he_normal_fan_in,
    )(x)
    if self.norm:
      x = layers.batch_norm(train, self.bn_axis, self.dtype, 'bn', groups=self.bn_groups)(x)
    return nn.relu(x)


class LinearUnit(nn.Module):
  """relu(BN(W x)), or relu(W x + bias) without `norm`."""

  features: int
  norm: bool = True
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> [b,features] in the compute dtype."""
    x = biased.Dense(
      self.features,
      use_bias=not self.norm,
      dtype=self.dtype,
      param_dtype=jnp.float32,
      kernel_init=he_normal_fan_in,
      name='linear',
    )(x)
    if self.norm:
      x = layers.batch_norm(train, self.bn_axis, self.dtype, 'bn', groups=self.bn_groups)(x)
    return nn.relu(x)
