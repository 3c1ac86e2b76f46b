"""linen's linear layers with a bias whose gradient is summed in float32, whatever they compute in.

y + bias, both bfloat16, has a gradient that is summed over all places in bfloat16. With 8 bits a
sum of many numbers soon stops to grow, and XLA takes the type at its word on NVIDIA's GPUs from
Hopper on (`GpuFloatSupport::IsSupported` of its sources, for additions and reductions); for CPUs
and older GPUs it sums in float32. All else is as in linen, with the same parameters and values.
"""

from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
  """y [...,F] plus a bias float32 [F], in the type of y; see the module."""
  return y + jnp.broadcast_to(bias, y.shape).astype(y.dtype)


class Dense(nn.Dense):
  """A linear layer of a given compute type."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[...,D] -> [...,features] in the compute type."""
    kernel = _kernel(self, x.shape[-1])
    multiply: Any = self.dot_general or lax.dot_general
    y = multiply(x.astype(self.dtype), kernel, (((x.ndim - 1,), (0,)), ((), ())))
    return _biased(self, y)


class Conv(nn.Conv):
  """A convolution of images of a given compute type, by the function that it is given."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b,H,W,C] -> [b,h,w,features] in the compute type."""
    channels = x.shape[-1] // self.feature_group_count
    kernel = _kernel(self, channels)
    convolve: Any = self.conv_general_dilated
    y = convolve(
      x.astype(self.dtype),
      kernel,
      self.strides,
      self.padding,
      rhs_dilation=(self.kernel_dilation,) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=self.feature_group_count,
    )
    return _biased(self, y)


class ConvTranspose(nn.ConvTranspose):
  """A transposed convolution of images of a given compute type."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b,H,W,C] -> [b,stride * H,stride * W,features] in the compute type."""
    kernel = _kernel(self, x.shape[-1])
    strides: Any = self.strides
    y = lax.conv_transpose(x.astype(self.dtype), kernel, strides, 'SAME')
    return _biased(self, y)


def _kernel(module: Any, channels: int) -> jax.Array:
  shape = (*getattr(module, 'kernel_size', ()), channels, module.features)
  made = module.param('kernel', module.kernel_init, shape, jnp.float32)
  return made.astype(module.dtype)


def _biased(module: Any, y: jax.Array) -> jax.Array:
  if not module.use_bias:
    return y
  return add_bias(y, module.param('bias', module.bias_init, (module.features,), jnp.float32))
