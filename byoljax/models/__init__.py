"""Encoders by name, or of one's own: linen modules, module(images, train=...) -> float32 [b,D].

Any linen module that is called like that can be an encoder. For the methods, `encoder_factory`
makes of it, or of a function (bn_axis, bn_groups) -> module, what their builders take:

    class Mine(nn.Module):
      @nn.compact
      def __call__(self, x, *, train):
        x = nn.relu(nn.Conv(32, (3, 3), strides=2)(x))
        self.sow('intermediates', 'map', x)  # optional: a tap
        return x.mean((1, 2))

    method = byol.build(encoder_factory(Mine()), setting)

Where it has batch normalization, an attribute `bn_axis` is set to the mapped axis that statistics
are to be shared over, and `bn_groups` to the number of groups; see `layers.batch_norm`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from byoljax import own
from byoljax.models import options as options_lib
from byoljax.models import small
from byoljax.models.halves import Halves, behind_input
from byoljax.models.inputs import INPUTS, WithInput
from byoljax.models.options import FAMILIES
from byoljax.suggest import check_name

METHODS_OWN = 'method'
"""The name of an encoder that is the method's own: `Method.net` has it, nobody else makes it."""
MakeEncoder = Callable[..., nn.Module]
"""(bn_axis, bn_groups=0) -> encoder module."""


def make_encoder(
  name: str,
  *,
  input: str = 'rgb',  # The field of `config.encoder`.
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
  bn_axis: str | None = None,
  bn_groups: int = 0,
  **options: Any,
) -> nn.Module:
  """The named encoder: images float32 [b,H,W,C], normalized -> embedding float32 [b,D].

  Args:
    name: 'resnet18' | '34' | '50' | '101' | '152' | '200' (D = 512 * width up to 34, else 2048 *
      width), 'small' (D = 128 * width), 'vit_micro' | 'tiny' | 'small' | 'small_6heads' | 'base' |
      'large' | 'huge' (D = 64, 192, 384, 384, 768, 1024, 1280 times width), 'convnext_micro' |
      'tiny' | 'small' | 'base' (D = 128, 768, 768, 1024 times width); those of the pretext papers,
      'alexnet' | '_2012' | '_plain' (D = `fc_dim`), 'nin3' | 'nin' | 'nin5' (D = 192 * width),
      'wrn_10_4' | '16_8' | '28_2' | '28_10' | '40_2' (D = 64 * factor * width), 'exemplar_cnn' |
      '_small' | '_large' (D = 512, 128, 1024 times width), 'vgg_dilated' (D = 256 * width);
      VQ-VAE's, 'codec' | '_small' | '_wide' (D = 128, 32, 256 times width); VQ-GAN's, 'vq_gan' |
      '_f4' (D = 512 times width); PixelCNN's, 'pixelcnn' | '_micro' and 'gated_pixelcnn' | '_micro'
      (D = 256, 48, 128, 30 times width); PixelCNN++'s, 'pixelcnn_pp' | '_micro' (D = 160, 24 times
      width); image GPT's, 'image_gpt_micro' | 'small' | 'medium' | 'large' and 'image_bert_...' (D
      = 64, 512, 1024, 1536 times width); or the baseline 'pixels', the images themselves (D = H *
      W * C), which has no options: all are ignored. 'method' is a network that the method brings
      along. One of the user's own goes by its import path, see `byoljax.own`: a linen module or
      what `encoder_factory` takes.
    input: what the network begins with, see `models.inputs`; 'rgb' are the images as they are.
      'lab_halves' and 'rgbd_halves' split it, see `models.halves`.
    mean: that images were normalized with, per channel; inputs other than 'rgb' need it.
    std: as `mean`.
    bn_axis: mapped axis whose devices share BN statistics in training; None keeps them per device.
    bn_groups: number of groups of the global batch with statistics of their own, 0 for none; see
      `layers.batch_norm`.
    **options: see `models.options`: `ResNetOptions`, `SmallOptions`, `ViTOptions` and those of the
      other families. An option of another family must have its default value.

  Raises:
    ValueError: an unknown name or option, or a value outside of what they allow.
  """
  if name == METHODS_OWN:
    raise ValueError(
      f"encoder '{METHODS_OWN}' is the method's own network, which cannot be had without it: this "
      'method, or this evaluation, needs another encoder.name.'
    )
  if not own.is_path(name):
    check_name('encoder', name, (*FAMILIES, 'pixels'))
  if bn_groups < 0:
    raise ValueError(f'encoder bn_groups {bn_groups} must not be negative; 0 is the default')
  if name == 'pixels':
    return small.Pixels()
  if own.is_path(name):
    options_lib.require_defaults(name, options)
    given = encoder_factory(own.find('encoder', name), mean=mean, std=std, input=input)
    return given(bn_axis, bn_groups)
  module = options_lib.options_of(name, options).build(name, bn_axis, bn_groups)
  return behind_input(module, input, mean, std)


def encoder_factory(
  encoder: Mapping[str, Any] | nn.Module | MakeEncoder,
  *,
  mean: Sequence[float] | None = None,
  std: Sequence[float] | None = None,
  input: str = 'rgb',
) -> MakeEncoder:
  """What a method's builder takes, from whatever an encoder is given as.

  Args:
    encoder: arguments of `make_encoder`, 'name' among them; a linen module, called as
      module(images, train=...); or a function (bn_axis, bn_groups) -> such a module.
    mean: that images are normalized with.
    std: as `mean`.
    input: what a module of one's own begins with; in a mapping it is the field 'input'.

  Raises:
    ValueError: when called: see `make_encoder` and `halves.behind_input`.
  """

  def make(bn_axis: str | None, bn_groups: int = 0) -> nn.Module:
    batch_norm = {'bn_axis': bn_axis, 'bn_groups': bn_groups}
    if isinstance(encoder, Mapping):
      return make_encoder(**encoder, mean=mean, std=std, **batch_norm)
    if isinstance(encoder, nn.Module):
      module = _with_fields(encoder, batch_norm)
    else:
      module = encoder(**_taken(encoder, batch_norm))
    return behind_input(module, input, mean, std)

  return make


def _with_fields(module: nn.Module, fields: Mapping[str, Any]) -> nn.Module:
  """The module with these fields, as far as it has them, or what it holds behind its input."""
  changes = {name: value for name, value in fields.items() if hasattr(module, name)}
  if isinstance(module, WithInput):
    changes['network'] = _with_fields(module.network, fields)
  if isinstance(module, Halves):
    changes |= {each: _with_fields(getattr(module, each), fields) for each in ('first', 'second')}
  return module.clone(**changes) if changes else module


def _taken(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments that a class has as fields; a function takes all."""
  if not isinstance(function, type):
    return dict(arguments)
  return {name: value for name, value in arguments.items() if hasattr(function, name)}


__all__ = ['INPUTS', 'METHODS_OWN', 'MakeEncoder', 'encoder_factory', 'make_encoder']
