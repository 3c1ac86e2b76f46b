"""Options of the encoders, one dataclass for each family, and how a network is built from them.

`config.encoder` lists the options of all families, so that each can be set whatever the encoder is.
An option that the chosen encoder does not have is an error unless it has its default value here.
"""

import abc
from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from byoljax.models import (
  alexnet,
  codecs,
  convnext,
  exemplar_cnn,
  image_transformer,
  nin,
  pixelcnn,
  pixelcnn_pp,
  resnet,
  small,
  vgg,
  vit,
  vq_gan,
  wide_resnet,
)
from byoljax.suggest import unknown

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
  """

  stem: str = 'imagenet'
  padding: str = 'torch'
  zero_init_residual: bool = False
  selective_kernel: bool = False
  resnet_d: bool = False
  first_projection: bool = False

  choices: ClassVar[Mapping[str, Any]] = {'dtype': DTYPES, 'stem': STEMS, 'padding': PADDINGS}

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
    positions: 'sincos' (fixed), 'sincos_xy' (the same as MAE orders them) or 'learned'.
    grid: patches on each side that positions are made for, 0 for the network's own (14;
      'vit_micro' 8).
  """

  patch_size: int = 0
  pool: str = 'cls'
  positions: str = 'sincos'
  grid: int = 0

  choices: ClassVar[Mapping[str, Any]] = {
    'dtype': DTYPES,
    'pool': vit.POOLS,
    'positions': vit.POSITIONS,
  }
  counts: ClassVar[tuple[str, ...]] = ('patch_size', 'grid')

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    own = {'patch_size': self.patch_size, 'pool': self.pool}
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
class SmallImageOptions(Options):
  """Options of the papers' networks for small images.

  Attributes:
    stem: as for ResNets, so that recipes for small images can set it for either. These networks are
      made for such images, whatever this says.
  """

  stem: str = 'imagenet'

  choices: ClassVar[Mapping[str, Any]] = {'dtype': DTYPES, 'stem': STEMS}


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelCNNppOptions(SmallImageOptions):
  """Options of PixelCNN++, which keeps the size of the image and has no batch normalization."""

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    return pixelcnn_pp.PixelCNNpp(pixelcnn_pp.PIXELCNN_PPS[name], **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelCNNOptions(SmallImageOptions):
  """Options of PixelCNNs, which keep the size of the image and have no batch normalization."""

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    return pixelcnn.PixelCNN(pixelcnn.PIXELCNNS[name], **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecOptions(SmallImageOptions):
  """Options of VQ-VAE's encoders, which have no batch normalization.

  Attributes:
    stride: pixels of the image from one place of the map to the next, a power of two; 0 for 4.
  """

  stride: int = 0

  counts: ClassVar[tuple[str, ...]] = ('stride',)

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it.

    Raises:
      ValueError: a stride that is not a power of two.
    """
    del bn_axis, bn_groups
    stride = int(self.stride) or codecs.STRIDE
    if stride & (stride - 1):
      raise ValueError(f'encoder stride {stride} must be a power of two, such as 4 or 8.')
    return codecs.CodecEncoder(codecs.CODECS[name], stride, **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQGANOptions(SmallImageOptions):
  """Options of VQ-GAN's encoders, which have group normalization."""

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    return vq_gan.VQGANEncoder(vq_gan.VQ_GANS[name], **self._shared())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransformerOptions(SmallImageOptions):
  """Options of image GPT's transformers over pixels, which have no batch normalization.

  Attributes:
    palette: colors, 0 for the network's own number (512; 'micro' 32).
    grid: pixels on each side of an image, 0 for the network's own (32; 'micro' 16).
  """

  palette: int = 0
  grid: int = 0

  counts: ClassVar[tuple[str, ...]] = ('palette', 'grid')

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    return image_transformer.make(name, palette=self.palette, grid=self.grid, **self._shared())


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
  **dict.fromkeys(pixelcnn.PIXELCNNS, PixelCNNOptions),
  **dict.fromkeys(pixelcnn_pp.PIXELCNN_PPS, PixelCNNppOptions),
  **dict.fromkeys(image_transformer.names('gpt'), ImageTransformerOptions),
  **dict.fromkeys(image_transformer.names('bert'), ImageTransformerOptions),
  **dict.fromkeys(codecs.CODECS, CodecOptions),
  **dict.fromkeys(vq_gan.VQ_GANS, VQGANOptions),
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
    if field not in _OF_THE_HEADS and value != default[field]:
      raise ValueError(
        f"encoder {name!r} is a module of one's own and has no {field}: leave it at its default, "
        f'{default[field]!r}, and set what the module has as its argument, {name}(...=...)'
      )


# The heads have these beside any encoder.
_OF_THE_HEADS = ('dtype',)


def _names(family: type[Options]) -> set[str]:
  return {field.name for field in dataclasses.fields(family)}


def defaults() -> dict[str, Any]:
  """The default of every option; families agree on those that they share."""
  found: dict[str, Any] = {}
  for family in dict.fromkeys(FAMILIES.values()):
    found |= {field.name: field.default for field in dataclasses.fields(family)}
  return found


def check_name(field: str, value: Any, valid: Any) -> None:
  """Raises ValueError, with the nearest valid name, unless the value is one of them."""
  if value not in valid:
    raise ValueError(unknown(field, value, valid))
