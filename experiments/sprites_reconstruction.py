"""Trains on moving scenes what they alone can teach: what moves, and depth from color.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python \
      experiments/sprites_reconstruction.py --seeds 0 --seconds 60 \
      --out experiments/sprites_reconstruction

Each is its recipe on `sprites`, trained and evaluated as `equal_time.py` says: k-NN and logistic
regression of the class of the nearest object. Beside it, on test images,

- of what moves, by true masks and by differences of two frames: intersection over union with the
  true masks, of all pixels at once;
- of split-brain on color and depth: the root mean square error of depth, beside that of the mean of
  the training images at each pixel.

Written are results.json, after every run, so that it can be stopped and started again, table.md,
and a sheet of pictures of the first seed.
"""

import argparse
import pathlib
from typing import Any

import equal_time
import jax.numpy as jnp
import numpy as np

from byoljax.data.sources import sprites
from byoljax.encoders.encoder import EMBEDDING
from byoljax.evals import segmentation

METHODS = (
  'motion_segmentation', 'motion_segmentation,differencing', 'split_brain,rgbd', 'split_brain',
  'colorization', 'rotation', 'byol',
)  # fmt: skip
BASELINES = ('random', 'pixels')


def pictured(
  trained: equal_time.Trained, measured: int, sheet: pathlib.Path | None
) -> dict[str, float]:
  """How good masks and depth of the first test images are; nothing of other methods."""
  shown = equal_time.pictures(trained, measured, sheet)
  if not shown:
    return {}
  truth = sprites.arrays('test', ('moving', 'depth'))
  count = len(shown['image'])
  if 'predicted' in shown:
    moving = truth['moving'][:count].reshape(shown['predicted'].shape) > 0
    scores = segmentation.binary_scores(jnp.asarray(shown['predicted'] > 0.5), jnp.asarray(moving))
    found = {'iou': float(scores['iou']), 'moving': float(moving.mean())}
    if 'differing' in shown:
      differing = jnp.asarray(shown['differing'] > 0.5)
      target = segmentation.binary_scores(differing, jnp.asarray(moving))
      found['iou of the targets'] = float(target['iou'])
    return found
  if 'from_depth' in shown:
    depth = truth['depth'][:count].reshape(shown['output'].shape)
    usual = sprites.arrays('train', ('depth',))['depth'].mean(0).reshape(depth.shape[1:])
    return {
      'rms': float(np.sqrt(np.mean(np.square(shown['output'] - depth)))),
      'rms of the mean': float(np.sqrt(np.mean(np.square(usual - depth)))),
    }
  return {}


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """A method or a baseline: what it learned, and how well it does what it was trained for."""
  override = ['data.name=sprites', *options.override]
  if name in BASELINES:
    recipe = equal_time.recipe_of('rotation', options.scale)
    encoder = equal_time.baseline(name, seed, override, recipe)
    config, facts = equal_time.configuration(recipe, seed, override), {}
  else:
    told = argparse.Namespace(**{**vars(options), 'override': override})
    trained = equal_time.train(equal_time.recipe_of(name, options.scale), seed, told)
    sheet = options.out / f'{name.replace(",", "_")}.png' if seed == options.seeds[0] else None
    facts = trained.facts | {'quality': pictured(trained, options.measured, sheet)}
    encoder, config = trained.encoder, trained.config
  return facts | {'layers': equal_time.layers(encoder, equal_time.data_of(encoder, config))}


def table(runs: list[dict[str, Any]]) -> str:
  """Mean ± standard deviation over seeds; best linear accuracy of the best layer first."""
  heads = [
    'method', 'best layer', 'k-NN there', 'linear there', 'k-NN, last layer', 'linear, last layer',
    'what moves, IoU', 'depth, rms', 'steps', 'seeds',
  ]  # fmt: skip
  rows = []
  for name in dict.fromkeys(run['name'] for run in runs):
    each = [run for run in runs if run['name'] == name]
    best = max(each[0]['layers'], key=lambda tap, each=each: equal_time.mean(each, tap, 'linear'))
    cells = [name, best]
    for tap in (best, EMBEDDING):
      for score in ('knn', 'linear'):
        cells.append(equal_time.spread([100 * run['layers'][tap][score] for run in each]))
    quality = [run.get('quality', {}) for run in each]
    cells.append(equal_time.spread([100 * found['iou'] for found in quality if 'iou' in found]))
    rms = [found['rms'] for found in quality if 'rms' in found]
    cells.append(f'{np.mean(rms):.3f}' if rms else '')
    steps = [run['steps'] for run in each if 'steps' in run]
    cells += [f'{np.mean(steps):.0f}' if steps else '', str(len(each))]
    rows.append((equal_time.mean(each, best, 'linear'), '| ' + ' | '.join(cells) + ' |'))
  lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
  return '\n'.join(lines + [row for _, row in sorted(rows, reverse=True)]) + '\n'


def main() -> None:
  """Runs what is missing."""
  parser = equal_time.parser(__doc__, 'methods', [*BASELINES, *METHODS])
  parser.add_argument('--measured', type=int, default=1000, help='test images for masks and depth')
  equal_time.run_missing(parser.parse_args(), one, table)


if __name__ == '__main__':
  main()
