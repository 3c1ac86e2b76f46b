"""Encoders by name: linen modules called as module(images, train=...) -> float32 [b,D]."""

from collections.abc import Callable, Collection
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from byoljax.models import resnet, small, vit
from byoljax.suggest import unknown

STEMS = ('imagenet', 'cifar')
PADDINGS = ('torch', 'same', 'fixed')
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def _resnet(name: str, **settings) -> nn.Module:
  settings = {field: value for field, value in settings.items() if field not in VIT_FIELDS}
  bottleneck, blocks = resnet.RESNETS[name]
  return resnet.ResNet(blocks=blocks, bottleneck=bottleneck, **settings)


def _small(**settings) -> nn.Module:
  # Its stem is its own, made for CPUs.
  others = (*RESNET_FIELDS, *VIT_FIELDS, 'stem')
  settings = {field: value for field, value in settings.items() if field not in others}
  return small.SmallResNet(**settings)


def _pixels(**settings) -> nn.Module:
  del settings  # it has no parameters
  return small.Pixels()


def _vit(name: str, *, width: int, dtype: jnp.dtype, remat: bool, **settings) -> nn.Module:
  # No convolutions, no batch normalization.
  settings = {field: settings[field] for field in VIT_FIELDS}
  return vit.make(name, width=width, dtype=dtype, remat=remat, **settings)


# What only some encoders have.
RESNET_FIELDS = ('selective_kernel', 'resnet_d', 'first_projection')
VIT_FIELDS = ('patch_size', 'pool', 'positions', 'grid')

# name -> function of make_encoder's keyword arguments
ENCODERS: dict[str, Callable[..., nn.Module]] = {
  **{name: partial(_resnet, name) for name in resnet.RESNETS},
  'small': _small,
  'pixels': _pixels,
  **{name: partial(_vit, name) for name in vit.VITS},
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
  bn_groups: int = 0,
  selective_kernel: bool = False,
  resnet_d: bool = False,
  first_projection: bool = False,
  remat: bool = False,
  patch_size: int = 0,
  pool: str = 'cls',
  positions: str = 'sincos',
  grid: int = 0,
) -> nn.Module:
  """The named encoder: images float32 [b,H,W,3] -> embedding float32 [b,D].

  Args:
    name: 'resnet18' | '34' | '50' | '101' | '152' | '200' (D = 512 * width up to 34, else 2048 *
      width), 'small' (D = 128 * width), 'pixels' (D = H * W * 3; every other argument is without
      effect) or 'vit_micro' | 'tiny' | 'small' | 'small_6heads' | 'base' | 'large' (D = 64, 192,
      384, 384, 768, 1024 times width; stem, padding, zero_init_residual and bn_* are without
      effect).
    width: factor on every channel count (of ViTs also on the heads), >= 1.
    stem: 'imagenet' (7x7 stride 2, max-pool) or 'cifar' (3x3 stride 1, no pool, for images of about
      32 px); ResNets only.
    padding: 'torch' (symmetric), 'same' (TensorFlow's and Haiku's) or 'fixed' (SimCLR's code:
      convolutions like the one, pools like the other).
    zero_init_residual: start the last BN scale of every residual block at 0 instead of 1.
    dtype: compute type, 'float32' or 'bfloat16'. Parameters, BN statistics and the embedding are
      float32 either way.
    bn_axis: mapped axis whose devices share BN statistics in training; None keeps them per device.
    bn_groups: number of groups of the global batch with statistics of their own, 0 for none; see
      `layers.batch_norm`.
    selective_kernel: SimCLR v2's selective kernels, with `resnet_d`; ResNets only.
    resnet_d: three 3x3 convolutions in the stem, averaging shortcuts; ResNets only.
    first_projection: a projected shortcut in stage 1 even where none is needed; ResNets only.
    remat: compute the activations inside of blocks again for the gradient instead of keeping them:
      less memory, one more forward pass; see `layers.recomputed`.
    patch_size: edge of a patch in pixels, 0 for the network's own (16; 'vit_micro' 4); ViTs only.
    pool: what the embedding is, the class token ('cls') or the patches' mean ('mean'); ViTs only.
    positions: 'sincos' (fixed) or 'learned'; ViTs only.
    grid: patches on each side that positions are made for, 0 for the network's own (14;
      'vit_micro' 8); ViTs only.

  Raises:
    ValueError: for a value outside these.
  """
  for field, value, valid in (
    ('encoder', name, ENCODERS),
    ('stem', stem, STEMS),
    ('padding', padding, PADDINGS),
    ('dtype', dtype, DTYPES),
    ('pool', pool, vit.POOLS),
    ('positions', positions, vit.POSITIONS),
  ):
    _check_name(field, value, valid)
  if width < 1 or int(width) != width:
    raise ValueError(f'encoder width {width} must be a whole number of at least 1')
  for field, number in (('patch_size', patch_size), ('grid', grid), ('bn_groups', bn_groups)):
    if number < 0:
      raise ValueError(f'encoder {field} {number} must not be negative; 0 is the default')
  for field, value, names in (
    ('selective_kernel', selective_kernel, resnet.RESNETS),
    ('resnet_d', resnet_d, resnet.RESNETS),
    ('first_projection', first_projection, resnet.RESNETS),
    ('patch_size', patch_size, vit.VITS),
    ('grid', grid, vit.VITS),
  ):
    if value and name not in names:
      raise ValueError(f'encoder {name!r} has no {field}: only {", ".join(names)} have one')
  return ENCODERS[name](
    width=int(width),
    stem=stem,
    padding=padding,
    zero_init_residual=zero_init_residual,
    dtype=DTYPES[dtype],
    bn_axis=bn_axis,
    bn_groups=bn_groups,
    selective_kernel=selective_kernel,
    resnet_d=resnet_d,
    first_projection=first_projection,
    remat=remat,
    patch_size=patch_size,
    pool=pool,
    positions=positions,
    grid=grid,
  )


def _check_name(field: str, value: str, valid: Collection[str]) -> None:
  if value not in valid:
    raise ValueError(unknown(field, value, valid))
