"""A sum of an encoder's maps with weights of its own for every task that reads it.

Doersch and Zisserman 2017 (arXiv 1708.07860) give the head of task n

    sum over m of alpha[n, m] * map m,    alpha >= 0,

over the units of the network's third block, with an L1 penalty on alpha: tasks that share little
are to read different units. What is learned here is a row of alpha.

Different from the paper, whose units have one shape: maps of any sizes. Each is averaged down to
the places of the last one and, where it has other channels, projected to as many by a 1x1
convolution. Each is then normalized over the batch, without scale and shift, and a row is kept at
unit length (`projected`): otherwise larger maps, or a larger first layer of the head, would make up
for smaller weights, and the penalty would cost nothing. A row of unit length has an L1 norm of 1
where it is a single map and of sqrt(M) where all M count alike. Sums and penalty divide by the
length (`unit`), which changes no value but takes the gradient along the row away: it is where
the penalty is equal for all maps, and optimizers that normalize gradients would see nothing else.
"""

from collections.abc import Sequence
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers, pooling
from byoljax.models.halves import sown_maps
from byoljax.models.net import unknown_name
from byoljax.models.taps import maps_of

ROLE = 'lasso'  # Its name among the parameters of an encoder that it is put on.
MIXTURE = 'mixture'  # The tap.
# Linen calls the scales of normalization so, which optimizers neither decay nor adapt.
WEIGHTS = 'scale'
_PROBED = 256  # Large enough for every encoder's kernels; nothing of that size is computed.


class WeightedMaps(nn.Module):
  """Maps -> the mean over places of their weighted sum, which can be read as tap 'mixture'.

  Attributes:
    bn_axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type.
  """

  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], *, train: bool) -> jax.Array:
    """M maps [b,h,w,C], the last of them with the fewest places -> float32 [b,C of the last]."""
    *edges, channels = maps[-1].shape[1:]
    start = nn.initializers.constant(1.0 / math.sqrt(len(maps)))
    weights = unit(self.param(WEIGHTS, start, (len(maps),), jnp.float32))
    mixture = jnp.zeros((), self.dtype)
    for number, x in enumerate(maps):
      x = pooling.adaptive_pool(x.astype(self.dtype), (edges[0], edges[1]))
      if x.shape[-1] != channels:
        x = layers.conv(channels, 1, 1, 'torch', self.dtype, f'map{number}_conv')(x)
      norm = layers.batch_norm(
        train, self.bn_axis, self.dtype, f'map{number}_bn', use_scale=False, use_bias=False
      )
      mixture += weights[number].astype(self.dtype) * norm(x)
    self.sow('intermediates', MIXTURE, mixture)
    return jnp.mean(mixture.astype(jnp.float32), axis=(1, 2))


class WithLasso(nn.Module):
  """An encoder whose embedding, and whose last tap 'mixture', is a weighted sum of its maps.

  Its parameters are the encoder's and, under `ROLE`, those of the sum.

  Attributes:
    encoder: a module called as module(images, train=...).
    taps: names of the maps, in the encoder's order.
    bn_axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type.
  """

  encoder: nn.Module
  taps: tuple[str, ...]
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Gives the encoder this module's place among parameters, running statistics and taps."""
    nn.share_scope(self, self.encoder)
    self.lasso = WeightedMaps(self.bn_axis, self.dtype)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> float32 [b,channels of the last map]."""
    self.encoder(x, train=train)
    maps = sown_maps(self.encoder)
    embedding = self.lasso([maps[tap] for tap in self.taps], train=train)
    self.sow('intermediates', MIXTURE, sown_maps(self.lasso)[MIXTURE])
    return embedding


def choose_maps(encoder: nn.Module, channels: int, taps: Sequence[str] = ()) -> tuple[str, ...]:
  """The maps of an encoder that are summed up, in its order; nothing is computed.

  Args:
    encoder: a module called as module(images, train=...).
    channels: of the images.
    taps: their names; () for all.

  Raises:
    ValueError: an unknown name, fewer than two maps, a last map that is not the coarsest, or one
      with another number of channels than the embedding: heads would be made for that.
  """
  found = maps_of(encoder, channels, _PROBED)
  shapes = {name: shape for name, shape in found.items() if len(shape) == 4}
  for name in taps:
    if name not in shapes:
      raise ValueError(unknown_name('map', name, list(shapes)))
  chosen = [name for name in shapes if name in (taps or shapes)]
  if len(chosen) < 2:
    raise ValueError(
      f'the lasso chooses among maps, at least two, but {type(encoder).__name__} has '
      f'{", ".join(chosen) or "none"}: take a convolutional encoder.'
    )
  last = shapes[chosen[-1]]
  if any(shapes[name][1] < last[1] for name in chosen) or last[-1] != found['embedding'][-1]:
    raise ValueError(
      f"the lasso makes all maps like the last one, but '{chosen[-1]}' {last[1:]} is not the "
      f'coarsest, or the embedding of {found["embedding"][-1]} values is not its mean.'
    )
  return tuple(chosen)


def unit(weights: jax.Array) -> jax.Array:
  """A row divided by its length, float32 [M]: the gradient of what depends on it is across it."""
  return weights / jnp.sqrt(jnp.sum(jnp.square(weights)))


def projected(weights: jax.Array) -> jax.Array:
  """The nearest weights of unit length that are not negative: float32 [M].

  They are max(w, 0) / |max(w, 0)|; where no weight is positive, the largest one is 1.
  """
  positive = jnp.maximum(weights, 0.0)
  length = jnp.sqrt(jnp.sum(jnp.square(positive)))
  largest = jax.nn.one_hot(jnp.argmax(weights), len(weights), dtype=weights.dtype)
  return jnp.where(length > 0, positive / jnp.where(length > 0, length, 1.0), largest)
