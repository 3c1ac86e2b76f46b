"""Triplet loss: an anchor is closer to its positives than to its negatives, by a margin.

Positives of an anchor are the other rows of its group (views of one image), negatives are the rows
of other groups. How triplets are chosen: 'all' and 'batch_hard' (Hermans et al. 2017, arXiv
1703.07737), 'semi_hard' (FaceNet, arXiv 1503.03832).

Different from them: the mean is over the chosen triplets, the inactive ones included, so that the
gradient does not jump when a triplet becomes inactive; a semi-hard triplet is always found, see
`triplet`.
"""

from functools import partial

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.ops import sphere

MODES = ('all', 'batch_hard', 'semi_hard')
_BEYOND = 8.0  # above any squared distance on the unit sphere, and finite


def triplet(
  z: jax.Array, groups: jax.Array, *, margin: float, mode: str
) -> tuple[jax.Array, jax.Array]:
  """Mean of max(0, d(a,p) - d(a,n) + m), d the squared L2 distance of normalized rows.

  Args:
    z: embeddings [n,D], any length: normalized here, each row by itself.
    groups: int [n]; equal numbers are positives of each other.
    margin: m >= 0; d lies in [0, 4].
    mode: 'all' triplets; 'batch_hard', for every anchor its farthest positive and its nearest
      negative; 'semi_hard', for every anchor and positive the nearest negative that is farther
      than the positive, or else the farthest negative.

  Returns:
    (float32 scalar >= 0, share in [0, 1] of the chosen triplets that are active, without
    gradient); 0 and 0 where there is no triplet. Memory is O(n^2), never n^3.

  Raises:
    ValueError: shapes or types other than these, an unknown mode, a negative margin.
  """
  if z.ndim != 2 or groups.shape != z.shape[:1] or not jnp.issubdtype(groups.dtype, jnp.integer):
    raise ValueError(
      f'need z [n,D] and integer groups [n], got {z.shape} and {groups.dtype}{groups.shape}'
    )
  if mode not in MODES:
    raise ValueError(f'triplet mode {mode!r} is not one of {", ".join(MODES)}')
  if margin < 0:
    raise ValueError(f'triplet margin must be at least 0, got {margin}')
  z = sphere.normalize(z)
  count = z.shape[0]
  cosines = sphere.similarities(z, z)
  distances = jnp.maximum(2.0 - 2.0 * cosines, 0.0)
  same = groups[:, None] == groups[None, :]
  rows = (distances, same & ~jnp.eye(count, dtype=bool), ~same)
  one = {'all': _all, 'batch_hard': _batch_hard, 'semi_hard': _semi_hard}[mode]
  # A few anchors at a time: one anchor's triplets are n^2 numbers, and are recomputed backwards.
  at_once = count if mode == 'batch_hard' else max(1, min(count, 2**22 // count**2))
  per_anchor = jax.checkpoint(partial(one, margin))
  total, active, chosen = lax.map(lambda row: per_anchor(*row), rows, batch_size=at_once)
  number = jnp.maximum(jnp.sum(chosen), 1.0)
  return jnp.sum(total) / number, lax.stop_gradient(jnp.sum(active) / number)


Sums = tuple[jax.Array, jax.Array, jax.Array]


def _all(margin: float, distance: jax.Array, positive: jax.Array, negative: jax.Array) -> Sums:
  hinge = distance[:, None] - distance[None, :] + margin
  return _sums(hinge, positive[:, None] & negative[None, :])


def _batch_hard(
  margin: float, distance: jax.Array, positive: jax.Array, negative: jax.Array
) -> Sums:
  farthest = jnp.max(jnp.where(positive, distance, -_BEYOND))
  nearest = jnp.min(jnp.where(negative, distance, _BEYOND))
  return _sums(farthest - nearest + margin, jnp.any(positive) & jnp.any(negative))


def _semi_hard(
  margin: float, distance: jax.Array, positive: jax.Array, negative: jax.Array
) -> Sums:
  farther = negative[None, :] & (distance[None, :] > distance[:, None])
  nearest = jnp.min(jnp.where(farther, distance[None, :], _BEYOND), axis=1)
  farthest = jnp.max(jnp.where(negative, distance, -_BEYOND))
  chosen = jnp.where(jnp.any(farther, axis=1), nearest, farthest)
  return _sums(distance - chosen + margin, positive & jnp.any(negative))


def _sums(hinge: jax.Array, chosen: jax.Array) -> Sums:
  """Sum of the hinges, number of active and number of chosen triplets, all float32."""
  losses = jnp.where(chosen, jax.nn.relu(hinge), 0.0)
  active = jnp.sum((losses > 0).astype(jnp.float32))
  return jnp.sum(losses), active, jnp.sum(chosen.astype(jnp.float32))
