"""Part `training`: images per second of whole training, byoljax against lightly's BYOL example.

Each side runs its own input, its own step and its own loop, in float32, eager PyTorch on theirs:

  lightly   its example for CIFAR-10, in our words: torchvision's ResNet-18 without the last layer,
            lightly's heads (1024, 256), loss, moving average and transform, SGD at 0.06, a
            DataLoader over arrays in memory that become Pillow images, as torchvision's CIFAR10
            does; with one worker per core, and with fewer, since workers and step share the cores
  byoljax   the recipe `byol.py:npz` with that encoder, heads, batch, optimizer and views, through
            `train.training`, the loop of every run; without the online probe, which lightly's
            example does not have

The views are those of the recipe `byol.py:cifar10` for both. Not the same bit for bit (see the part
`pipeline`), so what is checked is that the encoders have the same number of parameters, the heads
nearly (biases differ), and that the losses are finite.

A turn makes some steps that are not timed, to use up batches that were made ahead during the
others' turns, then the timed ones. CPU seconds include workers.
"""

import contextlib
from typing import Any

import contest
import pictures
import pipeline_bench
from setting import Setting

ENCODER = 'resnet18'
_UNTIMED = 4  # Steps; PyTorch's DataLoader holds two batches for each worker.


def case_of(setting: Setting) -> dict[str, Any]:
  """What both train."""
  return {
    'path': str(setting.scratch / 'training.npz'),
    'images': 512 if setting.quick else 10_000,
    'batch_size': 32 if setting.quick else 256,
    'hidden': 1024,
    'outputs': 256,
    'lr': 0.06,
    'total_steps': 100_000,
    'seed': 0,
  } | pipeline_bench.view_settings('cifar10')


def measure(setting: Setting) -> dict[str, Any]:
  """Samples of byoljax, and of lightly with one worker per core and with half as many."""
  case = case_of(setting)
  rounds, steps = (2, 1) if setting.quick else (3, 4)
  path = setting.scratch / 'training.npz'
  images = pictures.arrays(path, case['images'])
  setting.say(f'training: batch {case["batch_size"]}, {images}')
  with contextlib.ExitStack() as stack:
    players = {'byoljax': stack.enter_context(setting.ours('jax_training.py'))}
    facts = {'byoljax': players['byoljax'].ask('prepare', case=case)}
    workers = sorted({setting.cores, max(1, setting.cores // 2)}) if setting.torch_python else []
    for count in workers:
      player = stack.enter_context(setting.theirs('lightly_training.py'))
      players[f'lightly, {count} workers'] = player
      facts[f'lightly, {count} workers'] = player.ask(
        'prepare', case=case, workers=count, threads=setting.cores
      )
    _check(facts)
    turns = {
      name: lambda player=player: player.ask('steps', untimed=_UNTIMED, count=steps)
      for name, player in players.items()
    }
    replies = contest.alternate(turns, rounds, pause=setting.pause, say=setting.say)
  return {
    'case': case,
    'images': images,
    'versions': {name.partition(',')[0]: fact['versions'] for name, fact in facts.items()},
    'parameters': {name: fact['parameters'] for name, fact in facts.items()},
    'samples': replies,
  }


def _check(facts: dict[str, Any]) -> None:
  """Raises RuntimeError where a contestant trains another network than byoljax."""
  own = facts['byoljax']['parameters']
  for name, fact in facts.items():
    theirs = fact['parameters']
    if theirs['encoder'] != own['encoder']:
      raise RuntimeError(f'{name} has another encoder: {theirs}, byoljax {own}')
    if abs(theirs['heads'] - own['heads']) > 0.01 * own['heads']:
      raise RuntimeError(f'{name} has other heads: {theirs}, byoljax {own}')
