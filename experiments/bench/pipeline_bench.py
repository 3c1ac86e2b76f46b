"""Part `pipeline`: images per second of the input, byoljax against lightly's BYOL transform.

Both turn the same images into two views of the same sizes, with the same probabilities and
strengths, by the same number of workers: threads in byoljax, processes in PyTorch's DataLoader.
What each does:

  byoljax, accelerator   host: decode, crop, resize, mirror, uint8 (arrays: only gather rows);
  (the default)          device, in the step: jitter, gray, blur, solarize, normalize (arrays: crop,
                         resize, mirror as well), measured on the CPU here
  byoljax, host          host: all but the normalization, uint8; device: normalize
  lightly                host: everything, float32

So only sums of host and device compare with lightly; the host's part alone is what limits a machine
that has an accelerator. A turn covers everything from opening the pipeline to its end, so that no
prefetched batch is counted for nothing; programs are compiled before. Images lie in the page cache.
"""

import contextlib
from typing import Any

import contest
import pictures
from setting import ROOT, Setting

from byoljax import config as config_lib

# case -> the recipe whose views and normalization are taken, and whether its images are JPEGs
CASES = {'JPEG, 128 px': ('imagenette', True), 'arrays, 32 px': ('cifar10', False)}


def measure(setting: Setting) -> list[dict[str, Any]]:
  """One result for each kind of images."""
  return [_one(setting, name, *CASES[name]) for name in CASES]


def view_settings(recipe: str) -> dict[str, Any]:
  """Views and normalization of a recipe, as JSON."""
  config = config_lib.load(f'{ROOT / "configs" / "byol.py"}:{recipe}')
  return {
    'views': [dict(config.views[name]) for name in sorted(config.views)],
    'mean': list(config.data.mean),
    'std': list(config.data.std),
  }


def _one(setting: Setting, name: str, recipe: str, jpeg: bool) -> dict[str, Any]:
  """One kind of images: every part of byoljax and lightly, in turns."""
  batch = 16 if setting.quick else 128
  count = batch * (2 if setting.quick else 16)
  rounds = 2 if setting.quick else 5
  path = setting.scratch / ('jpeg' if jpeg else 'arrays.npz')
  images = pictures.folder(path, count, setting.data) if jpeg else pictures.arrays(path, count)
  setting.say(f'pipeline: {name}: {images}')
  case = {'path': str(path), 'batch_size': batch, 'workers': setting.cores}
  case |= view_settings(recipe)
  # Long enough for what happens once in a turn (starting workers, tracing) not to count.
  passes = 1 if setting.quick else 2 if jpeg else 4
  batches = passes * count // batch
  with contextlib.ExitStack() as stack:
    ours = stack.enter_context(setting.ours('jax_pipeline.py'))
    versions = {'byoljax': ours.ask('prepare', case=case)['versions']}
    turns = {
      f'byoljax, accelerator: {part}': lambda part=part: ours.ask(part, batches=batches)
      for part in ('host', 'device')
    }
    if setting.torch_python:
      theirs = stack.enter_context(setting.theirs('lightly_pipeline.py'))
      versions['lightly'] = theirs.ask('prepare', case=case)['versions']
      turns['lightly: host'] = lambda: theirs.ask('host', batches=batches)
    replies = contest.alternate(turns, rounds, pause=setting.pause, say=setting.say)
  return {'name': name, 'images': images, 'case': case, 'versions': versions, 'samples': replies}
