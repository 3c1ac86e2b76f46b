"""Makes finetune.npz: timm's layer-wise rates, mixed labels and CutMix's boxes.

Run with PyTorch and timm installed: python tests/golden/make_finetune.py
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import pathlib
from unittest import mock

import numpy as np
from timm.data import mixup
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
import torch

VIT = {'img_size': 16, 'patch_size': 4, 'embed_dim': 16, 'depth': 3, 'num_heads': 2}
DECAY, SMOOTHING = 0.65, 0.1
SIZE = (12, 9)
# lambda and the box's center, as shares of the image's sides
BOXES = ((0.3, 0.5, 0.5), (0.9, 0.0, 0.99), (0.0, 0.2, 0.7), (1.0, 0.5, 0.5), (0.55, 0.95, 0.1))


def box(share: float, center: tuple[float, float]) -> np.ndarray:
  """1 outside of timm's box, drawn around this center."""
  places = [int(size * at) for size, at in zip(SIZE, center, strict=True)]
  with mock.patch.object(np.random, 'randint', side_effect=places):
    top, bottom, left, right = mixup.rand_bbox((1, 3, *SIZE), share)
  outside = np.ones(SIZE, np.float32)
  outside[top:bottom, left:right] = 0
  return outside


def main() -> None:
  model = VisionTransformer(**VIT, num_classes=5)
  names = {id(p): name for name, p in model.named_parameters()}
  results = {}
  for group in param_groups_layer_decay(model, weight_decay=0.05, layer_decay=DECAY):
    for parameter in group['params']:
      results[f'factor/{names[id(parameter)]}'] = np.float64(group['lr_scale'])
  results['boxes'] = np.stack([box(share, place) for share, *place in BOXES])
  labels = torch.tensor([2, 0, 1, 1])
  # timm's partner is at the same distance from the end: with two images it is the other one.
  for i in (0, 2):
    pair = labels[i : i + 2]
    mixed = mixup.mixup_target(pair, 3, lam=0.3, smoothing=SMOOTHING)
    results[f'labels{i}'] = mixed.numpy()
  path = pathlib.Path(__file__).with_name('finetune.npz')
  np.savez_compressed(path, **results)
  print(results['boxes'].mean((1, 2)), results['labels0'], len(results))
  print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
