"""Non-maximum suppression with static shapes: which of many overlapping boxes stay.

Boxes are taken in the order of their scores; one is dropped where it overlaps one that has stayed
by more than a threshold. Written as the boolean system

  stays_i = valid_i and not any(stays_j and overlaps_ij over all j before i),

whose only solution is found by repeating it until nothing changes: after k rounds the first k boxes
are right, and a few rounds are enough where chains of overlaps are short. The result is exactly
that of the sequential algorithm.
"""

import jax
import jax.numpy as jnp

from byoljax.ops import boxes as boxes_lib


def staying(
  boxes: jax.Array, valid: jax.Array, threshold: float, classes: jax.Array | None = None
) -> jax.Array:
  """Which boxes suppression leaves, bool [n].

  Args:
    boxes: float32 [n, 4] in descending order of their scores.
    valid: bool [n]; what is not valid neither stays nor drops anything.
    threshold: boxes of one class whose intersection over union is above it do not both stay.
    classes: int32 [n], of which each is treated alone; None: there is one.
  """
  count = boxes.shape[0]
  overlaps = boxes_lib.iou(boxes, boxes) > threshold
  if classes is not None:
    overlaps &= classes[:, None] == classes[None, :]
  place = jnp.arange(count)
  before = overlaps & (place[:, None] < place[None, :]) & valid[:, None] & valid[None, :]

  def unsettled(state: tuple[jax.Array, jax.Array]) -> jax.Array:
    return state[1]

  def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    stays, _ = state
    new = valid & ~jnp.any(before & stays[:, None], axis=0)
    return new, jnp.any(new != stays)

  return jax.lax.while_loop(unsettled, again, (valid, jnp.asarray(True)))[0]


def select(
  boxes: jax.Array,
  scores: jax.Array,
  valid: jax.Array,
  *,
  threshold: float,
  count: int,
  classes: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The best boxes after suppression: indices int32 [count], best first, and whether each is one.

  Args:
    boxes: float32 [n, 4], in any order.
    scores: float32 [n]; of equal scores the earlier box comes first.
    valid: bool [n].
    threshold: see `staying`.
    count: how many at most; where fewer stay, the rest is not valid and has index 0.
    classes: see `staying`.
  """
  ranked = jnp.argsort(-jnp.where(valid, scores, -jnp.inf), stable=True)
  of_class = None if classes is None else classes[ranked]
  stays = staying(boxes[ranked], valid[ranked], threshold, of_class)
  first = jnp.argsort(~stays, stable=True)[:count]
  short = max(0, count - boxes.shape[0])
  kept = jnp.pad(stays[first], (0, short))
  index = jnp.pad(ranked[first], (0, short))
  return jnp.where(kept, index, 0).astype(jnp.int32), kept
