"""Fifteen corruptions of images at five strengths, as pure functions.

The kinds are those of Hendrycks and Dietterich 2019 (arXiv 1903.12261): noise, blur, weather and
what digital pictures suffer. The strengths of noise, brightness, contrast, fog, frost, pixelation
and JPEG are those of the authors' code for ImageNet; its lengths, in pixels of images of 224, are
shares of the side here, so that a corruption does to a small image what it does to a large one.
Only the reach of glass, one to four pixels, is not made smaller: small images suffer more from it.

This is not ImageNet-C, and accuracies do not compare with its tables. Different are: frost, made of
noise here in place of six photographs; snow's flakes, fog and elastic displacements, which are made
of sums of smooth noise at several scales; glass, where every pixel takes the value of a random one
nearby in place of swaps in a row; and that everything is computed on the images that the encoder
sees, not before they are cropped.

Every function is (key, image, parameters) -> image, of one image float32 [H, W, C] in [0, 1], any
number of channels; results may leave [0, 1] and are clipped by `corrupt`.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
import numpy as np

from byoljax.data.augment.jpeg import jpeg
from byoljax.data.augment.photometric import to_unit

STRENGTHS = (1, 2, 3, 4, 5)
_SIDE = 224  # Lengths are in pixels of such images.
Apply = Callable[[jax.Array, jax.Array, Any], jax.Array]


def gaussian_noise(key: jax.Array, image: jax.Array, sigma: float) -> jax.Array:
  """x + n, n ~ N(0, sigma^2)."""
  return image + sigma * jax.random.normal(key, image.shape)


def shot_noise(key: jax.Array, image: jax.Array, photons: float) -> jax.Array:
  """Poisson noise of so many photons where the image is white."""
  return jax.random.poisson(key, image * photons).astype(jnp.float32) / photons


def impulse_noise(key: jax.Array, image: jax.Array, share: float) -> jax.Array:
  """A share of the values is 0 or 1."""
  drawn = jax.random.uniform(key, image.shape)
  extreme = (drawn < share / 2).astype(jnp.float32)
  return jnp.where(drawn < share, extreme, image)


def defocus_blur(key: jax.Array, image: jax.Array, radius: float) -> jax.Array:
  """The mean over a disk."""
  del key
  return _filtered(image, _disk(radius * _scale(image)))


def glass_blur(key: jax.Array, image: jax.Array, how: tuple[float, float, int]) -> jax.Array:
  """(sigma, reach, rounds): pixels take the value of others nearby, between two soft blurs."""
  sigma, reach, rounds = how
  image = _smooth(image, sigma * _scale(image))
  places = _places(image)
  for number in range(rounds):
    shift = jax.random.uniform(
      jax.random.fold_in(key, number), places.shape, minval=-1.0, maxval=1.0
    )
    image = _sampled(image, places + jnp.round(shift * reach * max(1.0, _scale(image))), order=0)
  return _smooth(image, sigma * _scale(image))


def motion_blur(key: jax.Array, image: jax.Array, how: tuple[float, float]) -> jax.Array:
  """(length, sigma): a weighted mean along a line of random direction, within 45 degrees."""
  angle = jax.random.uniform(key, (), minval=-np.pi / 4, maxval=np.pi / 4)
  return _streaked(image, angle, *how)


def zoom_blur(key: jax.Array, image: jax.Array, how: tuple[float, float]) -> jax.Array:
  """(largest, step): the mean of the image and of itself enlarged by up to `largest`."""
  del key
  largest, step = how
  middle = (np.array(image.shape[:2], np.float32) - 1) / 2
  around = _places(image) - middle[:, None, None]
  factors = np.arange(1.0, largest, step, dtype=np.float32)

  def add(total: jax.Array, factor: jax.Array) -> tuple[jax.Array, None]:
    return total + _sampled(image, around / factor + middle[:, None, None]), None

  total, _ = jax.lax.scan(add, image, jnp.asarray(factors))
  return total / (len(factors) + 1)


def snow(key: jax.Array, image: jax.Array, how: tuple[float, ...]) -> jax.Array:
  """(mean, spread, size, threshold, length, sigma, kept): flakes that fall before a pale image."""
  mean, spread, size, threshold, length, sigma, kept = how
  first, second = jax.random.split(key)
  side = max(2, round(max(image.shape[:2]) / max(1.0, size * _scale(image))))
  flakes = mean + spread * jax.random.normal(first, (side, side, 1))
  flakes = _resized(jnp.where(flakes < threshold, 0.0, jnp.clip(flakes, 0.0, 1.0)), image)
  angle = jax.random.uniform(second, (), minval=-3 * np.pi / 4, maxval=-np.pi / 4)
  flakes = _streaked(flakes, angle, length, sigma)
  gray = image.mean(-1, keepdims=True)
  pale = kept * image + (1 - kept) * jnp.maximum(image, jnp.minimum(gray * 1.5 + 0.5, 1.0))
  return pale + jnp.maximum(flakes, flakes[::-1, ::-1])


def frost(key: jax.Array, image: jax.Array, how: tuple[float, float]) -> jax.Array:
  """(image, ice): weights of the image and of branching white crystals."""
  weight, ice = how
  ridges = 1.0 - jnp.abs(2.0 * _clouds(key, image.shape, 1.6) - 1.0)
  crystals = jnp.clip((ridges - 0.5) * 2.0, 0.0, 1.0) ** 1.5
  return weight * image + ice * crystals


def fog(key: jax.Array, image: jax.Array, how: tuple[float, float]) -> jax.Array:
  """(strength, decay): clouds, at every finer scale weaker by `decay`, veil the image."""
  strength, decay = how
  largest = image.max()
  return (image + strength * _clouds(key, image.shape, decay)) * largest / (largest + strength)


def brightness(key: jax.Array, image: jax.Array, more: float) -> jax.Array:
  """Adds to the value of HSV; hue and saturation stay."""
  del key
  value = image.max(-1, keepdims=True)
  lighter = jnp.minimum(value + more, 1.0)
  return jnp.where(value > 0, image * (lighter / jnp.maximum(value, 1e-6)), lighter)


def contrast(key: jax.Array, image: jax.Array, factor: float) -> jax.Array:
  """Shrinks the differences from each channel's mean."""
  del key
  mean = image.mean((0, 1), keepdims=True)
  return mean + (image - mean) * factor


def elastic(key: jax.Array, image: jax.Array, how: tuple[float, float]) -> jax.Array:
  """(displacement, smoothness), shares of the side: root mean square and sigma of the shifts."""
  displacement, smoothness = how
  side = max(image.shape[:2])
  noise = jax.random.normal(key, (*image.shape[:2], 2))
  shifts = _smooth(noise, smoothness * side)
  size = jnp.sqrt(jnp.mean(shifts**2, (0, 1), keepdims=True) + 1e-12)
  shifts = shifts * (displacement * side / size)
  return _sampled(image, _places(image) + jnp.moveaxis(shifts, -1, 0))


def pixelate(key: jax.Array, image: jax.Array, share: float) -> jax.Array:
  """Blocks of one color: a share of the pixels of each side is left."""
  del key
  (height, width), middle = image.shape[:2], []
  for length in (height, width):
    few = max(1, int(length * share))
    edges = np.arange(few + 1) * length / few
    covered = np.minimum(edges[1:, None], np.arange(length) + 1.0)
    covered = np.clip(covered - np.maximum(edges[:-1, None], np.arange(length)), 0.0, None)
    block = np.minimum((np.arange(length) + 0.5) * few // length, few - 1).astype(int)
    middle.append((covered / covered.sum(1, keepdims=True))[block].astype(np.float32))
  return jnp.einsum('ih,hwc,jw->ijc', middle[0], image, middle[1], precision='highest')


class Corruption(NamedTuple):
  """A kind.

  Attributes:
    group: 'noise', 'blur', 'weather' or 'digital'.
    apply: see the module.
    levels: the parameters at each of `STRENGTHS`.
  """

  group: str
  apply: Apply
  levels: tuple[Any, ...]


CORRUPTIONS: dict[str, Corruption] = {
  'gaussian_noise': Corruption('noise', gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
  'shot_noise': Corruption('noise', shot_noise, (60.0, 25.0, 12.0, 5.0, 3.0)),
  'impulse_noise': Corruption('noise', impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
  'defocus_blur': Corruption('blur', defocus_blur, (3.0, 4.0, 6.0, 8.0, 10.0)),
  'glass_blur': Corruption(
    'blur', glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
  ),
  'motion_blur': Corruption(
    'blur', motion_blur, ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
  ),
  'zoom_blur': Corruption(
    'blur', zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
  ),
  'snow': Corruption('weather', snow, (
    (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8), (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
  )),
  'frost': Corruption(
    'weather', frost, ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
  ),
  'fog': Corruption('weather', fog, ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))),
  'brightness': Corruption('weather', brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
  'contrast': Corruption('digital', contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
  'elastic': Corruption(
    'digital', elastic, ((0.01, 0.06), (0.015, 0.06), (0.02, 0.05), (0.025, 0.05), (0.03, 0.04))
  ),
  'pixelate': Corruption('digital', pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
  'jpeg': Corruption(
    'digital', lambda key, image, quality: jpeg(image, quality), (25, 18, 15, 10, 7)
  ),
}  # fmt: skip


@functools.partial(jax.jit, static_argnames=('name', 'strength'))
def corrupt(keys: jax.Array, images: jax.Array, *, name: str, strength: int) -> jax.Array:
  """Images with one corruption each; those of 8 bits are rounded as in a file.

  Args:
    keys: one of `jax.random.key` for each image, [b]; an image is a function of its key alone.
    images: uint8 [b, H, W, C], or float in [0, 1].
    name: of `CORRUPTIONS`.
    strength: of `STRENGTHS`.

  Returns:
    [b, H, W, C], uint8 or float32.
  """
  kind = CORRUPTIONS[name]

  def one(key: jax.Array, image: jax.Array) -> jax.Array:
    return kind.apply(key, image, kind.levels[strength - 1])

  changed = jnp.clip(jax.vmap(one)(keys, to_unit(images)), 0.0, 1.0)
  return jnp.round(changed * 255.0).astype(jnp.uint8) if images.dtype == np.uint8 else changed


def _scale(image: jax.Array) -> float:
  return max(image.shape[:2]) / _SIDE


def _places(image: jax.Array) -> jax.Array:
  """Row and column of every pixel, float32 [2, H, W]."""
  return jnp.asarray(np.indices(image.shape[:2]).astype(np.float32))


def _sampled(image: jax.Array, places: jax.Array, order: int = 1) -> jax.Array:
  """The image at places [2, H, W]; outside it repeats its border."""

  def plane(values: jax.Array) -> jax.Array:
    return map_coordinates(values, [places[0], places[1]], order, mode='nearest')

  return jax.vmap(plane, in_axes=-1, out_axes=-1)(image)


def _filtered(image: jax.Array, kernel: np.ndarray) -> jax.Array:
  """Every channel convolved with a symmetric kernel [k, k]; outside it repeats its border."""
  reach = len(kernel) // 2
  padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode='edge')
  planes = jnp.moveaxis(padded, -1, 0)[:, None]
  weights = jnp.asarray(kernel, jnp.float32)[None, None]
  out = jax.lax.conv(planes, weights, (1, 1), 'VALID', precision=jax.lax.Precision.HIGHEST)
  return jnp.moveaxis(out[:, 0], 0, -1)


def _disk(radius: float) -> np.ndarray:
  """Weights [k, k] of the pixels' areas under a disk that is smeared over a pixel; sum 1."""
  fine, reach = 8, int(np.ceil(radius + 0.5))
  offsets = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
  disk = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2).astype(float)
  pixel = np.full(fine + 1, 1.0)
  pixel[[0, -1]] = 0.5
  for _ in range(2):  # Along the rows, then along the columns.
    disk = np.stack([np.convolve(line, pixel, 'same') for line in disk]).T
  cells = disk.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
  return cells / cells.sum()


def _smooth(image: jax.Array, sigma: float) -> jax.Array:
  """Convolved with a Gaussian, cut off at four sigma."""
  weights = []
  for length in image.shape[:2]:
    reach = max(1, int(np.ceil(4 * sigma)))
    offsets = np.arange(-reach, reach + 1)
    bell = np.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    matrix = np.zeros((length, length))
    rows = np.repeat(np.arange(length), len(offsets))
    columns = np.clip(rows + np.tile(offsets, length), 0, length - 1)
    np.add.at(matrix, (rows, columns), np.tile(bell / bell.sum(), length))
    weights.append(matrix.astype(np.float32))
  return jnp.einsum('ih,hwc,jw->ijc', weights[0], image, weights[1], precision='highest')


def _streaked(image: jax.Array, angle: jax.Array, length: float, sigma: float) -> jax.Array:
  """A mean along a line that begins at the pixel, with the weights of half a Gaussian."""
  scale = _scale(image)
  steps = np.arange(max(2, round(length * scale) + 1), dtype=np.float32)
  weights = np.exp(-0.5 * (steps / max(sigma * scale, 0.5)) ** 2)
  direction = jnp.stack([jnp.sin(angle), jnp.cos(angle)])[:, None, None]
  places = _places(image)

  def add(total: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    step, weight = at
    return total + weight * _sampled(image, places + step * direction), None

  line = jnp.asarray(steps), jnp.asarray(weights / weights.sum())
  total, _ = jax.lax.scan(add, jnp.zeros_like(image), line)
  return total


def _clouds(key: jax.Array, shape: tuple[int, ...], decay: float) -> jax.Array:
  """Smooth noise at every scale from the whole image to a pixel, float32 [H, W, 1] in [0, 1]."""
  total, side, weight, octave = jnp.zeros((*shape[:2], 1)), 2, 1.0, 0
  while side <= max(shape[:2]):
    noise = jax.random.uniform(jax.random.fold_in(key, octave), (side + 1, side + 1, 1))
    total += weight * jax.image.resize(noise, total.shape, 'cubic')
    side, weight, octave = 2 * side, weight / decay, octave + 1
  low, high = total.min(), total.max()
  return (total - low) / (high - low)


def _resized(layer: jax.Array, image: jax.Array) -> jax.Array:
  return jax.image.resize(layer, (*image.shape[:2], layer.shape[-1]), 'linear')
