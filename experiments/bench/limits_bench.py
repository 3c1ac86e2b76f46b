"""Part `limits`: what this machine can do, and what the other parts ask of it.

Products of two 2048 x 2048 matrices, in turns by XLA and by PyTorch, in both compute types, and the
sum of an array that fits in no cache: the fastest of these is what a train step or a search could
reach. The work of each is counted: matrix products and convolutions, two operations for a
multiplication and an addition.
"""

import contextlib
import pathlib
from typing import Any

import contest
import knn_bench
import pictures
import sections
from setting import Setting
import step_bench
import training_bench


def measure(setting: Setting) -> dict[str, Any]:
  """Rates of the machine, in operations and bytes per second, and the other parts' operations."""
  rounds, side, numbers = (2, 256, 10**6) if setting.quick else (6, 2048, 10**8)
  # Operations of a product, bytes of a sum.
  amounts = dict.fromkeys(setting.dtypes, 2 * side**3) | {'memory': 4 * numbers}
  setting.say(f'limits: products of {side} x {side}, sums of {numbers:,}')
  with contextlib.ExitStack() as stack:
    players = {'XLA': stack.enter_context(setting.ours('jax_limits.py'))}
    if setting.torch_python:
      players['PyTorch'] = stack.enter_context(setting.theirs('torch_limits.py'))
    versions = {
      name: player.ask(
        'prepare', side=side, numbers=numbers, dtypes=setting.dtypes, threads=setting.cores
      )['versions']
      for name, player in players.items()
    }
    turns = {
      f'{name}, {what}': lambda player=player, what=what: player.ask('seconds', what=what)
      for what in amounts
      for name, player in players.items()
    }
    replies = contest.alternate(turns, rounds, pause=setting.pause, say=lambda text: None)
  return {
    'versions': {'byoljax' if name == 'XLA' else name: v for name, v in versions.items()},
    'side': side,
    'rates': {
      name: [amounts[name.partition(', ')[2]] / reply['seconds'] for reply in turn]
      for name, turn in replies.items()
    },
    'work': work(setting),
  }


def work(setting: Setting) -> dict[str, float]:
  """Operations of what the other parts do: of a step or of training per image, of a search."""
  found = {}
  start = str(setting.scratch / 'limits.npz')
  for method in step_bench.PARTS.values():
    for network, case in step_bench.cases(method, setting.quick).items():
      with setting.ours('jax_step.py') as player:
        player.ask('prepare', case=case | {'dtype': 'float32'}, start=start)
        name = sections.step_work(network, case)
        found[name] = player.ask('work')['flops'] / case['batch_size']
  case = training_bench.case_of(setting)
  pictures.arrays(pathlib.Path(case['path']), case['images'])
  with setting.ours('jax_training.py') as player:
    player.ask('prepare', case=case)
    found['training'] = player.ask('work')['flops'] / case['batch_size']
  bank, queries, width = knn_bench.sizes(setting.quick)
  return found | {'knn': 2.0 * bank * queries * width}
