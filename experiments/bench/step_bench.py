"""Part `step`: images per second of one whole BYOL train step, byoljax against PyTorch.

Four forward passes, backward pass, LARS and moving average on two finished views, on all cores.
Before anything is timed it is checked that everybody computes the same: from the same weights and
views, the losses of the first steps and the distances that the parameters have gone by then must
agree. Those steps also serve as the warm-up.
"""

import contextlib
from typing import Any

import contest
from setting import ROOT, Setting

from byoljax import config as config_lib

DTYPES = ('float32', 'bfloat16')
# Relative difference to byoljax that is still the same computation: rounding, amplified by the
# batch normalisations over the checked steps.
_TOLERANCE = {'float32': 0.01, 'bfloat16': 0.15}
_CHECKED_STEPS = 3


def cases(quick: bool) -> dict[str, dict[str, Any]]:
  """What is trained, by name.

  The optimiser's settings do not change its cost; with these each kernel moves by one percent a
  step, so that a mistake in LARS or in the moving average could not hide from the check.
  """
  recipe = config_lib.load(str(ROOT / 'configs' / 'byol.py'))
  shared = {
    'size': 32,
    'total_steps': 1000,
    'lr': 1.0,
    'weight_decay': 1e-4,
    'momentum': 0.9,
    'trust_coefficient': 0.01,
    'base_tau': 0.97,
  }
  small = {
    'encoder': recipe.encoder.name,
    'batch_size': recipe.train.batch_size,
    'projector': list(recipe.method.projector),
    'predictor': list(recipe.method.predictor),
  }
  resnet = {
    'encoder': 'resnet18',
    'batch_size': 64,
    'projector': [4096, 256],
    'predictor': [4096, 256],
  }
  found = {'resnet18': shared | resnet, 'small': shared | small}
  if quick:
    for case in found.values():
      case |= {'batch_size': 16}
  return found


def measure(setting: Setting) -> list[dict[str, Any]]:
  """One result for each network and compute type."""
  return [
    _pair(setting, name, case | {'dtype': dtype})
    for name, case in cases(setting.quick).items()
    for dtype in DTYPES
  ]


def _pair(setting: Setting, name: str, case: dict[str, Any]) -> dict[str, Any]:
  """One network in one type: byoljax and the ways of running PyTorch, in turns."""
  setting.say(f'step: {name}, batch {case["batch_size"]}, {case["dtype"]}')
  rounds, each = (2, 1) if setting.quick else {'small': (10, 10)}.get(case['encoder'], (6, 2))
  start = setting.scratch / 'start.npz'
  variants = setting.torch_variants if setting.torch_python else ()
  with contextlib.ExitStack() as stack:
    players = {'byoljax': stack.enter_context(setting.ours('jax_byol.py'))}
    facts = {'byoljax': players['byoljax'].ask('prepare', case=case, start=str(start))}
    for variant in variants:
      player = stack.enter_context(setting.theirs('torch_byol.py'))
      players[f'PyTorch {variant}'] = player
      facts[f'PyTorch {variant}'] = player.ask(
        'prepare', case=case, start=str(start), variant=variant, threads=setting.cores
      )
    checks = {name: player.ask('check', steps=_CHECKED_STEPS) for name, player in players.items()}
    agreement = _compare(facts, checks, _TOLERANCE[case['dtype']])
    turns = {
      name: lambda player=player: player.ask('steps', count=each)
      for name, player in players.items()
    }
    replies = contest.alternate(turns, rounds, pause=setting.pause, say=setting.say)
  return {
    'network': name,
    'case': case,
    'versions': {name: fact['versions'] for name, fact in facts.items()},
    'parameters': facts['byoljax']['parameters'],
    'agreement': agreement,
    'first_step_s': {name: check['first_step_s'] for name, check in checks.items()},
    'samples': {
      name: {
        'wall': [s for reply in turn for s in reply['wall']],
        'cpu': [s for reply in turn for s in reply['cpu']],
        'idle_cpu': [reply['idle_cpu_s'] for reply in turn],
      }
      for name, turn in replies.items()
    },
  }


def _compare(
  facts: dict[str, Any], checks: dict[str, Any], tolerance: float
) -> dict[str, dict[str, float]]:
  """Largest relative differences from byoljax: of the losses, and of how far parameters moved.

  Raises:
    RuntimeError: not the same computation.
  """
  ours, found = checks['byoljax'], {}
  for name, check in checks.items():
    if name == 'byoljax':
      continue
    if facts[name]['parameters'] != facts['byoljax']['parameters']:
      raise RuntimeError(f'{name} has other parameters: {facts[name]["parameters"]}')
    pairs = {
      'first loss': [(ours['losses'][0], check['losses'][0])],
      'losses': list(zip(ours['losses'], check['losses'], strict=True)),
      **{f'moved: {k}': [(value, check['moved'][k])] for k, value in ours['moved'].items()},
    }
    found[name] = {
      what: max(abs(a - b) / abs(a) for a, b in values) for what, values in pairs.items()
    }
    wrong = {what: error for what, error in found[name].items() if not error <= tolerance}
    if wrong:
      raise RuntimeError(f'{name} does not compute what byoljax computes: {wrong}, {checks}')
  return found
