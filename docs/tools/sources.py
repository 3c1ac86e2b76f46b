"""What the settings behind published numbers have in common; `published` has the numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from configs import base


class Source(NamedTuple):
  """A published number and its setting.

  Attributes:
    result: the number, and how it was measured.
    origin: whose it is.
    fields: path in the configuration -> the value there.
    beyond: what no field says -> (there, here); all of it differs.
  """

  result: str
  origin: str
  fields: Mapping[str, Any]
  beyond: Mapping[str, tuple[str, str]]


# What the operators of a family do not cover, and PyTorch's layers.
TORCH = {
  'crop boxes; rounding of the images': (
    "torchvision's; 8 bits after each operator",
    "BYOL's; none",
  ),
  'biases of linear layers; running variance': ('drawn; unbiased', '0; biased'),
}
CIFAR_STD = (0.2023, 0.1994, 0.201)
SWAV_STD = (0.228, 0.224, 0.225)
TORCHVISION = ('torchvision', 'bicubic')
BILINEAR = ('torchvision', 'bilinear')
WEAK, STRONG = (0.4, 0.4, 0.2, 0.1), (0.8, 0.8, 0.8, 0.2)
MOCO = (0.4, 0.4, 0.4, 0.1)


def views_fields(
  operators: tuple[str, str],
  jitter: tuple[float, float, float, float],
  *,
  count: int = 2,
  crop: tuple[float, float] = (0.08, 1.0),
  blur: tuple[float, ...] = (0.0, 0.0),
  solarize: tuple[float, ...] = (0.0, 0.0),
  jitter_prob: float = 0.8,
  gray_prob: float = 0.2,
  flip_prob: float = 0.5,
) -> dict[str, Any]:
  """Fields of the first views."""
  found: dict[str, Any] = {}
  for number in range(count):
    names = ('brightness', 'contrast', 'saturation', 'hue')
    fields = dict(zip(names, jitter, strict=True)) if jitter_prob else {}
    fields |= {
      'operators': operators[0], 'resize': operators[1], 'crop_scale': crop,
      'jitter_prob': jitter_prob, 'gray_prob': gray_prob, 'flip_prob': flip_prob,
      'blur_prob': blur[number], 'solarize_prob': solarize[number],
    }  # fmt: skip
    found |= {f'views.view{number + 1}.{name}': value for name, value in fields.items()}
  return found


def optim_fields(name: str, base_lr: float, weight_decay: float, **rest: Any) -> dict[str, Any]:
  """Fields of the optimizer; on a cosine after ten epochs of warm-up unless the rest says more."""
  fields = {
    'name': name, 'base_lr': base_lr, 'weight_decay': weight_decay, 'momentum': 0.9,
    'lr_scaling': 'linear', 'schedule': 'cosine', 'lr_update': 'step', 'warmup': '10 epochs',
    'start_lr': 0.0, 'end_lr': 0.0, 'min_lr': 0.0, 'exclude_bias_and_norm': True, 'groups': {},
  }  # fmt: skip
  return {f'optim.{field}': value for field, value in (fields | rest).items()}


def sgd_fields(base_lr: float, weight_decay: float, **rest: Any) -> dict[str, Any]:
  """After PyTorch: all parameters decay, the rate moves once an epoch, no warm-up."""
  plain = {'exclude_bias_and_norm': False, 'lr_update': 'epoch', 'warmup': '0 epochs'}
  return optim_fields('sgd', base_lr, weight_decay, **(plain | rest))


def method_fields(**fields: Any) -> dict[str, Any]:
  """Fields of the method."""
  return {f'method.{name}': value for name, value in fields.items()}


def run_fields(length: str, batch_size: int, **encoder: Any) -> dict[str, Any]:
  """Length, batch and encoder."""
  train = {'train.length': length, 'train.batch_size': batch_size, 'train.accumulate': 1}
  return train | {f'encoder.{name}': value for name, value in encoder.items()}


def imagenet_fields(length: str, batch_size: int, **encoder: Any) -> dict[str, Any]:
  """The same at 224 pixels, of a ResNet-50 unless the encoder says more."""
  images = {'data.mean': base.IMAGENET_MEAN, 'data.std': base.IMAGENET_STD, 'views.view1.size': 224}
  return images | run_fields(
    length, batch_size, **({'name': 'resnet50', 'padding': 'torch'} | encoder)
  )


# `encoder.dtype` of all these recipes is 'auto'.
_HERE = "the device's: bfloat16, mixed, or float32"
FULL, AMP = ({'precision': (there, _HERE)} for there in ('float32', 'float16, mixed'))
_SOLO_ENCODER = {'name': 'resnet18', 'stem': 'cifar', 'zero_init_residual': False}
_SOLO = TORCH | {
  "padding of the stem's convolution": ('2: maps of 34 x 34', '1: 32 x 32'),
  'online classifier': ('in the same optimizer, rate .1', 'SGD, Nesterov, rate .2'),
  **AMP,
}
FIRST_LR = {'warm-up': ('from 3e-5', 'from 0')}


def solo_source(
  result: str,
  optim: Mapping[str, Any],
  method: Mapping[str, Any],
  views: Mapping[str, Any],
  beyond: Mapping[str, tuple[str, str]] | None = None,
) -> Source:
  """solo-learn's: ResNet-18, 1000 epochs of batch 256."""
  fields = {
    'data.mean': base.CIFAR10_MEAN, 'data.std': base.CIFAR10_STD, 'views.view1.size': 32,
  }  # fmt: skip
  fields |= run_fields('1000 epochs', 256, **_SOLO_ENCODER)
  trust = {'optim.trust_coefficient': 0.02} if optim['optim.name'].startswith('lar') else {}
  fields |= {**optim, **trust, **method_fields(**{'head_init': 'torch'} | dict(method)), **views}
  origin = 'solo-learn, scripts/pretrain/cifar, before their YAML files'
  return Source(f'{result}, online classifier', origin, fields, _SOLO | dict(beyond or FIRST_LR))


ASYMMETRIC = views_fields(TORCHVISION, WEAK, solarize=(0.0, 0.2))
BYOL_FIELDS = {
  **views_fields(('byol', 'bicubic'), WEAK, blur=(1.0, 0.1), solarize=(0.0, 0.2)),
  **method_fields(
    projector=(4096, 256), predictor=(4096, 256), last_bias=False, head_init='fan_in'
  ),
}
BYOL_BEYOND = {
  'start of convolutions': ('truncated normal, 1 / fan in', 'normal, 2 / fan out'),
  'running averages of batch normalization': ('without the bias of their start', 'with it'),
  'online classifier': ('in the same LARS, the same rate', 'SGD, Nesterov, rate .2'),
}
DEEPMIND = "authors' code"


def byol_source(result: str, length: str, lr: float, decay: float, tau: float) -> Source:
  """The authors' on ImageNet, batch 4096."""
  fields = imagenet_fields(length, 4096, padding='same', zero_init_residual=False)
  fields |= optim_fields('lars', lr, decay, trust_coefficient=1e-3)
  fields |= BYOL_FIELDS | method_fields(base_tau=tau, copy_target=False)
  return Source(result, DEEPMIND, fields, BYOL_BEYOND)


PREDICTOR_CONSTANT = {'predictor': {'schedule': 'constant'}}
BARLOW_VIEWS = views_fields(TORCHVISION, WEAK, blur=(1.0, 0.1), solarize=(0.0, 0.2))
SWAV_CROPS = {
  'views.view3.size': 96, 'views.view3.repeat': 6, 'views.view3.crop_scale': (0.05, 0.14),
}  # fmt: skip
SWAV_GROUPS = {'batch normalization': ('groups of 8 GPUs, 512 images', 'all devices')}
