"""Part `growth`: how time and memory grow with batch, image, queue, data set and devices.

byoljax alone, at sizes that double or quadruple. For each curve the slope of a straight line
through the logarithms is given (least squares), and that between the last two points: 1 is
proportional, 2 quadratic, 0 independent. What is constant hides the slope at small sizes.

  batch      the train step with the small encoder at 32 pixels
  image      the same at batch 16, by the views' side (slope 2: proportional to the pixels)
  queue      MoCo's loss and gradient alone, and its train step, at batch 64
  NT-Xent    loss and gradient, all similarities at once and in chunks; all at once is only
             compiled where it would take more than `_MOST` bytes: its memory is known, no time
  data set   the order of an epoch, made for its first step (later ones only look it up)
  devices    the train step at one global batch on 1 to 8 devices, which here share the same cores:
             what is to be seen is the overhead, and what each device needs
"""

from typing import Any

from setting import Setting

_MOST = 5e9
_SMALL = {
  'data.name': 'npz',
  'encoder.name': 'small',
  'train.length': '1000000 steps',
  'optim.warmup': '0 steps',
  'log.every': '1000000 steps',
  'probe.online': 'false',
}


def _views(side: int) -> dict[str, Any]:
  return {'views.view1.size': side, 'views.view2.size': side}


# curve -> (request, what x is, sizes, those of a quick run, x -> the request's arguments)
CURVES: dict[str, tuple[str, str, tuple[int, ...], tuple[int, ...], Any]] = {
  'batch, train step': (
    'step', 'images per step', (32, 64, 128, 256, 512, 1024), (8, 16),
    lambda x: {'recipe': 'byol.py', 'changes': _SMALL | {'train.batch_size': x}},
  ),
  'image, train step': (
    'step', 'side in pixels', (32, 64, 128, 224), (16, 32),
    lambda x: {'recipe': 'byol.py', 'changes': _SMALL | {'train.batch_size': 16} | _views(x)},
  ),
  'queue, MoCo loss': (
    'moco_loss', 'rows of the queue', tuple(4**n for n in range(6, 11)), (64, 256),
    lambda x: {'queue': x, 'batch': 64},
  ),
  'queue, MoCo train step': (
    'step', 'rows of the queue', tuple(4**n for n in range(6, 11)), (64, 256),
    lambda x: {
      'recipe': 'moco.py',
      'changes': _SMALL
      | {'train.batch_size': 64, 'method.queue_size': x, 'method.symmetric': 'false'},
    },
  ),
  'NT-Xent, all at once': (
    'nt_xent', 'images per step', tuple(2**n for n in range(8, 16)), (16, 32),
    lambda x: {'batch': x, 'chunk': 0, 'run': (2 * x) ** 2 * 4 < _MOST},
  ),
  'NT-Xent, chunks of 1024': (
    'nt_xent', 'images per step', tuple(2**n for n in range(8, 16)), (16, 32),
    lambda x: {'batch': x, 'chunk': min(1024, 2 * x), 'run': True},
  ),
  'data set, order of an epoch': (
    'order', 'images', (1000, 10_000, 100_000, 1_000_000), (300, 3000),
    lambda x: {'size': x, 'batch': 256},
  ),
}  # fmt: skip
_DEVICES = 'devices, train step'


def measure(setting: Setting) -> dict[str, Any]:
  """All curves."""
  found: dict[str, Any] = {'curves': {}}
  with setting.ours('jax_growth.py') as player:
    found['versions'] = {'byoljax': player.ask('prepare')['versions']}
    for name, (request, unit, sizes, quick, arguments) in CURVES.items():
      points = []
      for x in quick if setting.quick else sizes:
        points.append({'x': x} | _kept(player.ask(request, **arguments(x))))
        _say(setting, name, points[-1])
      found['curves'][name] = {'unit': unit, 'points': points}
  points = []
  batch = 16 if setting.quick else 128
  changes = _SMALL | {'train.batch_size': batch}
  for count in (1, 2) if setting.quick else (1, 2, 4, 8):
    flags = f'--xla_force_host_platform_device_count={count}'
    with setting.ours('jax_growth.py', XLA_FLAGS=flags) as player:
      if player.ask('prepare')['devices'] != count:
        raise RuntimeError(f'there should be {count} devices')
      points.append({'x': count} | _kept(player.ask('step', recipe='byol.py', changes=changes)))
      _say(setting, _DEVICES, points[-1])
  found['curves'][_DEVICES] = {'unit': f'devices, global batch {batch}', 'points': points}
  return found


def _kept(reply: dict[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in reply.items() if name != 'idle_cpu_s'}


def _say(setting: Setting, name: str, point: dict[str, Any]) -> None:
  seconds = f'{min(point["seconds"]):.4f} s' if point['seconds'] else 'not run'
  setting.say(f'growth: {name}  {point["x"]:,}: {seconds}, {point["bytes"] / 1e6:,.1f} MB')
