"""lightly's BYOL augmentation in a PyTorch DataLoader, as a contestant.

The usual program: worker processes open an image with Pillow, make two normalized float32 views of
it and collate them. Images that are arrays become Pillow images first, as in torchvision's CIFAR10.
"""

try:  # An environment may need its PyTorch patched before anything else.
  import peer_env  # noqa: F401
except ModuleNotFoundError:
  peer_env = None

from collections.abc import Callable
import pathlib
from typing import Any

import contest
from lightly.transforms.byol_transform import (
  BYOLTransform,
  BYOLView1Transform,
  BYOLView2Transform,
)
import numpy as np
from PIL import Image
import torch
from torch.utils import data

PACKAGES = ('torch', 'torchvision', 'lightly', 'numpy', 'pillow', 'pillow-simd')
# What lightly's transform cannot be told: it always does it like this.
_FIXED = {'crop_ratio': [3 / 4, 4 / 3], 'solarize_threshold': 0.5}


def view_settings(view: dict[str, Any], mean: list[float], std: list[float]) -> dict[str, Any]:
  """byoljax's settings of a view -> lightly's.

  Raises:
    ValueError: a setting that lightly does not have.
  """
  for name, value in _FIXED.items():
    if not np.allclose(view[name], value):
      raise ValueError(f'lightly has {name} {value}, so it cannot be {view[name]}')
  if view['crop_scale'][1] != 1.0:
    raise ValueError(f'lightly crops up to the whole image, not up to {view["crop_scale"][1]}')
  return {
    'input_size': view['size'],
    'min_scale': view['crop_scale'][0],
    'hf_prob': view['flip_prob'],
    'cj_prob': view['jitter_prob'],
    'cj_strength': 1.0,
    'cj_bright': view['brightness'],
    'cj_contrast': view['contrast'],
    'cj_sat': view['saturation'],
    'cj_hue': view['hue'],
    'random_gray_scale': view['gray_prob'],
    'gaussian_blur': view['blur_prob'],
    'sigmas': tuple(view['blur_sigma']),
    'solarization_prob': view['solarize_prob'],
    'normalize': {'mean': mean, 'std': std},
  }


class Images(data.Dataset):
  """Two views of each image."""

  def __init__(self, path: str, transform: Callable[[Image.Image], Any]):
    self._transform = transform
    if path.endswith('.npz'):
      with np.load(path) as arrays:
        self._images: Any = arrays['x_train']
    else:
      self._images = sorted(pathlib.Path(path).iterdir())

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> Any:
    image = self._images[index]
    if isinstance(image, np.ndarray):
      return self._transform(Image.fromarray(image))
    with Image.open(image) as opened:
      return self._transform(opened.convert('RGB'))


class Contestant:
  """Answers 'prepare' and 'host'."""

  def prepare(self, case: dict[str, Any]) -> contest.Reply:
    """Builds the transform and makes one batch, so that everything is loaded."""
    settings = [view_settings(view, case['mean'], case['std']) for view in case['views']]
    transform = BYOLTransform(BYOLView1Transform(**settings[0]), BYOLView2Transform(**settings[1]))
    self._case, self._images = case, Images(case['path'], transform)
    self.host(1)
    return {'versions': contest.versions(PACKAGES)}

  def host(self, batches: int) -> contest.Reply:
    """Makes that many batches, from starting the workers to their end."""
    size, images = self._case['batch_size'], 0

    def work() -> None:
      nonlocal images
      sampler = data.RandomSampler(self._images, num_samples=batches * size)
      loader = data.DataLoader(
        self._images, size, sampler=sampler, num_workers=self._case['workers'], drop_last=True
      )
      for first, second in loader:
        if first.dtype != torch.float32 or first.shape != second.shape:
          raise TypeError('two normalized float32 views were expected')
        images += len(first)

    wall, cpu = contest.timed(work)
    return {'images': images, 'wall': wall, 'cpu': cpu}


if __name__ == '__main__':
  contestant = Contestant()
  contest.serve({'prepare': contestant.prepare, 'host': contestant.host})
