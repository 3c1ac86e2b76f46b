"""Training with data on the accelerator against batches from the host, on whatever JAX finds.

    python experiments/bench/resident_bench.py --encoder resnet18 --batch-size 256 --out gpu.json

Needs no TensorFlow and no download: the built-in images as arrays, the recipe's own augmentation,
loss and optimizer, through the loop of every run (`train.training`). Both ways live in one process
and take turns; a turn is a number of steps, and ends when the device has done them. The result
holds every sample: seconds, CPU seconds, share of the time in which the loop waited for data,
calls. On a CPU a call is one step, and "resident" says what the copying of batches costs there.
"""

import argparse
from collections.abc import Iterator
import json
import pathlib
import statistics
import sys
import time
from typing import Any

import machine

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # This checkout's byoljax and configs, installed or not.

import jax  # noqa: E402

from byoljax import config as config_lib  # noqa: E402
from byoljax.data.sources import datasets  # noqa: E402
from byoljax.devices import mapping  # noqa: E402
from byoljax.train import assemble, loop  # noqa: E402
from byoljax.workdir.clock import Clock  # noqa: E402

MODES = {'host': 'off', 'resident': 'on'}


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """Samples of both ways."""
  ways = {name: _Way(options, mode) for name, mode in MODES.items()}
  found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
  for name, way in ways.items():
    # The first step compiles, the second is timed by the loop, then the calls get their length.
    print(f'{name}: compiling', file=sys.stderr, flush=True)
    way.turn(3)
  for number in range(options.rounds):
    for name, way in ways.items():
      time.sleep(options.pause)
      found[name].append(way.turn(options.steps))
    print(f'round {number + 1}/{options.rounds}', file=sys.stderr, flush=True)
  return {
    'samples': found,
    'median_img_per_s': {
      name: statistics.median(sample['img_per_s'] for sample in samples)
      for name, samples in found.items()
    },
  }


class _Way:
  """One way of feeding a run, stopped between its turns."""

  def __init__(self, options: argparse.Namespace, mode: str) -> None:
    overrides = [
      ('train.batch_size', str(options.batch_size)),
      ('train.length', '1000000 steps'),
      ('encoder.name', options.encoder),
      ('encoder.dtype', options.dtype),
      ('data.resident', mode),
    ]
    config = config_lib.load(str(ROOT / 'configs' / options.recipe), overrides)
    source = datasets.load('shapes', 'pretrain', data_dir=options.data_dir)
    run = assemble.from_config(config, source)
    self._batch_size = options.batch_size
    self._clock = Clock(run.length.total_steps, options.batch_size)
    self._until = 0
    state = mapping.replicate(run.create())
    self._steps: Iterator[Any] = loop.training(
      run, state, 0, self._clock, lambda done: max(self._until, done + 1)
    )
    self._done = 0

  def turn(self, steps: int) -> dict[str, float]:
    """Makes steps, waits for the device, and says what they took."""
    self._until = self._done + steps
    calls, wall, cpu = 0, time.perf_counter(), time.process_time()
    values: Any = None
    while self._done < self._until:
      self._done, _, values = next(self._steps)
      calls += 1
    loss = float(mapping.fetch(values)['loss'])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    waited = self._clock.read().get('time/wait', float('nan'))
    return {
      'steps': steps, 'calls': calls, 'seconds': wall, 'cpu_seconds': cpu, 'wait': waited,
      'img_per_s': steps * self._batch_size / wall, 'loss': loss,
    }  # fmt: skip


def _parse(arguments: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--recipe', default='byol.py', help='of configs/ (default: byol.py)')
  parser.add_argument('--encoder', default='small')
  parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
  parser.add_argument('--batch-size', type=int, default=64)
  parser.add_argument('--steps', type=int, default=50, help='of a turn')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--pause', type=float, default=1.0, help='seconds before a turn')
  parser.add_argument('--data-dir', default='', help='where the built-in images are kept')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('resident.json'))
  return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
  """Measures, writes, prints the medians."""
  options = _parse(arguments)
  before = machine.now()
  results = {
    'settings': {
      name: value for name, value in vars(options).items() if name not in ('data_dir', 'out')
    },
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'jax': jax.__version__,
    'machine': machine.facts(),
    'before': before,
    **measure(options),
    'after': machine.now(),
  }  # fmt: skip
  results['busy'] = machine.is_busy(before) or machine.is_busy(results['after'])
  options.out.write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
  print(json.dumps({name: results[name] for name in ('device', 'median_img_per_s', 'busy')}))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
