"""Weights, inputs and cases of colorization's golden file, drawn by name."""

import math

import numpy as np
import philox

SIDE, BATCH, WIDTH = 24, 2, 1 / 16  # of the network: 4 to 32 channels
TAPS = ('conv1_1', 'conv3_3', 'conv5_2', 'conv7_3', 'conv8_1', 'conv8_3')
PIXELS, BINS = 40, 12  # of the loss
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


def lightness() -> np.ndarray:
  """Random input [BATCH,SIDE,SIDE,1] in [-1, 1)."""
  return philox.uniform('lightness', (BATCH, SIDE, SIDE, 1), -1, 1)


def loss_inputs() -> dict[str, np.ndarray]:
  """Colors, centers of bins, logits and weights of pixels."""
  return {
    'ab': philox.uniform('ab', (PIXELS, 2), -60, 60),
    'bins': philox.uniform('bins', (BINS, 2), -80, 80),
    'logits': philox.uniform('logits', (PIXELS, BINS), -3, 3),
    'counts': np.floor(philox.uniform('counts', (BINS,), 0, 100)),
  }
