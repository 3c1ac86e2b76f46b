"""Options of the networks that generative methods train; see `models.options`."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from byoljax.models import codecs, image_transformer, pixelcnn, pixelcnn_pp, vq_gan
from byoljax.models.base_options import SmallImageOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelCNNppOptions(SmallImageOptions):
  """Options of PixelCNN++, which keeps the size of the image and has no batch normalization.

  Attributes:
    weight_norm: whether kernels are directions and scales.
  """

  weight_norm: bool = False

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it."""
    del bn_axis, bn_groups
    size = pixelcnn_pp.PIXELCNN_PPS[name]
    return pixelcnn_pp.PixelCNNpp(size, weight_norm=self.weight_norm, **self._shared())


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
    series: steps and channels, where the images hold series of numbers; () where they do not.
  """

  palette: int = 0
  grid: int = 0
  series: tuple[int, ...] = ()

  counts: ClassVar[tuple[str, ...]] = ('palette', 'grid')

  def build(self, name: str, bn_axis: str | None, bn_groups: int) -> nn.Module:
    """The module; batch normalization is not part of it.

    Raises:
      ValueError: something else than steps and channels.
    """
    del bn_axis, bn_groups
    if self.series and (len(self.series) != 2 or min(self.series) < 1):
      raise ValueError(
        f'encoder series {tuple(self.series)} must be the numbers of steps and of channels, such '
        'as (100, 6), or () for images.'
      )
    own = {'palette': self.palette, 'grid': self.grid, 'series': self.series}
    return image_transformer.make(name, **own, **self._shared())


# name -> the options of its family
FAMILIES: dict[str, type[SmallImageOptions]] = {
  **dict.fromkeys(pixelcnn.PIXELCNNS, PixelCNNOptions),
  **dict.fromkeys(pixelcnn_pp.PIXELCNN_PPS, PixelCNNppOptions),
  **dict.fromkeys(image_transformer.names('gpt'), ImageTransformerOptions),
  **dict.fromkeys(image_transformer.names('bert'), ImageTransformerOptions),
  **dict.fromkeys(codecs.CODECS, CodecOptions),
  **dict.fromkeys(vq_gan.VQ_GANS, VQGANOptions),
}
