"""Trains the methods that reconstruct, rotation and BYOL, for the same CPU time, and compares them.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python experiments/reconstruction.py \
      --seeds 0 1 2 --seconds 60 --out experiments/shapes_reconstruction

Each method is its recipe, trained and evaluated as `equal_time.py` says, and fine-tuned on few
labels; beside it a random encoder of each kind and raw pixels. What was reconstructed of held-out
images is drawn, and measured. Written are results.json, after every run, so that it can be stopped
and started again, table.md, and a sheet of pictures of the first seed for each method.

`--scale cifar10_small -- data.name=npz data.dir=cifar10.npz` does the same on CIFAR-10.
"""

import argparse
import pathlib
import statistics
from typing import Any

import equal_time

from byoljax.encoders.encoder import EMBEDDING, Encoder
from byoljax.protocols import labelled
from byoljax.protocols.extraction import EvalData
from byoljax.protocols.finetune import FinetuneProtocol, finetune_result
from byoljax.report import reconstructions
from byoljax.train.record import Logging
from configs import base

METHODS = (
  'denoising_autoencoder', 'context_encoder', 'colorization', 'split_brain', 'mae', 'rotation',
  'byol',
)  # fmt: skip
# Beside the encoder of most, those of methods that have another one.
BASELINES = {
  'random': ('random', 'rotation'), 'random, of mae': ('random', 'mae'),
  'pixels': ('pixels', 'rotation'),
}  # fmt: skip
LENGTHS = ('1 %=100 epochs', '10 %=20 epochs')
MEASURED = 200  # images


def finetuned(
  encoder: Encoder, given: EvalData, seed: int, options: argparse.Namespace
) -> dict[str, float]:
  """{'1 %': top-1 on the test images, ...}: AdamW on the whole network, one setting for all."""
  found = {}
  for text in options.lengths:
    labels, _, length = text.partition('=')
    fields = base.finetune_protocol(
      protocol='adamw', length=length, batch_size=64, crop_scale=(0.3, 1.0), seed=seed,
      optim=base.finetune_protocol()['optim']
      | {'name': 'adamw', 'base_lr': options.finetune_lr, 'weight_decay': 0.05},
      sweep={'base_lr': (), 'length': (), 'weight_decay': ()},
    )  # fmt: skip
    some = given._replace(train=labelled.part(given.train, labels, seed))
    result = finetune_result(
      encoder, some, FinetuneProtocol(**fields), logging=Logging('at the end', False, False)
    )
    found[labels] = result['top1']
  return found


def reconstructed(trained: equal_time.Trained, sheet: pathlib.Path | None) -> dict[str, float]:
  """Mean PSNR and SSIM of held-out images, and a sheet of some; nothing where none are shown."""
  shown = equal_time.pictures(trained, MEASURED, sheet)
  if not shown:
    return {}
  return {
    f'{kind} of the {name}': float(values.mean())
    for name, kinds in reconstructions.quality(shown).items()
    for kind, values in kinds.items()
  }


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """A method or a baseline: what it learned, and what it can show."""
  if name in BASELINES:
    kind, recipe = BASELINES[name]
    recipe = equal_time.recipe_of(recipe, options.scale)
    encoder = equal_time.baseline(kind, seed, options.override, recipe)
    config, facts = equal_time.configuration(recipe, seed, options.override), {}
  else:
    trained = equal_time.train(equal_time.recipe_of(name, options.scale), seed, options)
    sheet = options.out / f'{name.replace(",", "_")}.png' if seed == options.seeds[0] else None
    facts = trained.facts | {'quality': reconstructed(trained, sheet)}
    encoder, config = trained.encoder, trained.config
  given = equal_time.data_of(encoder, config)
  found = facts | {'layers': equal_time.layers(encoder, given)}
  if name != 'pixels' and options.lengths:
    found['finetuned'] = finetuned(encoder, given, seed, options)
  return found


def table(runs: list[dict[str, Any]]) -> str:
  """Mean ± standard deviation over seeds, in per cent; best linear of the best layer first."""
  by_name: dict[str, list[dict[str, Any]]] = {}
  for run in runs:
    by_name.setdefault(run['name'], []).append(run)
  labels = list(dict.fromkeys(label for run in runs for label in run.get('finetuned', {})))
  heads = [
    'method', 'best layer', 'k-NN there', 'linear there', 'k-NN, last layer',
    'linear, last layer', *(f'fine-tuned, {label}' for label in labels), 'PSNR, input and output',
    'steps', 'seeds',
  ]  # fmt: skip
  rows = []
  for name, each in by_name.items():
    taps = list(each[0]['layers'])
    best = max(taps, key=lambda tap: equal_time.mean(each, tap, 'linear'))
    cells = [name, best]
    for tap in (best, EMBEDDING):
      for score in ('knn', 'linear'):
        cells.append(equal_time.spread([100 * run['layers'][tap][score] for run in each]))
    for label in labels:
      tuned = [100 * run['finetuned'][label] for run in each if label in run.get('finetuned', {})]
      cells.append(equal_time.spread(tuned))
    measured = [run['quality'] for run in each if run.get('quality')]
    cells.append(
      ', '.join(
        equal_time.spread([quality[key] for quality in measured])
        for key in ('psnr of the input', 'psnr of the output')
        if measured and key in measured[0]
      )
    )
    steps = [run['steps'] for run in each if 'steps' in run]
    cells += [f'{statistics.mean(steps):.0f}' if steps else '', str(len(each))]
    rows.append((equal_time.mean(each, best, 'linear'), '| ' + ' | '.join(cells) + ' |'))
  lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
  return '\n'.join(lines + [row for _, row in sorted(rows, reverse=True)]) + '\n'


def main() -> None:
  """Runs what is missing."""
  parser = equal_time.parser(__doc__, 'methods', [*BASELINES, *METHODS])
  parser.add_argument('--lengths', nargs='*', default=LENGTHS, help="'1 %%=100 epochs' ...")
  parser.add_argument('--finetune_lr', type=float, default=2e-3, help='per 256 images')
  options = parser.parse_args()
  equal_time.run_missing(
    options, one, table, lengths=list(options.lengths), finetune_lr=options.finetune_lr
  )


if __name__ == '__main__':
  main()
