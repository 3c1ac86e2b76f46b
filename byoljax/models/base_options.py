"""What the options of all encoders have in common; see `models.options`."""

import abc
from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from byoljax.suggest import check_name

STEMS = ('imagenet', 'cifar')
PADDINGS = ('torch', 'same', 'fixed')
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(abc.ABC):
  """What every encoder but raw pixels has.

  Attributes:
    width: factor on every channel count (of ViTs also on the heads), >= 1.
    dtype: compute type, 'float32' or 'bfloat16'. Parameters, BN statistics and the embedding are
      float32 either way.
    remat: compute the activations inside of blocks again for the gradient instead of keeping them:
      less memory, one more forward pass; see `layers.recomputed`.
  """

  width: int = 1
  dtype: str = 'float32'
  remat: bool = False

  # field -> the values that it may have
  choices: ClassVar[Mapping[str, Any]] = {'dtype': DTYPES}
  # fields that count something, 0 for the network's own
  counts: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self) -> None:
    """Raises ValueError for a value outside of what the attributes allow."""
    for field, valid in self.choices.items():
      check_name(field, getattr(self, field), valid)
    if self.width < 1 or int(self.width) != self.width:
      raise ValueError(f'encoder width {self.width} must be a whole number of at least 1')
    for field in self.counts:
      if getattr(self, field) < 0:
        value = getattr(self, field)
        raise ValueError(f'encoder {field} {value} must not be negative; 0 is the default')

  @abc.abstractmethod
  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; `bn_axis` and `bn_groups` as for `layers.batch_norm`."""

  def _shared(self) -> dict[str, Any]:
    """What every module takes."""
    return {'width': int(self.width), 'dtype': DTYPES[self.dtype], 'remat': self.remat}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallImageOptions(Options):
  """Options of the papers' networks for small images.

  Attributes:
    stem: as for ResNets, so that recipes for small images can set it for either. These networks are
      made for such images, whatever this says.
  """

  stem: str = 'imagenet'

  choices: ClassVar[Mapping[str, Any]] = {'dtype': DTYPES, 'stem': STEMS}
