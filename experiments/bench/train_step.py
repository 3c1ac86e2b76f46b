"""The train step that benchmarks time: the real `train_step` under `mapping.spmd`, from a case.

A case is a dictionary: 'method' and 'arguments' of its builder, 'encoder' and 'options' of
`make_encoder` (the CIFAR stem where there are none), 'size' in pixels, 'batch_size', 'dtype',
'total_steps', and LARS's 'lr', 'weight_decay', 'momentum' and 'trust_coefficient'. Views arrive
finished, unless 'augment' is set: then uint8 images do, and the step makes the views.
"""

import functools
from typing import Any

import jax
import numpy as np

from byoljax import optim
from byoljax.data.augment import device, views
from byoljax.devices import collectives, mapping
from byoljax.length import Length
from byoljax.method import Method, Setting
from byoljax.methods import METHODS
from byoljax.models import make_encoder
from byoljax.step import TrainState, init_state, train_step


def method_of(case: dict[str, Any]) -> Method:
  """The case's method as `assemble` would build it."""
  options = case.get('options', {'stem': 'cifar'})

  def encoder(axis: str | None, bn_groups: int = 0) -> Any:
    return make_encoder(
      case['encoder'], dtype=case['dtype'], bn_axis=axis, bn_groups=bn_groups, **options
    )

  length = Length(case['batch_size'], 1, case['total_steps'])
  setting = Setting(length, axis=collectives.AXIS, dtype=case['dtype'])
  return METHODS[case['method']](encoder, setting, **case['arguments'])


def two_views(case: dict[str, Any]) -> tuple[np.ndarray, ...]:
  """Two random views, float32 [b, S, S, 3]: what is in them does not change a step's time."""
  rng = np.random.default_rng(0)
  shape = (case['batch_size'], case['size'], case['size'], 3)
  return tuple(rng.standard_normal(shape, np.float32) for _ in range(2))


def make(case: dict[str, Any]) -> tuple[Any, TrainState, dict[str, Any]]:
  """The mapped step, the replicated state of seed 0, and a sharded batch, still on the host."""
  method = method_of(case)
  optimizer = optim.make_optimizer(
    'lars',
    schedule=optim.constant(case['lr'], total_steps=case['total_steps']),
    weight_decay=case['weight_decay'],
    momentum=case['momentum'],
    trust_coefficient=case['trust_coefficient'],
  )
  tx = optim.make(method.groups, {'default': optimizer})
  size, index = case['size'], np.arange(case['batch_size'], dtype=np.int32)
  example = {'views': (np.zeros((2, size, size, 3), np.float32),) * 2}
  batch = {'index': index, 'label': -np.ones_like(index)}
  if case.get('augment'):
    specs = [views.ViewSpec(size=size, blur_prob=blur, solarize_prob=solarize)
             for blur, solarize in ((1.0, 0.0), (0.1, 0.2))]  # fmt: skip
    augment = device.make_augment(specs, seed=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (len(index), size, size, 3), np.uint8)
    batch |= {'image': pixels, 'epoch': np.zeros_like(index)}
  else:
    augment = _finished
    batch['views'] = two_views(case)
  step = mapping.spmd(functools.partial(train_step, method=method, tx=tx, augment=augment))
  state: TrainState = mapping.replicate(init_state(method, tx, example, seed=0))
  return step, state, mapping.shard(batch)


def _finished(batch: dict[str, Any], step: Any) -> dict[str, Any]:
  """No augmentation."""
  del step
  return batch


def arrays(state: TrainState) -> dict[str, np.ndarray]:
  """Parameters, 'online/...' and 'target/...', and the rows of the 'queue', if there are any.

  By their path, 'online/encoder/stem_conv/kernel', as copies on the host.
  """
  queue = getattr(state.method_state, 'queue', None)
  target = getattr(state.method_state, 'target_params', None)
  tree = {'online': state.params, 'target': target, 'queue': None if queue is None else queue.items}
  leaves = jax.tree_util.tree_leaves_with_path(mapping.fetch(tree))
  return {optim.path_name(path): np.array(leaf) for path, leaf in leaves}
