"""Images that tests of sources are given."""

import io

import numpy as np
from PIL import Image


def random_pixels(height=12, width=10, seed=0):
  """Random pixels uint8 [H, W, 3]."""
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height=40, width=56):
  """Slow gradients, which JPEG keeps to within a few levels."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y * 5, x * 4, 255 - y * 2 - x * 2], 2).clip(0, 255).astype(np.uint8)


def encoded(image, kind, **options):
  """The bytes of an image file."""
  if not isinstance(image, Image.Image):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def exif(orientation):
  """Metadata that say how a camera was held, 1 to 8."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif.tobytes()


def many(count, side=12):
  """Square images of random pixels, uint8 [n, S, S, 3]."""
  return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
