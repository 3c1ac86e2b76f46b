"""The convolution and batch normalisation every encoder and head here is built from.

Both keep float32 parameters; `dtype` is only the compute type. Batch statistics are always reduced
and stored in float32. Differences: Haiku's BatchNorm (BYOL's code) keeps zero-debiased running
averages, so they are valid after one step, while these start at mean 0 and variance 1 and forget
that start as 0.9^steps; PyTorch's running variance is the unbiased one, this (like Haiku's and
TensorFlow's) is the biased one. All three normalise training batches alike.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

# running = 0.9 * running + 0.1 * batch: PyTorch writes the same thing "momentum 0.1"; Flax's
# default is 0.99.
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5

# He et al. 2015, N(0, 2 / fan_out): what torchvision's ResNets start from.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def padding_of(kernel: int, padding: str) -> str | tuple[tuple[int, int], tuple[int, int]]:
  """Spatial padding of an odd kernel.

  'torch' pads (kernel - 1) / 2 on both sides; 'same' (TensorFlow, Haiku) pads less at the top and
  left when a stride divides the size, so weights trained with the one lose accuracy with the other.
  """
  return 'SAME' if padding == 'same' else (((kernel - 1) // 2,) * 2,) * 2


def conv(
  features: int, kernel: int, stride: int, padding: str, dtype: jnp.dtype, name: str
) -> nn.Conv:
  """Square convolution without bias, [b,H,W,C] -> [b,ceil(H/stride),ceil(W/stride),features]."""
  return nn.Conv(
    features,
    (kernel, kernel),
    (stride, stride),
    padding=padding_of(kernel, padding),
    use_bias=False,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=he_normal_fan_out,
    name=name,
  )


def batch_norm(
  train: bool,
  axis: str | None,
  dtype: jnp.dtype,
  name: str,
  scale_init: Callable[..., jax.Array] = nn.initializers.ones,
) -> nn.BatchNorm:
  """Batch normalisation over all but the last dimension, with scale and bias.

  In training the mean and variance are those of the batch over all devices on the named axis (one
  stacked pmean; `axis` None: this device only); in evaluation the running ones, no collective.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=BN_MOMENTUM,
    epsilon=BN_EPSILON,
    axis_name=axis,
    dtype=dtype,
    param_dtype=jnp.float32,
    scale_init=scale_init,
    name=name,
  )
