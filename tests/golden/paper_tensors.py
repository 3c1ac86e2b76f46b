"""Weights and inputs of the pretext papers' networks, drawn by name in PyTorch's layout."""

import math

import numpy as np
import philox

BATCH = 4
KEPT = 2  # images whose results are stored
# case -> (our name, options, side of the images)
CASES = {
  'alexnet_plain': ('alexnet_plain', {'fc_dim': 8}, 160),
  'alexnet': ('alexnet', {'fc_dim': 8, 'stem': 'cifar'}, 24),
  'nin': ('nin', {'stem': 'cifar'}, 16),
  'exemplar_cnn': ('exemplar_cnn', {}, 24),
  'wrn_16_8': ('wrn_16_8', {}, 16),
}
# Inner maps whose spatial means are stored.
TAPS = {
  'alexnet_plain': ('conv1', 'conv5'),
  'alexnet': ('conv1', 'conv2', 'conv5'),
  'nin': ('block1_conv2', 'block1', 'block2', 'block4'),
  'exemplar_cnn': ('conv1', 'conv3'),
  'wrn_16_8': ('stem', 'stage1_1', 'stage1', 'stage3'),
}
_RANGES = {
  'weight': (0.5, 1.5),
  'bias': (-0.3, 0.3),
  'running_mean': (-0.3, 0.3),
  'running_var': (0.5, 1.5),
}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor by its name; kernels [out,in,...] keep the size of what is behind a ReLU."""
  if len(shape) > 1:
    bound = math.sqrt(6.0 / math.prod(shape[1:]))
    return philox.uniform(name, shape, -bound, bound)
  return philox.uniform(name, shape, *_RANGES[name.rpartition('.')[2]])


def images(case: str) -> np.ndarray:
  """Random images [BATCH,side,side,3] in [-2, 2)."""
  return philox.images(case, BATCH, CASES[case][2])
