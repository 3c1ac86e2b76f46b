"""What the golden training steps start from and how they are set; see make_steps.py.

Numbers only: the formulas are written out once in PyTorch and once in the library. Rates, decay and
trust coefficients are far above published ones, so that three steps of every rule are seen.
"""

import math

import numpy as np
import philox

BATCH, SIZE, STEPS = 16, 8, 3
TOTAL, EPOCH = 4, 2  # steps of the whole run and of an epoch
WIDTH = 8  # of the embedding
BN_GROUPS, QUEUE = 4, 40  # MoCo: the third batch of 16 keys wraps around
CLASSES, SHARES = 3, (1, 3)  # FixMatch: rows with and without a label in each unit of a batch

# Arguments of the library's builders.
METHODS = {
  'byol': {'projector': (16, 8), 'predictor': (16, 8), 'base_tau': 0.8},
  'simclr': {'projector': (16, 8), 'temperature': 0.2},
  'moco': {
    'projector': (16, 8), 'temperature': 0.2, 'tau': 0.8, 'queue_size': QUEUE,
    'bn_groups': BN_GROUPS,
  },
  'barlow_twins': {'projector': (16, 16, 8), 'off_diagonal': 0.0051},
  'fixmatch': {'threshold': 0.48, 'weight': 1.5, 'tau': 0.8},
}  # fmt: skip
# Fields of the library's recipes. Rates are per 256 examples, SimCLR's per root of the batch.
_LARS = {'momentum': 0.9, 'trust_coefficient': 0.05, 'weight_decay': 0.02}
OPTIMIZERS = {
  'byol': _LARS | {'name': 'lars', 'base_lr': 8.0},
  'simclr': _LARS | {'name': 'lars_simclr', 'base_lr': 0.125, 'lr_scaling': 'sqrt'},
  'moco': {
    'name': 'sgd', 'base_lr': 4.0, 'momentum': 0.9, 'weight_decay': 0.02,
    'exclude_bias_and_norm': False, 'lr_update': 'epoch',
  },
  'barlow_twins': _LARS | {
    'name': 'lars', 'base_lr': 8.0, 'end_lr': 1e-3,
    'groups': {'bias_and_norm': {'base_lr': 1.2}},
  },
  'fixmatch': {
    'name': 'sgd', 'base_lr': 0.25, 'lr_scaling': 'none', 'momentum': 0.9, 'nesterov': True,
    'weight_decay': 0.02, 'schedule': 'cosine_7_16',
  },
}  # fmt: skip
# In steps, the first one at rate 0.
WARMUP = {'byol': 1, 'simclr': 1, 'moco': 0, 'barlow_twins': 1, 'fixmatch': 0}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A tensor of a network under its PyTorch name and in its layout ([out,in], kernels OIHW)."""
  if len(shape) > 1:
    bound = math.sqrt(3.0 / math.prod(shape[1:]))
    return philox.uniform(name, shape, -bound, bound)
  low, high = {
    'weight': (0.5, 1.5),
    'bias': (-0.2, 0.2),
    'running_mean': (-0.3, 0.3),
    'running_var': (0.5, 1.5),
  }[name.rpartition('.')[2]]
  return philox.uniform(name, shape, low, high)


def views(step: int) -> tuple[np.ndarray, np.ndarray]:
  """Both views of a step's images, float32 [BATCH,SIZE,SIZE,3]: the images and noise."""
  shared = philox.images(f'steps/{step}', BATCH, SIZE)
  first, second = (
    shared + philox.uniform(f'steps/{step}/view{view}', shared.shape, -0.5, 0.5)
    for view in range(2)
  )
  return first, second


def labels(step: int) -> np.ndarray:
  """The class of every image of a step, int32 [BATCH], of which FixMatch knows a part."""
  drawn = philox.uniform(f'steps/{step}/labels', (BATCH,), 0.0, CLASSES)
  return np.floor(drawn).astype(np.int32)


def queue() -> np.ndarray:
  """MoCo's first negatives, unit rows, float32 [QUEUE,D]."""
  rows = philox.uniform('steps/queue', (QUEUE, METHODS['moco']['projector'][-1]), -1.0, 1.0)
  rows = rows.astype(np.float64)
  return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def order() -> np.ndarray:
  """The permutation of MoCo's key images in every step, int [BATCH]; not its own inverse."""
  return np.argsort(philox.uniform('steps/order', (BATCH,), 0.0, 1.0))
