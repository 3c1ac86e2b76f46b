"""byoljax's whole training as a contestant: `train.training` on arrays, stopped between turns."""

from collections.abc import Iterator
import math
from typing import Any

import contest
import jax
import numpy as np
from setting import ROOT

from byoljax import __version__
from byoljax import config as config_lib
from byoljax.data.sources import datasets
from byoljax.devices import mapping, xla
from byoljax.plan import flops
from byoljax.train import assemble, loop
from byoljax.workdir.clock import Clock

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')


def overrides(case: dict[str, Any]) -> list[tuple[str, str]]:
  """The recipe's fields that the case asks for."""
  heads = f'({case["hidden"]}, {case["outputs"]})'
  fields: dict[str, Any] = {
    'data.dir': case['path'],
    'train.batch_size': case['batch_size'],
    'train.length': f'{case["total_steps"]} steps',
    'encoder.name': 'resnet18',
    'encoder.stem': 'imagenet',
    'encoder.padding': 'torch',
    'encoder.dtype': 'float32',
    'method.projector': heads,
    'method.predictor': heads,
    'method.base_tau': 0.996,
    'optim.name': 'sgd',
    'optim.base_lr': case['lr'],
    'optim.lr_scaling': 'none',
    'optim.schedule': 'constant',
    'optim.warmup': '0 steps',
    'optim.momentum': 0.0,
    'optim.weight_decay': 0.0,
    'probe.online': 'false',
    'log.every': '1000000 steps',
    'seed': case['seed'],
    'data.mean': tuple(case['mean']),
    'data.std': tuple(case['std']),
  }
  for number, view in enumerate(case['views'], start=1):
    fields |= {
      f'views.view{number}.{name}': tuple(value) if isinstance(value, list) else value
      for name, value in view.items()
    }
  return [(name, str(value)) for name, value in fields.items()]


class Contestant:
  """Answers 'prepare' and 'steps'; see training_bench.py."""

  def prepare(self, case: dict[str, Any]) -> contest.Reply:
    """Assembles the run and makes its first two steps: everything is compiled."""
    config = config_lib.load(f'{ROOT / "configs" / "byol.py"}:npz', overrides(case))
    source = datasets.load('npz', 'pretrain', data_dir=case['path'])
    run = assemble.from_config(config, source)
    state = mapping.replicate(run.create())
    sizes = {
      role: sum(leaf.size for leaf in jax.tree.leaves(tree)) for role, tree in state.params.items()
    }
    self._clock = Clock(run.length.total_steps, run.length.batch_size)
    self._batch_size = run.length.batch_size
    self._run = run
    self._steps: Iterator[Any] = loop.training(run, state, 0, self._clock, lambda done: done + 1)
    self._make(2)
    counts = {
      'encoder': sizes['encoder'],
      'heads': sum(size for role, size in sizes.items() if role != 'encoder'),
    }
    versions = {'byoljax': __version__} | contest.versions(PACKAGES)
    return {'parameters': counts, 'versions': versions}

  def work(self) -> contest.Reply:
    """Operations of a step: matrix products and convolutions."""
    images, labels = self._run.source.read(np.arange(self._batch_size))
    index = np.arange(self._batch_size, dtype=np.int32)
    batch = {'image': images, 'index': index, 'epoch': np.zeros_like(index), 'label': labels}
    state = jax.eval_shape(self._run.create)
    return {'flops': flops.count(self._run.step, state, mapping.shard(batch)).total}

  def _make(self, count: int) -> float:
    values: Any = None
    for _ in range(count):
      _, state, values = next(self._steps)
    jax.block_until_ready(state)
    return float(mapping.fetch(values)['loss'])

  def steps(self, untimed: int, count: int) -> contest.Reply:
    """Times steps together; the last loss is read, as for a log."""
    self._make(untimed)
    self._clock.read()
    loss = math.nan

    def work() -> None:
      nonlocal loss
      loss = self._make(count)

    wall, cpu = contest.timed(work)
    if not math.isfinite(loss):
      raise FloatingPointError(f'the loss is {loss}')
    wait = self._clock.read().get('time/wait')
    images = count * self._batch_size
    return {'images': images, 'wall': wall, 'cpu': cpu, 'loss': loss, 'wait': wait}


if __name__ == '__main__':
  xla.set_defaults()
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'steps': contestant.steps, 'work': contestant.work})
