"""Makes operators.npz: torchvision's and Pillow's operators on small pictures, and TensorFlow's.

Run with PyTorch, torchvision and Pillow installed: python tests/golden/make_operators.py
What each array is compared with, and the tolerance, in levels of 1/255 where it is Pillow's:

  jitter         torchvision's jitter on float images, all 24 orders. Its gray on floats has the
                 weights .2989, .587, .114 and Pillow's .299, .587, .114: 1e-4 in a gray value, up
                 to 2.5e-4 after a contrast and a saturation                          2.5e-4
  jitter_exact   the same in float64 NumPy and colorsys with Pillow's weights           1e-5
  simclr_v2      brightness that is multiplied, the rest TensorFlow's, in the same way  1e-5
  pil_<name>     one operator by torchvision on Pillow's images, which truncates to 8 bits: a level,
                 and more where a gray value or a mean was rounded before; of the hue up to 16
                 levels, since its HSV has 256 hues
  pil_blur       ImageFilter.GaussianBlur, which rounds after each of 6 passes: 3 levels
  crop_<kernel>  torchvision's resized_crop of Pillow's images, which rounds between the two
                 directions: bilinear 1 level; bicubic, which it also clips there, 4
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import itertools
import pathlib

from make_augment import STRENGTHS, draw_values, per_pixel, pictures
import numpy as np
from PIL import Image, ImageFilter
import torch
from torchvision.transforms import InterpolationMode, functional

SIGMAS = (0.1, 0.4, 0.9, 1.3, 1.7, 2.0)
BOXES = ((0, 0, 40, 48), (3, 5, 30, 22), (10, 2, 9, 12), (1, 1, 38, 46))
SIZES = (16, 34)
LUMA = np.array([0.299, 0.587, 0.114])


def blended(image, name, value, weights=LUMA):
  """One of torchvision's operators in float64."""
  gray = (image @ weights)[..., None]
  if name == 'brightness':
    image = image * value
  elif name == 'contrast':
    image = value * image + (1 - value) * gray.mean()
  elif name == 'saturation':
    image = value * image + (1 - value) * gray
  else:
    image = per_pixel(image, lambda h, s, v: ((h + value) % 1.0, s, v))
  return np.clip(image, 0, 1)


def simclr(image, name, value):
  """One of SimCLR's operators in float64."""
  if name == 'contrast':
    mean = image.mean((0, 1))
    return np.clip(value * (image - mean) + mean, 0, 1)
  if name == 'saturation':
    return per_pixel(image, lambda h, s, v: (h, min(s * value, 1.0), v))
  return blended(image, name, value)


def by_torchvision(image, name, value):
  """One of torchvision's operators, on float images or on Pillow's."""
  return getattr(functional, f'adjust_{name}')(image, value)


def in_order(image, order, values, operator):
  """The operators one after the other."""
  for name in order:
    image = operator(image, name, values[name])
  return image


def jitters(rng):
  """All orders of the jitter, and single operators by Pillow."""
  orders = list(itertools.permutations(STRENGTHS))
  drawn = [draw_values(rng) for _ in orders]
  for _, values in drawn:
    values['brightness'] += 1.0
  images = pictures(rng, len(orders), 8)
  out = {
    'jittered': images,
    'jitter_order': np.array([[order.index(n) for n in STRENGTHS] for order in orders]),
    'jitter_u': np.array([[u[n] for n in STRENGTHS] for u, _ in drawn], np.float32),
  }
  rows = [
    (image, order, values) for image, order, (_, values) in zip(images, orders, drawn, strict=True)
  ]
  made = []
  for image, order, values in rows:
    tensor = torch.from_numpy(np.moveaxis(image, -1, 0).astype(np.float32) / 255)
    made.append(np.moveaxis(in_order(tensor, order, values, by_torchvision).numpy(), 0, -1))
  out['jitter'] = np.array(made)
  exact = [in_order(image / 255, order, values, blended) for image, order, values in rows]
  out['jitter_exact'] = np.array(exact, np.float32)
  exact = [in_order(image / 255, order, values, simclr) for image, order, values in rows]
  out['simclr_v2'] = np.array(exact, np.float32)
  for name in STRENGTHS:
    singles = [
      np.asarray(by_torchvision(Image.fromarray(image), name, values[name]))
      for image, _, values in rows
    ]
    out[f'pil_{name}'] = np.array(singles)
  out['pil_gray'] = np.array([np.asarray(Image.fromarray(image).convert('L')) for image in images])
  return out


def main():
  """Writes operators.npz beside this file."""
  rng = np.random.default_rng(1)
  out = jitters(rng)
  for size in (8, 32):
    out[f'sharp_{size}'] = pictures(rng, 1, size)
    image = Image.fromarray(out[f'sharp_{size}'][0])
    blurred = [np.asarray(image.filter(ImageFilter.GaussianBlur(radius=s))) for s in SIGMAS]
    out[f'pil_blur_{size}'] = np.array(blurred)
  out['sigmas'], out['boxes'], out['sizes'] = np.array(SIGMAS), np.array(BOXES), np.array(SIZES)
  out['whole'] = pictures(rng, 1, 48)[:, :40]
  image = Image.fromarray(out['whole'][0])
  for name in ('bilinear', 'bicubic'):
    for size in SIZES:
      made = [
        np.asarray(functional.resized_crop(image, *box, [size, size], InterpolationMode(name)))
        for box in BOXES
      ]
      out[f'crop_{name}_{size}'] = np.array(made)
  np.savez_compressed(pathlib.Path(__file__).parent / 'operators.npz', **out)


if __name__ == '__main__':
  main()
