"""Parts `step`, `simclr` and `moco`: images per second of a train step, byoljax against PyTorch.

Forward passes, backward pass, LARS and what follows it (BYOL's and MoCo's moving average, MoCo's
queue) on two finished views, on all cores. Before anything is timed it is checked that everybody
computes the same: from the same weights, views and queue, the losses of the first steps and the
distances that parameters and queue have gone by then must agree. Those steps also serve as the
warm-up.
"""

import contextlib
from typing import Any

import contest
from setting import ROOT, Setting

from byoljax import config as config_lib

# part -> its method
PARTS = {'step': 'byol', 'simclr': 'simclr', 'moco': 'moco'}
DTYPES = ('float32', 'bfloat16')
# Relative difference to byoljax that is still the same computation: rounding, amplified by the
# batch normalizations over the checked steps.
_TOLERANCE = {'float32': 0.01, 'bfloat16': 0.15}
_CHECKED_STEPS = 3


def cases(method: str, quick: bool) -> dict[str, dict[str, Any]]:
  """What is trained, by the network's name; 'arguments' are those of the method's builder.

  The small encoder has batch and heads of the method's default recipe, ResNet-18 the published
  heads. The optimizer's settings do not change its cost; with these each kernel moves by one
  percent a step, so that a mistake in LARS or in the moving average could not hide from the check.
  """
  recipe = config_lib.load(str(ROOT / 'configs' / f'{method}.py'))
  published, others = _arguments(method, quick)
  shared = {
    'method': method,
    'size': 32,
    'total_steps': 1000,
    'lr': 1.0,
    'weight_decay': 1e-4,
    'momentum': 0.9,
    'trust_coefficient': 0.01,
  }
  small = {
    'encoder': recipe.encoder.name,
    'batch_size': recipe.train.batch_size,
    'arguments': {head: list(recipe.method[head]) for head in published} | others,
  }
  resnet = {'encoder': 'resnet18', 'batch_size': 64, 'arguments': published | others}
  found = {'resnet18': shared | resnet, 'small': shared | small}
  if quick:
    for case in found.values():
      case |= {'batch_size': 16}
  return found


def _arguments(method: str, quick: bool) -> tuple[dict[str, list[int]], dict[str, Any]]:
  """The published heads (Barlow Twins': solo-learn's), and the others of the builder's arguments.

  MoCo in one direction and without groups of the batch, among which images would be shuffled.
  """
  if method == 'byol':
    return {'projector': [4096, 256], 'predictor': [4096, 256]}, {'base_tau': 0.97}
  heads = {'projector': [2048, 128]}
  if method == 'simclr':
    return heads, {'temperature': 0.5}
  if method == 'barlow_twins':
    return {'projector': [2048, 2048, 2048]}, {}
  queue = {'queue_size': 4096 if quick else 65536, 'bn_groups': 0, 'symmetric': False}
  return heads, {'temperature': 0.2, 'tau': 0.97} | queue


def dtypes(case: dict[str, Any]) -> tuple[str, ...]:
  """Compute types of a case: bfloat16 with ResNet-18 for BYOL alone, to bound the time."""
  few = case['encoder'] == 'resnet18' and case['method'] != 'byol'
  return DTYPES[:1] if few else DTYPES


def measure(setting: Setting, method: str) -> list[dict[str, Any]]:
  """One result for each network and compute type."""
  return [
    _pair(setting, name, case | {'dtype': dtype})
    for name, case in cases(method, setting.quick).items()
    for dtype in dtypes(case)
    if dtype in setting.dtypes
  ]


def _pair(setting: Setting, name: str, case: dict[str, Any]) -> dict[str, Any]:
  """One network in one type: byoljax and the ways of running PyTorch, in turns."""
  setting.say(f'{case["method"]}: {name}, batch {case["batch_size"]}, {case["dtype"]}')
  rounds, each = (2, 1) if setting.quick else {'small': (10, 10)}.get(case['encoder'], (6, 2))
  start = setting.scratch / 'start.npz'
  variants = setting.torch_variants if setting.torch_python else ()
  with contextlib.ExitStack() as stack:
    players = {'byoljax': stack.enter_context(setting.ours('jax_step.py'))}
    facts = {'byoljax': players['byoljax'].ask('prepare', case=case, start=str(start))}
    for variant in variants:
      player = stack.enter_context(setting.theirs('torch_step.py'))
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
  """Largest relative differences from byoljax: of the losses, and of how far arrays moved.

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
