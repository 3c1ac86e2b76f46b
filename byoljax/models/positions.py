"""Positions of patches: fixed ones, and learned ones for maps of any size."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def sincos_positions(
  height: int, width: int, dim: int, grid: int, *, xy: bool = False
) -> np.ndarray:
  """Positions of height x width patches, row by row: float32 [height * width,dim].

  [sin(y w), cos(y w), sin(x w), cos(x w)] with frequencies w_k = 10000^(-k / (dim / 4)) and y, x
  the patch's coordinates in [-1/2, grid - 1/2]; whole numbers where the map is grid x grid
  (MoCo v3's code; its naming swaps y and x). With `xy` x comes before y (MAE's code).

  Raises:
    ValueError: dim is not a multiple of 4.
  """
  if dim % 4:
    raise ValueError(f'2-D sine-cosine positions need a multiple of 4 values, not {dim}.')
  omega = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
  angles = []
  for axis, count in enumerate((height, width)):
    coordinate = (np.arange(count) + 0.5) * grid / count - 0.5
    shape = (count, 1, 1) if axis == 0 else (1, count, 1)
    angle = coordinate.reshape(shape) * omega[None, None, :]
    angles.append(np.broadcast_to(angle, (height, width, dim // 4)).reshape(-1, dim // 4))
  order = angles[::-1] if xy else angles
  parts = [wave(angle) for angle in order for wave in (np.sin, np.cos)]
  return np.concatenate(parts, axis=1).astype(np.float32)


def rotary_angles(height: int, width: int, dim: int, *, rounded: bool = False) -> np.ndarray:
  """Angles by which DINOv3 turns the channels of a head: float32 [height * width,dim / 2].

  2 pi y / p and then 2 pi x / p, with the coordinates of the patches' centers in [-1, 1], whatever
  the number of patches, and periods p_k = 100^(2 k / (dim / 2)), k < dim / 4 (arXiv 2508.10104,
  and dinov3/layers/rope_position_encoding.py). `rounded` are periods in bfloat16.

  Raises:
    ValueError: dim is not a multiple of 4.
  """
  if dim % 4:
    raise ValueError(f'rotary positions need heads of a multiple of 4 channels, not {dim}.')
  periods = rotary_periods(dim)
  if rounded:
    periods = periods.astype(jnp.bfloat16).astype(np.float32)
  y, x = ((2 * np.arange(count) + 1) / count - 1 for count in (height, width))
  grid = np.stack(np.meshgrid(y, x, indexing='ij'), axis=-1).reshape(-1, 2, 1)
  return (2 * np.pi * grid / periods).reshape(-1, dim // 2).astype(np.float32)


def rotary_periods(dim: int) -> np.ndarray:
  """The periods of `rotary_angles`, float32 [dim / 4]."""
  return (100.0 ** (np.arange(dim // 4) / (dim / 4))).astype(np.float32)


def resample_matrix(count: int, length: int) -> np.ndarray:
  """How `count` values in a row depend on `length` given ones: float32 [count,length].

  DINO's rule: cubic convolution (Keys, 1981) with a = -3/4 at (i + 1/2) length / (count + 0.1) -
  1/2, edges repeated, no smoothing where count < length. The 0.1 is the authors' way around a
  rounding error; without it weights that were trained with it see other positions. It also moves
  the side of an oblong map that has the table's length.
  """
  matrix = np.zeros((count, length))
  at = ((np.arange(count) + 0.5) * length / (count + 0.1) - 0.5)[:, None]
  near = np.floor(at).astype(int) + np.arange(-1, 3)
  rows = np.arange(count)[:, None]
  np.add.at(matrix, (rows, np.clip(near, 0, length - 1)), _cubic(np.abs(at - near), -0.75))
  return matrix.astype(np.float32)


def smooth_matrix(count: int, length: int) -> np.ndarray:
  """As `resample_matrix`, by the rule of DINOv2 with registers: float32 [count,length].

  PyTorch's bicubic interpolation with `antialias`, which is Pillow's: cubic convolution with
  a = -1/2, as many times wider as the map is smaller than the table, at (i + 1/2) length / count;
  weights are those of the values that there are, and add up to 1.
  """
  scale = max(length / count, 1.0)
  near = (np.arange(length) + 0.5)[None] - ((np.arange(count) + 0.5) * length / count)[:, None]
  weights = _cubic(np.abs(near) / scale, -0.5)
  return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """The cubic convolution kernel (Keys, 1981), for x >= 0."""
  inner = ((a + 2) * x - (a + 3)) * x * x + 1
  outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def resampled(table: jax.Array, height: int, width: int, *, smooth: bool = False) -> jax.Array:
  """Positions [1 + grid^2,D], the class token's first, for a map: [1 + height * width,D].

  A map of the table's own size gets it unchanged; see `resample_matrix`, or with `smooth`
  `smooth_matrix`.
  """
  grid, dim = math.isqrt(table.shape[0] - 1), table.shape[1]
  if (height, width) == (grid, grid):
    return table
  matrix = smooth_matrix if smooth else resample_matrix
  rows, columns = matrix(height, grid), matrix(width, grid)
  patches_ = table[1:].reshape(grid, grid, dim)
  here = jnp.einsum('yi,xj,ijd->yxd', rows, columns, patches_, precision='highest')
  return jnp.concatenate([table[:1], here.reshape(height * width, dim)])
