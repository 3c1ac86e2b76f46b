"""AlexNet: the network of the pretext papers, with batch normalization or as it was.

Five convolutions and two fully connected layers (Krizhevsky et al. 2012), in one tower. 'alexnet'
is that of RotNet (arXiv 1803.07728): 64-192-384-256-256 channels (Krizhevsky, arXiv 1404.5997, and
torchvision), batch normalization behind every layer. 'alexnet_2012' has the first paper's channels,
96-256-384-384-256, without its groups: DeepCluster's convolutions (arXiv 1807.05520).
'alexnet_plain' is torchvision's: biases instead of batch normalization.

Differences: there is no dropout, since every pass is a pure function of parameters and images, and
no local response normalization. RotNet's convolutions keep a bias in front of the batch
normalization that takes it away again; there is none here. DeepCluster's fully connected layers
have no batch normalization, those of 'alexnet_2012' have.

For images of about 32 pixels (stem 'cifar'; the papers have none) the first convolution is 3x3 with
stride 1 and pools are padded: maps of 32, 16, 8 and 4 pixels, where the ImageNet form has 55, 27,
13 and 6.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers, pooling
from byoljax.models.units import ConvUnit, LinearUnit


class Form(NamedTuple):
  """Which AlexNet.

  Attributes:
    channels: of the five convolutions.
    norm: batch normalization; otherwise biases.
  """

  channels: tuple[int, ...]
  norm: bool = True


ALEXNETS = {
  'alexnet': Form((64, 192, 384, 256, 256)),
  'alexnet_2012': Form((96, 256, 384, 384, 256)),
  'alexnet_plain': Form((64, 192, 384, 256, 256), norm=False),
}
# Grid of the last map that the first fully connected layer reads, by stem.
GRIDS = {'imagenet': 6, 'cifar': 4}


class AlexNet(nn.Module):
  """Five convolutions, with pools behind the first, second and last, and two linear layers.

  `width` multiplies the convolutions' channels. `fc_dim` is the width of the fully connected
  layers; 0 leaves them out, and the embedding is the mean over space of the last convolution. What
  the first of them reads is pooled to 6x6 (stem 'cifar': 4x4), which changes nothing at 224 (32)
  pixels and lets other sizes through. 'conv1' ... 'conv5', behind ReLU and before the pool, and
  'fc6' can be read out through `byoljax.models.net.stack(..., taps=...)`; the embedding is fc7.
  """

  form: Form
  width: float = 1
  stem: str = 'imagenet'
  fc_dim: int = 4096
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,fc_dim], or [b,256 * width] without.

    Raises:
      ValueError: images smaller than 63 pixels (stem 'imagenet').
    """
    shared = {
      'norm': self.form.norm,
      'dtype': self.dtype,
      'bn_axis': self.bn_axis,
      'bn_groups': self.bn_groups,
    }
    big = self.stem == 'imagenet'
    pad = 0 if big else 1
    pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
    plan = [(11, 4, 2) if big else (3, 1, 1), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]
    for number, ((kernel, stride, padding), channels) in enumerate(
      zip(plan, self.form.channels, strict=True), start=1
    ):
      wide = layers.widened(channels, self.width)
      unit = ConvUnit(wide, kernel, stride, padding, name=f'layer{number}', **shared)
      x = layers.recomputed(unit, self.remat)(x, train=train)
      self.sow('intermediates', f'conv{number}', x)
      if number in (1, 2):
        x = pool(x, padding=layers.padding_of(3, pad))
        _require_some(x, self.stem)
    if not self.fc_dim:
      return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    x = pool(x, padding=layers.padding_of(3, pad))
    _require_some(x, self.stem)
    x = pooling.adaptive_pool(x, GRIDS[self.stem])
    x = x.reshape(x.shape[0], -1)
    x = LinearUnit(self.fc_dim, name='layer6', **shared)(x, train=train)
    self.sow('intermediates', 'fc6', x)
    x = LinearUnit(self.fc_dim, name='layer7', **shared)(x, train=train)
    return x.astype(jnp.float32)


def _require_some(x: jax.Array, stem: str) -> None:
  if not x.size:
    raise ValueError(
      f'AlexNet with stem={stem!r} needs images of at least 63 pixels: nothing is left of a map '
      f"behind its pools. Set stem='cifar' for small images."
    )
