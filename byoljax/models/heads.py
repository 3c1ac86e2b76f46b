"""Heads on top of an encoder: projectors, predictors, prototypes and a linear classifier.

One module covers the multilayer perceptrons of every joint-embedding method; what differs is where
biases and normalization are, and how kernels are initialized:

    BYOL       MLPHead((4096, 256))
    SimCLR     MLPHead((2048, 128), hidden_bias=False, last_norm='bn_no_bias',
                       kernel_init='normal_0.01')
    MoCo v2    MLPHead((2048, 128), norm=False, last_bias=True)
    MoCo v3    MLPHead((4096, 256), hidden_bias=False, last_norm='bn_no_affine')
    SimSiam    MLPHead((2048, 2048, 2048), hidden_bias=False, last_norm='bn_no_affine')
    VICReg     MLPHead((8192, 8192, 8192)); Barlow Twins the same with hidden_bias=False

The default initialization is BYOL's (Haiku's default for linear layers): a normal of sigma
1/sqrt(fan_in) truncated at two sigma and not rescaled, so the real standard deviation is 0.88 of
that. Most of the others were published with PyTorch's uniform, 'torch', whose deviation is .58/
sqrt(fan_in); the scale matters where no normalization follows. Biases are initialized to zero,
where PyTorch draws them from the same interval.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import biased, initializers, layers
from byoljax.models.net import Net, stack
from byoljax.models.taps import pooled
from byoljax.ops import sphere

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': nn.relu,
  'gelu': functools.partial(nn.gelu, approximate=False),
}
# name -> (scale?, bias?) of the batch normalization on the output; None: there is none
LAST_NORMS: dict[str, tuple[bool, bool] | None] = {
  'none': None,
  'bn': (True, True),
  'bn_no_affine': (False, False),
  'bn_no_bias': (True, False),
}
# DINO's normal is truncated at +-2, that is at 100 sigma, which changes nothing.
KERNEL_INITS: dict[str, initializers.Initializer] = {
  'fan_in': initializers.fan_in_truncated_normal,
  'torch': initializers.fan_in_uniform,
  'normal_0.01': initializers.normal(0.01),
  'truncated_0.02': initializers.normal(0.02),
  'zeros': nn.initializers.zeros,
}


def _linear(
  features: int, use_bias: bool, dtype: jnp.dtype, name: str, kernel_init: str = 'fan_in'
) -> nn.Dense:
  return biased.Dense(
    features,
    use_bias=use_bias,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=KERNEL_INITS[kernel_init],
    name=name,
  )


class MLPHead(nn.Module):
  """(Linear, BN, activation)s, then a Linear and perhaps a BN: projectors and predictors.

  The defaults are BYOL's g and q (arXiv 2006.07733, section 3.3): relu, no bias in the last layer
  and no normalization on the output. Outputs of the activations can be read out as 'hidden1',
  'hidden2', ... through `byoljax.models.net.stack(..., taps=...)`.

  Attributes:
    features: every layer's width: (4096, 256) is BYOL's head, (256,) a single linear layer.
    hidden_bias: whether all linear layers but the last have a bias.
    norm: whether batch normalization follows them.
    activation: 'relu' or 'gelu' (exact), after them.
    last_bias: whether the last linear layer has a bias.
    last_norm: batch normalization on the output: 'none', 'bn', 'bn_no_affine' or 'bn_no_bias'.
    bn_axis: mapped axis whose devices share batch statistics in training.
    bn_groups: see `layers.batch_norm`.
    dtype: compute type.
    kernel_init: 'fan_in' or 'torch' (see the module's header), 'normal_0.01' (sigma .01; SimCLR),
      'truncated_0.02' (sigma .02; DINO, ViT) or 'zeros'.
    trunk: the first layers of a head alone: all of them are hidden, and the output is that of the
      last one's activation.
  """

  features: tuple[int, ...] = (4096, 256)
  hidden_bias: bool = True
  norm: bool = True
  activation: str = 'relu'
  last_bias: bool = False
  last_norm: str = 'none'
  bn_axis: str | None = None
  bn_groups: int = 0
  dtype: jnp.dtype = jnp.float32
  kernel_init: str = 'fan_in'
  trunk: bool = False

  def __post_init__(self) -> None:
    """Refuses names that are not in the tables.

    Raises:
      ValueError: an unknown activation, last_norm or kernel_init, or no features.
    """
    for field, value, valid in (
      ('activation', self.activation, ACTIVATIONS),
      ('last_norm', self.last_norm, LAST_NORMS),
      ('kernel_init', self.kernel_init, KERNEL_INITS),
    ):
      if value not in valid:
        raise ValueError(f'{field}={value!r} of a head is not one of {", ".join(valid)}.')
    if not self.features:
      raise ValueError('features=() of a head is empty: give at least an output size.')
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> float32 [b,features[-1]]."""
    linear = functools.partial(_linear, dtype=self.dtype, kernel_init=self.kernel_init)
    norm = functools.partial(
      layers.batch_norm, train, self.bn_axis, self.dtype, groups=self.bn_groups
    )
    last = len(self.features)
    for i, width in enumerate(self.features if self.trunk else self.features[:-1], start=1):
      x = linear(width, self.hidden_bias, name=f'linear{i}')(x)
      if self.norm:
        x = norm(f'bn{i}')(x)
      x = ACTIVATIONS[self.activation](x)
      self.sow('intermediates', f'hidden{i}', x)
    if self.trunk:
      return x.astype(jnp.float32)
    x = linear(self.features[-1], self.last_bias, name=f'linear{last}')(x)
    affine = LAST_NORMS[self.last_norm]
    if affine is not None:
      x = norm(f'bn{last}', use_scale=affine[0], use_bias=affine[1])(x)
    return x.astype(jnp.float32)


class Prototypes(nn.Module):
  """Scores of a vector against `count` prototypes: x / |x| times the kernel [D,count], no bias.

  The kernel's columns are unit vectors by contract, so that scores are cosines: the method calls
  `normalize_prototypes` before it uses them and after every change. Here they start from the
  default draw, which is not normalized.
  """

  count: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> float32 [b,count]; products in the compute dtype, summed in float32."""
    del train
    kernel = self.param('kernel', KERNEL_INITS['fan_in'], (x.shape[-1], self.count), jnp.float32)
    return _scores(sphere.normalize(x), kernel, self.dtype)


def normalize_prototypes(kernel: jax.Array) -> jax.Array:
  """The kernel [D,count] of `Prototypes` with columns of unit length, float32."""
  return sphere.normalize(kernel, 0)


class WeightNormLinear(nn.Module):
  """Cosines to `count` learned directions: DINO's last layer (arXiv 2104.14294, appendix C).

  x / |x| times the kernel [D,count] with every column divided by its length: weight normalization
  whose gain stays 1. Gradients go through both divisions; the stored columns have any length, and
  the longer they are, the more slowly they turn. They start as a PyTorch layer's, as the authors':
  U(±1 / √D), a deviation of 0.036 at D = 256.
  """

  count: int
  dtype: jnp.dtype = jnp.float32
  kernel_init: str = 'torch'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> float32 [b,count] in [-1, 1]; products in the compute dtype, summed in float32."""
    del train
    kernel = self.param(
      'kernel', KERNEL_INITS[self.kernel_init], (x.shape[-1], self.count), jnp.float32
    )
    return _scores(sphere.normalize(x), sphere.normalize(kernel, 0), self.dtype)


class DINOHead(nn.Module):
  """DINO's projector: `MLPHead` with gelu and biases, without BN, then `WeightNormLinear`.

  Parameters are 'mlp/linear1', ... and 'last/kernel'; DINO freezes the latter in its first epoch.
  `features` ends with the bottleneck, whose output is L2-normalized; `last_init` is how the latter
  starts, a key of `KERNEL_INITS`.
  """

  features: tuple[int, ...] = (2048, 2048, 256)
  count: int = 65536
  norm: bool = False
  bn_axis: str | None = None
  bn_groups: int = 0
  dtype: jnp.dtype = jnp.float32
  last_init: str = 'torch'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> logits float32 [b,count] in [-1, 1]."""
    bottleneck = MLPHead(
      self.features,
      hidden_bias=True,
      norm=self.norm,
      activation='gelu',
      last_bias=True,
      bn_axis=self.bn_axis,
      bn_groups=self.bn_groups,
      dtype=self.dtype,
      kernel_init='truncated_0.02',
      name='mlp',
    )(x, train=train)
    last = WeightNormLinear(self.count, self.dtype, self.last_init, name='last')
    return last(bottleneck, train=train)


class LinearHead(nn.Module):
  """Linear classifier with bias; float32, because probes are small and logits decide.

  Attributes:
    features: the number of classes.
    kernel_init: how the kernel is initialized, as for `MLPHead`; or 'zeros'.
  """

  features: int
  kernel_init: str = 'fan_in'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] -> logits float32 [b,features]."""
    del train
    linear = _linear(self.features, True, jnp.float32, 'linear1', self.kernel_init)
    return linear(x.astype(jnp.float32))


class Pool(nn.Module):
  """One vector an image, of whatever it reads; see `taps.pooled`. No parameters."""

  pool: str = 'cls'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D], a feature map [b,h,w,D] or tokens [b,n,D] -> float32 [b,D]."""
    del train
    return pooled(x, self.pool)


class FeatureNorm(nn.Module):
  """Batch normalization without scale and shift, in front of linear probes; float32.

  With MAE's epsilon, 1e-6: features of a transformer may vary little.
  """

  bn_axis: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[b,D] or a map [b,h,w,D], by channel -> float32 of the same shape."""
    norm = layers.batch_norm(
      train, self.bn_axis, jnp.float32, 'bn', use_scale=False, use_bias=False, epsilon=1e-6
    )
    return norm(x.astype(jnp.float32))


def _scores(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
  return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def with_projector(encoder: nn.Module, projector: nn.Module) -> Net:
  """An encoder under a projector: outputs 'embedding' and 'projection'."""
  return stack((('encoder', 'embedding', encoder), ('projector', 'projection', projector)))
