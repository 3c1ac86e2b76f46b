"""Weights of a small vision transformer, drawn under timm's names and in its layout."""

import math

import numpy as np
import philox

DIM, DEPTH, HEADS, PATCH, GRID = 32, 2, 4, 4, 4
BATCH = 3
# name -> (height, width, pooling)
CASES = {'cls': (16, 16, 'cls'), 'mean': (16, 16, 'mean'), 'oblong': (16, 24, 'cls')}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor by its name; kernels [out,in,...] keep the variance of their input."""
  if 'norm' in name:
    return philox.uniform(name, shape, *((0.5, 1.5) if name.endswith('weight') else (-0.3, 0.3)))
  if name.endswith('bias') or name == 'cls_token':
    return philox.uniform(name, shape, -0.3, 0.3)
  bound = math.sqrt(3.0 / math.prod(shape[1:]))
  return philox.uniform(name, shape, -bound, bound)


def images(height: int, width: int) -> np.ndarray:
  """Random images [BATCH,height,width,3] in [-2, 2)."""
  return philox.images('vit', BATCH, 32)[:, :height, :width]
