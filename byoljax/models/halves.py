"""Two networks of half the width that see different channels of an image and share nothing.

The network of a split-brain autoencoder (Zhang et al. 2017, arXiv 1611.09842): features are the two
halves' side by side, layer by layer. There is no weight between them, so that what one half learns
from leaves the other one as it is; the authors' released network has such weights, which are zero.

Where images have no depth, the features of the half that sees it are zeros.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models.alexnet import AlexNet
from byoljax.models.inputs import HALVES, with_input

RGB = 3


class Halves(nn.Module):
  """Two networks side by side.

  Attributes:
    first: a module called as module(images, train=...).
    second: another one, with maps of the same sizes.
    kind: a key of `inputs.HALVES`: 'lab_halves' gives both the images, whose channels they choose
      themselves; 'rgbd_halves' the first three channels to the one and the others to the other.
  """

  first: nn.Module
  second: nn.Module
  kind: str

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,2 D]: the first one's, then the second's."""
    seen = (x, x)
    blind = self.kind == 'rgbd_halves' and x.shape[-1] == RGB
    if self.kind == 'rgbd_halves':
      seen = (x[..., :RGB], jnp.zeros_like(x[..., :1]) if blind else x[..., RGB:])
    first = self.first(seen[0], train=train)
    # Variables are made for both, whatever the images.
    unseen = blind and not self.is_initializing()
    second = jnp.zeros_like(first) if unseen else self.second(seen[1], train=train)
    maps = [sown_maps(self.first), {} if unseen else sown_maps(self.second)]
    for name, value in maps[0].items():
      other = maps[1].get(name, jnp.zeros_like(value))
      self.sow('intermediates', name, jnp.concatenate([value, other], axis=-1))
    return jnp.concatenate([first, second], axis=-1)


def sown_maps(module: nn.Module) -> dict[str, jax.Array]:
  """The inner maps that a module has just handed out; to a module around it, within its call."""
  sown = module.variables.get('intermediates', {})
  return {name: values[0] for name, values in sown.items() if isinstance(values, tuple)}


def behind_input(
  network: nn.Module, kind: str, mean: Sequence[float] | None, std: Sequence[float] | None
) -> nn.Module:
  """The network behind an input stage, or split in two: `inputs.with_input`, and `Halves`.

  Args:
    network: a module called as module(images, train=...). To be split it needs an attribute
      `width`, of which each half has one half; without one it is taken twice as it is.
    kind: a key of `inputs.INPUTS` or `inputs.HALVES`.
    mean: of the data, per channel.
    std: of the data, per channel.

  Raises:
    ValueError: as `inputs.with_input`.
  """
  if kind not in HALVES:
    return with_input(network, kind, mean, std)
  if kind == 'rgbd_halves' and mean is not None and len(mean) not in (RGB, RGB + 1):
    raise ValueError(
      f'input={kind!r} is made of images of 3 channels, with a depth beside them or as a fourth '
      f'channel, but the data have {len(mean)}.'
    )
  # Each of its own: linen takes one module in two places for shared weights.
  first, second = (with_input(_halved(network), own, mean, std) for own in HALVES[kind])
  return Halves(first=first, second=second, kind=kind)


def _halved(network: nn.Module) -> nn.Module:
  changes: dict[str, Any] = {}
  if hasattr(network, 'width'):
    changes['width'] = network.width / 2
  if isinstance(network, AlexNet):
    changes['fc_dim'] = network.fc_dim // 2
  return network.clone(**changes)
