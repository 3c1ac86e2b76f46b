"""Small networks of other libraries: their shapes, and their weights drawn by name."""

import math

import numpy as np
import philox

# One bottleneck block in each stage, which no published ResNet has: seconds instead of minutes.
BLOCKS = (1, 1, 1, 1)
RESNET_IMAGES = (2, 40)  # batch, size: odd maps after three halvings


def vit(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor of a ViT under timm's name and in its layout."""
  if 'norm' in name:
    return philox.uniform(name, shape, *((0.5, 1.5) if name.endswith('weight') else (-0.3, 0.3)))
  if name.endswith(('gamma', 'gamma_1', 'gamma_2')):
    return philox.uniform(name, shape, 0.2, 1.2)
  if name.endswith('bias') or name in ('cls_token', 'pos_embed', 'reg_token'):
    return philox.uniform(name, shape, -0.5, 0.5)
  bound = math.sqrt(3.0 / math.prod(shape[1:]))
  return philox.uniform(name, shape, -bound, bound)


# name -> (arguments of timm's VisionTransformer, height, width of the images)
VIT = {'img_size': 32, 'patch_size': 8, 'embed_dim': 64, 'depth': 4, 'num_heads': 4}
VITS = {
  'timm': ({'num_classes': 5, 'global_pool': 'token'}, 32, 32),
  'mean': ({'num_classes': 0, 'global_pool': 'avg', 'fc_norm': False}, 32, 32),
  'no_bias': ({'num_classes': 0, 'global_pool': 'token', 'qkv_bias': False}, 32, 32),
  'moco_v3': ({'num_classes': 7, 'global_pool': 'token'}, 32, 32),
  'dino': ({'num_classes': 0, 'global_pool': 'token'}, 48, 48),
  'dino_oblong': ({'num_classes': 0, 'global_pool': 'token'}, 32, 24),
}


# The same of DINOv2; 'swiglu' and the registers as timm stores them, without a class position.
_DINOV2 = {'num_classes': 0, 'global_pool': 'token', 'init_values': 1.0}
_REGISTERS = _DINOV2 | {'reg_tokens': 4, 'no_embed_class': True}
DINOV2S = {
  'plain': (_DINOV2, 32, 32),
  'plain_48': (_DINOV2, 48, 48),
  'registers': (_REGISTERS, 32, 32),
  'registers_oblong': (_REGISTERS, 48, 24),
  'swiglu': (_REGISTERS | {'mlp_ratio': 5.5}, 32, 32),
}


# DINOv3's in timm, and the size of all: name -> (timm's name, height, width, rounded periods)
DINOV3 = {'embed_dim': 64, 'depth': 4, 'num_heads': 4, 'patch_size': 8, 'num_classes': 0,
          'init_values': 1.0, 'img_size': 32}  # fmt: skip
DINOV3S = {
  'plain': ('vit_small_patch16_dinov3_qkvb', 32, 32, False),
  'oblong': ('vit_small_patch16_dinov3_qkvb', 48, 24, False),
  'rounded': ('vit_small_patch16_dinov3_qkvb', 48, 24, True),
  'no_bias': ('vit_small_patch16_dinov3', 32, 32, False),
  'swiglu': ('vit_small_plus_patch16_dinov3_qkvb', 32, 32, False),
}


def moco_v3_positions(grid: int, dim: int) -> np.ndarray:
  """MoCo v3's fixed positions, [1,1 + grid^2,dim]."""
  table = np.zeros((1, 1 + grid * grid, dim))
  for row in range(grid):
    for column in range(grid):
      for k in range(dim // 4):
        for part, value in enumerate((row, column)):
          angle = value / 10000.0 ** (k / (dim // 4))
          place = 2 * part * (dim // 4) + k
          table[0, 1 + row * grid + column, place] = math.sin(angle)
          table[0, 1 + row * grid + column, place + dim // 4] = math.cos(angle)
  return table.astype(np.float32)


def vit_images(height: int, width: int) -> np.ndarray:
  """Random images [2,height,width,3] in [-2, 2)."""
  return philox.images('imported', 2, 48)[:, :height, :width]


def resnet(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor of a ResNet by its TensorFlow or Haiku name, convolutions HWIO."""
  if len(shape) == 4 and name.endswith(('kernel', 'w')):
    bound = math.sqrt(3.0 / math.prod(shape[:3]))
    return philox.uniform(name, shape, -bound, bound)
  low, high = {
    'gamma': (0.2, 0.8), 'scale': (0.2, 0.8), 'beta': (-0.2, 0.2), 'offset': (-0.2, 0.2),
    'moving_mean': (-0.3, 0.3), 'moving_variance': (0.5, 1.5),
    'mean_ema': (-0.3, 0.3), 'var_ema': (0.5, 1.5),
  }[name.replace('/', '.').removesuffix('.average').rpartition('.')[2]]  # fmt: skip
  return philox.uniform(name, shape, low, high)


def resnet_images() -> np.ndarray:
  """Random images [2,40,40,3] in [-2, 2)."""
  return philox.images('imported', *RESNET_IMAGES)
