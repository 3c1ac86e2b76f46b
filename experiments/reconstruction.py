"""Trains the methods that reconstruct, rotation and BYOL, for the same CPU time, and compares them.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. python experiments/reconstruction.py \
      --seeds 0 1 2 --seconds 60 --out experiments/shapes_reconstruction

Each method is its recipe with a constant learning rate behind the warm-up, and ends once its steps
have taken so many CPU seconds, compilation not counted. Then k-NN and logistic regression on every
map of the encoder and on the embedding, and the whole network fine-tuned on few labels; beside it a
random encoder of each kind and raw pixels. What was reconstructed of held-out images is drawn, and
measured. Written are results.json, after every run, so that it can be stopped and started again,
table.md, and a sheet of pictures of the first seed for each method.

`--scale cifar10_small -- data.name=npz data.dir=cifar10.npz` does the same on CIFAR-10.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

from collect import processor
import jax
import jaxlib
import numpy as np
import pretext

from byoljax.devices import xla
from byoljax.encoders.encoder import EMBEDDING, Encoder
from byoljax.encoders.pictures import Painter
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
MEASURED, SHOWN = 200, 8  # images


def recipe_of(name: str, scale: str) -> str:
  """'mae' -> 'mae:shapes'; 'denoising_autoencoder,masking' with its options."""
  recipe, _, options = name.partition(',')
  return f'{recipe}:{scale}' + (f',{options}' if options else '')


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


def reconstructed(trained: pretext.Trained, sheet: pathlib.Path | None) -> dict[str, float]:
  """Mean PSNR and SSIM of held-out images, and a sheet of some; nothing where none are shown."""
  run, state = trained.run, trained.state
  if run.method.pictures is None:
    return {}
  painter = Painter(
    pathlib.Path(), run.method, trained.encoder.preprocessing, run.specs, run.data.fields
  )
  _, test = pretext.splits(trained.config)
  batch = painter.batch(test.subset(np.arange(min(MEASURED, test.size))))
  shown = painter.show(state.params, state.method_state, batch)
  if sheet is not None:
    sheet.parent.mkdir(parents=True, exist_ok=True)
    few = {name: picture[:SHOWN] for name, picture in shown.items()}
    reconstructions.draw(sheet, {int(state.step): few})
  return {
    f'{kind} of the {name}': float(values.mean())
    for name, kinds in reconstructions.quality(shown).items()
    for kind, values in kinds.items()
  }


def one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
  """A method or a baseline: what it learned, and what it can show."""
  if name in BASELINES:
    kind, recipe = BASELINES[name]
    recipe = recipe_of(recipe, options.scale)
    encoder = pretext.baseline(kind, seed, options.override, recipe)
    config, facts = pretext.configuration(recipe, seed, options.override), {}
  else:
    trained = pretext.train(recipe_of(name, options.scale), seed, options)
    sheet = options.out / f'{name.replace(",", "_")}.png' if seed == options.seeds[0] else None
    facts = trained.facts | {'quality': reconstructed(trained, sheet)}
    encoder, config = trained.encoder, trained.config
  given = pretext.data_of(encoder, config)
  found = {'name': name, 'seed': seed} | facts | {'layers': pretext.layers(encoder, given)}
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
    best = max(taps, key=lambda tap: pretext.mean(each, tap, 'linear'))
    cells = [name, best]
    for tap in (best, EMBEDDING):
      for score in ('knn', 'linear'):
        cells.append(pretext.spread([100 * run['layers'][tap][score] for run in each]))
    for label in labels:
      tuned = [100 * run['finetuned'][label] for run in each if label in run.get('finetuned', {})]
      cells.append(pretext.spread(tuned))
    measured = [run['quality'] for run in each if run.get('quality')]
    cells.append(
      ', '.join(
        pretext.spread([quality[key] for quality in measured])
        for key in ('psnr of the input', 'psnr of the output')
        if measured and key in measured[0]
      )
    )
    steps = [run['steps'] for run in each if 'steps' in run]
    cells += [f'{statistics.mean(steps):.0f}' if steps else '', str(len(each))]
    rows.append((pretext.mean(each, best, 'linear'), '| ' + ' | '.join(cells) + ' |'))
  lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
  return '\n'.join(lines + [row for _, row in sorted(rows, reverse=True)]) + '\n'


def main() -> None:
  """Runs what is missing, and writes the folder after each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--methods', nargs='+', default=[*BASELINES, *METHODS])
  parser.add_argument('--scale', default='shapes', help='of the recipes (default: shapes)')
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--seconds', type=float, default=60.0, help='CPU time of the steps')
  parser.add_argument('--lengths', nargs='*', default=LENGTHS, help="'1 %%=100 epochs' ...")
  parser.add_argument('--finetune_lr', type=float, default=2e-3, help='per 256 images')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('override', nargs='*', help='-- train.batch_size=32 ...')
  options = parser.parse_args()
  xla.set_defaults()
  xla.keep_programs()
  options.out.mkdir(parents=True, exist_ok=True)
  path = options.out / 'results.json'
  runs: list[dict[str, Any]] = json.loads(path.read_text())['runs'] if path.exists() else []
  done = {(run['name'], run['seed']) for run in runs}
  about = {
    'seconds': options.seconds, 'scale': options.scale, 'lengths': list(options.lengths),
    'finetune_lr': options.finetune_lr, 'processor': processor(), 'override': options.override,
    'versions': {'jax': jax.__version__, 'jaxlib': jaxlib.__version__},
  }  # fmt: skip
  for seed in options.seeds:
    for name in options.methods:
      recipe = BASELINES.get(name, ('', name))[1].partition(',')[0]
      if (name, seed) in done or not pathlib.Path(f'configs/{recipe}.py').exists():
        continue
      print(f'{name}, seed {seed}', flush=True)
      runs.append(one(name, seed, options))
      path.write_text(json.dumps(about | {'runs': runs}, indent=1) + '\n')
      (options.out / 'table.md').write_text(table(runs))
  print(table(runs))


if __name__ == '__main__':
  main()
