"""Many pictures of one patch: the transformations of Exemplar-CNN (arXiv 1406.6909, section 3.1).

Dosovitskiy et al. 2014 take one patch of an image, from where there is something to see, and move,
scale and turn it and change its colors at random; what comes out are the samples of one surrogate
class. Around the patch the image itself is seen, not a filling.

- Where: the patch's center is a pixel drawn with the probability of its squared gradient; the
  paper says "regions containing considerable gradients" of its map of gradients.
- Translation by up to 20 % of the patch, scale .7 to 1.4, rotation by up to 20 degrees, in one
  bilinear resampling. Beyond the image its border is repeated.
- Contrast 1: the patch's deviations from its mean color, along the principal components of its
  pixels, each times a factor in [.5, 2].
- Contrast 2: HSV saturation and value to a power in [.25, 4], times a factor in [.7, 1.4], plus an
  offset in [-.1, .1].
- Color: hue plus an offset in [-.1, .1] of the circle.

Different from the paper: its principal components are those of all pixels of a data set, if we
understand it, these are the patch's own; all draws are uniform and the factors are the same for all
pixels of a patch, as there.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.data.augment import operators, turns

_FLAT = 1e-12  # Added to squared gradients, so that an image of one color has a patch, too.


@dataclasses.dataclass(frozen=True)
class ExemplarSpec:
  """The patch and how it is changed; the defaults are the paper's.

  Attributes:
    patch: side in pixels, at least 4.
    translation: largest shift along each axis, as a share of the side.
    scale: (low, high), how much larger the patch's content becomes.
    rotation: largest, in degrees, in both directions.
    components: (low, high) of the factors of contrast 1.
    power: (low, high) of contrast 2.
    factor: (low, high) of contrast 2.
    offset: largest of contrast 2, in both directions.
    hue: largest turn, as a share of the circle.

  Raises:
    ValueError: a field is out of its range.
  """

  patch: int = 32
  translation: float = 0.2
  scale: tuple[float, float] = (0.7, 1.4)
  rotation: float = 20.0
  components: tuple[float, float] = (0.5, 2.0)
  power: tuple[float, float] = (0.25, 4.0)
  factor: tuple[float, float] = (0.7, 1.4)
  offset: float = 0.1
  hue: float = 0.1

  def __post_init__(self):
    if isinstance(self.patch, bool) or not isinstance(self.patch, int) or self.patch < 4:
      raise ValueError(f'patch={self.patch!r} must be a whole number of at least 4 pixels.')
    for name in ('scale', 'components', 'power', 'factor'):
      pair = tuple(getattr(self, name))
      if len(pair) != 2 or not 0.0 < pair[0] <= pair[1]:
        raise ValueError(f'{name}={pair} of exemplars must be (low, high), both above 0.')
      object.__setattr__(self, name, pair)
    for name, most in (('translation', 1.0), ('rotation', 180.0), ('offset', 1.0), ('hue', 0.5)):
      if not 0.0 <= getattr(self, name) <= most:
        raise ValueError(f'{name}={getattr(self, name)} of exemplars must lie in [0, {most}].')


def make_exemplars(
  images: jax.Array,
  key: jax.Array,
  positions: jax.Array,
  corners: jax.Array,
  spec: ExemplarSpec,
  count: int,
) -> jax.Array:
  """`count` samples of one patch of every image: float32 [count, b, patch, patch, 3] in [0, 1].

  Args:
    images: float32 [b, S, S, 3] in [0, 1].
    key: the same on all devices.
    positions: int32 [b], the examples' positions in the global batch; an image's samples are a
      function of the key, its position, its corner and itself.
    corners: of the patches, see `seed_corners`.
    spec: how.
    count: how many.
  """
  key = jax.random.fold_in(key, streams.EXEMPLARS)

  def one(position: jax.Array, image: jax.Array, corner: jax.Array) -> jax.Array:
    keys = jax.random.split(jax.random.fold_in(key, position), count)
    return jax.vmap(lambda key: sample(image, key, corner, spec))(keys)

  return jnp.moveaxis(jax.vmap(one)(positions, images, corners), 1, 0)


def seed_corners(images: jax.Array, index: jax.Array, patch: int, seed: int) -> jax.Array:
  """Top left corners (y, x) of one patch of every image, int32 [b, 2].

  Its center, `patch // 2` further, is drawn with the probability of the squared gradient of the
  image's luma there (central differences, beyond the border its pixels), among the places at
  which the patch lies in the image. A function of the image, its index and the seed: it is the same
  in every epoch, as long as the image is.

  Args:
    images: float32 [b, S, S, 3] in [0, 1].
    index: int32 [b], positions in the data set.
    patch: side in pixels, at most S.
    seed: of the draw.

  Raises:
    ValueError: the patch is larger than the images, or they are not RGB.
  """
  if images.shape[-1] != 3:
    raise ValueError(
      f'patches of images with 3 channels are changed, but these have {images.shape[-1]}: '
      "patches='views' takes the configured views of any."
    )
  if patch > min(images.shape[1:3]):
    raise ValueError(
      f'patch={patch} does not fit into views of {images.shape[1]} pixels: make the patch smaller '
      'or the view larger.'
    )
  luma = operators.luma([images[..., channel] for channel in range(3)], operators.PIL_LUMA)
  padded = jnp.pad(luma, ((0, 0), (1, 1), (1, 1)), mode='edge')
  down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
  across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
  squared = down * down + across * across
  rows, columns = (side - patch + 1 for side in luma.shape[1:])
  half = patch // 2
  centers = squared[:, half : half + rows, half : half + columns]
  key = jax.random.fold_in(jax.random.key(seed), streams.SEED_PATCHES)

  def draw(index: jax.Array, weights: jax.Array) -> jax.Array:
    logits = jnp.log(weights.reshape(-1) + _FLAT)
    place = jax.random.categorical(jax.random.fold_in(key, index), logits)
    return jnp.stack([place // columns, place % columns]).astype(jnp.int32)

  return jax.vmap(draw)(index, centers)


def sample(image: jax.Array, key: jax.Array, corner: jax.Array, spec: ExemplarSpec) -> jax.Array:
  """One sample of one image's patch, [S, S, 3] in [0, 1] -> [patch, patch, 3] in [0, 1]."""
  moves, sizes, turn, components, powers, factors, offsets, hue = jax.random.split(key, 8)

  def uniform(key: jax.Array, low: float, high: float, *shape: int) -> jax.Array:
    return jax.random.uniform(key, shape, minval=low, maxval=high)

  center = corner + (spec.patch - 1) / 2
  center += spec.patch * uniform(moves, -spec.translation, spec.translation, 2)
  degrees = uniform(turn, -spec.rotation, spec.rotation)
  patch = resampled(
    image, center, uniform(sizes, *spec.scale), degrees * (math.pi / 180), spec.patch
  )
  patch = scale_components(patch, uniform(components, *spec.components, 3))
  return curve_saturation_and_value(
    patch,
    uniform(powers, *spec.power, 2),
    uniform(factors, *spec.factor, 2),
    uniform(offsets, -spec.offset, spec.offset, 2),
    6.0 * uniform(hue, -spec.hue, spec.hue),
  )


def resampled(
  image: jax.Array, center: jax.Array, scale: jax.Array, angle: jax.Array, size: int
) -> jax.Array:
  """A square of an image, enlarged and turned, by bilinear interpolation.

  Args:
    image: float32 [H, W, C].
    center: float32 [2], (y, x) of the square's center; 0 is the center of the first pixel.
    scale: how much larger what is seen becomes.
    angle: by which it is turned counterclockwise, in radians.
    size: side of the result in pixels.

  Returns:
    float32 [size, size, C]; beyond the image its border is repeated.
  """
  place = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
  down, across = np.meshgrid(place, place, indexing='ij')
  cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
  # Where a pixel of the result comes from: turned back. y points down.
  y = jnp.clip(center[0] + cos * down + sin * across, 0.0, image.shape[0] - 1.0)
  x = jnp.clip(center[1] + cos * across - sin * down, 0.0, image.shape[1] - 1.0)
  return turns.bilinear(image, y, x)


def scale_components(patch: jax.Array, factors: jax.Array) -> jax.Array:
  """Contrast 1: deviations from the mean color times a factor per principal component, clipped.

  Args:
    patch: float32 [h, w, 3] in [0, 1].
    factors: float32 [3], of the components by ascending variance.
  """
  pixels = patch.reshape(-1, 3)
  mean = jnp.mean(pixels, axis=0, keepdims=True)
  centered = pixels - mean
  with jax.default_matmul_precision('highest'):
    _, vectors = jnp.linalg.eigh(centered.T @ centered / len(pixels))
    changed = centered @ (vectors * factors[None]) @ vectors.T
  return jnp.clip(mean + changed, 0.0, 1.0).reshape(patch.shape)


def curve_saturation_and_value(
  patch: jax.Array, powers: jax.Array, factors: jax.Array, offsets: jax.Array, turn: jax.Array
) -> jax.Array:
  """Contrast 2 and color: x -> x^power * factor + offset, clipped to [0, 1], of HSV's S and V.

  Args:
    patch: float32 [h, w, 3] in [0, 1].
    powers: float32 [2], of saturation and value.
    factors: float32 [2].
    offsets: float32 [2].
    turn: of the hue, in sextants.
  """
  hue, chroma, value = operators.to_hue([patch[..., channel] for channel in range(3)])
  saturation = chroma / jnp.maximum(value, 1e-6)
  saturation, value = (
    jnp.clip(x**power * factor + offset, 0.0, 1.0)
    for x, power, factor, offset in zip((saturation, value), powers, factors, offsets, strict=True)
  )
  planes = operators.from_hue(hue + turn, saturation * value, value)
  return jnp.stack(planes, axis=-1)
