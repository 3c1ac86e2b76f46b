"""The parts of a detector that are put on an encoder's maps: feature pyramid, proposals, box head.

Two kinds, as in the tables of MoCo and BYOL and as in practice:

    c4     proposals from the map before the encoder's last stage; each region's grid of that map
           goes through the last stage itself, and its mean is classified (He et al., arXiv
           1512.03385, appendix A; Detectron's "C4")
    fpn    a feature pyramid over several maps (Lin et al., arXiv 1612.03144), proposals from each
           level, two fully connected layers on a region's grid of the level that fits its size; of
           a single map it is a plain detector on that map

Different from Detectron's C4 as MoCo fine-tunes it: no batch normalization is added behind the last
stage. Different from its FPN: there is no sixth level, of every second place of the fifth, unless
`extra` asks for it, and no level without an encoder's map.
"""

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import biased, layers
from byoljax.models.initializers import he_normal_fan_in, normal
from byoljax.models.resnet import ResNet, residual_block
from byoljax.models.small import SmallResNet, small_block
from byoljax.ops import proposals

KINDS = ('c4', 'fpn')


class ProposalHead(nn.Module):
  """Maps -> for every anchor, whether there is something, and where: the first stage.

  Levels of the pyramid, or the one map as it is, can be read out as 'level0', 'level1', ...

  Attributes:
    anchors: at each place.
    channels: of the pyramid's levels; 0: there is none, and one map is read.
    extra: whether a further level, every second place of the last one, makes proposals.
    dtype: compute type; the output is float32.
  """

  anchors: int
  channels: int = 256
  extra: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array], *, train: bool) -> jax.Array:
    """[b,h,w,C] each, finest first -> float32 [b,A,5]: a logit and a code, ordered as anchors.

    Raises:
      ValueError: several maps without a pyramid.
    """
    del train
    maps = [each.astype(self.dtype) for each in maps]
    if not self.channels and len(maps) > 1:
      raise ValueError(f'proposals from {len(maps)} maps need a pyramid with channels.')
    levels = self._pyramid(maps) if self.channels else maps
    for number, level in enumerate(levels):
      self.sow('intermediates', f'level{number}', level)
    if self.extra:
      levels = [*levels, levels[-1][:, ::2, ::2]]
    width = self.channels or maps[0].shape[-1]
    hidden = _conv(width, 3, 'conv', self.dtype)
    score, code = (
      layers.conv(
        count, 1, 1, 'torch', jnp.dtype('float32'), name, use_bias=True, kernel_init=normal(0.01)
      )
      for name, count in (('score', self.anchors), ('code', 4 * self.anchors))
    )
    made = []
    for level in levels:
      x = nn.relu(hidden(level)).astype(jnp.float32)
      both = (head(x).reshape(x.shape[0], -1, size) for head, size in ((score, 1), (code, 4)))
      made.append(jnp.concatenate(list(both), -1))
    return jnp.concatenate(made, 1)

  def _pyramid(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
    """Each map to the same channels, plus what is coarser at twice its size; 3x3 convolutions."""
    made: list[jax.Array] = []
    above = None
    for number in reversed(range(len(maps))):
      x = _conv(self.channels, 1, f'lateral{number}', self.dtype)(maps[number])
      if above is not None:
        x += jax.image.resize(above, (*x.shape[:3], above.shape[-1]), 'nearest')
      above = x
      made.insert(0, _conv(self.channels, 3, f'output{number}', self.dtype)(x))
    return made


class BoxHead(nn.Module):
  """What is in regions: logits of the classes and background, and a code for each class.

  Attributes:
    classes: C.
    bins: side of a region's grid.
    finest: see `ops.proposals.pooled`.
    width: of two fully connected layers, of 'fpn'; 0: the last stage of `stage` reads the grids.
    stage: the encoder, of 'c4', whose last stage this is; its parameters have the encoder's names.
    bn_axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type; the output is float32.
  """

  classes: int
  bins: int
  finest: float = 14.0
  width: int = 0
  stage: Any = None
  bn_axis: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, maps: Sequence[jax.Array], *, train: bool, regions: jax.Array | None = None
  ) -> jax.Array:
    """[b,h,w,C] each, finest first -> float32 [b,r,(classes + 1) + 4 * classes].

    Args:
      maps: of which each region is read from one.
      train: whether batch normalization uses the batch, of all regions.
      regions: float32 [b,r,4], fractions of the image; None: the whole image alone.
    """
    if regions is None:
      whole = jnp.asarray([0, 0, 1, 1], jnp.float32)
      regions = jnp.broadcast_to(whole, (maps[0].shape[0], 1, 4))
    read = functools.partial(proposals.pooled, bins=self.bins, finest=self.finest)
    x = jax.vmap(read)(tuple(each.astype(self.dtype) for each in maps), regions)
    count = x.shape[:2]
    x = x.reshape(-1, *x.shape[2:])
    if self.width:
      x = x.reshape(x.shape[0], -1)
      for number in (1, 2):
        x = nn.relu(
          biased.Dense(
            self.width, dtype=self.dtype, kernel_init=he_normal_fan_in, name=f'linear{number}'
          )(x)
        )
    else:
      for block in last_blocks(self.stage):
        x = block(x, train=train)
      x = x.astype(jnp.float32).mean((1, 2))
    x = x.astype(jnp.float32)
    score = nn.Dense(self.classes + 1, kernel_init=normal(0.01), name='score')(x)
    code = nn.Dense(4 * self.classes, kernel_init=normal(0.001), name='code')(x)
    return jnp.concatenate([score, code], -1).reshape(*count, -1)


def last_stage(encoder: nn.Module) -> int:
  """The number of a residual encoder's last stage.

  The map before it is the tap 'stage<number - 1>'; its blocks are called 'stage<number>_block<i>'.

  Raises:
    ValueError: another encoder.
  """
  if isinstance(encoder, ResNet):
    return len(encoder.blocks)
  if isinstance(encoder, SmallResNet):
    return len(encoder.channels) - 1
  raise ValueError(
    f"detector 'c4' runs the last stage of a ResNet on every region, which "
    f"{type(encoder).__name__} has not: use 'fpn'."
  )


def last_blocks(encoder: nn.Module) -> list[nn.Module]:
  """The blocks of a residual encoder's last stage, with its names; raises as `last_stage`."""
  number = last_stage(encoder)
  if isinstance(encoder, SmallResNet):
    return [small_block(encoder, number)]
  assert isinstance(encoder, ResNet)
  return [residual_block(encoder, number, i) for i in range(encoder.blocks[-1])]


def _conv(features: int, kernel: int, name: str, dtype: Any) -> nn.Conv:
  return layers.conv(
    features, kernel, 1, 'torch', dtype, name, use_bias=True, kernel_init=he_normal_fan_in
  )
