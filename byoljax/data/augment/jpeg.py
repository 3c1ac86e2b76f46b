"""What JPEG does to an image, without the file: color planes, blocks, quantized cosines, and back.

ITU-T T.81, baseline: luma and two chroma planes (BT.601, full range), chroma at half the resolution
by averages of 2x2 pixels, blocks of 8x8, their discrete cosine transform divided by the tables of
the standard's annex K and rounded. The tables are scaled by quality as in the Independent JPEG
Group's library, which Pillow uses. Lossless coding follows in a file, and changes nothing.

That library's transforms are of whole numbers, ours are not: a coefficient in the middle between
two steps may fall to either side.
"""

import jax
import jax.numpy as jnp
import numpy as np

# T.81, tables K.1 and K.2.
_LUMA = np.array([
  [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
  [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
  [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
  [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TO_PLANES = np.array(
  [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_TO_RGB = np.linalg.inv(_TO_PLANES)
_ANGLES = np.pi * (2 * np.arange(8)[None] + 1) * np.arange(8)[:, None] / 16
_COSINES = (np.where(np.arange(8)[:, None] == 0, np.sqrt(1 / 8), 0.5) * np.cos(_ANGLES)).astype(
  np.float32
)


def jpeg(image: jax.Array, quality: int) -> jax.Array:
  """An image as it comes out of a JPEG file.

  Args:
    image: float32 [H, W, C] in [0, 1]; of three channels they are red, green and blue, otherwise
      each is compressed as luma is.
    quality: 1 ... 100.

  Returns:
    float32 [H, W, C], multiples of 1/255 in [0, 1].
  """
  height, width, channels = image.shape
  edges = ((0, -height % 16), (0, -width % 16), (0, 0))
  levels = jnp.pad(jnp.round(image * 255.0), edges, mode='edge')
  if channels != 3:
    planes = [_quantized(levels[..., c] - 128.0, _LUMA, quality) + 128.0 for c in range(channels)]
    out = jnp.stack(planes, axis=-1)
  else:
    planes = jnp.round(jnp.matmul(levels, _TO_PLANES.T.astype(np.float32), precision='highest'))
    luma = _quantized(planes[..., 0] - 128.0, _LUMA, quality) + 128.0
    chroma = []
    for channel in (1, 2):
      half = planes[..., channel].reshape(levels.shape[0] // 2, 2, levels.shape[1] // 2, 2)
      small = _quantized(jnp.round(half.mean((1, 3))), _CHROMA, quality)
      chroma.append(jax.image.resize(small, luma.shape, 'linear'))
    planes = jnp.stack([luma, *chroma], axis=-1)
    out = jnp.matmul(planes, _TO_RGB.T.astype(np.float32), precision='highest')
  return jnp.round(jnp.clip(out[:height, :width], 0.0, 255.0)) * np.float32(1 / 255)


def table(base: np.ndarray, quality: int) -> np.ndarray:
  """A quantization table of the standard at a quality: whole numbers in 1 ... 255."""
  scale = 5000 // quality if quality < 50 else 200 - 2 * quality
  return np.clip((base * scale + 50) // 100, 1, 255)


def _quantized(plane: jax.Array, base: np.ndarray, quality: int) -> jax.Array:
  """A plane [H, W] of levels around 0, after quantization of its blocks, rounded to levels."""
  height, width = plane.shape
  steps = table(base, quality).astype(np.float32)[None, None]
  blocks = plane.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3)
  cosines = jnp.einsum('ui,abij,vj->abuv', _COSINES, blocks, _COSINES, precision='highest')
  kept = jnp.round(cosines / steps) * steps
  back = jnp.einsum('ui,abuv,vj->abij', _COSINES, kept, _COSINES, precision='highest')
  return jnp.clip(jnp.round(back.transpose(0, 2, 1, 3).reshape(height, width)), -128.0, 127.0)
