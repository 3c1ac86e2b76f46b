"""The convolution and batch normalisation every encoder and head here is built from.

Both keep float32 parameters; `dtype` is only the compute type. Batch statistics are always reduced
and stored in float32. Differences: Haiku's BatchNorm (BYOL's code) keeps zero-debiased running
averages, so they are valid after one step, while these start at mean 0 and variance 1 and forget
that start as 0.9^steps; PyTorch's running variance is the unbiased one, this (like Haiku's and
TensorFlow's) is the biased one. All three normalise training batches alike.

Random initial values are drawn in one piece per network (`draw_together`), because every separate
draw is compiled separately: that takes longer than compiling a small network.
"""

from collections.abc import Callable
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

# running = 0.9 * running + 0.1 * batch: PyTorch writes the same thing "momentum 0.1"; Flax's
# default is 0.99.
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5


@flax.struct.dataclass
class Drawn(nn.meta.AxisMetadata):
  """A parameter that starts from a normal distribution: its value, and how it was drawn.

  Attributes:
    value: float32 array, what linen works with.
    sigma: standard deviation of the normal, before it is cut.
    cut: bounds in units of sigma, beyond which nothing is drawn; 0 for none.
  """

  value: jax.Array
  sigma: float = flax.struct.field(pytree_node=False)
  cut: float = flax.struct.field(pytree_node=False)

  def unbox(self) -> jax.Array:
    """The value alone."""
    return self.value

  def replace_boxed(self, val: jax.Array) -> 'Drawn':
    """The same distribution around another value."""
    return self.replace(value=val)  # type: ignore[attr-defined]

  def add_axis(self, index: int, params: dict) -> 'Drawn':
    """Unchanged: a distribution has no axes."""
    del index, params
    return self

  def remove_axis(self, index: int, params: dict) -> 'Drawn':
    """Unchanged: a distribution has no axes."""
    del index, params
    return self


def he_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
  """N(0, 2 / fan_out) for a kernel [...,in,out] (He et al. 2015): torchvision's ResNets' start."""
  sigma = math.sqrt(2.0 / (math.prod(shape[:-2]) * shape[-1]))
  return Drawn(sigma * jax.random.normal(key, shape, dtype), sigma, 0.0)


def fan_in_truncated_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
  """N(0, 1 / fan_in) cut at two sigma, not rescaled, for a kernel [...,out] (Haiku's default)."""
  sigma = 1.0 / math.sqrt(math.prod(shape[:-1]))
  return Drawn(sigma * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype), sigma, 2.0)


def draw_together(tree: Any, key: jax.Array) -> Any:
  """The tree with every Drawn replaced by a fresh draw from its distribution, as a plain array.

  All values of one kind come from a single draw that is cut into pieces, in the order of the tree.
  Other leaves stay as they are.
  """
  leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, Drawn))
  for cut in sorted({leaf.cut for leaf in leaves if isinstance(leaf, Drawn)}):
    where = [i for i, x in enumerate(leaves) if isinstance(x, Drawn) and x.cut == cut]
    total = sum(leaves[i].value.size for i in where)
    if cut:
      noise = jax.random.truncated_normal(jax.random.fold_in(key, 1), -cut, cut, (total,))
    else:
      noise = jax.random.normal(jax.random.fold_in(key, 0), (total,))
    for i in where:
      own, noise = jnp.split(noise, [leaves[i].value.size])
      leaves[i] = leaves[i].sigma * own.reshape(leaves[i].value.shape)
  return jax.tree.unflatten(structure, leaves)


def padding_of(kernel: int, padding: str) -> Any:
  """Spatial padding of an odd kernel, as linen's convolutions and pools take it.

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
