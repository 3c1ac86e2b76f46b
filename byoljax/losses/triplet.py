"""Triplet loss: anchors closer to their positives than to their negatives, by a margin.

Positives of an anchor are the other rows of its group (views of one image), negatives are the rows
of other groups. How triplets are selected: 'all' and 'batch_hard' (Hermans et al. 2017, arXiv
1703.07737), 'semi_hard' (FaceNet, arXiv 1503.03832).

Different from them: the mean is over the selected triplets including inactive ones, so that the
gradient is continuous when a triplet becomes inactive; and a semi-hard triplet always exists, see
`triplet`.
"""

from functools import partial

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.devices import collectives
from byoljax.ops import sphere

MODES = ('all', 'batch_hard', 'semi_hard')
_FAR = 8.0  # Finite, and above any squared distance on the unit sphere.


def triplet(
  z: jax.Array, groups: jax.Array, *, margin: float, mode: str
) -> tuple[jax.Array, jax.Array]:
  """Mean of max(0, d(a,p) - d(a,n) + m), d the squared L2 distance of normalized rows.

  Args:
    z: embeddings [n,D], any norm: normalized here, row by row.
    groups: int [n]; equal numbers are positives of each other.
    margin: m >= 0; d lies in [0, 4].
    mode: 'all' triplets; 'batch_hard', for every anchor its farthest positive and its nearest
      negative; 'semi_hard', for every anchor and positive the nearest negative that is farther
      than the positive, or the farthest negative if none is.

  Returns:
    (float32 scalar >= 0, fraction in [0, 1] of the selected triplets that are active, without
    gradient); 0 and 0 if there is no triplet. Memory is O(n^2), never n^3.

  Raises:
    ValueError: invalid shapes or types, an unknown mode, or a negative margin.
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
  # A few anchors at a time: the n^2 triplets of an anchor are recomputed in the backward pass.
  at_once = count if mode == 'batch_hard' else max(1, min(count, 2**22 // count**2))
  per_anchor = jax.checkpoint(partial(one, margin))
  total, active, chosen = lax.map(lambda row: per_anchor(*row), rows, batch_size=at_once)
  number = jnp.maximum(jnp.sum(chosen), 1.0)
  return jnp.sum(total) / number, lax.stop_gradient(jnp.sum(active) / number)


def gather_groups(z: jax.Array, index: jax.Array, axis: str | None) -> tuple[jax.Array, jax.Array]:
  """The rows of all devices, [n,D], and their groups, int [n], for `triplet`; as of one device.

  Args:
    z: [b,m,D], m rows of each of this device's images.
    index: int [b], the images' numbers.
    axis: the mapped axis, or None.
  """
  every = collectives.all_gather(z, axis)
  groups = jnp.repeat(collectives.all_gather(index, axis), z.shape[1])
  return every.reshape(-1, z.shape[-1]), groups


Sums = tuple[jax.Array, jax.Array, jax.Array]


def _all(margin: float, distance: jax.Array, positive: jax.Array, negative: jax.Array) -> Sums:
  hinge = distance[:, None] - distance[None, :] + margin
  return _sums(hinge, positive[:, None] & negative[None, :])


def _batch_hard(
  margin: float, distance: jax.Array, positive: jax.Array, negative: jax.Array
) -> Sums:
  farthest = jnp.max(jnp.where(positive, distance, -_FAR))
  nearest = jnp.min(jnp.where(negative, distance, _FAR))
  return _sums(farthest - nearest + margin, jnp.any(positive) & jnp.any(negative))


def _semi_hard(
  margin: float, distance: jax.Array, positive: jax.Array, negative: jax.Array
) -> Sums:
  farther = negative[None, :] & (distance[None, :] > distance[:, None])
  nearest = jnp.min(jnp.where(farther, distance[None, :], _FAR), axis=1)
  farthest = jnp.max(jnp.where(negative, distance, -_FAR))
  chosen = jnp.where(jnp.any(farther, axis=1), nearest, farthest)
  return _sums(distance - chosen + margin, positive & jnp.any(negative))


def _sums(hinge: jax.Array, chosen: jax.Array) -> Sums:
  """Sum of the hinges, number of active and number of selected triplets, all float32."""
  losses = jnp.where(chosen, jax.nn.relu(hinge), 0.0)
  active = jnp.sum((losses > 0).astype(jnp.float32))
  return jnp.sum(losses), active, jnp.sum(chosen.astype(jnp.float32))
