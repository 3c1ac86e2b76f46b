"""What a step of reconstruction costs beside the same one in PyTorch, and MAE by its mask ratio.

    PYTHONPATH=. python experiments/reconstruction_cost.py --torch-python path/to/python \
      --out experiments/reconstruction_cost

How both sides are run: `beside_torch.py`. The other one (`reconstruction_cost_torch.py`) has timm's
blocks for MAE and torchvision's ResNet-18 for the others, and the rest written from the papers.
Noise and masks of the steps whose losses are compared are made here; later ones each side draws.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

from beside_torch import (
  CHECKED,
  RATE,
  about,
  batch_of,
  compare,
  in_pytorch,
  one_core,
  step_of,
  timed,
  weights_of,
)
import jax
import numpy as np

from byoljax import streams
from byoljax.length import Length
from byoljax.method import Method, Setting
from byoljax.methods import METHODS
from byoljax.models import encoder_factory
from byoljax.models.positions import sincos_positions
from byoljax.ops import color_bins
from byoljax.weights import torch_names

SIDE, PATCH, GRID = 32, 4, 8
MEAN, STD = (0.5,) * 3, (0.25,) * 3
VIT = {'name': 'vit_tiny', 'patch_size': PATCH, 'grid': GRID, 'positions': 'sincos_xy'}
RESNET = {'name': 'resnet18', 'stem': 'cifar'}
MAE = {'decoder_dim': 96, 'decoder_depth': 2, 'decoder_heads': 3}
COLORS = {'stride': 2, 'decoder_width': 64, 'uniform': 1.0}
BRAIN = {'stride': 2, 'decoder_width': 64}
# name -> (method, encoder, its arguments)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
  **{
    f'mae, {ratio:.1%} masked': ('mae', VIT, MAE | {'mask_ratio': ratio})
    for ratio in (0.125, 0.25, 0.5, 0.75, 0.875)
  },
  'denoising_autoencoder': ('denoising_autoencoder', RESNET, {}),
  'colorization': ('colorization', RESNET, COLORS),
  'context_encoder': ('context_encoder', RESNET, {'hole': 'center', 'channelwise': True}),
  'split_brain': ('split_brain', RESNET | {'input': 'lab_halves'}, BRAIN),
}


def method_of(name: str, batch_size: int) -> Method:
  """The method of a case."""
  method, encoder, arguments = CASES[name]
  setting = Setting(Length(batch_size, 2, 2), mean=MEAN, std=STD)
  return METHODS[method](encoder_factory(encoder, mean=MEAN, std=STD), setting, **arguments)


def drawn(method: Method, state: Any, batch: dict[str, Any], wanted: str) -> np.ndarray:
  """What the method draws in the checked steps, with the keys of `train_step`: [steps, ...]."""
  found = []
  for step in range(CHECKED):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
    key = jax.random.fold_in(jax.random.fold_in(key, streams.TRANSFORM), 0)
    made = method.transform(batch, key, step)
    found.append(made['views'][0] if wanted == 'noisy' else made[wanted])
  return np.stack(found)


def given_to(name: str, method: Method, state: Any, batch: dict[str, Any]) -> dict[str, np.ndarray]:
  """Weights and draws, by the names that the other side reads."""
  kind, _, _ = CASES[name]
  if kind == 'mae':
    here = sincos_positions(GRID, GRID, 192, GRID, xy=True)
    above = sincos_positions(GRID, GRID, MAE['decoder_dim'], GRID, xy=True)
    masked = drawn(method, state, batch, 'masked').reshape(CHECKED, len(batch['index']), -1)
    more = {'positions': here, 'decoder_positions': above, 'masked': masked}
    return {f'weights/{path}': x for path, x in weights_of(state.params).items()} | more
  # The statistics after a step are not compared: batches are normalized by their own.
  bn = jax.device_get(state.method_state.bn['encoder'])
  encoders = {'encoder': (state.params['encoder'], bn)}
  if kind == 'split_brain':
    encoders = {half: (state.params['encoder'][half], bn[half]) for half in ('first', 'second')}
  arrays = {
    f'{role}/{path}': array
    for role, variables in encoders.items()
    for path, array in torch_names.to_torch(*variables).items()
  }
  for role in state.params:
    if role.endswith('decoder'):
      arrays |= {f'{role}/{path}': x for path, x in weights_of(state.params[role]).items()}
  if kind == 'context_encoder':
    return arrays | {'painted': drawn(method, state, batch, 'painted')[0, 0, ..., 0]}
  if kind == 'denoising_autoencoder':
    return arrays | {'noisy': drawn(method, state, batch, 'noisy')}
  return arrays | {'bins': color_bins.ab_bins()}


def one(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
  """CPU seconds of both sides' steps."""
  rng = np.random.default_rng(0)
  pixels = rng.uniform(size=(options.batch, SIDE, SIDE, 3)).astype(np.float32)
  views = (pixels - np.float32(MEAN)) / np.float32(STD)
  batch, method = batch_of(views), method_of(name, options.batch)
  state, step = step_of(method, batch)
  arrays = {'images': views} | given_to(name, method, state, batch)
  losses, ours, _ = timed(step, state, batch, options.steps)
  kind, _, arguments = CASES[name]
  words = (kind, options.steps, RATE, CHECKED, arguments.get('mask_ratio', 0))
  theirs = in_pytorch(options.torch_python, 'reconstruction_cost_torch.py', arrays, words)
  compare(losses, theirs['losses'])
  return {'byoljax': ours, 'PyTorch': theirs['cpu_s'], 'versions': theirs['versions']}


def main() -> None:
  """Measures all cases and writes results.json and table.md."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--torch-python', required=True, help='an interpreter with PyTorch and timm')
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--steps', type=int, default=5, help='that are timed')
  parser.add_argument(
    '--cases', nargs='+', default=list(CASES), help=', '.join(CASES).replace('%', '%%')
  )
  parser.add_argument('--out', type=pathlib.Path, required=True)
  options = parser.parse_args()
  one_core()
  found = about(batch=options.batch)
  sides: dict[str, Any] = {}
  lines = ['| | byoljax, CPU seconds a step | PyTorch | ratio |', '|---|---|---|---|']
  for name in options.cases:
    each = one(name, options)
    found['versions'] |= each.pop('versions')
    sides[name] = each
    ours, theirs = (statistics.median(each[side]) for side in ('byoljax', 'PyTorch'))
    lines.append(f'| {name} | {ours:.3f} | {theirs:.3f} | {ours / theirs:.2f} |')
    print(lines[-1], flush=True)
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / 'results.json').write_text(json.dumps(found | {'cpu_s': sides}, indent=1) + '\n')
  (options.out / 'table.md').write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
  main()
