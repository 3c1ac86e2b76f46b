"""Which object an anchor or a proposal stands for, and which of them a loss sees.

Faster R-CNN (Ren et al., arXiv 1506.01497, section 3.1.2): an anchor is positive where its
intersection over union with an object is at least `high`, or is the largest that the object has
with any anchor; negative where it is below `low` with all objects; else it counts for nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Matches(NamedTuple):
  """What each of n boxes stands for.

  Attributes:
    object: int32 [n], the object with the largest overlap; 0 where there is none.
    positive: bool [n], whether it is that object.
    negative: bool [n], whether it is background.
  """

  object: jax.Array
  positive: jax.Array
  negative: jax.Array


def match(
  overlaps: jax.Array, valid: jax.Array, *, low: float, high: float, best: bool = False
) -> Matches:
  """Assigns boxes to objects.

  Args:
    overlaps: float32 [n, m], intersection over union of boxes and objects.
    valid: bool [m], which objects are there.
    low: below it a box is background.
    high: from it on a box is the object.
    best: whether the boxes with an object's largest overlap, all that share it, are it, too; the
      object of such a box stays the one that it overlaps most.
  """
  overlaps = jnp.where(valid[None, :], overlaps, -1.0)
  most = overlaps.max(1)
  positive = most >= high
  if best:
    largest = overlaps.max(0, keepdims=True)
    positive |= jnp.any((overlaps == largest) & (largest > 0), axis=1)
  return Matches(overlaps.argmax(1).astype(jnp.int32), positive, (most < low) & ~positive)


def sample(
  key: jax.Array, positive: jax.Array, negative: jax.Array, *, count: int, share: float
) -> tuple[jax.Array, jax.Array]:
  """Draws boxes for a loss: at most `share` of `count` are positive, negative ones fill it up.

  Args:
    key: of one image.
    positive: bool [n].
    negative: bool [n], nowhere both.
    count: how many are drawn at most.
    share: of the positive ones.

  Returns:
    (indices int32 [count], the positive ones first; bool [count], False where there are too few).
  """
  draws = jax.random.uniform(key, positive.shape)
  limit = int(count * share)
  # Ranked among the positive ones by their draws, those beyond the limit are left out.
  rank = jnp.argsort(jnp.argsort(jnp.where(positive, draws, 2.0)))
  chosen = positive & (rank < limit)
  order = jnp.where(chosen, draws, jnp.where(negative, 1.0 + draws, 3.0))
  index = jnp.argsort(order)[:count]
  short = max(0, count - positive.shape[0])
  there = jnp.pad((chosen | negative)[index], (0, short))
  index = jnp.pad(index, (0, short))
  return jnp.where(there, index, 0).astype(jnp.int32), there
