"""Checks exported weights in PyTorch: the same features from `model.safetensors` as from the run.

    byoljax export runs/byol --workdir exported
    python experiments/export_in_pytorch.py reference --run runs/byol --out reference.npz
    <an environment with PyTorch> experiments/export_in_pytorch.py check --export exported \
      --reference reference.npz

The first two run where byoljax is, the third one needs PyTorch, safetensors and NumPy alone: the
small encoder is the one of the benchmark beside this file; ResNets are torchvision's.
"""

import argparse
import json
import pathlib
import sys

import numpy as np


def reference(options: argparse.Namespace) -> None:
  """Stores images of the run's test split and their features."""
  import byoljax
  from byoljax.data.batches import pipeline
  from byoljax.data.sources import datasets
  from byoljax.workdir import run_dir

  config = run_dir.run_config(options.run)
  test = datasets.load(config.data.name, 'test', data_dir=config.data.dir)
  size = config.evals.image_size
  batch = next(iter(pipeline.eval_batches(test, image_size=size, batch_size=options.count)))
  features = byoljax.load(options.run)(batch['image'])
  np.savez(
    options.out, images=batch['image'], features=features, mean=config.data.mean,
    std=config.data.std, encoder=config.encoder.name,
  )  # fmt: skip


def check(options: argparse.Namespace) -> None:
  """Compares; fails where features differ by more than the tolerance."""
  sys.path.insert(0, str(pathlib.Path(__file__).parent / 'bench'))
  import safetensors.numpy
  import torch
  import torch_networks

  with np.load(options.reference) as stored:
    given = dict(stored)
  weights = safetensors.numpy.load_file(options.export / 'model.safetensors')
  name = str(given['encoder'])
  if name in torch_networks.ENCODERS:
    network: torch.nn.Module = torch_networks.Encoder(name)
    kinds = {'params': {}, 'batch_stats': {}}
    for path, value in weights.items():
      kind, _, rest = path.partition('/')
      kinds[kind][rest] = value
    torch_networks.load(network, kinds['params'])
    buffers = dict(network.named_buffers())
    for path, value in kinds['batch_stats'].items():
      *modules, statistic = path.split('/')
      buffers['.'.join([*modules, f'running_{statistic}'])].copy_(torch.from_numpy(value))
  else:
    import torchvision

    network = getattr(torchvision.models, name)(weights=None)
    network.fc = torch.nn.Identity()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
  pixels = (given['images'] / 255.0 - given['mean']) / given['std']
  images = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2).copy())
  with torch.inference_mode():
    made = network.eval()(images).numpy()
  worst = float(np.abs(made - given['features']).max())
  largest = float(np.abs(given['features']).max())
  print(json.dumps({'images': len(images), 'largest_difference': worst, 'largest': largest}))
  if worst > options.tolerance:
    raise SystemExit(f'features differ by {worst}, more than {options.tolerance}')


def main() -> None:
  """One of the two halves."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  halves = parser.add_subparsers(required=True)
  first = halves.add_parser('reference')
  first.add_argument('--run', type=pathlib.Path, required=True)
  first.add_argument('--out', type=pathlib.Path, required=True)
  first.add_argument('--count', type=int, default=256)
  first.set_defaults(half=reference)
  second = halves.add_parser('check')
  second.add_argument('--export', type=pathlib.Path, required=True)
  second.add_argument('--reference', type=pathlib.Path, required=True)
  second.add_argument('--tolerance', type=float, default=1e-4)
  second.set_defaults(half=check)
  options = parser.parse_args()
  options.half(options)


if __name__ == '__main__':
  main()
