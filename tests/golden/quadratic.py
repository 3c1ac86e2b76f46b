"""The small noisy quadratic on which optimizers are compared, in float64 NumPy."""

import math

import numpy as np
import philox

STEPS, WARMUP, PEAK, DECAY, TRUST = 20, 5, 0.7, 0.03, 0.02
# 'zero' starts at zero, where the trust ratio is undefined
SHAPES = {'linear/kernel': (5, 4), 'linear/bias': (4,), 'bn/scale': (4,), 'zero/kernel': (3, 2)}
EXCLUDED = ('linear/bias', 'bn/scale')


def rate(step: int) -> float:
  """Linear from 0 over WARMUP steps, then half a cosine to 0 at STEPS."""
  if step < WARMUP:
    return PEAK * step / WARMUP
  return PEAK * 0.5 * (1.0 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def start(name: str) -> np.ndarray:
  """Parameters before the first step."""
  if name.startswith('zero'):
    return np.zeros(SHAPES[name])
  return philox.uniform(name, SHAPES[name], -1.0, 1.0).astype(np.float64)


def gradient(name: str, w: np.ndarray, step: int) -> np.ndarray:
  """Curvature times w plus noise; exactly zero for 'zero' at step 1."""
  curvature = philox.uniform(name + '/curvature', SHAPES[name], 0.1, 2.0)
  noise = philox.uniform(f'{name}/{step}', SHAPES[name], -0.3, 0.3)
  return np.zeros_like(w) if name.startswith('zero') and step == 1 else curvature * w + noise
