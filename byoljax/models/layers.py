"""The convolution and batch normalization that every network here is built from.

All layers keep float32 parameters; `dtype` is only the compute type. Batch statistics are always
reduced and stored in float32; see `biased`, too. Differences: Haiku's BatchNorm (BYOL's code) keeps
zero-debiased running averages, so they are valid after one step, while these start at mean 0 and
variance 1 and forget that start as 0.9^steps; PyTorch's running variance is the unbiased one, this
(like Haiku's and TensorFlow's) is the biased one. All three normalize training batches alike.

Batch normalization by groups ("ghost" batch normalization, Hoffer et al., arXiv 1705.08741) counts
its groups over the global batch, so that a method which needs separate statistics (MoCo's 8 GPUs)
has the same ones on any number of devices. MoCo's running statistics are those of one GPU; these
are the mean over all groups.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.models import biased
from byoljax.models.initializers import he_normal_fan_out

# running = 0.9 * running + 0.1 * batch: PyTorch writes the same thing "momentum 0.1"; Flax's
# default is 0.99.
BN_MOMENTUM = 0.9
BN_EPSILON = 1e-5


def padding_of(kernel: int, padding: str | int) -> Any:
  """Spatial padding of an odd kernel, as linen's convolutions take it.

  A number pads all four sides by it.

  'torch' pads (kernel - 1) / 2 on both sides; 'same' (TensorFlow, Haiku) pads less at the top and
  left when a stride divides the size, so weights trained with the one lose accuracy with the other.
  'fixed' (SimCLR's code) is 'torch' for convolutions and 'same' for pools.
  """
  if isinstance(padding, int):
    return ((padding, padding),) * 2
  return 'SAME' if padding == 'same' else (((kernel - 1) // 2,) * 2,) * 2


def pool_padding_of(kernel: int, padding: str) -> Any:
  """The same as linen's pools take it."""
  return padding_of(kernel, 'same' if padding == 'fixed' else padding)


# Positions of a result up to which patches are cheaper.
_TINY = 4
_UNUSUAL = ('lhs_dilation', 'rhs_dilation', 'feature_group_count', 'batch_group_count')


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **settings: Any,
) -> jax.Array:
  """`lax.conv_general_dilated` of images, as one matrix product where the result is tiny.

  XLA's CPU convolutions take six to thirty times as long as the product of patches and kernel
  where the result has no more than 2x2 positions, as at the end of a ResNet with the ImageNet stem
  on images of 32 px. Taps that meet nothing but padding are left out of the product: of a 3x3
  kernel on a 1x1 map one of nine is left. Equal up to rounding, in the gradients, too.

  Args:
    x: [b,H,W,C].
    kernel: [h,w,C,features].
    strides: rows, columns.
    padding: 'SAME' or (before, after) of rows and columns.
    settings: others of `lax.conv_general_dilated`, handed on; with dilation or groups the result is
      never a product.
  """
  direct = functools.partial(lax.conv_general_dilated, x, kernel, strides, padding, **settings)
  edges, taps = x.shape[1:3], kernel.shape[:2]
  pads = lax.padtype_to_pads(edges, taps, strides, padding) if isinstance(padding, str) else padding
  sizes = [
    (edge + sum(pad) - tap) // stride + 1
    for edge, pad, tap, stride in zip(edges, pads, taps, strides, strict=True)
  ]
  plain = all(settings.get(name) in (None, 1, (1, 1)) for name in _UNUSUAL)
  if not plain or max(taps) == 1 or not 0 < math.prod(sizes) <= _TINY:
    return direct()
  padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  used = [
    [tap for tap in range(count) if _meets(tap - pad[0], stride, size, edge)]
    for count, pad, stride, size, edge in zip(taps, pads, strides, sizes, edges, strict=True)
  ]
  patches = [
    padded[:, row :: strides[0], column :: strides[1]][:, : sizes[0], : sizes[1]]
    for row in used[0]
    for column in used[1]
  ]
  weights = kernel[jnp.array(used[0])[:, None], jnp.array(used[1])[None]]
  return jnp.einsum(
    'bhwk,kf->bhwf',
    jnp.concatenate(patches, axis=-1),
    weights.reshape(-1, kernel.shape[-1]),
    precision=settings.get('precision'),
  )


def _meets(first: int, stride: int, size: int, edge: int) -> bool:
  """Whether a tap that starts at `first` is ever inside of the image."""
  return any(0 <= first + stride * step < edge for step in range(size))


def product(
  x: jax.Array,
  kernel: jax.Array,
  dimensions: lax.DotDimensionNumbers,
  precision: Any = None,
  **settings: Any,
) -> jax.Array:
  """What `nn.Dense(dot_general=...)` calls: x [...,D] @ kernel [D,F], as a product of matrices.

  All rows are put together. XLA's programs for CPUs transpose copies of what has more axes to
  compute the kernel's gradient: forward and backward pass of a layer of 57 tokens of 64 images
  then take twice as long. Equal up to rounding.

  Args:
    x: [...,D].
    kernel: [D,F].
    dimensions: those of `lax.dot_general` that `nn.Dense` hands over.
    precision: as of `lax.dot_general`.
    settings: others of `lax.dot_general`, handed on.
  """
  del dimensions
  rows = x.reshape(-1, x.shape[-1])
  y = lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), precision=precision, **settings)
  return y.reshape(*x.shape[:-1], kernel.shape[-1])


def conv(
  features: int,
  kernel: int,
  stride: int,
  padding: str | int,
  dtype: jnp.dtype,
  name: str,
  *,
  use_bias: bool = False,
  groups: int = 1,
  dilation: int = 1,
  kernel_init: Callable[..., Any] = he_normal_fan_out,
) -> nn.Conv:
  """Square convolution, [b,H,W,C] -> [b,h,w,features]; h = ceil(H / stride) where it is padded so.

  Args:
    features: output channels.
    kernel: edge of the kernel, odd where the padding is named.
    stride: of rows and columns.
    padding: see `padding_of`.
    dtype: compute type.
    name: the module's name.
    use_bias: whether there is a bias, zero at first.
    groups: of channels that see their own share of the input only; C of them: depthwise.
    dilation: from one entry of the kernel to the next, in pixels; 'torch' pads as for 1.
    kernel_init: initializer of the kernel [kernel,kernel,C / groups,features].
  """
  return biased.Conv(
    features,
    (kernel, kernel),
    (stride, stride),
    padding=padding_of(kernel, padding),
    use_bias=use_bias,
    feature_group_count=groups,
    kernel_dilation=dilation,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=kernel_init,
    conv_general_dilated=convolve,
    name=name,
  )


def widened(channels: int, width: float) -> int:
  """A number of channels times an encoder's width, which is 1/2 in networks that are halved.

  Raises:
    ValueError: the product is not a whole number.
  """
  product = channels * width
  if product < 1 or product != int(product):
    raise ValueError(f'{channels} channels times a width of {width} are no whole number.')
  return int(product)


def require_places(x: jax.Array, images: jax.Array) -> None:
  """Raises ValueError where a network has left nothing of images [b,H,W,C]: x [b,0,0,...]."""
  if not x.size:
    height, width = images.shape[1:3]
    raise ValueError(
      f'images of {height} x {width} pixels are too small for this network: nothing is left of '
      'them behind its strides and pools. Take larger ones, or another encoder.'
    )


def recomputed(block: nn.Module, wanted: bool) -> Callable[..., jax.Array]:
  """The block as it is, or so that its activations are computed again for the gradient.

  Instead of all activations inside the block only its input is kept, for one more forward pass in
  the backward one (Chen et al., arXiv 1604.06174). Sums over devices are kept, too: batch
  statistics are small, and waiting for them twice is not. Same parameters, values up to rounding.
  """
  if not wanted:
    return block

  def call(x: jax.Array, **settings: Any) -> jax.Array:
    def once_more(module: nn.Module, x: jax.Array) -> jax.Array:
      return module(x, **settings)  # type: ignore[operator]

    return nn.remat(once_more, policy=_sums_over_devices)(block, x)  # type: ignore[type-var]

  return call


def _sums_over_devices(primitive: Any, *_: Any, **__: Any) -> bool:
  return primitive.name.startswith('psum')


def batch_norm(
  train: bool,
  axis: str | None,
  dtype: jnp.dtype,
  name: str,
  scale_init: Callable[..., jax.Array] = nn.initializers.ones,
  groups: int = 0,
  use_scale: bool = True,
  use_bias: bool = True,
  epsilon: float = BN_EPSILON,
) -> nn.Module:
  """Batch normalization over all but the last dimension.

  Args:
    train: normalize by the batch's statistics and move the running ones; otherwise by the running
      ones, without a collective.
    axis: the mapped axis. Without groups, mean and variance are those of the batch over all its
      devices (one stacked pmean); None: this device only.
    dtype: compute type.
    name: the module's name.
    scale_init: initializer of the scale.
    groups: 0, or the number of groups of consecutive rows of the global batch that are normalized
      separately: a multiple of the number of devices that divides the batch. Running statistics
      are then the mean over all groups. Parameters and statistics are the same with any number.
    use_scale: whether there is a learned scale.
    use_bias: whether there is a learned bias.
    epsilon: added to variances.

  Raises:
    ValueError: in training, groups that do not fit the devices or the batch.
  """
  shared: dict[str, Any] = {
    'dtype': dtype,
    'scale_init': scale_init,
    'use_scale': use_scale,
    'use_bias': use_bias,
    'epsilon': epsilon,
  }
  if groups and train:
    return _GroupedBatchNorm(groups=groups, axis=axis, name=name, **shared)
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=BN_MOMENTUM,
    axis_name=axis,
    param_dtype=jnp.float32,
    name=name,
    **shared,
  )


class _GroupedBatchNorm(nn.Module):
  """Training-mode nn.BatchNorm with statistics per group; variables have the same names."""

  groups: int
  axis: str | None
  dtype: jnp.dtype
  scale_init: Callable[..., jax.Array]
  use_scale: bool
  use_bias: bool
  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[b,...,C] -> [b,...,C] in the compute dtype."""
    shape = (x.shape[-1],)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
    # When variables are made, no axis is mapped and the rows are not a batch.
    groups = 1 if self.is_initializing() else _groups_here(self.groups, x.shape[0], self.axis)
    y = x.astype(jnp.float32).reshape(groups, x.shape[0] // groups, *x.shape[1:])
    inner = tuple(range(1, y.ndim - 1))
    mean = y.mean(inner, keepdims=True)
    # The same one-pass variance as nn.BatchNorm's, which rounding can make negative.
    var = jnp.maximum(0.0, (y * y).mean(inner, keepdims=True) - mean * mean)
    if not self.is_initializing():
      both = jnp.stack([mean, var]).reshape(2, groups, -1).mean(1)
      means = collectives.pmean(both, self.axis)
      for running, batch in zip((running_mean, running_var), means, strict=True):
        running.value = BN_MOMENTUM * running.value + (1.0 - BN_MOMENTUM) * batch
    factor = lax.rsqrt(var + self.epsilon)
    one_each = (1,) * (y.ndim - 1) + shape
    if self.use_scale:
      factor *= self.param('scale', self.scale_init, shape, jnp.float32).reshape(one_each)
    y = (y - mean) * factor
    if self.use_bias:
      y += self.param('bias', nn.initializers.zeros, shape, jnp.float32).reshape(one_each)
    return y.astype(self.dtype).reshape(x.shape)


def _groups_here(groups: int, rows: int, axis: str | None) -> int:
  """How many of the global batch's groups are on this device."""
  devices = collectives.axis_size(axis)
  if groups < 1 or groups % devices or rows % (groups // devices):
    raise ValueError(
      f'{groups} groups of batch normalization do not fit {devices} devices with {rows} rows each: '
      f'the number of groups must be a multiple of {devices} that divides {devices * rows}.'
    )
  return groups // devices
