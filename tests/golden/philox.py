"""Numbers that every library can draw alike: a float32 array from its name and shape.

Weights for golden files are made from this formula on both sides, so that the files hold results
only. Uses the raw 64-bit output of Philox, which is fixed for good, and NumPy alone.
"""

import math
import zlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
  """Uniform draws in [low, high), float32, a function of the name and the shape only."""
  raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(math.prod(shape))
  return (low + (high - low) * (raw >> np.uint64(11)) * 2.0**-53).astype(np.float32).reshape(shape)


def resnet_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor of a ResNet under its torchvision name and in its layout (kernels OIHW).

  Kernels keep the variance of their input; normalization gets scales, biases and running statistics
  that are all different from their starting values.
  """
  if len(shape) == 4:
    bound = math.sqrt(3.0 / math.prod(shape[1:]))
    return uniform(name, shape, -bound, bound)
  if name.endswith('bn3.weight'):
    # Residual branches of 16 bottlenecks at full strength make train-mode statistics chaotic:
    # PyTorch's own float32 outputs are then 2e-4 from its float64 ones.
    return uniform(name, shape, 0.1, 0.3)
  low, high = {
    'weight': (0.2, 0.8),
    'bias': (-0.2, 0.2),
    'running_mean': (-0.3, 0.3),
    'running_var': (0.5, 1.5),
  }[name.rpartition('.')[2]]
  return uniform(name, shape, low, high)


def images(name: str, batch: int, size: int) -> np.ndarray:
  """Random images [batch,size,size,3] in [-2, 2), smooth enough to have structure at any depth."""
  coarse = uniform(name, (batch, size // 8, size // 8, 3), -1.5, 1.5)
  return np.kron(coarse, np.ones((1, 8, 8, 1), np.float32)) + uniform(
    name + '/noise', (batch, size, size, 3), -0.5, 0.5
  )
