"""Makes augment.npz: augmented pictures from implementations that are not this project's.

Run with PyTorch, torchvision and Pillow installed: python tests/golden/make_augment.py
What each array is compared with, and the tolerance, on images in [0, 1]:

  hue_<k>      torchvision adjust_hue on floats                                         1e-5
  gray         torchvision rgb_to_grayscale                                             1e-6
  solarize     torchvision solarize, threshold 0.5                                      1e-6
  blur_<k>     torchvision gaussian_blur; reflects at the border where the project pads with zeros,
               so only the interior is stored                                           1e-5
  jitter       colorsys and float64, one operation after the other, clipped after each: all 24
               orders. torchvision's brightness, contrast and saturation are other operators 1e-5
  pipeline     the same reference with gray, zero-padded blur and solarize behind it    1e-5
  enlarged     Pillow's bicubic, which is Keys' kernel with a = -1/2 as long as it enlarges; it does
               not round the kernel positions to 1/1024 pixel                           2e-3
"""

import peer_env  # noqa: F401  isort: skip  first: it patches torchvision for a CPU build of torch

import colorsys
import itertools
import pathlib

import numpy as np
from PIL import Image
import torch
from torchvision.transforms import functional

HUES = (-0.5, -0.1, 0.03, 0.25)
SIGMAS = (0.3, 1.0, 2.0)
STRENGTHS = {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.6, 'hue': 0.2}


def pictures(rng, count, size):
  """Smooth colored fields with edges and texture, uint8: like photographs at low resolution."""
  grid = np.arange(size) / size
  out = np.zeros((count, size, size, 3))
  for image in out:
    for _ in range(6):
      fy, fx, phase = rng.uniform(-3, 3), rng.uniform(-3, 3), rng.uniform(0, 6.3)
      wave = np.cos(2 * np.pi * (fy * grid[:, None] + fx * grid[None]) + phase)
      image += wave[..., None] * rng.normal(0, 0.2, 3)
    y, x = rng.integers(0, size // 2, 2)
    image[y : y + size // 2, x : x + size // 2] += rng.normal(0, 0.4, 3)
    image += rng.normal(0.5, 0.15, 3) + rng.normal(0, 0.03, image.shape)
  return np.round(255 * np.clip(out, 0, 1)).astype(np.uint8)


def per_pixel(image, change):
  """Applies change(h, s, v) -> (h, s, v) to every pixel, through colorsys in float64."""
  flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in image.reshape(-1, 3)]
  return np.array(flat).reshape(image.shape)


def jitter(image, names, values):
  """The named operations in the given order, each clipped to [0, 1]."""
  for name in names:
    value = values[name]
    if name == 'brightness':
      image = image + value
    elif name == 'contrast':
      mean = image.mean((0, 1))
      image = (image - mean) * value + mean
    elif name == 'saturation':
      image = per_pixel(image, lambda h, s, v, k=value: (h, min(s * k, 1.0), v))
    else:
      image = per_pixel(image, lambda h, s, v, k=value: ((h + k) % 1.0, s, v))
    image = np.clip(image, 0, 1)
  return image


def blur(image, sigma, radius):
  """Direct two-dimensional convolution in float64 with zeros outside."""
  taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
  kernel = np.outer(taps, taps) / taps.sum() ** 2
  size = image.shape[0]
  padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)))
  out = np.zeros_like(image)
  for i, j in itertools.product(range(2 * radius + 1), repeat=2):
    out += kernel[i, j] * padded[i : i + size, j : j + size]
  return out


def draw_values(rng):
  """Uniform numbers per operation, and what they mean for the strengths above."""
  u = {name: np.float32(rng.random()) for name in STRENGTHS}
  values = {name: STRENGTHS[name] * (2.0 * float(u[name]) - 1.0) for name in STRENGTHS}
  values['contrast'] += 1.0
  values['saturation'] += 1.0
  return u, values


def torch_operators(images):
  """Single operators by torchvision, on float32 [b, H, W, 3]."""
  tensor = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
  out = {
    'gray': functional.rgb_to_grayscale(tensor, 3),
    'solarize': functional.solarize(tensor, 0.5),
  }
  for k, hue in enumerate(HUES):
    out[f'hue_{k}'] = functional.adjust_hue(tensor, hue)
  return {name: np.moveaxis(value.numpy(), 1, -1) for name, value in out.items()}


def main():
  """Writes augment.npz beside this file."""
  rng = np.random.default_rng(0)
  out = {'hues': np.array(HUES), 'sigmas': np.array(SIGMAS)}
  out['images'] = pictures(rng, 3, 16)
  out |= torch_operators(out['images'].astype(np.float32) / 255)

  out['large'] = pictures(rng, 1, 64)
  tensor = torch.from_numpy(np.moveaxis(out['large'], -1, 1).astype(np.float32) / 255)
  for k, sigma in enumerate(SIGMAS):
    blurred = functional.gaussian_blur(tensor, 7, sigma)[:, :, 24:-24, 3:-3]
    out[f'blur_{k}'] = np.moveaxis(blurred.numpy(), 1, -1)

  orders = list(itertools.permutations(STRENGTHS))
  drawn = [draw_values(rng) for _ in orders]
  out['jittered'] = pictures(rng, len(orders), 8)
  out['jitter_order'] = np.array([[order.index(n) for n in STRENGTHS] for order in orders])
  out['jitter_u'] = np.array([[u[n] for n in STRENGTHS] for u, _ in drawn], np.float32)
  rows = zip(out['jittered'] / 255, orders, drawn, strict=True)
  out['jitter'] = np.array([jitter(i, o, v) for i, o, (_, v) in rows], np.float32)

  out['piped'] = pictures(rng, 4, 24)
  chosen = [5, 10, 15, 20]
  out['pipeline_order'], out['pipeline_u'] = out['jitter_order'][chosen], out['jitter_u'][chosen]
  out['pipeline_gray'] = np.array([False, True, False, False])
  out['pipeline_solarize'] = np.array([True, False, True, False])
  out['pipeline_sigma'] = np.array([0.5, 1.0, 1.5, 2.0], np.float32)
  done = []
  for k, image in enumerate(out['piped'] / 255):
    image = jitter(image, orders[chosen[k]], drawn[chosen[k]][1])
    if out['pipeline_gray'][k]:
      image = np.repeat(image @ np.array([[0.2989], [0.587], [0.114]]), 3, axis=-1)
    image = blur(image, float(out['pipeline_sigma'][k]), 1)
    if out['pipeline_solarize'][k]:
      image = np.where(image < 0.5, image, 1 - image)
    done.append(image)
  out['pipeline'] = np.array(done, np.float32)

  out['boxes'] = np.array([[0, 0, 16, 16], [3, 2, 8, 13], [15, 0, 1, 5]], np.int32)
  enlarged = np.zeros((3, 24, 24, 3), np.float32)
  for k, (y, x, h, w) in enumerate(out['boxes']):
    for channel in range(3):
      plane = out['images'][k, y : y + h, x : x + w, channel].astype(np.float32) / 255
      resized = Image.fromarray(plane, mode='F').resize((24, 24), Image.Resampling.BICUBIC)
      enlarged[k, ..., channel] = np.clip(np.asarray(resized), 0, 1)
  out['enlarged'] = enlarged
  np.savez_compressed(pathlib.Path(__file__).with_name('augment.npz'), **out)


if __name__ == '__main__':
  main()
