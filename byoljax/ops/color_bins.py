"""Colors as classes: bins of CIE a*b*, and distributions over them (Zhang et al. 2016).

Colorful image colorization, arXiv 1603.08511. The ab plane is cut into squares of `grid` units, of
which those are kept that colors of sRGB can have. The paper's 313 squares are a file, not a rule:
225 or so of their centers are colors of sRGB, colors of sRGB round to 261, and the others are
beyond. Here the `count` centers nearest to the colors of sRGB are taken, whose 313th is 13.3 units
away: 309 of them are the authors'; (-30, -50), (40, 90), (100, -90) and (100, 0) are not among
them, (-60, 100), (80, -120), (80, 80) and (110, -60) are in their place.

Differences from the authors' code: a color's soft encoding has the five nearest bins, as in the
paper, where their code takes ten; class weights are made of the prior that was measured on the data
of the run.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.ops import color

GRID, COUNT = 10, 313
SIGMA, NEIGHBORS = 5.0, 5
TEMPERATURE = 0.38
# Points on each edge of the cube of sRGB: places in the ab plane within 0.05 units.
_POINTS = 65
_FAR = 15.0  # units beyond the colors of sRGB that no bin is outside of


@functools.cache
def ab_bins(grid: float = GRID, count: int = COUNT) -> np.ndarray:
  """Centers of the bins, float32 [Q, 2], by a and then b.

  Args:
    grid: side of the squares in units of CIE Lab; centers are its multiples.
    count: Q, how many centers, those nearest to the colors of sRGB; 0: those of all squares that
      colors of sRGB are in.

  Raises:
    ValueError: a side that is not positive or leaves a single square, or no such number of squares
      within 15 units.
  """
  if not grid > 0:
    raise ValueError(f'grid={grid} must be positive: the side of a bin, such as 10.')
  with jax.ensure_compile_time_eval():
    # The outline of a solid is that of its surface.
    outline = np.asarray(jax.jit(color.rgb_to_lab)(_surface()), np.float64)[:, 1:]
  if not count:
    squares = np.unique(np.round(outline / grid), axis=0)
    if len(squares) < 2:
      raise ValueError(
        f'grid={grid} puts all colors into one bin: take a smaller side, such as 10.'
      )
    return (grid * squares).astype(np.float32)
  most = int((np.abs(outline).max() + _FAR) // grid)
  steps = grid * np.arange(-most, most + 1)
  centers = np.stack(np.meshgrid(steps, steps, indexing='ij'), -1).reshape(-1, 2)
  squared = (
    np.sum(centers**2, 1)[:, None] - 2 * centers @ outline.T + np.sum(outline**2, 1)[None]
  ).min(1)
  order = np.argsort(squared, kind='stable')
  near = int((squared <= _FAR**2).sum())
  if not 2 <= count <= near:
    raise ValueError(
      f'count={count}: with bins of {grid} units there may be 2 to {near}, or 0 for those '
      'that colors of sRGB are in.'
    )
  return centers[np.sort(order[:count])].astype(np.float32)


def _surface() -> np.ndarray:
  """Points of the surface of the unit cube, float32 [n, 3]."""
  steps = np.linspace(0, 1, _POINTS)
  face = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
  return np.concatenate(
    [np.insert(face, axis, side, axis=1) for axis in range(3) for side in (0.0, 1.0)]
  ).astype(np.float32)


def encode(
  ab: jax.Array, bins: np.ndarray, neighbors: int = NEIGHBORS, sigma: float = SIGMA
) -> tuple[jax.Array, jax.Array]:
  """Colors as distributions over their nearest bins: weights exp(-d^2 / 2 sigma^2), normalized.

  Args:
    ab: [..., 2], any float dtype; the computation is float32. Without gradient.
    bins: [Q, 2].
    neighbors: K, how many bins; 1 is the nearest alone.
    sigma: in units of CIE Lab.

  Returns:
    Which bins, int32 [..., K], the nearest first, and their weights, float32 [..., K], whose sum
    is 1.

  Raises:
    ValueError: K > Q.
  """
  if neighbors > len(bins):
    raise ValueError(f'neighbors={neighbors} are more than the {len(bins)} bins.')
  shape = (*ab.shape[:-1], neighbors)
  ab = jax.lax.stop_gradient(ab).astype(jnp.float32).reshape(-1, 2)
  squared = (ab[:, :1] - bins[None, :, 0]) ** 2 + (ab[:, 1:] - bins[None, :, 1]) ** 2
  nearest, which = jax.lax.top_k(-squared, neighbors)
  shares = jax.nn.softmax(nearest / (2 * sigma**2), axis=-1)
  return which.reshape(shape), shares.reshape(shape)


def check(neighbors: int, sigma: float, temperature: float, count: int) -> None:
  """Raises ValueError unless `encode` and `annealed_mean` work with these, of `count` bins."""
  if neighbors < 1 or sigma <= 0 or temperature <= 0:
    raise ValueError(
      f'neighbors={neighbors} must be at least 1, sigma={sigma} and temperature={temperature} '
      'positive.'
    )
  if neighbors > count:
    raise ValueError(f'neighbors={neighbors} are more than the {count} bins.')


def annealed_mean(
  logits: jax.Array, bins: np.ndarray, temperature: float = TEMPERATURE
) -> jax.Array:
  """The color that a distribution stands for: the mean of softmax(logits / T), equation 5.

  Args:
    logits: [..., Q], any float dtype; the computation is float32.
    bins: [Q, 2].
    temperature: T, above 0: 1 is the mean, towards 0 the most likely bin.

  Returns:
    ab, float32 [..., 2].
  """
  share = jax.nn.softmax(logits.astype(jnp.float32) / temperature, axis=-1)
  return jnp.matmul(share, bins, precision=jax.lax.Precision.HIGHEST)


def count_bins(which: jax.Array, counted: jax.Array, count: int) -> jax.Array:
  """How often each bin occurs: uint32 [Q].

  Args:
    which: int32 [...], in [0, Q).
    counted: bool [...]: whether this one is counted.
    count: Q.
  """
  return jnp.zeros(count, jnp.uint32).at[which.ravel()].add(counted.ravel().astype(jnp.uint32))


def smoothed(counts: jax.Array, bins: np.ndarray, sigma: float = SIGMA) -> jax.Array:
  """Shares of the bins, spread over neighboring ones by a Gaussian: float32 [Q], with sum 1.

  Args:
    counts: numbers >= 0 [Q]; where all are zero, every bin has the same share.
    bins: [Q, 2].
    sigma: in units of CIE Lab.
  """
  squared = ((bins[:, None] - bins[None]) ** 2).sum(-1)
  kernel = np.exp(-squared / (2 * sigma**2))
  kernel = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
  counts = counts.astype(jnp.float32)
  total = counts.sum()
  shares = jnp.where(total > 0, counts / jnp.maximum(total, 1.0), 1.0 / len(bins))
  spread = jnp.matmul(shares, kernel, precision=jax.lax.Precision.HIGHEST)
  return spread / spread.sum()


def rebalancing(shares: jax.Array, uniform: float = 0.5) -> jax.Array:
  """Weights of the bins, greater for rarer ones: w ~ 1 / ((1 - lambda) p + lambda / Q), equation 4.

  Args:
    shares: p, float32 [Q], with sum 1.
    uniform: lambda in (0, 1], how much of every bin is added; 1 gives weights of 1.

  Returns:
    float32 [Q] with sum of p w = 1.
  """
  weights = 1.0 / ((1.0 - uniform) * shares + uniform / len(shares))
  return weights / jnp.sum(shares * weights)
