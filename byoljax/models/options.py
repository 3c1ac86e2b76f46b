"""Options of the encoders, one dataclass for each family, and how a network is built from them.

`config.encoder` lists the options of all families, so that each can be set whatever the encoder is.
An option that the chosen encoder does not have is an error unless it has its default value here.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from byoljax.models import (
  alexnet,
  convnext,
  exemplar_cnn,
  generative_options,
  nin,
  resnet,
  small,
  vgg,
  vit,
  wide_resnet,
)
from byoljax.models.base_options import DTYPES, PADDINGS, STEMS, Options, SmallImageOptions
from byoljax.ops import fused_attention
from byoljax.suggest import check_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetOptions(Options):
  """Options of the ResNets.

  Attributes:
    stem: 'imagenet' (7x7 stride 2, max-pool) or 'cifar' (3x3 stride 1, no pool, for images of about
      32 px).
    padding: 'torch' (symmetric), 'same' (TensorFlow's and Haiku's) or 'fixed' (SimCLR's code:
      convolutions like the one, pools like the other).
    zero_init_residual: start the last BN scale of every residual block at 0 instead of 1.
    selective_kernel: SimCLR v2's selective kernels, with `resnet_d`.
    resnet_d: three 3x3 convolutions in the stem, averaging shortcuts.
    first_projection: a projected shortcut in stage 1 even where none is needed.
    output_stride: pixels from one place of the last map to the next, 4 to 32 (with the CIFAR stem 1
      to 8), a power of two; 0 for the network's own. What is below that dilates convolutions.
  """

  stem: str = 'imagenet'
  padding: str = 'torch'
  zero_init_residual: bool = False
  selective_kernel: bool = False
  resnet_d: bool = False
  first_projection: bool = False
  output_stride: int = 0

  choices: ClassVar[Mapping[str, Any]] = {'dtype': DTYPES, 'stem': STEMS, 'padding': PADDINGS}

  def __post_init__(self) -> None:
    """Raises ValueError for a value outside of what the attributes allow."""
    super().__post_init__()
    valid = (0, 4, 8, 16, 32) if self.stem == 'imagenet' else (0, 1, 2, 4, 8)
    if self.output_stride not in valid:
      raise ValueError(
        f'encoder output_stride {self.output_stride} with stem {self.stem!r} must be one of '
        f'{", ".join(map(str, valid))}; 0 is the default'
      )
    if self.output_stride and self.selective_kernel:
      raise ValueError('encoder output_stride: selective kernels are not dilated; set it to 0')

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; `bn_axis` and `bn_groups` as for `layers.batch_norm`."""
    bottleneck, blocks = resnet.RESNETS[name]
    return resnet.ResNet(
      blocks=blocks,
      bottleneck=bottleneck,
      stem=self.stem,
      padding=self.padding,
      zero_init_residual=self.zero_init_residual,
      selective_kernel=self.selective_kernel,
      resnet_d=self.resnet_d,
      first_projection=self.first_projection,
      output_stride=self.output_stride,
      bn_axis=bn_axis,
      bn_groups=bn_groups,
      **self._shared(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallOptions(Options):
  """Options of the encoder for CPUs.

  Attributes:
    stem: as for ResNets, so that recipes for small images can set it for either. 'small' is made
      for such images and has the same stem, a 3x3 convolution of stride 2, whatever this says.
    padding: as for ResNets.
    zero_init_residual: as for ResNets.
  """

  stem: str = 'imagenet'
  padding: str = 'torch'
  zero_init_residual: bool = False

  choices: ClassVar[Mapping[str, Any]] = ResNetOptions.choices

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; `bn_axis` and `bn_groups` as for `layers.batch_norm`."""
    del name
    return small.SmallResNet(
      padding=self.padding,
      zero_init_residual=self.zero_init_residual,
      bn_axis=bn_axis,
      bn_groups=bn_groups,
      **self._shared(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTOptions(Options):
  """Options of the vision transformers, which have no batch normalization.

  Attributes:
    patch_size: edge of a patch in pixels, 0 for the network's own (16; 'vit_micro' 4).
    pool: what the embedding is, the class token ('cls') or the patches' mean ('mean').
    positions: 'sincos' (fixed), 'sincos_xy' (the same as MAE orders them), 'learned', 'rope'
      (rotary, as DINOv3 has them) or 'rope_bf16' (with the periods of its authors' checkpoints).
    grid: patches on each side that positions are made for, 0 for the network's own (14;
      'vit_micro' 8).
    attention: what computes it, 'xla' or, on NVIDIA GPUs, 'cudnn', see `ops.fused_attention`.
  """

  patch_size: int = 0
  pool: str = 'cls'
  positions: str = 'sincos'
  grid: int = 0
  attention: str = 'xla'

  choices: ClassVar[Mapping[str, Any]] = {
    'attention': fused_attention.IMPLEMENTATIONS,
    'dtype': DTYPES,
    'pool': vit.POOLS,
    'positions': vit.POSITIONS,
  }
  counts: ClassVar[tuple[str, ...]] = ('patch_size', 'grid')

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    own = {'patch_size': self.patch_size, 'pool': self.pool, 'attention': self.attention}
    return vit.make(name, positions=self.positions, grid=self.grid, **own, **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlexNetOptions(Options):
  """Options of AlexNet.

  Attributes:
    stem: 'imagenet' (11x11 stride 4) or 'cifar' (3x3 stride 1, padded pools).
    fc_dim: width of the two fully connected layers; 0 leaves them out.
  """

  stem: str = 'imagenet'
  fc_dim: int = 4096

  choices: ClassVar[Mapping[str, Any]] = {'dtype': DTYPES, 'stem': STEMS}

  def __post_init__(self) -> None:
    """Raises ValueError for a value outside of what the attributes allow."""
    super().__post_init__()
    if self.fc_dim < 0:
      raise ValueError(f'encoder fc_dim {self.fc_dim} must not be negative; 0 is for none')

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; `bn_axis` and `bn_groups` as for `layers.batch_norm`."""
    return alexnet.AlexNet(
      form=alexnet.ALEXNETS[name],
      stem=self.stem,
      fc_dim=int(self.fc_dim),
      bn_axis=bn_axis,
      bn_groups=bn_groups,
      **self._shared(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NINOptions(SmallImageOptions):
  """Options of network in network."""

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; `bn_axis` and `bn_groups` as for `layers.batch_norm`."""
    return nin.NIN(nin.NINS[name], bn_axis=bn_axis, bn_groups=bn_groups, **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExemplarCNNOptions(SmallImageOptions):
  """Options of Exemplar-CNN's networks, which have no batch normalization."""

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    return exemplar_cnn.ExemplarCNN(*exemplar_cnn.EXEMPLAR_CNNS[name], **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideResNetOptions(SmallImageOptions):
  """Options of the wide ResNets.

  Attributes:
    padding: as for ResNets.
  """

  padding: str = 'torch'

  choices: ClassVar[Mapping[str, Any]] = ResNetOptions.choices

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; `bn_axis` and `bn_groups` as for `layers.batch_norm`."""
    return wide_resnet.WideResNet(
      wide_resnet.WIDE_RESNETS[name],
      padding=self.padding,
      bn_axis=bn_axis,
      bn_groups=bn_groups,
      **self._shared(),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtOptions(Options):
  """Options of ConvNeXt, which has no batch normalization.

  Attributes:
    patch_size: edge of a patch in pixels, 0 for the network's own, 4.
  """

  patch_size: int = 0

  counts: ClassVar[tuple[str, ...]] = ('patch_size',)

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    size = convnext.CONVNEXTS[name]
    return convnext.ConvNeXt(size, patch_size=int(self.patch_size), **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class DilatedVGGOptions(SmallImageOptions):
  """Options of the network of colorization, for images of any size."""

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; `bn_axis` and `bn_groups` as for `layers.batch_norm`."""
    del name
    return vgg.DilatedVGG(bn_axis=bn_axis, bn_groups=bn_groups, **self._shared())


# name -> the options of its family
FAMILIES: dict[str, type[Options]] = {
  **dict.fromkeys(resnet.RESNETS, ResNetOptions),
  'small': SmallOptions,
  **dict.fromkeys(vit.VITS, ViTOptions),
  **dict.fromkeys(convnext.CONVNEXTS, ConvNeXtOptions),
  **dict.fromkeys(alexnet.ALEXNETS, AlexNetOptions),
  **dict.fromkeys(nin.NINS, NINOptions),
  **dict.fromkeys(wide_resnet.WIDE_RESNETS, WideResNetOptions),
  **dict.fromkeys(exemplar_cnn.EXEMPLAR_CNNS, ExemplarCNNOptions),
  'vgg_dilated': DilatedVGGOptions,
  **generative_options.FAMILIES,
}


def options_of(name: str, fields: Mapping[str, Any]) -> Options:
  """The named encoder's options out of those of all families.

  Args:
    name: a key of `FAMILIES`.
    fields: options by name.

  Raises:
    ValueError: an unknown option, one that this encoder does not have, or a wrong value.
  """
  family, default = FAMILIES[name], defaults()
  own = {field.name for field in dataclasses.fields(family)}
  for field, value in fields.items():
    check_name('option of an encoder', field, default)
    if field not in own and value != default[field]:
      others = [other for other, made in FAMILIES.items() if field in _names(made)]
      raise ValueError(
        f'encoder {name!r} has no {field}: only {", ".join(others)} have one; leave {field} at its '
        f'default, {default[field]!r}, not {value!r}'
      )
  return family(**{field: value for field, value in fields.items() if field in own})


def require_defaults(name: str, fields: Mapping[str, Any]) -> None:
  """Raises ValueError for an option of ours that a module of the user's own does not have."""
  default = defaults()
  for field, value in fields.items():
    check_name('option of an encoder', field, default)
    if field in _OF_THE_HEADS:
      check_name(field, value, _OF_THE_HEADS[field])
    elif value != default[field]:
      raise ValueError(
        f"encoder {name!r} is a module of one's own and has no {field}: leave it at its default, "
        f'{default[field]!r}, and set what the module has as its argument, {name}(...=...)'
      )


# What the heads have beside any encoder, and its values.
_OF_THE_HEADS = {'dtype': DTYPES}


def lacking(name: str) -> dict[str, Any]:
  """The options that an encoder does not have, with their defaults.

  Args:
    name: a key of `FAMILIES`; any other is a module of the user's own, with those of the heads.
  """
  has = _names(FAMILIES[name]) if name in FAMILIES else _OF_THE_HEADS
  return {field: value for field, value in defaults().items() if field not in has}


def _names(family: type[Options]) -> set[str]:
  return {field.name for field in dataclasses.fields(family)}


def defaults() -> dict[str, Any]:
  """The default of every option; families agree on those that they share."""
  found: dict[str, Any] = {}
  for family in dict.fromkeys(FAMILIES.values()):
    found |= {field.name: field.default for field in dataclasses.fields(family)}
  return found
