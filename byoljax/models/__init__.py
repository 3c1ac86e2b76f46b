"""Encoders by name: linen modules called as module(images, train=...) -> float32 [b,D]."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from byoljax.models import resnet, small

STEMS = ('imagenet', 'cifar')
PADDINGS = ('torch', 'same')
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def _resnet(name: str, **settings) -> nn.Module:
  bottleneck, blocks = resnet.RESNETS[name]
  return resnet.ResNet(blocks=blocks, bottleneck=bottleneck, **settings)


def _small(*, stem: str, **settings) -> nn.Module:
  del stem  # it has one of its own, made for CPUs
  return small.SmallResNet(**settings)


def _pixels(**settings) -> nn.Module:
  del settings  # it has no parameters
  return small.Pixels()


# name -> function of make_encoder's keyword arguments
ENCODERS: dict[str, Callable[..., nn.Module]] = {
  **{name: partial(_resnet, name) for name in resnet.RESNETS},
  'small': _small,
  'pixels': _pixels,
}


def make_encoder(
  name: str,
  *,
  width: int = 1,
  stem: str = 'imagenet',
  padding: str = 'torch',
  zero_init_residual: bool = False,
  dtype: str = 'float32',
  bn_axis: str | None = None,
) -> nn.Module:
  """The named encoder: images float32 [b,H,W,3] -> embedding float32 [b,D].

  Args:
    name: 'resnet18' | '34' | '50' | '101' | '152' | '200' (D = 512 * width up to 34, else 2048 *
      width), 'small' (D = 128 * width) or 'pixels' (D = H * W * 3; every other argument is without
      effect).
    width: factor on every channel count, >= 1.
    stem: 'imagenet' (7x7 stride 2, max-pool) or 'cifar' (3x3 stride 1, no pool, for images of about
      32 px); ResNets only.
    padding: 'torch' (symmetric) or 'same' (TensorFlow's and Haiku's).
    zero_init_residual: start the last BN scale of every residual block at 0 instead of 1.
    dtype: compute type, 'float32' or 'bfloat16'. Parameters, BN statistics and the embedding are
      float32 either way.
    bn_axis: mapped axis whose devices share BN statistics in training; None keeps them per device.

  Raises:
    ValueError: for a value outside these.
  """
  for field, value, valid in (
    ('encoder', name, ENCODERS),
    ('stem', stem, STEMS),
    ('padding', padding, PADDINGS),
    ('dtype', dtype, DTYPES),
  ):
    if value not in valid:
      close = get_close_matches(str(value), valid, n=1)
      hint = f'; did you mean {close[0]!r}?' if close else ''
      raise ValueError(f'unknown {field} {value!r}: choose one of {", ".join(valid)}{hint}')
  if width < 1 or int(width) != width:
    raise ValueError(f'encoder width {width} must be a whole number of at least 1')
  return ENCODERS[name](
    width=int(width),
    stem=stem,
    padding=padding,
    zero_init_residual=zero_init_residual,
    dtype=DTYPES[dtype],
    bn_axis=bn_axis,
  )
