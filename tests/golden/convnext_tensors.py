"""Weights and images of small ConvNeXts, drawn under a library's names and in its layout."""

import math

import numpy as np
import philox

DEPTHS, DIMS = (1, 1, 2, 1), (16, 32, 64, 128)
# library -> edge of a patch, height and width of the images
CASES = {'timm': (1, 16, 22), 'torchvision': (4, 64, 64)}
BATCH = 2


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor by its name; kernels [out,in,...] keep the variance of their input."""
  if name.endswith(('gamma', 'layer_scale')):
    return philox.uniform(name, shape, 0.2, 0.8)
  if len(shape) > 1:
    bound = math.sqrt(3.0 / math.prod(shape[1:]))
    return philox.uniform(name, shape, -bound, bound)
  return philox.uniform(name, shape, *((0.5, 1.5) if name.endswith('weight') else (-0.3, 0.3)))


def images(library: str) -> np.ndarray:
  """Random images [BATCH,height,width,3] in [-2, 2)."""
  _, height, width = CASES[library]
  return philox.images(library, BATCH, 64)[:, :height, :width]
